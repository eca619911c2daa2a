"""Small made-up videos and manifests for the tests of training."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.video import write_video

SIDE, FPS = 48, 8.0
ACTIONS = ("down", "right", "still")


def square(frames: int, step: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A bright square that moves `step` pixels a frame over a textured ground: uint8 (T, SIDE, SIDE, 3)."""
    out = np.repeat(rng.integers(40, 90, (1, SIDE, SIDE, 3), dtype=np.uint8), frames, axis=0)
    x, y = (int(v) for v in rng.integers(2, 14, 2))
    for t in range(frames):
        top, left = min(y + step[1] * t, SIDE - 12), min(x + step[0] * t, SIDE - 12)
        out[t, top : top + 12, left : left + 12] = 230
    return out


def tissue(folder: Path, clips: int = 12, frames: int = 8, seed: int = 0) -> Path:
    """Clips of three motions; every third case is val."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(clips):
        action = ACTIONS[number % 3]
        step = {"down": (0, 3), "right": (3, 0), "still": (0, 0)}[action]
        video = folder / f"t{number:02d}.mp4"
        write_video(video, square(frames, step, rng), FPS)
        labels: dict[str, str | float | int] = {"action": action}
        labels |= {f"motion_{i:02d}": float(rng.normal()) for i in range(23)}
        split = "val" if number // 3 % 3 == 2 else "train"
        rows.append(Clip(str(video), 0.0, (frames - 1) / FPS, f"case{number // 3}", split=split, labels=labels))
    return write_manifest(folder / "tissue.parquet", rows).path


def factors(folder: Path, plain: Path) -> Path:
    """Rows for D_L, D_A and D_I of every clip, their videos standing for composed ones."""
    rows = [
        replace(clip, meta={"factor": kind, "factor_on_disk": "1"})
        for clip in Manifest.read(plain).clips()
        for kind in ("D_L", "D_A", "D_I")
    ]
    return write_manifest(folder / "factors.parquet", rows).path


def room(folder: Path, clips: int = 8, frames: int = 16, seed: int = 1) -> Path:
    """Something comes into the zone in every second clip."""
    rng = np.random.default_rng(seed)
    rows = []
    zone = [[0.4, 0.2], [0.9, 0.2], [0.9, 0.9], [0.4, 0.9]]
    for number in range(clips):
        breach = number % 2
        video = folder / f"r{number:02d}.mp4"
        write_video(video, square(frames, (2 * breach, 0), rng), FPS)
        labels: dict[str, str | float | int] = {
            "breach": breach,
            "next_action": ("cut", "saw")[number // 2 % 2],
            "robot_phase": "ready",
        }
        if breach:
            labels |= {"breach_t0": 0.75, "breach_t1": 1.5, "breach_box": "0.5,0.3,0.8,0.6"}
        split = "val" if number % 4 >= 2 else "train"
        rows.append(Clip(str(video), 0.0, (frames - 1) / FPS, f"room{number // 2}", split=split, labels=labels, zone=zone))
    return write_manifest(folder / "room.parquet", rows).path
