"""Sterility breaches over takes and clips: are they found, how late, at how many false alarms, and better than what?

Thresholds are chosen on val and nowhere else. Intervals are over takes' cases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.advice import quoted
from surg.config import Config
from surg.data.adapters.mmor_rule import OUR_SETS, BreachSets
from surg.data.manifest import Manifest
from surg.errors import DataError
from surg.eval.backends import Backend
from surg.eval.results import Metric
from surg.eval.takes import Scored, TakeTruth, WatchConfig, read_takes, score_takes
from surg.metrics.bootstrap import Statistic, interval, row_statistic
from surg.metrics.calibration import expected_calibration_error
from surg.metrics.detection import AlarmRule, CurvePoint, Matches, Tolerance, event_curve, pool, quietest, recall_at
from surg.metrics.detection import score_takes as match_takes

Floats = npt.NDArray[np.float64]
Area = Callable[[Floats, Floats], float]
SLACK = 1e-3
RATES = (1.0, 5.0)
"""False alarms an hour at which recall is told."""


class SterilityConfig(Config):
    watch: WatchConfig = WatchConfig()
    """Windows."""
    before_s: float = Field(2.0, ge=0)
    """An alarm may begin this much before the event; more is a false alarm."""
    after_s: float = Field(2.0, ge=0)
    """An alarm may begin this much after the event's end."""
    min_s: float = Field(0.0, ge=0)
    """Alarms shorter than this are none."""
    merge_s: float = Field(2.0, ge=0)
    """Alarms closer than this are one."""
    hold: float = Field(0.8, gt=0, le=1)
    """An alarm ends when the score falls below so much of the threshold."""
    false_per_hour: float = Field(5.0, gt=0)
    """The threshold is the lowest on val with at most so many false alarms an hour."""
    repeats: int = Field(1000, ge=100)
    """Bootstrap repeats for areas under curves."""
    seed: int = 0
    """Of the bootstrap."""
    long_s: float = Field(60.0, ge=0)
    """Windows, events and false alarms are judged on takes at least so long where there are any; else on all takes."""
    near_misses: tuple[str, ...] = ("near_miss",)
    """Values of the label `event` that count as near misses in the balanced average precision over clips."""
    graph_rule: BreachSets = OUR_SETS
    """Names of MM-OR's rule over scene graphs (predicates, sterile, unsterile), for the baseline beside its official score."""

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.before_s, self.after_s)

    def rule(self, threshold: float) -> AlarmRule:
        return AlarmRule(threshold, self.hold, self.min_s, self.merge_s)


@dataclass(frozen=True)
class Verdict:
    """One score (of the model or of a baseline) on one set of takes."""

    name: str
    horizon_s: float
    windows: int
    prior: float
    auprc: Metric
    auroc: Metric
    threshold: float
    events: Matches
    per_take: tuple[Matches, ...]
    curve: tuple[CurvePoint, ...]
    ece: float
    at: dict[float, tuple[Matches, ...]]
    """Per take at the threshold of best recall with at most so many false alarms an hour, read off these takes' own curve."""


def score_sets(
    backend: Backend,
    manifests: Sequence[Manifest],
    folder: Path,
    config: SterilityConfig,
    *,
    resume: bool = True,
    splits: Sequence[str] = ("val", "test"),
) -> dict[str, list[Scored]]:
    """Scores of every split's takes; rows without a split count as test."""
    takes = takes_by_split(manifests, config)
    return {
        split: score_takes(backend, takes[split], folder / f"scores_{split}.parquet", config.watch, resume=resume)
        for split in splits
        if split in takes
    }


def takes_by_split(manifests: Sequence[Manifest], config: SterilityConfig) -> dict[str, list[TakeTruth]]:
    """The takes to judge; rows without a split count as test. DataError when one stands twice, or none is of the test split."""
    takes = [take for manifest in manifests for take in read_takes(manifest, config.watch)]
    if len({take.key for take in takes}) < len(takes):
        raise DataError("Two manifests hold the same take; give each take once.")
    found: dict[str, list[TakeTruth]] = {}
    for take in takes:
        found.setdefault(take.split or "test", []).append(take)
    if "test" not in found:
        counts = ", ".join(f"{split} {len(of_split)}" for split, of_split in found.items())
        raise DataError(
            f"No take belongs to the test split; the splits are {counts}.\n"
            f"Split by case anew: surg data split {quoted(manifests[0].path)} --replace    or give a manifest of test takes: --takes"
        )
    return found


def judge(
    name: str, scores: list[Floats], test: list[Scored], horizon_s: float, threshold: float, config: SterilityConfig
) -> Verdict:
    """Judge one score per window against breaches within `horizon_s`.  scores: one (W,) per take of `test`."""
    truth = [take.targets((horizon_s,))[:, 0] for take in test]
    y, s, cases = flat(truth, scores, test)
    takes = [take.watched(values) for take, values in zip(test, scores)]
    # Warnings of a horizon may come that much earlier.
    tolerance = Tolerance(config.before_s + horizon_s, config.after_s)
    matches = match_takes(takes, config.rule(threshold), tolerance)
    curve = event_curve(takes, config.rule(0.5), tolerance, points=120)
    at = {}
    for rate in RATES:
        point = recall_at(curve, rate)
        # No threshold of the curve is quiet enough: one above all scores is, and finds nothing.
        quiet = point.threshold if point else float("inf")
        at[rate] = tuple(match_takes(takes, config.rule(quiet), tolerance))
    probability = (s >= 0).all() and (s <= 1).all()
    return Verdict(
        name, horizon_s, len(y), float(y.mean()) if len(y) else float("nan"),
        area(average_precision, y, s, cases, config), area(roc_area, y, s, cases, config),
        threshold, pool(matches), tuple(matches), tuple(curve), expected_calibration_error(s, y) if probability and len(y) else float("nan"), at,
    )  # fmt: skip


