"""`--dry-run`: two steps of everything on a few clips; what the whole run will take in time, memory and disk."""

import math
import resource
import sys
import tempfile
from pathlib import Path

import torch
from accelerate import PartialState

from surg.data.manifest import Clip, Manifest
from surg.errors import ConfigError
from surg.runs import RunFolder
from surg.train import build, schedules, unfreeze
from surg.train.config import TrainConfig
from surg.train.inputs import class_names
from surg.train.loop import train
from surg.train.progress import duration
from surg.train.sources import limited, matches
from surg.train.trainee import HALVED


def rehearse(config: TrainConfig) -> list[str]:
    """Run two steps, validation and a checkpoint in a temporary folder, and say what the run that was asked for would take."""
    clips = {name: clips_of(config, name) for name in config.data.sources}
    counts = {name: len(found) for name, found in clips.items()}
    # The few clips below may not have them all, and a head of other classes is another head.
    classes = config.model.classes or sorted(
        {word for name, found in clips.items() for word in class_names(config.data.sources[name], found)}
    )
    per_epoch = max(1, math.ceil(sum(counts.values()) / config.batch_size))
    steps = config.steps or max(1, round(config.epochs * per_epoch))
    # What the whole run would refuse.
    unfreeze.stage_lengths(config, steps)
    build.check_ramp(config, steps)
    few = {name: source.model_copy(update={"limit": 2 * config.batch_size}) for name, source in config.data.sources.items()}
    # Two steps of each stage, however short one of them is beside the others.
    stages = tuple(stage.model_copy(update={"share": 1.0}) for stage in config.stages)
    small = config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"sources": few, "cache": None, "curriculum": False, "num_frames": longest(config, steps, per_epoch)}
            ),
            "steps": 2 * max(1, len(stages)),
            "stages": stages,
            "model": config.model.model_copy(update={"classes": tuple(classes)}),
            "loss": config.loss.model_copy(update={"context_ramp": (0, 1)}),
            "log_every": 1,
            "val_batches": 1,
            "tensorboard": False,
            "curves": False,
        }
    )
    with tempfile.TemporaryDirectory(prefix="surg-dry-run-") as folder:
        outcome = train(small, Path(folder) / "run")
        if not PartialState().is_main_process:
            return []
        rows = [row for row in RunFolder(outcome.run).metrics() if row["kind"] == "train"]
        megabytes = (outcome.run / "checkpoints" / "resume.pt").stat().st_size / 2**20
    # The last step: the first ones also fill caches and wake the allocator.
    seconds = config.batch_size / rows[-1]["clips_per_s"] * steps
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [
        f"dry run of {config.recipe}: every part ran; nothing was kept",
        f"clips: {listed}; {steps} steps of {config.batch_size} clips",
        f"time: about {duration(seconds)} here ({rows[-1]['clips_per_s']:.1f} clips/s), decoding before the first step not counted",
        f"memory: {peak_memory(PartialState().device.type)}; disk: about {3 * megabytes:.0f} MB of checkpoints",
        "next: the same command without --dry-run",
    ]


def clips_of(config: TrainConfig, name: str) -> list[Clip]:
    """Training clips of a source, by its manifest alone."""
    source = config.data.sources[name]
    if source.manifest is None:
        raise ConfigError(f"The source {name!r} has no manifest.\nGive one: --data {name}=MANIFEST.parquet")
    selected = Manifest.read(source.manifest).select(split=source.split).clips()
    return limited([clip for clip in selected if matches(clip, source.where)], source.limit)


def longest(config: TrainConfig, steps: int, per_epoch: int) -> int:
    """Frames of the longest clips that the run will see: a curriculum's first ones would promise too little memory and time."""
    data = config.data
    if not data.curriculum:
        return data.num_frames
    halved = any(set(source.tasks) & set(HALVED) for source in data.sources.values())
    last = schedules.frames_at_epoch(
        (steps - 1) // per_epoch, every=data.curriculum_every, last=data.num_frames, unit=4 if halved else 2
    )
    return min(data.num_frames, last)


def peak_memory(device: str) -> str:
    """Of the GPU where the run is on one, else of the process."""
    if device == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GB of the GPU at most"
    # Linux counts in kB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 2**30:.1f} GB at most"
