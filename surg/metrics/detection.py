"""Events over time: alarms from scores, which events they caught, how late, and how many were false.

An alarm begins when the score reaches `threshold` and ends when it falls below `hold` times that (hysteresis); alarms closer than `merge_s`
are one, alarms shorter than `min_s` none. An event counts as caught by the first alarm that BEGINS within
`before_s` ahead of its start up to its end plus `after_s`; one alarm catches one event. So an alarm that never stops catches at most
one event, and two events in a row need two alarms. Further alarms that begin inside the same window are repeats: neither hits nor
false. All others are false. Times are seconds.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Span = tuple[float, float]


@dataclass(frozen=True)
class AlarmRule:
    threshold: float
    hold: float = 1.0
    """An alarm goes on until the score falls below `hold` times the threshold: a ratio, so that it fits scores of any scale."""
    min_s: float = 0.0
    merge_s: float = 0.0


@dataclass(frozen=True)
class Tolerance:
    before_s: float = 2.0
    after_s: float = 2.0


@dataclass(frozen=True)
class Take:
    """One recording: scores at their times, and the true events. A score of -inf is a moment that nobody watched."""

    times_s: Floats
    scores: Floats
    events: tuple[Span, ...]

    @property
    def step_s(self) -> float:
        return float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else 0.0

    @property
    def hours(self) -> float:
        """Time watched: from the first score to the last, plus the step that the last one stands for."""
        if np.isneginf(self.scores).any():
            return self.step_s * int(np.sum(~np.isneginf(self.scores))) / 3600
        return (float(self.times_s[-1] - self.times_s[0]) + self.step_s) / 3600 if len(self.times_s) else 0.0


@dataclass(frozen=True)
class Matches:
    caught: tuple[tuple[Span, Span], ...]
    """(event, alarm) pairs."""
    missed: tuple[Span, ...]
    false: tuple[Span, ...]
    repeats: tuple[Span, ...]
    hours: float

    @property
    def recall(self) -> float:
        total = len(self.caught) + len(self.missed)
        return len(self.caught) / total if total else float("nan")

    @property
    def precision(self) -> float:
        total = len(self.caught) + len(self.false)
        return len(self.caught) / total if total else float("nan")

    @property
    def f1(self) -> float:
        total = 2 * len(self.caught) + len(self.missed) + len(self.false)
        return 2 * len(self.caught) / total if total else float("nan")

    @property
    def false_per_hour(self) -> float:
        return len(self.false) / self.hours if self.hours else float("nan")

    @property
    def delays_s(self) -> list[float]:
        """Seconds from an event's start to its alarm; below 0 the alarm came first."""
        return [alarm[0] - event[0] for event, alarm in self.caught]


def alarms(times_s: npt.ArrayLike, scores: npt.ArrayLike, rule: AlarmRule) -> list[Span]:
    """Alarms of one take. An alarm ends with the step of its last score.  times_s, scores: (N,), times rising."""
    times, values = np.asarray(times_s, np.float64), np.asarray(scores, np.float64)
    if not len(times):
        return []
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    low = rule.threshold * rule.hold
    # Each place takes the state of the last score that decided: up (1) or down (0); in between the state is held.
    decided = np.where(values >= rule.threshold, 1, np.where(values < low, 0, -1))
    last = np.maximum.accumulate(np.where(decided >= 0, np.arange(len(times)), 0))
    on = decided[last] == 1
    edges = np.diff(np.concatenate([[0], on.astype(np.int8), [0]]))
    spans = [
        (float(times[a]), float(times[b - 1]) + step) for a, b in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1))
    ]
    return [span for span in merge(spans, rule.merge_s) if span[1] - span[0] >= rule.min_s - 1e-9]


def merge(spans: Iterable[Span], gap_s: float) -> list[Span]:
    """Spans in order, those at most `gap_s` apart made one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start - joined[-1][1] <= gap_s + 1e-9:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def match(events: Sequence[Span], found: Sequence[Span], tolerance: Tolerance, hours: float) -> Matches:
    """Give each event, in order of time, the first alarm not yet used that begins in its window."""
    free = sorted(found)
    caught: list[tuple[Span, Span]] = []
    missed: list[Span] = []
    for event in sorted(events):
        hit = next((alarm for alarm in free if _begins_in(alarm, event, tolerance)), None)
        if hit is None:
            missed.append(event)
        else:
            free.remove(hit)
            caught.append((event, hit))
    repeats = [alarm for alarm in free if any(_begins_in(alarm, event, tolerance) for event in events)]
    false = [alarm for alarm in free if alarm not in repeats]
    return Matches(tuple(caught), tuple(missed), tuple(false), tuple(repeats), hours)


def pool(matches: Iterable[Matches]) -> Matches:
    """The matches of several takes as one."""
    every = list(matches)
    return Matches(
        tuple(pair for m in every for pair in m.caught),
        tuple(span for m in every for span in m.missed),
        tuple(span for m in every for span in m.false),
        tuple(span for m in every for span in m.repeats),
        sum(m.hours for m in every),
    )


def score_takes(takes: Iterable[Take], rule: AlarmRule, tolerance: Tolerance) -> list[Matches]:
    return [match(take.events, alarms(take.times_s, take.scores, rule), tolerance, take.hours) for take in takes]


@dataclass(frozen=True)
class CurvePoint:
    threshold: float
    recall: float
    false_per_hour: float
    precision: float


def event_curve(takes: Sequence[Take], rule: AlarmRule, tolerance: Tolerance, *, points: int = 200) -> list[CurvePoint]:
    """Recall and false alarms per hour over thresholds (quantiles of all scores), highest first. `rule` gives the rest of the rule."""
    every = np.concatenate([take.scores for take in takes]) if takes else np.zeros(0)
    every = every[np.isfinite(every)]
    if not len(every):
        return []
    # More of the thresholds among the highest scores: that is where few false alarms live.
    shares = 1 - np.concatenate([np.geomspace(1e-4, 0.1, points // 2), np.linspace(0.1, 1, points - points // 2)])
    curve = []
    for threshold in np.unique(np.quantile(every, shares))[::-1]:
        trial = AlarmRule(float(threshold), rule.hold, rule.min_s, rule.merge_s)
        total = pool(score_takes(takes, trial, tolerance))
        curve.append(CurvePoint(float(threshold), total.recall, total.false_per_hour, total.precision))
    return curve


def recall_at(curve: Sequence[CurvePoint], false_per_hour: float) -> CurvePoint | None:
    """The point of best recall among those with at most so many false alarms per hour; of equals the highest threshold. None: no point is."""
    allowed = [point for point in curve if point.false_per_hour <= false_per_hour + 1e-9 and np.isfinite(point.recall)]
    return max(allowed, key=lambda point: (point.recall, point.threshold)) if allowed else None


def quietest(curve: Sequence[CurvePoint], false_per_hour: float) -> CurvePoint | None:
    """The point of lowest threshold from which on none has more false alarms per hour than that: lower ones melt alarms into one that never ends."""
    allowed = list(itertools.takewhile(lambda point: point.false_per_hour <= false_per_hour + 1e-9, curve))
    return allowed[-1] if allowed else None


def _begins_in(alarm: Span, event: Span, tolerance: Tolerance) -> bool:
    return event[0] - tolerance.before_s - 1e-9 <= alarm[0] <= event[1] + tolerance.after_s + 1e-9
