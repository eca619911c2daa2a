"""How much of the flow can a linear layer read off the tokens of an encoder that has learnt nothing: random start against motion-energy.

    surg data synth tissue --out DIR --clips 320 --seed 11
    python benchmarks/motion_start.py DIR/manifest.parquet [--clips 160] [--write]

Ridge regression from tokens to the mean flow under them (DIS, pixels between two frames), fitted on one half of the cases and scored on
the other half. A share of the variance, so 0 is what the mean alone would give.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from recording import write_result
from sklearn.linear_model import RidgeCV

from surg.data.manifest import Clip, Manifest
from surg.data.video import iter_frames
from surg.model.encoder import Encoder, build_encoder
from surg.model.motion_energy import start_with_motion
from surg.model.zoo import IMAGENET_MEAN, IMAGENET_STD, encoder_config

SIDE = 96
FRAMES = 16


def read(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, S, S, 3) uint8 and the flow under each token (t * h * w, 2)."""
    frames = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for _, frame in iter_frames(clip.video)][:FRAMES]
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flows = [solver.calc(grey[step], grey[step + 1], None) for step in range(0, FRAMES, 2)]
    under = [cv2.resize(flow, (SIDE // 16, SIDE // 16), interpolation=cv2.INTER_AREA) for flow in flows]
    return np.stack(frames), np.stack(under).reshape(-1, 2)


def tokens(encoder: Encoder, frames: np.ndarray) -> np.ndarray:
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        return encoder((clip - mean) / std)[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = list(Manifest.read(arguments.manifest).clips())[: arguments.clips]
    cases = sorted({clip.case for clip in clips})
    held = set(cases[len(cases) // 2 :])
    pairs = [read(clip) for clip in clips]
    test = np.array([clip.case in held for clip in clips])
    results: dict[str, object] = {"clips": len(clips), "cases": len(cases)}
    for start in ("random", "motion-energy"):
        torch.manual_seed(0)
        encoder = build_encoder(encoder_config("tiny").model_copy(update={"depth": 4, "rope": "interleaved"})).eval()
        assert isinstance(encoder, Encoder)
        if start == "motion-energy":
            start_with_motion(encoder)
        seen = [tokens(encoder, frames) for frames, _ in pairs]

        def side(which: np.ndarray, seen: list[np.ndarray] = seen) -> tuple[np.ndarray, np.ndarray]:
            chosen = np.flatnonzero(which)
            return np.concatenate([seen[i] for i in chosen]), np.concatenate([pairs[i][1] for i in chosen])

        x, y = side(~test)
        model = RidgeCV(np.logspace(-2, 4, 7)).fit(x, y)
        x, y = side(test)
        error = ((model.predict(x) - y) ** 2).mean(0)
        results[start] = {axis: round(float(1 - e / v), 3) for axis, e, v in zip(("x", "y"), error, y.var(0))}
        print(start, results[start], flush=True)
    if arguments.write:
        write_result("motion_start", results)


if __name__ == "__main__":
    main()
