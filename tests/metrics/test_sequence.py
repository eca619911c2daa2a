"""Segmental scores and phase scores on hand-worked strips."""

import numpy as np
import pytest

from surg.metrics.phases import relax, score_video, score_videos
from surg.metrics.sequence import edit_score, segment_counts, segmental_f1, segments


def strip(text: str) -> np.ndarray:
    return np.array([int(letter) for letter in text])


def test_segments_are_runs() -> None:
    assert [(s.label, s.start, s.end) for s in segments(strip("0011122"))] == [(0, 0, 2), (1, 2, 5), (2, 5, 7)]
    assert [s.label for s in segments(strip("0011122"), background={0})] == [1, 2]


def test_edit_score_ignores_timing_and_punishes_oversegmentation() -> None:
    assert edit_score(strip("000111222"), strip("011111112")) == 100
    # 0 1 2 against 0 1 0 1 2: two insertions of five.
    assert edit_score(strip("000111222"), strip("010111222")) == pytest.approx(60)
    assert edit_score(strip("000"), strip("111")) == 0


def test_segmental_f1_of_a_worked_example() -> None:
    truth, guess = strip("0000011111"), strip("0000000111")
    # Segment 0: IoU 5/7; segment 1: IoU 3/5.
    assert segment_counts(truth, guess, 0.5) == (2, 0, 0)
    assert segment_counts(truth, guess, 0.65) == (1, 1, 1)
    # A second guess at a segment that is used up is false: 0 1 0 1 against 0 1.
    assert segment_counts(truth, strip("0010011111"), 0.1) == (2, 2, 0)


def test_segmental_f1_pools_counts_over_videos() -> None:
    scores = segmental_f1([strip("0011"), strip("22")], [strip("0011"), strip("33")])
    assert scores["f1@50"] == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 1))


def test_relaxed_forgives_only_the_neighbour_near_the_boundary() -> None:
    truth = strip("0000011111")
    assert relax(truth, strip("0000000111"), 2).tolist() == truth.tolist()
    late = relax(truth, strip("0000022111"), 2)
    assert late.tolist() == strip("0000022111").tolist()


def test_phase_scores_of_a_worked_example() -> None:
    truth, guess = strip("0000111122"), strip("0001111111")
    found = score_video(truth, guess)
    assert found.accuracy == pytest.approx(0.7)
    assert found.precision == pytest.approx(np.mean([1, 4 / 7]))  # phase 2 is never predicted: no precision
    assert found.recall == pytest.approx(np.mean([0.75, 1, 0]))
    assert found.jaccard == pytest.approx(np.mean([0.75, 4 / 7, 0]))
    assert found.f1_phase == pytest.approx(np.mean([6 / 7, 8 / 11, 0]))
    assert found.f1_of_means > found.f1_phase
    assert score_video(truth, guess, tolerance=2).accuracy == pytest.approx(1.0)


def test_pooled_f1_is_scikit_learns() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 4, 50) for _ in range(3)]
    guesses = [np.where(rng.random(50) < 0.6, t, rng.integers(0, 4, 50)) for t in truths]
    scores = score_videos(truths, guesses)
    assert scores["f1_pooled"][0] == pytest.approx(f1_score(np.concatenate(truths), np.concatenate(guesses), average="macro"))
    assert scores["accuracy"][1] > 0
