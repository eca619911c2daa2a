"""Intervals by resampling cases: patients are the independent draws, their clips are not.

A statistic takes case weights (R repeats, C cases: how often each case was drawn) and gives R values; `ratio_of_sums` makes the
usual one, a mean over clips, from sums per case, so that ten thousand repeats are one matrix product.
Efron & Tibshirani, An Introduction to the Bootstrap (1993), is the source of the formulas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import expit, logit

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
Method = Literal["percentile", "bca", "t"]

# The one that holds the truth about as often as it says, at every number of cases tried (5 to 50): benchmarks/eval_null_coverage_*.md.
BEST_METHOD: Method = "t"
# Measured: benchmarks/eval_null_coverage_*.md. Below this many cases percentile and BCa intervals hold the truth in under 93 %.
FEW_CASES = 30


@dataclass(frozen=True)
class Interval:
    estimate: float
    low: float
    high: float
    level: float
    method: str
    cases: int

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def case_sums(values: npt.ArrayLike, cases: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Sum of values and number of rows of each case, cases in sorted order.  values: (N,) or (S seeds, N); cases: (N,).

    Seeds are averaged row by row first: the interval is over cases, the spread over seeds is reported apart.
    """
    rows = np.atleast_2d(np.asarray(values, np.float64)).mean(axis=0)
    names, index = np.unique(np.asarray(cases), return_inverse=True)
    sums = np.bincount(index, rows, len(names)).astype(np.float64)
    return sums, np.bincount(index, minlength=len(names)).astype(np.float64)


def ratio_of_sums(sums: npt.ArrayLike, counts: npt.ArrayLike) -> Statistic:
    """The mean over rows, rows belonging to cases.  sums, counts: (C,)."""
    top, bottom = np.asarray(sums, np.float64), np.asarray(counts, np.float64)

    def statistic(weights: Floats) -> Floats:
        below = weights @ bottom
        shares: Floats = np.divide(weights @ top, below, out=np.full(len(weights), np.nan), where=below > 0)
        return shares

    return statistic


def row_statistic(function: Callable[[npt.NDArray[np.intp]], float], cases: npt.ArrayLike) -> Statistic:
    """Any metric of rows: `function` gets the indices of the drawn cases' rows, a case drawn twice being there twice."""
    names, index = np.unique(np.asarray(cases), return_inverse=True)
    members = [np.flatnonzero(index == case) for case in range(len(names))]

    def statistic(weights: Floats) -> Floats:
        return np.array([function(np.concatenate([np.tile(m, int(w)) for m, w in zip(members, row)])) for row in weights])

    return statistic


def draw_cases(cases: int, repeats: int, rng: np.random.Generator) -> Floats:
    """How often each case was drawn in each repeat: (R, C), rows sum to C."""
    return rng.multinomial(cases, np.full(cases, 1 / cases), size=repeats).astype(np.float64)


def interval(
    statistic: Statistic,
    cases: int,
    *,
    method: Method | None = None,
    level: float = 0.95,
    repeats: int = 4000,
    seed: int = 0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    telling: int | None = None,
) -> Interval:
    """Estimate with its interval over cases; `method` None takes BEST_METHOD.

    `bounds` are what the statistic can be at all. Between two of them `t` works on the log odds: near a bound a statistic is skewed, and
    equal arms to both sides missed the truth in up to a quarter of the draws (benchmarks/eval_null_coverage_*.md).
    With one case there is no interval: low and high are nan.
    So it is for `t` where the statistic hangs on one case: left out, it is undefined. Repeats in which it is undefined are left out.
    `telling`: of how many cases Student's t has its degrees of freedom, where few of them decide: those with a breach, for an area under a curve.
    Where every case agrees on a bound (all right, none found) the interval is that of Clopper & Pearson (1934) over cases, not of no width.
    """
    method = method or BEST_METHOD
    estimate = float(statistic(np.ones((1, cases)))[0])
    if cases < 2:
        return Interval(estimate, float("nan"), float("nan"), level, method, cases)
    if method == "t":
        error, telling = jackknife_error(statistic, cases), min(telling or cases, cases)
        if telling < 2:
            return Interval(estimate, float("nan"), float("nan"), level, method, cases)
        if error < 1e-9 and np.isfinite(bounds).all() and np.isclose(estimate, bounds).any():
            return Interval(estimate, *_all_agree(estimate, bounds, telling, level), level, method, cases)
        half = float(stats.t.ppf((1 + level) / 2, telling - 1)) * error
        low, high = _around(estimate, half, bounds)
        return Interval(estimate, low, high, level, method, cases)
    drawn = statistic(draw_cases(cases, repeats, np.random.default_rng(seed)))
    drawn = drawn[np.isfinite(drawn)]
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if not len(drawn):
        return Interval(estimate, float("nan"), float("nan"), level, method, cases)
    if method == "bca":
        ends = bca_ends(drawn, estimate, jackknife(statistic, cases), ends)
    low, high = np.quantile(drawn, ends)
    return Interval(estimate, float(low), float(high), level, method, cases)


