"""Each kind of interaction is found where it was put, and not elsewhere."""

import numpy as np
import pytest

from surg.data.interactions import InteractionConfig, find_interactions, mask_gap
from surg.data.tracks import TrackConfig, link
from tests.data.motion.scenes import moves, rests, scene

CONFIG = InteractionConfig()


def kinds(paths, config=CONFIG, **more):
    side = more.pop("side", 16)
    tracks = link(scene(paths, side=side), TrackConfig())
    return {item.kind for item in find_interactions(tracks, config, **more)}


def test_two_that_stay_near_are_in_proximity():
    assert "proximity" in kinds({1: moves(30, 30, 3, 0), 2: moves(30, 60, 3, 0)})
    assert "proximity" not in kinds({1: moves(30, 15, 3, 0), 2: moves(30, 105, 3, 0)})


def test_layout_beside_layout_is_no_interaction():
    assert kinds({1: rests(40, 40), 2: rests(60, 60)}) == set()


def test_an_approach_is_a_shrinking_gap():
    assert "approach" in kinds({1: moves(20, 60, 5, 0), 2: rests(130, 60)})
    assert "approach" not in kinds({1: moves(100, 60, -5, 0), 2: rests(130, 60)})


def test_paths_cross_at_a_wide_angle_only():
    assert "crossing" in kinds({1: moves(30, 60, 6, 0), 2: moves(80, 15, 0, 6)})
    assert "crossing" not in kinds({1: moves(30, 60, 6, 0), 2: moves(30, 75, 6, -1)})


def test_following_needs_the_same_way_and_someone_ahead():
    tracks = link(scene({1: moves(50, 60, 5, 0), 2: moves(20, 60, 5, 0)}, side=16), TrackConfig())
    followed = [item for item in find_interactions(tracks, CONFIG) if item.kind == "following"]
    assert [(item.track, item.other) for item in followed] == [(2, 1)]
    assert "following" not in kinds({1: moves(50, 30, 5, 0), 2: moves(130, 60, -5, 0)})


def test_contact_with_a_zone_starts_when_the_agent_is_in_it():
    tracks = link(scene({1: moves(10, 60, 6, 0), 2: rests(140, 60)}, side=16), TrackConfig())
    zone = [[0.5, 0.25], [1, 0.25], [1, 0.75], [0.5, 0.75]]
    contact = [item for item in find_interactions(tracks, CONFIG, zone=zone) if item.kind == "zone_contact"]
    assert [item.track for item in contact] == [1]  # the other one lies in the zone and does not move
    assert contact[0].first == pytest.approx((80 - 8 - 10) / 6, abs=1)


def test_tissue_that_moves_with_the_tool_is_touched():
    tracks = link(scene({1: moves(30, 60, 4, 0)}, side=24), TrackConfig())
    dragged, still = [], []
    for mask in tracks.ids[:-1] > 0:
        flow = np.zeros((*mask.shape, 2), np.float32)
        flow[mask] = (4, 0)
        still.append(flow)
        flow = flow.copy()
        _, xs = np.nonzero(mask)
        flow[:, xs.max() + 1 : xs.max() + 16] = (2, 0)
        dragged.append(flow)
    assert {item.kind for item in find_interactions(tracks, CONFIG, flows=dragged)} == {"tissue_contact"}
    assert find_interactions(tracks, CONFIG, flows=still) == []


@pytest.mark.parametrize(
    "change",
    [
        {"distance": 0.01},
        {"min_frames": 14},
        {"approach": 0.9},
        {"crossing_deg": 89.0},
        {"follow_deg": 1.0},
        {"min_speed": 0.5},
    ],
)
def test_every_setting_changes_what_is_found(change):
    paths = {1: moves(30, 60, 6, 0.5), 2: moves(80, 15, 1, 6), 3: moves(14, 60, 6, 0)}
    tracks = link(scene(paths, side=12), TrackConfig())
    assert find_interactions(tracks, CONFIG) != find_interactions(tracks, InteractionConfig(**change))


def test_touching_masks_have_no_gap():
    one, other = np.zeros((2, 30, 30), bool)
    one[5:10, 5:10] = True
    other[10:15, 5:10] = True
    assert mask_gap(one, other) == 0
    assert mask_gap(one, np.roll(other, 7, axis=0)) == pytest.approx(6.5, abs=1)
