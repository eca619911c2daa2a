"""How long a training step of `tiny` waits for its batch: the share of time spent in `next(batches)`.

python benchmarks/loader.py [--write]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from recording import write_result

from surg.data.augment import AugmentConfig
from surg.data.clips import ClipConfig
from surg.data.loader import Batch, ClipLoader, LoaderConfig
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.preprocess import PreprocessSpec
from surg.data.video import write_video
from surg.model.encoder import build_encoder
from surg.model.zoo import encoder_config

CLIP = ClipConfig(num_frames=16, fps=4.0, size=160)
WARM_UP = 4
SPEC = PreprocessSpec(num_frames=16, fps=4.0, size=160)


def make_data(folder: Path, size: int, videos: int, seconds: int) -> Path:
    """Drifting noise-textured clips of simulator size, 15 frames a second."""
    rng = np.random.default_rng(0)
    clips = []
    for number in range(videos):
        wall = rng.integers(0, 256, (size // 8 + 32, size // 8 + 32, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        frames = (wall[2 * t % 200 :][:size, t % 200 :][:, :size] for t in range(15 * seconds))
        write_video(folder / f"{number}.mp4", frames, 15)
        clips.append(Clip(f"{number}.mp4", 0, seconds, f"case{number}", "train"))
    return write_manifest(folder / "m.parquet", clips).path


class TinyStep:
    """The encoder's share of a pretraining step of `tiny` (192 x 12): targets from all tokens, gradients through a quarter of them.

    The predictor, the loss and the optimiser come on top in a real step: a loader that keeps up here keeps up there.
    """

    def __init__(self) -> None:
        self.teacher = build_encoder(encoder_config("tiny")).eval()
        self.student = build_encoder(encoder_config("tiny"))

    def __call__(self, batch: Batch) -> None:
        clip = (batch.frames.permute(0, 4, 1, 2, 3).float() / 255 - 0.45) / 0.225
        tokens = clip.shape[2] // 2 * (clip.shape[3] // 16) * (clip.shape[4] // 16)
        with torch.no_grad():
            self.teacher(clip)
        keep = torch.randperm(tokens)[: tokens // 4].sort().values.expand(len(clip), -1)
        self.student(clip, keep=keep).square().mean().backward()
        self.student.zero_grad()


def measure(manifest_path: Path, batch: int, workers: int, steps: int) -> dict[str, float]:
    config = LoaderConfig(batch_size=batch, workers=workers, seed=0)
    loader = ClipLoader(Manifest.read(manifest_path), CLIP, SPEC, config, augment=AugmentConfig(brightness=0.2))
    batches = loader.train(steps=steps + WARM_UP)
    step = TinyStep()
    waits = []
    for number in range(steps + WARM_UP):
        if number == WARM_UP:
            began = time.perf_counter()
            waits.clear()
        asked = time.perf_counter()
        taken = next(batches)
        waits.append(time.perf_counter() - asked)
        step(taken)
    total = time.perf_counter() - began
    return {
        "wait_share": round(sum(waits) / total, 4),
        "wait_p50_ms": round(float(np.median(waits)) * 1000, 2),
        "step_s": round((total - sum(waits)) / steps, 2),
        "clips_per_s": round(steps * batch / total, 2),
    }


def decode_cost(manifest_path: Path, batch: int) -> float:
    """CPU milliseconds per clip of decoding, cropping and collating, in this process alone."""
    loader = ClipLoader(
        Manifest.read(manifest_path),
        CLIP,
        SPEC,
        LoaderConfig(batch_size=batch, workers=0),
        augment=AugmentConfig(brightness=0.2),
    )
    batches = loader.train(steps=8)
    next(batches)
    busy = time.process_time()
    count = sum(len(batch) for batch in batches)
    return round((time.process_time() - busy) / count * 1000, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 720], help="sides of the source videos in pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--write", action="store_true", help="write benchmarks/loader_<hardware>_<yyyy-mm>.json and .md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, seconds in ((side, 8) for side in options.sizes):
            path = make_data(Path(folder) / str(size), size, videos=12, seconds=seconds)
            cost = decode_cost(path, options.batch)
            rows += [
                {"video": f"{size} px, 15 fps", "workers": workers, "cpu_ms_per_clip": cost}
                | measure(path, options.batch, workers, options.steps)
                for workers in options.workers
            ]
    results = {
        "clip": "16 frames at 4 fps, 160 px, random crop, flip and brightness", "batch": options.batch,
        "cores": len(os.sched_getaffinity(0)), "load_average": round(os.getloadavg()[0], 1), "rows": rows,
    }  # fmt: skip
    note = (
        f"Waiting for the loader: {results['clip']}, batches of {options.batch}; {results['cores']} cores, "
        f"load average {results['load_average']}."
    )
    lines = [
        "| video | workers | step s | waiting | wait p50 ms | clips/s | CPU ms per clip |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = f"{row['wait_share']:.1%} | {row['wait_p50_ms']} | {row['clips_per_s']} | {row['cpu_ms_per_clip']}"
        lines.append(f"| {row['video']} | {row['workers']} | {row['step_s']} | {numbers} |")
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    if options.write:
        print("Wrote", write_result("loader", results, table, note))


if __name__ == "__main__":
    main()
