"""Ids last as long as the thing does, and only what moves by itself is an agent."""

import numpy as np
import pytest

from surg.data.motion_camera import CameraMotion
from surg.data.segment.masks import Found, Segmentation, paint, resize_ids
from surg.data.tracks import TrackConfig, Tracks, link
from surg.errors import DataError
from tests.data.motion.scenes import moves, rests, scene

CONFIG = TrackConfig()


def panning(dx: float, dy: float, frames: int) -> list[CameraMotion]:
    return [CameraMotion(np.array([[1, 0, dx], [0, 1, dy]], float), (80, 60), 1.0) for _ in range(frames - 1)]


def test_one_thing_is_one_track_however_its_ids_change():
    tracks = link(scene({1: moves(30, 40, 4, 1), 2: rests(120, 90)}, linked=False), CONFIG)
    assert [len(track.frames) for track in tracks.items] == [16, 16]
    assert set(np.unique(tracks.ids)) == {0, 1, 2}


def test_ids_stay_the_same_across_anchors():
    whole = scene({1: moves(30, 40, 4, 1), 2: rests(120, 90)})
    anchors = [
        Segmentation(np.where(whole.ids[i : i + 4] > 0, 3 - whole.ids[i : i + 4], 0).astype(np.uint16) if i % 8 else whole.ids[i : i + 4],
                     whole.times_s[i : i + 4], {1: "tool", 2: "tool"}, {}, True)
        for i in range(0, 16, 4)
    ]  # fmt: skip
    tracks = link(anchors, CONFIG)
    assert [len(track.frames) for track in tracks.items] == [16, 16]
    assert len(tracks.times_s) == 16


def test_a_thing_may_be_missing_for_one_frame_and_no_more_by_default():
    def blinking(gap: int):
        return lambda index: None if 6 <= index < 6 + gap else (80, 60)

    assert len(link(scene({1: blinking(1)}, linked=False), CONFIG).items) == 1
    assert len(link(scene({1: blinking(2)}, linked=False), CONFIG).items) == 2
    assert len(link(scene({1: blinking(2)}, linked=False), TrackConfig(max_gap=2)).items) == 1


def test_something_fast_is_followed_by_predicting_its_next_step():
    # Two thirds of its own width a frame: overlap 0.2, below the 0.3 that is asked for.
    fast = scene(
        {1: lambda index: (20, 60) if index < 2 else (20 + 9 * (index - 1) + min(5 * (index - 2), 5) * (index - 2), 60)},
        frames=10,
        side=22,
        linked=False,
    )
    assert max(len(track.frames) for track in link(fast, TrackConfig()).items) == 10
    assert max(len(track.frames) for track in link(fast, TrackConfig(predict=False, min_frames=1)).items) < 10


def test_names_keep_tracks_apart_unless_told_not_to():
    both = scene({1: rests(80, 60)}, linked=False)
    names = {number: "hand" if number < 80 else "person" for number in both.names}
    mixed = Segmentation(both.ids, both.times_s, names, both.scores)
    assert len(link(mixed, CONFIG).items) == 2
    assert len(link(mixed, TrackConfig(same_name=False)).items) == 1


def test_only_what_moves_by_itself_is_an_agent():
    tracks = link(scene({1: moves(30, 40, 3, 0), 2: rests(120, 90)}), CONFIG)
    assert [track.is_agent for track in tracks.items] == [True, False]


def test_a_resting_instrument_is_layout_until_it_moves():
    tracks = link(scene({1: moves(40, 60, 5, 0, since=8)}), CONFIG)
    agent = tracks.items[0]
    assert agent.agent_from in (7, 8, 9)
    mask = tracks.agents()
    assert not mask[:7].any()
    assert mask[10:].any(axis=(1, 2)).all()


def test_what_the_camera_moves_is_layout_and_what_follows_the_camera_is_an_agent():
    seen = scene({1: moves(40, 30, 3, 0), 2: rests(100, 90)})
    tracks = link(seen, CONFIG, panning(3, 0, 16))
    assert [track.is_agent for track in tracks.items] == [False, True]


def test_in_a_room_both_sides_of_a_thing_must_move():
    """Somebody who reaches out moves one side; who walks moves both, one more than the other while the arms swing."""

    def moved(left: float, right: float) -> bool:
        ids = np.zeros((12, 120, 160), np.uint16)
        for index in range(12):
            ids[index, 40:80, round(60 + left * index) : round(90 + right * index)] = 1
        rules = TrackConfig(ends=False)
        return link(Segmentation(ids, np.arange(12) / 8, {1: "person"}, {1: 1.0}, True), rules).items[0].is_agent

    assert not moved(0, 3)
    assert not moved(-1, 3)
    assert moved(0.6, 1.8)  # 7 and 20 of 160 pixels: 12 in the geometric mean, where 8 make an agent
    assert not moved(0.2, 0.8)


def test_a_short_jump_makes_no_agent():
    jumping = scene({1: lambda index: (95, 60) if index in (8, 9) else (80, 60)})
    assert not link(jumping, CONFIG).items[0].is_agent
    assert link(jumping, TrackConfig(move_frames=2)).items[0].is_agent


def test_a_shaft_that_slides_in_from_the_border_is_judged_by_its_tip():
    ids = np.zeros((12, 120, 160), np.uint16)
    for index in range(12):
        ids[index, 50:60, : 40 + round(1.3 * index)] = 1  # the tip moves 14 of 160 px, the centre 7
    tracks = link(Segmentation(ids, np.arange(12) / 8, {1: "tool"}, {1: 1.0}, True), CONFIG)
    assert tracks.items[0].is_agent


@pytest.mark.parametrize(
    "change", [{"min_iou": 0.9, "predict": False}, {"min_frames": 17}, {"min_move": 0.9}, {"move_frames": 16}]
)
def test_every_setting_changes_the_tracks(change):
    seen = scene({1: moves(30, 40, 3, 0)}, linked=False)
    base, other = link(seen, CONFIG), link(seen, TrackConfig(**change))
    assert [track.is_agent for track in base.items] != [track.is_agent for track in other.items]


def test_tracks_read_back_as_they_were_saved(tmp_path):
    tracks = link(scene({1: moves(30, 40, 3, 0), 2: rests(120, 90)}), CONFIG)
    tracks.as_segmentation(interactions=[]).save(tmp_path / "clip.npz")
    again = Tracks.of(Segmentation.load(tmp_path / "clip.npz"))
    assert again.items == tracks.items
    assert np.array_equal(again.ids, tracks.ids)
    with pytest.raises(DataError, match="surg data segment"):
        Segmentation.load(tmp_path / "absent.npz")


def test_the_smaller_of_two_masks_stays_visible():
    person, hand = np.zeros((2, 40, 40), bool)
    person[5:35, 5:35] = True
    hand[10:15, 10:15] = True
    painted = paint([[Found(hand, "gloved hand", 0.5), Found(person, "person", 0.9)]], (40, 40), np.zeros(1))
    assert painted.names[int(painted.ids[0, 12, 12])] == "gloved hand"
    assert painted.names[int(painted.ids[0, 30, 30])] == "person"


def test_masks_are_looked_up_by_time_and_keep_their_ids_when_scaled():
    seen = scene({1: moves(40, 60, 5, 0), 7: rests(120, 90)})
    at = seen.at([0.0, 1.01], (240, 320))
    assert at.shape == (2, 240, 320)
    assert np.array_equal(at[1][::2, ::2] > 0, seen.ids[8] > 0)
    assert set(np.unique(resize_ids(seen.ids, (61, 83)))) == {0, 1, 7}
