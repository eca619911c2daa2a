"""Masks keep their promises: exact ratios, full tubes, no overlap, the future hidden more than the past."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surg.errors import ConfigError
from surg.model.masking import PRETRAIN, MultiBlock, forecast, future_biased, multiblock


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_two_pretraining_masks_hide_what_upstreams_do() -> None:
    """Measured upstream at 256 px, 16 frames, batch 16: visible 26 % and 6.8 %, target 48 % and 70 %."""
    generator, shares = seeded(), []
    for config in PRETRAIN:
        draws = [multiblock((8, 16, 16), 16, config, generator) for _ in range(25)]
        shares.append([sum(ids.shape[1] for ids in side) / 25 / 2048 for side in zip(*draws)])
    (small_seen, small_target), (large_seen, large_target) = shares
    assert small_seen == pytest.approx(0.26, abs=0.04)
    assert small_target == pytest.approx(0.48, abs=0.04)
    assert large_seen == pytest.approx(0.065, abs=0.02)
    assert large_target == pytest.approx(0.70, abs=0.04)


@settings(max_examples=40, deadline=None)
@given(
    t=st.integers(1, 4), h=st.integers(2, 9), w=st.integers(2, 9), blocks=st.integers(1, 8), scale=st.floats(0.05, 1.0),
    ratio=st.one_of(st.none(), st.floats(0.05, 0.95)), seed=st.integers(0, 999),
)  # fmt: skip
def test_seen_and_hidden_never_overlap_and_neither_is_empty(
    t: int, h: int, w: int, blocks: int, scale: float, ratio: float | None, seed: int
) -> None:
    config = MultiBlock(blocks=blocks, scale=scale, ratio=ratio)
    seen, hidden = multiblock((t, h, w), 3, config, seeded(seed))
    for one, other in zip(seen, hidden):
        assert len(one) > 0
        assert len(other) > 0
        assert not set(one.tolist()) & set(other.tolist())
        assert one.tolist() == sorted(one.tolist())
        assert int(max(one.max(), other.max())) < t * h * w


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75, 0.9])
def test_an_asked_ratio_is_kept_exactly_in_full_tubes(ratio: float) -> None:
    seen, hidden = multiblock((4, 12, 12), 5, MultiBlock(ratio=ratio), seeded())
    assert hidden.shape[1] == round(ratio * 144) * 4
    assert seen.shape[1] + hidden.shape[1] == 576
    for row in hidden:
        assert len(set((row % 144).tolist())) * 4 == len(row)


def test_the_end_of_the_clip_is_not_dropped_more_than_its_start() -> None:
    """Upstream cuts ragged batches by dropping the last ids, that is, the last frames."""
    times = torch.cat([multiblock((8, 16, 16), 16, PRETRAIN[0], seeded(seed))[0].flatten() // 256 for seed in range(8)])
    counts = torch.bincount(times, minlength=8).float()
    assert counts.min() / counts.max() > 0.9


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_future_biased_masks_hide_exactly_the_ratio_asked_for(ratio: float, share: float) -> None:
    seen, hidden = future_biased((8, 5, 5), 4, ratio, share, seeded())
    assert hidden.shape[1] == round(ratio * 200)
    assert seen.shape[1] == 200 - hidden.shape[1]
    # Late tokens are hidden four times as often as early ones, until all of them are.
    late = min(4 * ratio / (4 * share + (1 - share)), 1.0)
    early = (ratio - share * late) / (1 - share)
    is_late = hidden // 25 >= 8 - round(8 * share)
    late_tokens = round(8 * share) * 25
    assert is_late.float().sum(1).mean() / late_tokens == pytest.approx(late, abs=0.02)
    assert (~is_late).float().sum(1).mean() / (200 - late_tokens) == pytest.approx(early, abs=0.02)


@pytest.mark.parametrize(("ratio", "late", "early"), [(0.5, 80, 20), (0.7, 100, 40)])
def test_at_one_half_late_and_early_are_80_to_20_and_late_is_capped_at_all(ratio: float, late: int, early: int) -> None:
    _, hidden = future_biased((8, 5, 5), 4, ratio, 0.5, seeded())
    assert ((hidden >= 100).sum(1) == late).all()
    assert ((hidden < 100).sum(1) == early).all()


def test_a_forecast_hides_the_last_steps_whole_and_nothing_before() -> None:
    hidden_steps = set()
    for seed in range(40):
        seen, hidden = forecast((8, 3, 3), 2, 0.5, seeded(seed))
        assert torch.equal(torch.cat([seen, hidden], dim=1), torch.arange(72).expand(2, -1))
        assert hidden.shape[1] % 9 == 0
        hidden_steps.add(hidden.shape[1] // 9)
    assert hidden_steps == {1, 2, 3, 4}


def test_masks_repeat_with_their_seed_and_differ_between_clips() -> None:
    for draw in (lambda g: multiblock((2, 8, 8), 4, PRETRAIN[1], g), lambda g: future_biased((2, 8, 8), 4, 0.5, generator=g)):
        first, again, other = draw(seeded(1)), draw(seeded(1)), draw(seeded(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again))
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[0][0], first[0][1])


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match="larger frames"):
        multiblock((4, 1, 1), 2, PRETRAIN[0])
    with pytest.raises(ConfigError, match="mask_ratio 1"):
        future_biased((4, 4, 4), 2, 1.0)
    with pytest.raises(ConfigError, match="two steps"):
        forecast((1, 4, 4), 2)
