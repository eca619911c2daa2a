"""Runs of equal labels: from one label per moment to intervals with a start and an end."""

from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

L = TypeVar("L", bound=Hashable)


def merge_runs(
    labels: Iterable[tuple[float, L]], step_s: float, max_gap_s: float | None = None
) -> Iterator[tuple[float, float, L]]:
    """Merge `(time_s, label)` in order of time into `(start_s, end_s, label)`.

    Each label holds for `step_s`, or until the next one when that comes within `max_gap_s` (default 1.5 steps).
    A longer gap is time that nobody labelled: it ends the interval and belongs to none.
    """
    gap = 1.5 * step_s if max_gap_s is None else max_gap_s
    start = end = 0.0
    current: list[L] = []
    for time_s, label in labels:
        continues = bool(current) and time_s - (end - step_s) <= gap + 1e-9
        if continues and label == current[0]:
            end = time_s + step_s
            continue
        if current:
            yield start, time_s if continues else end, current[0]
        start, end, current = time_s, time_s + step_s, [label]
    if current:
        yield start, end, current[0]


def cut_out(start: float, end: float, holes: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """What is left of an interval when others are taken out of it."""
    for hole_start, hole_end in sorted(holes):
        if hole_end <= start or hole_start >= end:
            continue
        if hole_start > start:
            yield start, hole_start
        start = max(start, hole_end)
    if end > start:
        yield start, end
