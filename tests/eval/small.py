"""A tiny model, and clips whose class is a direction of motion: enough to run every evaluation for real in seconds."""

from pathlib import Path

import numpy as np
import torch

from surg.data.manifest import Clip, write_manifest
from surg.data.preprocess import PreprocessSpec
from surg.data.video import write_video
from surg.model.bundle import save_bundle
from surg.model.config import EncoderConfig, PredictorConfig
from surg.model.encoder import build_encoder
from surg.model.heads import AttentiveClassifier, SterilityHead
from surg.model.predictor import build_predictor

CLASSES = ("down", "left", "right", "up")
SHIFT = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEC = PreprocessSpec(size=32, num_frames=4, fps=4.0)


def checkpoint(path: Path, seed: int = 0, *, width: int = 24, world: torch.nn.Module | None = None) -> Path:
    """A bundle with every part, random weights; a world model conditioned on the label `breach` where one is given."""
    torch.manual_seed(seed)
    parts: dict[str, torch.nn.Module] = {
        "encoder": build_encoder(EncoderConfig(embed_dim=width, depth=2, num_heads=2)),
        "predictor": build_predictor(PredictorConfig(embed_dim=width, width=width, depth=1, num_heads=2)),
        "head.action": AttentiveClassifier(width, 2, 1, len(CLASSES)),
        "head.sterility": SterilityHead(width, 2, 1, (0, 1, 2), width),
    }
    meta: dict[str, object] = {
        "classes": list(CLASSES),
        "horizons_s": [0, 1, 2],
        "preprocess": SPEC.model_dump(mode="json"),
        "architecture": "test",
    }
    if world is not None:
        parts["world"] = world
        meta |= {"actions": {"names": ["breach"], "widths": {"breach": 1}}, "states": {}}
    save_bundle(path, parts, {}, meta)
    return path


def moving_square(direction: str, rng: np.random.Generator, frames: int = 8, size: int = 48, speed: int = 3) -> np.ndarray:
    """uint8 (T, S, S, 3): a bright square that moves one way over noise."""
    dx, dy = SHIFT[direction]
    start = rng.integers(14, size - 24, 2) - np.array([dx, dy]) * speed * frames // 2
    pictures = np.full((frames, size, size, 3), 60, np.uint8) + rng.integers(0, 20, (frames, size, size, 3), dtype=np.uint8)
    for t in range(frames):
        x, y = start + np.array([dx, dy]) * speed * t
        pictures[t, max(0, y) : max(0, y + 10), max(0, x) : max(0, x + 10)] = 230
    return pictures


def motion_clips(folder: Path, cases: int = 12, seed: int = 0) -> Path:
    """A manifest of cases x 4 clips; two of three cases train, the rest val and test."""
    rng = np.random.default_rng(seed)
    clips = []
    for case in range(cases):
        split = "train" if case % 3 == 0 or case % 6 == 1 else "val" if case % 6 in (2, 4) else "test"
        for direction in CLASSES:
            video = folder / f"{case}-{direction}.mp4"
            write_video(video, list(moving_square(direction, rng)), 8.0, crf=20)
            clips.append(Clip(str(video), 0.0, 0.875, f"case{case}", split, "test", "none", {"action": direction}))
    write_manifest(folder / "manifest.parquet", clips)
    return folder / "manifest.parquet"


def breach_takes(folder: Path, takes: int = 4, seconds: int = 30, seed: int = 0) -> Path:
    """Long takes in which a square enters the zone (the right third) at known times. Half of the takes are val."""
    rng = np.random.default_rng(seed)
    clips = []
    for take in range(takes):
        fps, size = 8, 48
        pictures = np.full((seconds * fps, size, size, 3), 60, np.uint8) + rng.integers(
            0, 12, (seconds * fps, size, size, 3), dtype=np.uint8
        )
        starts = [6 + take % 2, 18 + take % 3]
        for t in range(seconds * fps):
            now = t / fps
            inside = any(start <= now < start + 3 for start in starts)
            x = 36 if inside else 6
            pictures[t, 18:30, x : x + 10] = 230
        video = folder / f"take{take}.mp4"
        write_video(video, list(pictures), float(fps), crf=18)
        zone = [[0.66, 0.0], [1.0, 0.0], [1.0, 1.0], [0.66, 1.0]]
        split = "val" if take % 2 == 0 else "test"
        common = {"zone": zone, "case": f"take{take}", "split": split, "source": "test", "licence": "none"}
        clips += [
            Clip(
                str(video),
                start,
                start + 3.0,
                labels={"breach": 1, "breach_t0": float(start), "breach_t1": start + 3.0},
                **common,
            )
            for start in starts
        ]
        clips.append(Clip(str(video), 0.0, float(seconds), labels={"breach": 0, "camera": f"c{take % 2}"}, **common))
    write_manifest(folder / "takes.parquet", clips)
    return folder / "takes.parquet"
