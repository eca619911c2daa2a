"""Curves of a run against the official schedulers' numbers and by hand."""

import pytest

from surg.errors import ConfigError
from surg.train import schedules

# Official schedules for 100 steps stretched by 1.25 (warm-up 20 from 1e-4 to 5.25e-4, then to 1e-6), at steps 1, 20, 61 and 100.
COSINE = {1: 1.2125e-4, 20: 5.25e-4, 61: 3.51380457e-4, 100: 7.09404096e-5}
LINEAR = {1: 5.2081e-4, 61: 2.6929e-4, 100: 1.058e-4}
WSD = {1: 9.25e-5, 20: 4.25e-4, 81: 4.25e-4, 91: 2.55e-4, 100: 0.0}
DECAY = {1: 0.04005685, 61: 0.21321577, 100: 0.36562306}
MOMENTUM = {1: 0.998, 2: 0.998016, 100: 0.999584}


def test_warmup_and_cosine_are_the_official_ones() -> None:
    for step, rate in COSINE.items():
        found = schedules.learning_rate(step, steps=125, peak=5.25e-4, shape="cosine", start=1e-4, final=1e-6, warmup=20)
        assert found == pytest.approx(rate, rel=2e-5), step


def test_linear_cooldown_is_the_official_one() -> None:
    for step, rate in LINEAR.items():
        found = schedules.learning_rate(step, steps=125, peak=5.25e-4, shape="linear", start=0, final=1e-6, warmup=0)
        assert found == pytest.approx(rate, rel=2e-5), step


def test_warmup_stable_decay_is_the_official_one() -> None:
    for step, rate in WSD.items():
        found = schedules.learning_rate(step, steps=100, peak=4.25e-4, shape="wsd", start=7.5e-5, final=0, warmup=20, anneal=15)
        assert found == pytest.approx(rate, rel=2e-5, abs=1e-12), step


def test_weight_decay_and_momentum_are_the_official_ones() -> None:
    for step, decay in DECAY.items():
        assert schedules.weight_decay(step, steps=125, start=0.04, final=0.4) == pytest.approx(decay, rel=1e-6)
    for step, momentum in MOMENTUM.items():
        assert schedules.teacher_momentum(step, steps=125, start=0.998, final=1.0) == pytest.approx(momentum, rel=1e-9)


def test_clips_grow_by_a_pair_of_frames_at_a_time() -> None:
    lengths = [schedules.frames_at_epoch(epoch) for epoch in (0, 49, 50, 99, 100, 5000)]
    assert lengths == [8, 8, 8, 8, 10, 32]
    assert [schedules.frames_at_epoch(epoch, unit=4) for epoch in (50, 150, 200, 5000)] == [8, 8, 12, 32]
    with pytest.raises(ConfigError, match="even"):
        schedules.frames_at_epoch(0, first=7)


def test_stages_follow_each_other() -> None:
    assert [schedules.stage_at(step, [2, 3]) for step in (1, 2, 3, 5, 9)] == [(0, 1), (0, 2), (1, 1), (1, 3), (1, 7)]
