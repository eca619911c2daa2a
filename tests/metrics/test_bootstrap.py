"""Worked examples: Efron & Tibshirani (1993) for the intervals, Fisher's sign flips, Holm (1979)."""

import numpy as np
import pytest
from scipy import stats

from surg.metrics.bootstrap import (
    BEST_METHOD,
    case_sums,
    how_far_to_trust,
    interval,
    jackknife_error,
    ratio_of_sums,
    row_statistic,
)
from surg.metrics.comparison import compare_paired, detectable_effect, holm, permute_signs

# The treatment and control mice of Efron & Tibshirani, table 2.1: survival in days.
TREATED = np.array([94, 197, 16, 38, 99, 141, 23], float)
# Their spatial test data, table 14.1 (variable A); the statistic is the variance with divisor n.
SPATIAL_A = np.array(
    [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41], float
)  # fmt: skip


def test_jackknife_error_of_a_mean_is_the_textbook_standard_error() -> None:
    statistic = ratio_of_sums(TREATED, np.ones(7))
    assert jackknife_error(statistic, 7) == pytest.approx(25.24, abs=0.005)  # table 2.1 says 25.24
    assert jackknife_error(statistic, 7) == pytest.approx(TREATED.std(ddof=1) / np.sqrt(7))


def test_bca_of_the_spatial_data_agrees_with_the_book() -> None:
    def variance(rows: np.ndarray) -> float:
        return float(SPATIAL_A[rows].var())

    statistic = row_statistic(variance, np.arange(26))
    found = interval(statistic, 26, method="bca", level=0.90, repeats=4000, seed=1)
    assert found.estimate == pytest.approx(171.5, abs=0.05)
    # Table 14.2: BCa 115.8 to 259.6, percentile 100.8 to 233.9, from 2000 draws.
    assert found.low == pytest.approx(115.8, abs=5)
    assert found.high == pytest.approx(259.6, abs=8)
    plain = interval(statistic, 26, method="percentile", level=0.90, repeats=4000, seed=1)
    assert (plain.low, plain.high) == (pytest.approx(100.8, abs=4), pytest.approx(233.9, abs=5))


def test_bca_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).gamma(1.0, size=30)
    ours = interval(ratio_of_sums(values, np.ones(30)), 30, method="bca", repeats=20000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.02), pytest.approx(theirs.high, abs=0.02))


def test_t_interval_of_a_mean_is_students() -> None:
    found = interval(ratio_of_sums(TREATED, np.ones(7)), 7, method="t")
    low, high = stats.t.interval(0.95, 6, loc=TREATED.mean(), scale=stats.sem(TREATED))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_cases_are_resampled_whole() -> None:
    cases = np.repeat(np.arange(10), 100)
    right = (cases % 2).astype(float)  # every clip of a case agrees, so 1000 clips are worth 10
    sums, counts = case_sums(right, cases)
    wide = interval(ratio_of_sums(sums, counts), 10, method="percentile")
    narrow = interval(ratio_of_sums(right, np.ones(1000)), 1000, method="percentile", repeats=500)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_weights_and_rows_give_the_same_statistic() -> None:
    rng = np.random.default_rng(0)
    cases = rng.integers(0, 6, 50)
    values = rng.random(50)
    sums, counts = case_sums(values, cases)
    weights = rng.integers(1, 4, (5, 6)).astype(float)
    by_rows = row_statistic(lambda rows: float(values[rows].mean()), cases)
    assert ratio_of_sums(sums, counts)(weights) == pytest.approx(by_rows(weights))


def test_one_case_has_no_interval() -> None:
    found = interval(ratio_of_sums([3.0], [4.0]), 1)
    assert found.estimate == 0.75
    assert np.isnan(found.low)


def test_few_cases_come_with_a_sentence() -> None:
    assert "One case" in how_far_to_trust(1)
    assert "5 cases" in how_far_to_trust(5)
    assert how_far_to_trust(30) == ""


def test_an_interval_of_a_share_ends_at_its_bounds() -> None:
    statistic = ratio_of_sums([1.0, 1.0, 0.0], np.ones(3))
    assert interval(statistic, 3).high > 1
    found = interval(statistic, 3, bounds=(0, 1))
    assert 0 < found.low < found.estimate < found.high < 1
    assert found.method == BEST_METHOD


def test_an_interval_of_a_share_is_students_on_the_log_odds() -> None:
    # 19 of 20 right in cases of their own: standard error 0.05, 19 degrees of freedom.
    found = interval(ratio_of_sums([1.0] * 19 + [0.0], np.ones(20)), 20, bounds=(0, 1))
    half = stats.t.ppf(0.975, 19) * 0.05 / (0.95 * 0.05)
    assert (found.low, found.high) == pytest.approx([1 / (1 + np.exp(-np.log(19) + sign * half)) for sign in (1, -1)])
    # What is bounded otherwise is the same interval, moved and stretched.
    other = interval(ratio_of_sums([3.0] * 19 + [-1.0], np.ones(20)), 20, bounds=(-1, 3))
    assert (other.low, other.high) == pytest.approx((4 * found.low - 1, 4 * found.high - 1))


