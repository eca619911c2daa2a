"""Is the tissue simulator about motion, and can it be learnt?  One core, about 35 minutes.

    surg data synth tissue --out DIR --clips 3200 --seed 11
    python benchmarks/synth_learnability.py DIR/manifest.parquet [--minutes 25] [--write]

Beside each other, trained on the split train and scored on test (whole cases apart): majority; one frame alone (2-D network); the same
frames in random order (3-D network); 23 flow features with logistic regression; the clip as it is (3-D network).
"""

import argparse
import itertools
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from recording import write_result
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from surg.data.manifest import Manifest
from surg.data.synth.tissue import ACTIONS
from surg.data.synth.version import SIMULATOR_VERSION
from surg.data.video import iter_frames

# B clips, T frames, C channels, H W pixels
SIDE = 144
FLOW_SIDE = 112
FRAMES = 16
# Of the video network's time. One frame costs a fifteenth of a clip, so that its network sees more epochs all the same; with shuffled frames
# it sees fewer: what it reaches is the least that can be reached.
TIME_SHARE = {"clip": 1.0, "shuffled": 0.15, "frame": 0.15}


def load(path: Path, limit: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gray clips (B, T, H, W) uint8, actions (B,), splits (B,)."""
    clips, actions, splits = [], [], []
    for clip in list(Manifest.read(path))[:limit]:
        frames = [frame for _, frame in iter_frames(clip.video)]
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames[:FRAMES]]
        clips.append(np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in gray]))
        actions.append(ACTIONS.index(str(clip.labels["action"])))
        splits.append(clip.split)
    return np.stack(clips), np.array(actions), np.array(splits)


def flow_features(clip: np.ndarray) -> np.ndarray:
    """23 numbers of the dense flow: size, spread and trend of motion, its directions, divergence, curl, the camera's affine motion."""
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    gray = [cv2.resize(frame, (FLOW_SIDE, FLOW_SIDE), interpolation=cv2.INTER_AREA) for frame in clip]
    flows = np.stack([flow_of.calc(a, b, None) for a, b in itertools.pairwise(gray)])
    y, x = np.mgrid[4:FLOW_SIDE:8, 4:FLOW_SIDE:8].astype(np.float32)
    points = np.stack([x, y], -1).reshape(-1, 2)
    cameras = []
    for flow in flows:
        moved = points + flow[4::8, 4::8].reshape(-1, 2)
        affine, _ = cv2.estimateAffinePartial2D(points, moved, method=cv2.RANSAC, ransacReprojThreshold=1.0)
        affine = np.eye(2, 3) if affine is None else affine
        cameras.append([affine[0, 2], affine[1, 2], affine[0, 0] - 1, affine[1, 0]])
    size = np.linalg.norm(flows, axis=-1)
    angle = np.arctan2(flows[..., 1], flows[..., 0])
    directions = np.histogram(angle, 8, (-np.pi, np.pi), weights=size)[0] / max(size.sum(), 1e-6)
    d_dx, d_dy = np.gradient(flows, axis=2), np.gradient(flows, axis=1)
    divergence, curl = d_dx[..., 0] + d_dy[..., 1], d_dx[..., 1] - d_dy[..., 0]
    per_frame = size.mean((1, 2))
    trend = np.polyfit(np.arange(len(per_frame)), per_frame, 1)[0]
    shape = [size.mean(), size.std(), np.quantile(size, 0.95), per_frame.std(), trend, (size > 1).mean()]
    field = [divergence.mean(), np.abs(divergence).mean(), curl.mean(), np.abs(curl).mean(), flows[..., 1].mean()]
    return np.concatenate([shape, directions, field, np.mean(cameras, 0)])


class VideoNet(nn.Sequential):
    """Four 3-D convolutions, 0.5 M weights. (B, 1, T, H, W) -> (B, 8)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inside, outside, kernel, stride in (
            (1, 24, (3, 7, 7), (1, 3, 3)),
            (24, 48, (3, 3, 3), (2, 2, 2)),
            (48, 96, (3, 3, 3), (2, 2, 2)),
            (96, 128, (3, 3, 3), (2, 1, 1)),
        ):
            padding = tuple(side // 2 for side in kernel)
            conv = nn.Conv3d(inside, outside, kernel, stride, padding, bias=False)
            layers += [conv, nn.BatchNorm3d(outside), nn.ReLU(inplace=True)]
        head = [nn.AdaptiveAvgPool3d((2, 2, 2)), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 8, len(ACTIONS))]
        super().__init__(*layers, *head)


class FrameNet(nn.Sequential):
    """The same network without time. (B, 1, H, W) -> (B, 8)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inside, outside, kernel, stride in ((1, 24, 7, 3), (24, 48, 3, 2), (48, 96, 3, 2), (96, 128, 3, 1)):
            conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 4, len(ACTIONS)))