def _around(estimate: float, half: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """`half` to both sides; between two bounds on the scale of the log odds, by the delta method, as surveys do with shares."""
    low, high = bounds
    if not np.isfinite(bounds).all() or not low < estimate < high:
        return float(np.clip(estimate - half, low, high)), float(np.clip(estimate + half, low, high))
    share = (estimate - low) / (high - low)
    step = half / (high - low) / (share * (1 - share))
    ends = low + (high - low) * expit(logit(share) + np.array([-step, step]))
    # There and back again is not exact: where all cases agree, a rounding must not put the estimate outside.
    return min(float(ends[0]), estimate), max(float(ends[1]), estimate)


def _all_agree(estimate: float, bounds: tuple[float, float], cases: int, level: float) -> tuple[float, float]:
    low, high = bounds
    # The share of cases unlike these that would still leave none among so many in (1 - level) / 2 of the draws.
    unseen = (high - low) * (1 - ((1 - level) / 2) ** (1 / cases))
    return (low, low + unseen) if np.isclose(estimate, low) else (high - unseen, high)


def bca_ends(drawn: Floats, estimate: float, leave_one_out: Floats, ends: Floats) -> Floats:
    """Quantiles to read instead of `ends`, corrected for bias and skew (Efron & Tibshirani 14.9-14.15)."""
    # Ties (common with accuracies) count half, or the bias of a coarse statistic would be overstated.
    below = (np.sum(drawn < estimate) + 0.5 * np.sum(drawn == estimate)) / len(drawn)
    bias = stats.norm.ppf(np.clip(below, 1 / (2 * len(drawn)), 1 - 1 / (2 * len(drawn))))
    off = np.nanmean(leave_one_out) - leave_one_out
    spread = np.nansum(off**2) ** 1.5
    acceleration = np.nansum(off**3) / (6 * spread) if spread > 0 else 0.0
    z = bias + stats.norm.ppf(ends)
    shrink = 1 - acceleration * z
    # Beyond this point the correction folds back on itself; the plain bias-corrected quantile is what is left.
    corrected = bias + np.where(shrink > 1e-6, z / np.maximum(shrink, 1e-6), z)
    return np.asarray(stats.norm.cdf(corrected), np.float64)


def jackknife(statistic: Statistic, cases: int) -> Floats:
    """The statistic with each case left out in turn: (C,)."""
    return statistic(1.0 - np.eye(cases))


def jackknife_error(statistic: Statistic, cases: int) -> float:
    """Standard error over cases; nan when the statistic is undefined without one of them."""
    values = jackknife(statistic, cases)
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan")
    return float(np.sqrt((len(values) - 1) / len(values) * np.sum((values - values.mean()) ** 2)))


def how_far_to_trust(cases: int) -> str:
    """A sentence to stand beside an interval from few cases; empty when there are enough."""
    if cases < 2:
        return "One case: there is no interval, and the number says nothing about the next patient."
    if cases < 8:
        return f"Only {cases} cases: read the interval as a rough range; in simulation it moved a lot from draw to draw."
    if cases < FEW_CASES:
        return f"{cases} cases: the interval is Student's t over cases, which is wide because so few say little."
    return ""