def choose_threshold(scores: list[Floats], val: list[Scored], horizon_s: float, config: SterilityConfig) -> float:
    """On val: the best recall with at most `false_per_hour` false alarms an hour; without events there, the lowest with so few.

    Where no threshold is so quiet, one above every score of val: a lower one would give more false alarms than were asked for.
    """
    takes = [take.watched(values) for take, values in zip(val, scores)]
    curve = event_curve(takes, config.rule(0.5), Tolerance(config.before_s + horizon_s, config.after_s), points=200)
    events = any(take.truth.events for take in val)
    point = recall_at(curve, config.false_per_hour) if events else quietest(curve, config.false_per_hour)
    if point is not None:
        return point.threshold
    every = np.concatenate([take.scores for take in takes])
    every = every[~np.isneginf(every)]
    judged = any((np.isfinite(found.recall) or not events) and np.isfinite(found.false_per_hour) for found in curve)
    return float(np.nextafter(every.max(), np.inf)) if judged else float(np.quantile(every, 0.995))


def baseline_scores(takes: list[Scored]) -> dict[str, list[Floats]]:
    """Scores that need no sterility head."""
    found = {"motion in the zone": [take.motion for take in takes]}
    if all(take.surprise is not None for take in takes):
        found["world-model surprise"] = [take.surprise for take in takes if take.surprise is not None]
    return found


def long_ones(takes: list[Scored], config: SterilityConfig) -> list[Scored]:
    """What events are judged on: takes of at least `long_s`, or all when none is so long."""
    return [take for take in takes if take.truth.seconds >= config.long_s] or takes


def clip_scores(
    takes: list[Scored], longest_s: float = np.inf
) -> tuple[Floats, Floats, npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """One decision a clip of the manifest, whether any breach lies in it: the highest score within.

    Rows longer than `longest_s` are takes, not clips, and left out.  Returns truth, score, case, event name, (N,) each.
    """
    rows = []
    for take in takes:
        for clip in take.truth.rows:
            if clip.end_s - clip.start_s >= longest_s:
                continue
            inside = (take.times_s >= clip.start_s - SLACK) & (take.times_s <= clip.end_s + SLACK)
            if inside.any():
                rows.append(
                    (
                        float(
                            any(start <= clip.end_s + SLACK and end >= clip.start_s - SLACK for start, end in take.truth.events)
                        ),
                        float(take.breach[inside, 0].max()),
                        clip.case,
                        str(clip.labels.get("event", "")),
                    )
                )
    if not rows:
        return np.zeros(0), np.zeros(0), np.zeros(0, np.str_), np.zeros(0, np.str_)
    truth, score, case, event = zip(*rows)
    return np.array(truth), np.array(score), np.array(case, np.str_), np.array(event, np.str_)


def composition(y: Floats, events: npt.NDArray[np.str_], near_misses: Sequence[str]) -> Floats | None:
    """Weights that make the clips half breaches, a quarter near misses and a quarter other clips; None when one kind is missing."""
    near = (y == 0) & np.isin(events, list(near_misses))
    groups = ((y == 1, 0.5), (near, 0.25), ((y == 0) & ~near, 0.25))
    if not all(group.any() for group, _ in groups):
        return None
    return np.asarray(sum(share * group / group.sum() for group, share in groups), np.float64)


def area(function: Area, y: Floats, s: Floats, cases: npt.NDArray[np.str_], config: SterilityConfig) -> Metric:
    """An area under a curve with its interval over cases."""
    if len(set(y.tolist())) < 2:
        return Metric(float("nan"))
    statistic = row_statistic(lambda rows: function(y[rows], s[rows]), cases)
    return area_metric(statistic, y, cases, config)


def area_metric(statistic: Statistic, y: Floats, cases: npt.NDArray[np.str_], config: SterilityConfig) -> Metric:
    """A statistic of rows in two kinds with its interval; the kind that stands in fewer cases says how much is known."""
    count = len(set(cases.tolist()))
    telling = min(len(set(cases[y == kind].tolist())) for kind in (0, 1))
    return Metric.of(interval(statistic, count, repeats=config.repeats, seed=config.seed, bounds=(0, 1), telling=telling))


def average_precision(y: Floats, s: Floats, weights: Floats | None = None) -> float:
    """Area under precision over recall as a step function; equal scores count together, as in scikit-learn. NaN without positives.

    weights: how much each row counts, (N,).
    """
    w = np.ones(len(y)) if weights is None else weights
    total = (w * y).sum()
    if not total:
        return float("nan")
    order = np.argsort(-s, kind="stable")
    hits, seen = np.cumsum((w * y)[order]), np.cumsum(w[order])
    ends = np.append(np.flatnonzero(np.diff(s[order])), len(y) - 1)
    found = hits[ends]
    return float(np.sum(np.diff(found, prepend=0.0) * found / seen[ends]) / total)


def roc_area(y: Floats, s: Floats) -> float:
    """Chance that a positive scores above a negative, ties half. NaN without both."""
    from scipy.stats import rankdata

    positives = y.sum()
    negatives = len(y) - positives
    if not positives or not negatives:
        return float("nan")
    return float((rankdata(s)[y > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def flat(truth: list[Floats], scores: list[Floats], takes: list[Scored]) -> tuple[Floats, Floats, npt.NDArray[np.str_]]:
    """All windows whose truth is known, with their cases."""
    y, s = np.concatenate(truth), np.concatenate(scores)
    cases = np.concatenate([np.full(len(values), take.truth.case) for values, take in zip(truth, takes)])
    known = np.isfinite(y)
    return y[known], s[known], cases[known]