def batch_of(clips: np.ndarray, mode: str, rng: np.random.Generator, train: bool) -> Tensor:
    if mode == "frame":
        # One frame of each clip, anywhere in it: an action's own frames, not only the middle of its movement.
        clips = clips[np.arange(len(clips)), rng.integers(0, FRAMES, len(clips))][:, None]
    x = torch.from_numpy(clips)[:, None].float().div_(127.5).sub_(1)
    if train:
        if rng.random() < 0.5:
            x = x.flip(-1)
        shift = rng.integers(-8, 9, 2)
        x = torch.roll(x, (int(shift[0]), int(shift[1])), (-2, -1)) * float(rng.uniform(0.8, 1.2))
    if mode == "shuffled":
        order = [torch.from_numpy(rng.permutation(FRAMES)) for _ in range(len(clips))]
        return torch.stack([clip[:, rank] for clip, rank in zip(x, order)])
    return x[:, :, 0] if mode == "frame" else x


def train_and_score(mode: str, clips: np.ndarray, actions: np.ndarray, splits: np.ndarray, minutes: float) -> dict[str, float]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model: nn.Module = FrameNet() if mode == "frame" else VideoNet()
    train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    begin, epochs, share = time.process_time(), 0, 0.0  # of this process: others on the machine do not count
    while share < 1:
        model.train()
        for part in np.array_split(rng.permutation(train), max(1, len(train) // 16)):
            share = min(1.0, (time.process_time() - begin) / (60 * minutes * torch.get_num_threads()))
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * 0.5 * (1 + np.cos(np.pi * share)) + 1e-6
            x, y = batch_of(clips[part], mode, rng, True), torch.from_numpy(actions[part])
            if mode == "clip" and rng.random() < 0.5:
                # Played backwards a clip is one of its partner, which stands beside it in the list of actions.
                x, y = x.flip(2), y ^ 1
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epochs += 1
        print(f"{mode} epoch {epochs} {100 * share:.0f} % loss {loss.item():.3f}", flush=True)
    model.eval()
    with torch.inference_mode():
        parts = np.array_split(test, max(1, len(test) // 16))
        logits = [model(batch_of(clips[part], mode, rng, False)).numpy() for part in parts]
    guesses = np.concatenate(logits).argmax(1)
    for action in range(len(ACTIONS)):
        mine = actions[test] == action
        print(f"  {ACTIONS[action]:9s}", np.bincount(guesses[mine], minlength=len(ACTIONS)))
    return {"accuracy": float((guesses == actions[test]).mean()), "epochs": epochs, "minutes": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--minutes", type=float, default=25.0, help="training of the video network, CPU minutes a thread")
    parser.add_argument("--limit", type=int, help="only the first clips, for a try")
    parser.add_argument("--only", nargs="*", default=["flow", "frame", "shuffled", "clip"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--write", action="store_true", help="write benchmarks/synth_learnability_<hardware>_<yyyy-mm>.json and .md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    clips, actions, splits = load(arguments.manifest, arguments.limit)
    train, test = splits == "train", splits == "test"
    majority = np.bincount(actions[train]).argmax()
    results: dict[str, dict[str, float]] = {"majority": {"accuracy": float((actions[test] == majority).mean())}}
    for mode in arguments.only:
        begin = time.monotonic()
        if mode == "flow":
            features = np.stack([flow_features(clip) for clip in clips])
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            model.fit(features[train], actions[train])
            results["flow"] = {"accuracy": float(model.score(features[test], actions[test]))}
        else:
            results[mode] = train_and_score(mode, clips, actions, splits, arguments.minutes * TIME_SHARE[mode])
        print(mode, results[mode], f"{time.monotonic() - begin:.0f} s", flush=True)
    about = {
        "simulator": SIMULATOR_VERSION,
        "train_clips": int(train.sum()),
        "test_clips": int(test.sum()),
        "threads": arguments.threads,
        "inputs": results,
    }
    note = (
        f"Tissue simulator, version {SIMULATOR_VERSION}: what can be learnt from what. {about['train_clips']} clips to train, "
        f"{about['test_clips']} to test, cases apart, 8 actions (chance 0.125); {arguments.threads} thread(s)."
    )
    print(note, table(results), sep="\n\n")
    if arguments.write:
        print("Wrote", write_result("synth_learnability", about, table(results), note))


def table(results: dict[str, dict[str, float]]) -> str:
    names = {
        "majority": "majority class",
        "frame": "one frame, 2-D network",
        "shuffled": "frames shuffled, 3-D network",
        "flow": "23 flow features, logistic regression",
        "clip": "clip, 3-D network",
    }
    lines = ["| input and model | accuracy on test | training, minutes on one core |", "|---|---|---|"]
    for mode, name in names.items():
        if mode in results:
            spent = results[mode].get("minutes")
            lines.append(f"| {name} | {results[mode]['accuracy']:.3f} | {'' if spent is None else f'{spent:g}'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
