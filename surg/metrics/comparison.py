"""Is arm A better than arm B on the same cases: difference with interval, permutation p with its floor, Holm, what could be seen at all."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import stats

from surg.metrics.bootstrap import Interval, Method, case_sums, interval, jackknife_error, ratio_of_sums

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Permutation:
    p: float
    floor: float
    """The smallest p that this many cases and repeats can give. A p at its floor says no more than that."""
    exact: bool


@dataclass(frozen=True)
class Comparison:
    delta: Interval
    permutation: Permutation
    detectable: float
    """The true difference that this comparison would find with 80 % power: a smaller one may well be missed."""


def compare_paired(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    cases: npt.ArrayLike,
    *,
    method: Method | None = None,
    level: float = 0.95,
    repeats: int = 4000,
    seed: int = 0,
) -> Comparison:
    """Mean of a - b over the same rows.  a, b: (N,) or (S seeds, N) per-row scores such as right or wrong; cases: (N,).

    Seeds are averaged per row, cases are resampled whole, and the permutation swaps the arms of whole cases.
    """
    difference = np.atleast_2d(np.asarray(a, np.float64)).mean(axis=0) - np.atleast_2d(np.asarray(b, np.float64)).mean(axis=0)
    sums, counts = case_sums(difference, cases)
    statistic = ratio_of_sums(sums, counts)
    delta = interval(statistic, len(sums), method=method, level=level, repeats=repeats, seed=seed)
    error = jackknife_error(statistic, len(sums)) if len(sums) > 1 else float("nan")
    return Comparison(delta, permute_signs(sums, repeats=repeats, seed=seed), detectable_effect(error, len(sums), level=level))


def permute_signs(case_differences: npt.ArrayLike, *, repeats: int = 4000, seed: int = 0) -> Permutation:
    """Two-sided p that the summed differences arose by chance labels of the arms: each case's sign is flipped or not.

    All 2^C flips are counted when there are no more of them than `repeats`; else the observed one counts as one of the draws
    (Phipson & Smyth 2010), so that p is never 0.
    """
    values = np.asarray(case_differences, np.float64)
    observed = abs(values.sum())
    # Rounding must not make an equal total look smaller.
    bar = observed - 1e-9 * max(1.0, float(np.abs(values).sum()))
    if 2 ** len(values) <= repeats:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(values))))
        return Permutation(float(np.mean(np.abs(signs @ values) >= bar)), min(1.0, 2.0 / len(signs)), True)
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(repeats, len(values)))
    hits = int(np.sum(np.abs(signs @ values) >= bar))
    return Permutation((hits + 1) / (repeats + 1), 1 / (repeats + 1), False)


def holm(p_values: npt.ArrayLike) -> Floats:
    """p values adjusted for the family (Holm 1979): compare each with the level directly."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def detectable_effect(standard_error: float, cases: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """Smallest true difference found with this power by a two-sided t test over cases."""
    if cases < 2:
        return float("nan")
    return float((stats.t.ppf((1 + level) / 2, cases - 1) + stats.t.ppf(power, cases - 1)) * standard_error)