@pytest.mark.parametrize("cases", [8, 20])
def test_intervals_of_shares_near_a_bound_hold_the_truth(cases: int) -> None:
    """Cases of unequal length that differ from each other, right in 19 of 20 on average."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(600):
        rows = np.maximum(1, rng.lognormal(1.0, 1.0, cases).round())
        right = rng.binomial(rows.astype(int), rng.beta(4.75, 0.25, cases))
        found = interval(ratio_of_sums(right, rows), cases, bounds=(0, 1))
        held.append(found.low <= 0.95 <= found.high)
    assert np.mean(held) > 0.93


def test_cases_that_all_agree_on_a_bound_have_an_interval_of_some_width() -> None:
    # Clopper & Pearson: all of 5 right, two-sided 95 %.
    exact = stats.binomtest(5, 5).proportion_ci(method="exact")
    every = interval(ratio_of_sums(np.full(5, 4.0), np.full(5, 4.0)), 5, bounds=(0, 1))
    assert (every.low, every.high) == (pytest.approx(exact.low), 1.0)
    none = interval(ratio_of_sums(np.zeros(5), np.full(5, 4.0)), 5, bounds=(0, 1))
    assert (none.low, none.high) == (0.0, pytest.approx(1 - exact.low))
    rng = np.random.default_rng(0)
    draws = [rng.binomial(1, 0.9, 10) for _ in range(500)]
    found = [interval(ratio_of_sums(draw, np.ones(10)), 10, bounds=(0, 1)) for draw in draws]
    assert np.mean([one.low <= 0.9 <= one.high for one in found]) > 0.94


def test_a_statistic_that_hangs_on_one_case_has_no_interval() -> None:
    cases = np.repeat(np.arange(6), 4)
    y = (cases == 2) & (np.arange(24) % 2 == 0)

    def mean_of_positives(rows: np.ndarray) -> float:
        return float(rows[y[rows]].mean()) if y[rows].any() else float("nan")

    found = interval(row_statistic(mean_of_positives, cases), 6)
    assert found.estimate == 9.0
    assert np.isnan([found.low, found.high]).all()


def test_sign_flips_of_darwins_maize() -> None:
    # Fisher (1935), The Design of Experiments, section 21: 15 pairs of Darwin's plants; 1726 of 32768 sign flips, so p = 0.0527.
    differences = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    found = permute_signs(differences, repeats=40_000)
    assert found.exact
    assert found.p == pytest.approx(1726 / 32768, abs=1e-5)


def test_p_has_a_floor() -> None:
    few = permute_signs([1.0, 1.0, 1.0, 1.0])
    assert (few.p, few.floor, few.exact) == (0.125, 0.125, True)
    many = permute_signs(np.ones(40), repeats=999)
    assert many.p == many.floor == 1 / 1000


def test_holm_of_a_worked_example() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).max() == 1.0


def test_detectable_effect_finds_its_power() -> None:
    # Within 2 % of the power of the noncentral t: 20 cases, standard error 0.1.
    effect = detectable_effect(0.1, 20)
    critical = stats.t.ppf(0.975, 19)
    power = 1 - stats.nct.cdf(critical, 19, effect / 0.1)
    assert power == pytest.approx(0.8, abs=0.02)


def test_paired_comparison_sees_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    cases = np.repeat(np.arange(30), 20)
    hard = rng.random(30)[cases]  # cases differ far more than the arms do
    b = (rng.random(600) < hard).astype(float)
    a = np.maximum(b, (rng.random(600) < 0.1).astype(float))
    found = compare_paired(a, b, cases)
    assert found.delta.low > 0
    assert found.permutation.p < 0.01
    assert found.detectable < found.delta.estimate * 2


def test_seeds_are_averaged_per_row() -> None:
    a = np.array([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    sums, counts = case_sums(a, ["x", "x", "y", "y"])
    assert sums.tolist() == [0.5, 2.0]
    assert counts.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("kind", [1, 2, 3, 5, 6, 7])
def test_the_estimate_lies_in_its_interval_also_where_all_cases_agree(kind: int) -> None:
    for wrong in range(1, 40):
        sums, counts = np.full(kind + 1, float(wrong)), np.full(kind + 1, float(wrong + kind))
        found = interval(ratio_of_sums(sums, counts), kind + 1, bounds=(0, 1))
        assert found.low <= found.estimate <= found.high
        assert found.high - found.low < 1e-6
