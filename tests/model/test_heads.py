"""Heads: sizes, the zone's effect, and early warning's shape."""

import pytest
import torch

from surg.errors import ConfigError
from surg.model.heads import AttentiveClassifier, LinearHead, MotionAuxHead, SterilityHead, build_head, zone_features


def test_motion_aux_has_the_parameters_its_authors_count() -> None:
    head = MotionAuxHead(1664, num_classes=8, num_motion=13)
    assert sum(parameter.numel() for parameter in head.parameters()) == 432_149
    logits, motion = MotionAuxHead(48)(torch.randn(2, 5, 48))
    assert logits.shape == (2, 8)
    assert motion.shape == (2, 23)


def test_heads_take_tokens_or_their_mean() -> None:
    tokens = torch.randn(2, 5, 48)
    for head in (LinearHead(48, 3).eval(), MotionAuxHead(48).eval()):
        first, second = head(tokens), head(tokens.mean(1))
        for one, other in zip(*(out if isinstance(out, tuple) else (out,) for out in (first, second))):
            torch.testing.assert_close(one, other)


def test_attentive_classifier_gives_one_logit_per_class() -> None:
    assert AttentiveClassifier(48, 2, 4, 7)(torch.randn(2, 9, 48)).shape == (2, 7)


@pytest.fixture
def sterility() -> SterilityHead:
    torch.manual_seed(0)
    return SterilityHead(48, num_heads=2, width=24, horizons_s=(0, 1, 2, 5)).eval()


def test_sterility_gives_a_logit_per_horizon_and_a_map(sterility: SterilityHead) -> None:
    logits, places = sterility(torch.randn(2, 24, 48), (2, 3, 4), torch.rand(2, 3, 4))
    assert logits.shape == (2, 4)
    assert places.shape == (2, 2, 3, 4)


def test_no_zone_is_the_whole_picture_and_a_zone_changes_the_answer(sterility: SterilityHead) -> None:
    tokens = torch.randn(1, 24, 48)
    whole, _ = sterility(tokens, (2, 3, 4), None)
    assert torch.equal(whole, sterility(tokens, (2, 3, 4), torch.ones(1, 3, 4))[0])
    corner = torch.zeros(1, 3, 4)
    corner[:, 0, 0] = 1
    assert not torch.allclose(whole, sterility(tokens, (2, 3, 4), corner)[0])


def test_evidence_inside_the_zone_counts_and_an_empty_zone_stays_finite(sterility: SterilityHead) -> None:
    tokens = torch.randn(1, 24, 48)
    logits, _ = sterility(tokens, (2, 3, 4), torch.zeros(1, 3, 4))
    assert logits.isfinite().all()
    zone = torch.zeros(1, 3, 4)
    zone[:, 1, 1] = 1
    _, places = sterility(tokens, (2, 3, 4), zone)
    inside = places[0, :, 1, 1].max()
    with torch.no_grad():
        sterility.evidence.zero_()
    without, _ = sterility(tokens, (2, 3, 4), zone)
    with torch.no_grad():
        sterility.evidence.fill_(1.0)
    torch.testing.assert_close(
        sterility(tokens, (2, 3, 4), zone)[0] - without, torch.full((1, 4), inside.item()), atol=1e-4, rtol=1e-4
    )


def test_an_untrained_map_says_no(sterility: SterilityHead) -> None:
    _, places = sterility(torch.randn(4, 24, 48), (2, 3, 4), None)
    assert places.mean() < -1


def test_zone_features_see_the_neighbourhood() -> None:
    zone = torch.zeros(1, 8, 8)
    zone[0, 0, 0] = 1
    features = zone_features(zone).reshape(8, 8, 3)
    assert features[1, 1].tolist() == pytest.approx([0.0, 1 / 9, 1 / 25])
    assert features[3, 3, 0] == 0
    assert features[3, 3, 2] > 0
    assert torch.equal(zone_features(torch.ones(1, 8, 8)), torch.ones(1, 64, 3))


def test_heads_rebuild_from_their_settings_and_unknown_kinds_are_named() -> None:
    for head in (AttentiveClassifier(48, 2, 2, 3), LinearHead(48), MotionAuxHead(48), SterilityHead(48, num_heads=2, width=24)):
        again = build_head(head.config)
        again.load_state_dict(head.state_dict())
    with pytest.raises(ConfigError, match="known kinds: attentive"):
        build_head({"kind": "mystery"})
    with pytest.raises(ConfigError, match="cannot be built"):
        build_head({"kind": "linear", "embed_dim": 48, "colour": "red"})
