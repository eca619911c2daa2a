"""kNN, spread, calibration and retrieval against scikit-learn, torchmetrics and numbers worked by hand."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from surg.metrics.calibration import expected_calibration_error, fit_temperature, reliability
from surg.metrics.knn import knn_probabilities, knn_top1, nearest
from surg.metrics.linear import linear_top1
from surg.metrics.retrieval import (
    average_precision_at_k,
    cycle_at_k,
    ndcg_at_k,
    overlap_at_k,
    pool_sizes,
    relevant_neighbours,
)
from surg.metrics.spread import effective_rank, feature_std, mean_cosine

RNG = np.random.default_rng(0)


def test_nearest_agrees_with_scikit_learn_in_any_block_size() -> None:
    bank, queries = RNG.normal(size=(300, 16)), RNG.normal(size=(40, 16))
    theirs = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(bank).kneighbors(queries)[1]
    for block in (1, 7, 1024):
        assert np.array_equal(nearest(queries, bank, 7, block=block)[0], theirs)


def test_neighbours_of_the_same_case_are_left_out() -> None:
    bank = RNG.normal(size=(12, 4))
    cases = np.repeat(["a", "b", "c"], 4)
    found, _ = nearest(bank, bank, 10, query_groups=cases, bank_groups=cases)
    assert (found[:, 8:] == -1).all()
    assert all(cases[i] != cases[j] for i in range(12) for j in found[i, :8])


def test_knn_votes() -> None:
    bank = np.array([[1, 0], [0.9, 0.1], [0, 1]])
    votes = knn_probabilities(bank, [0, 0, 1], [[1, 0.05]], classes=2, k=3)
    assert votes.sum() == pytest.approx(1)
    assert votes[0, 0] > 0.99
    assert knn_top1(bank, ["x", "x", "y"], bank, ["x", "x", "y"], k=1) == 1


def test_a_linear_probe_reads_what_lies_on_a_line() -> None:
    truth = np.arange(60) % 3
    cases = np.repeat([f"c{number}" for number in range(6)], 10)
    noise = RNG.normal(size=(60, 32))
    assert linear_top1(noise + 20 * np.eye(3, 32)[truth], truth, cases) == 1
    assert linear_top1(noise, truth, cases) < 0.6


def test_a_linear_probe_is_asked_about_cases_it_did_not_learn_from() -> None:
    # The features know the case and nothing else, and each case has one answer.
    cases = np.repeat(np.arange(6), 5)
    features = 10 * np.eye(6)[cases] + 0.01 * RNG.normal(size=(30, 6))
    assert linear_top1(features, cases % 2, np.arange(30)) == 1
    assert linear_top1(features, cases % 2, cases) < 0.6
    assert np.isnan(linear_top1(features, cases % 2, np.zeros(30)))


def test_effective_rank_of_known_spectra() -> None:
    orthogonal = np.linalg.qr(RNG.normal(size=(200, 8)))[0]
    assert effective_rank(orthogonal, centre=False) == pytest.approx(8)
    assert effective_rank(np.outer(RNG.normal(size=50), np.ones(8))) == pytest.approx(1, abs=1e-6)
    assert effective_rank(np.ones((20, 4))) == 1
    # Singular values 3 and 1: shares 0.75, 0.25, entropy 0.562335.
    assert effective_rank(np.diag([3.0, 1.0]), centre=False) == pytest.approx(np.exp(0.5623351446))


def test_spread_falls_to_zero_at_collapse() -> None:
    assert feature_std(np.ones((10, 4))) == pytest.approx(0, abs=1e-7)
    assert feature_std(RNG.normal(size=(2000, 64))) == pytest.approx(1 / 8, rel=0.05)
    assert mean_cosine([[1, 0], [1, 0], [0, 1]]) == pytest.approx(1 / 3)


def test_calibration_error_agrees_with_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits = RNG.normal(size=(500, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = RNG.integers(0, 5, 500)
    theirs = multiclass_calibration_error(torch.tensor(p), torch.tensor(labels), num_classes=5, n_bins=15)
    assert expected_calibration_error(p, labels) == pytest.approx(float(theirs), abs=1e-6)


def test_calibration_of_a_worked_example() -> None:
    # Ten claims of 0.8 of which 6 hold, ten of 0.3 of which 4 hold: (10 x 0.2 + 10 x 0.1) / 20.
    p = np.repeat([0.8, 0.3], 10)
    held = np.array([1] * 6 + [0] * 4 + [1] * 4 + [0] * 6)
    assert expected_calibration_error(p, held) == pytest.approx(0.15)
    assert [(b.count, round(b.accuracy, 2)) for b in reliability(p, held)] == [(10, 0.4), (10, 0.6)]
    assert expected_calibration_error(p, held, by="mass", bins=2) == pytest.approx(0.15)


def test_temperature_undoes_overconfidence() -> None:
    logits = RNG.normal(size=(4000, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([RNG.choice(4, p=row) for row in p])
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.15)


def test_ndcg_and_average_precision_of_a_worked_example() -> None:
    relevant = np.array([[True, False, True], [False, False, True], [False, False, False]])
    pool = np.array([2, 5, 0])
    precision = average_precision_at_k(relevant, pool)
    assert precision[:2] == pytest.approx([(1 + 2 / 3) / 2, (1 / 3) / 3])
    assert np.isnan(precision[2])
    gain = ndcg_at_k(relevant, pool)
    ideal2, ideal3 = 1 + 1 / np.log2(3), 1 + 1 / np.log2(3) + 0.5
    assert gain[:2] == pytest.approx([1.5 / ideal2, 0.5 / ideal3])  # of the whole pool: 5 were there to find
    assert np.isnan(gain[2])


def test_ndcg_over_the_whole_list_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score

    scores = RNG.random((5, 20))
    truth = RNG.random((5, 20)) < 0.3
    truth[:, 0] = True
    order = np.argsort(-scores, axis=1)[:, :10]
    ours = ndcg_at_k(np.take_along_axis(truth, order, 1), truth.sum(1))
    assert ours.mean() == pytest.approx(ndcg_score(truth, scores, k=10))


def test_average_precision_agrees_with_torchmetrics_when_all_is_ranked() -> None:
    import torch
    from torchmetrics.functional.retrieval import retrieval_average_precision

    scores, truth = RNG.random(30), RNG.random(30) < 0.4
    order = np.argsort(-scores)
    ours = average_precision_at_k(truth[order][None], np.array([truth.sum()]))[0]
    assert ours == pytest.approx(float(retrieval_average_precision(torch.tensor(scores), torch.tensor(truth))))


def test_unknown_labels_and_empty_places_never_match() -> None:
    indices = np.array([[1, 2, -1]])
    labels = np.array(["", "", "x"])
    assert relevant_neighbours(indices, np.array([""]), labels).tolist() == [[True, False, False]]
    assert not relevant_neighbours(indices, np.array([""]), labels, known=np.array([False])).any()


def test_pool_leaves_out_the_own_case() -> None:
    labels = np.array(["x", "x", "y", "x"])
    cases = np.array(["a", "a", "a", "b"])
    assert pool_sizes(labels, labels, cases, cases).tolist() == [1, 1, 0, 2]


def test_cycle_and_overlap() -> None:
    # 0 and 1 point at each other; 2 points at 1, whose only neighbour is 0.
    indices = np.array([[1], [0], [1]])
    assert cycle_at_k(indices).tolist() == [1, 1, 0]
    assert overlap_at_k(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [4, 5]])).tolist() == [1.0, 0.5]
