"""Curves over a run: learning rate, weight decay, teacher momentum, clip length. Pure functions of the step.

Steps count from 1, as the official schedulers do: they advance before they are read.
"""

import math
from typing import Literal

from pydantic import Field

from surg.config import Config
from surg.errors import ConfigError

Shape = Literal["constant", "cosine", "linear", "wsd"]


class ScheduleConfig(Config):
    shape: Shape = "cosine"
    """What follows the warm-up: constant, cosine or linear to `final`, or wsd (constant, then linear over `anneal`)."""
    start: float = Field(0.1, ge=0)
    """Learning rate at the first step, as a share of the peak."""
    final: float = Field(0.01, ge=0)
    """Learning rate at the end, as a share of the peak."""
    warmup: float = Field(0.05, ge=0)
    """Length of the linear warm-up, as a share of the run."""
    anneal: float = Field(0.1, ge=0)
    """Length of the final decay of `wsd`, as a share of the run."""
    stretch: float = Field(1.0, ge=1)
    """Every curve is drawn over this many runs and cut at the end of one. The official recipes use 1.25."""


def learning_rate(
    step: int, *, steps: float, peak: float, shape: Shape, start: float, final: float, warmup: float, anneal: float = 0.0
) -> float:
    """The rate at `step` (from 1). `start` and `final` are rates; `warmup` and `anneal` are numbers of steps."""
    if step < warmup:
        return start + (peak - start) * step / max(1.0, warmup)
    if shape == "constant":
        return peak
    if shape == "wsd":
        left = steps - step
        return peak if left > anneal else final + (peak - final) * max(0.0, left) / max(1.0, anneal)
    progress = min(1.0, (step - warmup) / max(1.0, steps - warmup))
    if shape == "linear":
        return peak + (final - peak) * progress
    return max(final, final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def scheduled_rate(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    """`learning_rate` with a config's shares turned into rates and steps."""
    return learning_rate(
        step,
        steps=steps * config.stretch,
        peak=peak,
        shape=config.shape,
        start=peak * config.start,
        final=peak * config.final,
        warmup=round(steps * config.warmup),
        anneal=steps * config.anneal,
    )


def weight_decay(step: int, *, steps: float, start: float, final: float) -> float:
    """Cosine from `start` to `final`; the same value throughout when they are equal."""
    decay = final + (start - final) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return max(final, decay) if final <= start else min(final, decay)


def teacher_momentum(step: int, *, steps: float, start: float, final: float) -> float:
    """Linear from `start` towards `final`. The first update (step 1) uses `start` itself."""
    return start + (step - 1) * (final - start) / steps


def frames_at_epoch(epoch: int, *, first: int = 8, every: int = 50, last: int = 32, unit: int = 2) -> int:
    """Clip-length curriculum `min(8 + epoch // 50, 32)`, rounded down to a multiple of `unit`: a token spans two frames."""
    if first % 2 or last % 2 or first < 2:
        raise ConfigError(f"A clip-length curriculum needs even lengths of at least 2; found {first} to {last}.")
    frames = min(first + epoch // every, last)
    return max(frames - frames % unit, unit)


def stage_at(step: int, lengths: list[int]) -> tuple[int, int]:
    """Which stage `step` (from 1) falls in and the step within it (from 1)."""
    for index, length in enumerate(lengths):
        if step <= length:
            return index, step
        step -= length
    return len(lengths) - 1, lengths[-1] + step
