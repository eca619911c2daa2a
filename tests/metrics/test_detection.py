"""Events by hand: what an alarm is, what it catches, what it may not claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surg.metrics.detection import AlarmRule, Take, Tolerance, alarms, event_curve, match, pool, recall_at, score_takes


def test_hysteresis_holds_an_alarm_through_a_dip() -> None:
    times = np.arange(8.0)
    scores = np.array([0, 0.9, 0.5, 0.9, 0.2, 0.5, 0.9, 0])
    assert alarms(times, scores, AlarmRule(0.8)) == [(1, 2), (3, 4), (6, 7)]
    assert alarms(times, scores, AlarmRule(0.8, hold=0.5)) == [(1, 4), (6, 7)]
    assert alarms(times, scores, AlarmRule(0.8, merge_s=1.0)) == [(1, 4), (6, 7)]
    assert alarms(times, scores, AlarmRule(0.8, merge_s=1.0, min_s=2.0)) == [(1, 4)]


def test_delay_recall_and_precision_of_a_worked_example() -> None:
    found = match([(10, 20), (50, 55), (80, 90)], [(12, 18), (19, 21), (30, 31), (49, 60)], Tolerance(2, 2), hours=0.5)
    assert [pair[0] for pair in found.caught] == [(10, 20), (50, 55)]
    assert found.delays_s == [2, -1]
    assert found.missed == ((80, 90),)
    assert found.false == ((30, 31),)
    assert found.repeats == ((19, 21),)
    assert (found.recall, found.precision) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found.f1 == pytest.approx(2 / 3)
    assert found.false_per_hour == 2


def test_an_alarm_that_never_stops_earns_nothing() -> None:
    found = match([(100, 110), (200, 210), (300, 310)], [(0, 1000)], Tolerance(2, 2), hours=1)
    assert (found.recall, found.false_per_hour) == (0, 1)


def test_one_alarm_catches_one_event() -> None:
    found = match([(10, 12), (13, 15)], [(11, 20)], Tolerance(2, 2), hours=1)
    assert found.recall == 0.5


def test_recall_at_a_rate_of_false_alarms() -> None:
    times = np.arange(3600.0)
    scores = np.zeros(3600)
    scores[[100, 200, 300]] = [0.9, 0.7, 0.5]  # events
    scores[[1000, 2000]] = [0.8, 0.6]  # false
    take = Take(times, scores, ((100, 101), (200, 201), (300, 301)))
    curve = event_curve([take], AlarmRule(0.5), Tolerance(), points=2000)
    best = {rate: recall_at(curve, rate) for rate in (0, 1, 2)}
    assert [round(point.recall, 3) if point else None for point in best.values()] == [0.333, 0.667, 1.0]


def test_pooling_counts_takes_by_their_hours() -> None:
    rule, tolerance = AlarmRule(0.5), Tolerance()
    quiet = Take(np.arange(3600.0), np.zeros(3600), ())
    noisy = Take(np.arange(3600.0), np.ones(3600), ())
    total = pool(score_takes([quiet, noisy], rule, tolerance))
    assert total.false_per_hour == pytest.approx(0.5)
    assert np.isnan(total.recall)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.05, 1))
def test_alarms_cover_exactly_the_scores_at_or_above_the_threshold(scores: list[float], threshold: float) -> None:
    times = np.arange(len(scores), dtype=float)
    inside = np.zeros(len(scores), bool)
    for start, end in alarms(times, scores, AlarmRule(threshold)):
        inside |= (times >= start) & (times < end if len(scores) > 1 else times <= end)
    assert inside.tolist() == [score >= threshold for score in scores]
