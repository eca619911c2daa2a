"""Losses by hand."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from surg.data.manifest import Clip
from surg.errors import ConfigError
from surg.train import losses
from surg.train.breach import breach_targets, breaches_of, place_map
from surg.train.epochs import EpochBook
from surg.train.sources import Sampler, shares_to_counts
from surg.train.validate import average_precision


def test_info_nce_uses_the_queue_as_negatives() -> None:
    one = torch.eye(2)
    alone = losses.info_nce(one, one, None, temperature=1.0)
    assert float(alone) == pytest.approx(math.log(1 + math.exp(-1)))
    queue = torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    more = losses.info_nce(one, one, queue, temperature=1.0)
    # Similarities of each view: itself 1, the other 0, the queue -1 and 0.
    assert float(more) == pytest.approx(math.log(1 + 2 * math.exp(-1) + math.exp(-2)), rel=1e-5)


def test_a_clips_own_earlier_views_are_no_negatives() -> None:
    # Clip 7 twice in the batch and once in the queue, clip 8 once in each: all similarities 0 but that of a view with itself.
    views, queue = torch.eye(3, 6), torch.eye(6)[3:5]
    clips, waiting = torch.tensor([7, 8, 7]), torch.tensor([8, 7])
    same = clips[:, None] == torch.cat([clips, waiting])[None]
    found = losses.info_nce(views, views, queue, temperature=1.0, same=same)
    # Clip 7's negatives: clip 8 in the batch and in the queue; clip 8's: both of 7 in the batch, and the one in the queue.
    wanted = 2 * math.log(1 + 2 * math.exp(-1)) / 3 + math.log(1 + 3 * math.exp(-1)) / 3
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_focal_loss_with_gamma_0_is_cross_entropy_and_gamma_cares_less_for_what_is_known() -> None:
    logits, target = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert float(losses.focal(logits, target, gamma=0.0)) == pytest.approx(float(plain))
    sure = 1 / (1 + math.exp(-2))
    assert float(losses.focal(logits[:1], target[:1], gamma=2.0)) == pytest.approx((1 - sure) ** 2 * -math.log(sure), rel=1e-5)


def test_unknown_places_do_not_count() -> None:
    logits = torch.tensor([[0.0, 50.0]])
    # One of two tokens counts, half wrong (focal: a quarter of log 2), in hundredths of the tokens.
    assert float(losses.dense(logits, torch.tensor([[0.0, math.nan]]))) == pytest.approx(10 * math.log(2) / 4 / 2)
    assert float(losses.dense(logits, torch.full((1, 2), math.nan))) == 0.0


def test_a_missed_breach_outweighs_hundreds_of_tokens_that_are_known_to_show_nothing() -> None:
    logits = torch.full((1, 800), -4.0, requires_grad=True)
    target = torch.zeros(1, 800)
    target[0, :3] = 1.0
    losses.dense(logits, target).backward()
    assert logits.grad is not None
    assert float(logits.grad[0, :3].sum().abs()) > 10 * float(logits.grad[0, 3:].sum().abs())


def test_the_context_loss_comes_in_between_its_two_steps() -> None:
    assert [losses.context_weight(step, 0.5) for step in (0, 15_000, 22_500, 30_000, 90_000)] == [0, 0, 0.25, 0.5, 0.5]


def test_distance_to_the_nearest_masked_token_is_counted_on_the_grid() -> None:
    grid = (1, 3, 3)
    assert losses.distance_to_masked(torch.tensor([[0, 8]]), torch.tensor([[2]]), grid).tolist() == [[2.0, 2.0]]


def test_a_sum_without_any_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="every weight is 0"):
        losses.weighted_sum({}, {})


def test_a_breach_is_asked_for_now_and_ahead_and_never_guessed() -> None:
    clip = Clip("v", 0.0, 4.0, "c", labels={"breach": 1, "breach_t0": 2.0, "breach_t1": 3.0})
    found = breaches_of(clip)
    assert breach_targets(found, clip, 2.5, (0, 1)).tolist() == [1, 1]
    assert breach_targets(found, clip, 0.5, (0, 1, 2)).tolist() == [0, 0, 1]
    # After the breach, two seconds ahead lie beyond the clip: nobody knows.
    after = breach_targets(found, clip, 3.5, (0, 2))
    assert after[0] == 0
    assert np.isnan(after[1])


def test_the_breach_map_follows_the_crop() -> None:
    labels = {"breach": 1, "breach_t0": 0.0, "breach_t1": 1.0, "breach_box": "0.5,0.5,1.0,1.0"}
    found = breaches_of(Clip("v", 0.0, 1.0, "c", labels=labels))
    whole = place_map(found, [0.5], (0, 0, 1, 1), (0, 0, 32, 32), 32, 4)
    assert whole[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    # Only the lower right quarter is shown: all of it.
    corner = place_map(found, [0.5, 2.0], (0, 0, 1, 1), (16, 16, 32, 32), 32, 2)
    assert corner[0].tolist() == [[1, 1], [1, 1]]
    assert corner[1].max() == 0


def test_a_touch_smaller_than_a_patch_is_taught_with_what_is_around_it() -> None:
    labels = {"breach": 1, "breach_t0": 0.0, "breach_t1": 1.0, "breach_box": "0.49,0.49,0.51,0.51"}
    found = breaches_of(Clip("v", 0.0, 1.0, "c", labels=labels))
    place = place_map(found, [0.5], (0, 0, 1, 1), (0, 0, 64, 64), 64, 4)[0]
    assert place[1:3, 1:3].tolist() == [[1, 1], [1, 1]]
    assert place.sum() == pytest.approx(4)


def test_shares_come_out_even_over_steps() -> None:
    shares = {"a": 0.85, "b": 0.10, "c": 0.05}
    totals = dict.fromkeys(shares, 0)
    for step in range(1, 401):
        counts = shares_to_counts(shares, 8, step)
        assert sum(counts.values()) == 8
        for name, count in counts.items():
            totals[name] += count
    for name, share in shares.items():
        assert totals[name] / 3200 == pytest.approx(share, abs=0.01)


def test_average_precision_of_a_published_example() -> None:
    # scikit-learn's documentation: scores 0.1 0.4 0.35 0.8, truth 0 0 1 1 -> 0.83
    found = average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert found == pytest.approx(0.8333, abs=1e-4)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.7])
def test_every_clip_is_drawn_once_an_epoch_however_small_its_sources_share(share: float) -> None:
    sources: Any = {
        name: SimpleNamespace(usable=np.arange(7), config=SimpleNamespace(share=s)) for name, s in (("a", 1), ("b", share))
    }
    sampler = Sampler(sources, 4, seed=0, steps=50)
    drawn = [draw.index for step in range(1, 2000) for draw in sampler.draw(step) if draw.source == "b"]
    for epoch in range(len(drawn) // 7):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == list(range(7)), epoch


def test_an_epochs_mean_is_over_the_steps_that_had_the_loss() -> None:
    book = EpochBook()
    for values in ({"loss": 1.0, "world": 4.0}, {"loss": 2.0}, {"loss": 3.0}):
        book.add(values)
    assert book.close(1) == {"loss": 2.0, "world": 4.0}
