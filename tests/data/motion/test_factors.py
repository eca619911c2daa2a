"""Factor clips keep what they promise, equal on disk and on the fly."""

import numpy as np
import pytest

from surg.data.factor_clips import factor_frames, plan_factors
from surg.data.factor_disk import render_factor
from surg.data.factors import KINDS, FactorConfig, Tube, apply, find_tubes, pixel_box, why_not
from surg.data.interactions import InteractionConfig, find_interactions
from surg.data.manifest import Clip
from surg.data.motion import MotionConfig, clip_features
from surg.data.motion_flow import flow_backend
from surg.data.tracks import TrackConfig, Tracks, link
from surg.data.video import write_video
from surg.errors import DataError
from tests.data.motion.moving import texture
from tests.data.motion.scenes import moves, rests, scene

CONFIG = FactorConfig()


def example(height: int = 120, width: int = 160) -> tuple[np.ndarray, Tracks]:
    """A tool that moves beside one that rests, in front of still tissue."""
    seen = scene({1: moves(40, 50, 4, 0), 2: rests(110, 80)}, shape=(height, width))
    rng = np.random.default_rng(0)
    ground, tools = texture(rng, height, width), texture(rng, 24, 24)
    frames = np.repeat(ground[None], 16, axis=0)
    for index in range(16):
        for number in (1, 2):
            ys, xs = np.nonzero(seen.ids[index] == number)
            frames[index, ys, xs] = tools[ys - ys.min(), xs - xs.min()]
    return frames, link(seen, TrackConfig())


def test_layout_loses_its_agents_and_nothing_else():
    frames, tracks = example()
    layout = apply("D_L", frames, tracks.ids, tracks.items, CONFIG)
    agents = tracks.agents()
    resting = (tracks.ids > 0) & ~agents
    assert agents.any()
    assert np.array_equal(layout[:, 100:, :40], frames[:, 100:, :40])
    assert np.abs(layout[resting].astype(int) - frames[resting]).mean() < 1
    assert layout[8][agents[8]].std() < 0.5 * frames[8][agents[8]].std()


def test_agents_stay_and_their_surroundings_are_dimmed():
    frames, tracks = example()
    only = apply("D_A", frames, tracks.ids, tracks.items, CONFIG)
    agents = tracks.agents()
    assert np.abs(only[8][agents[8]].astype(int) - frames[8][agents[8]]).mean() < 8
    assert np.abs(only[8, 100:, :40] - 0.1 * frames[8, 100:, :40]).max() <= 0.5001


def test_a_tube_has_one_crop_and_so_keeps_the_motion_that_a_crop_per_frame_cancels():
    frames, tracks = example()
    tubes = find_tubes(tracks, find_interactions(tracks, InteractionConfig()), CONFIG)
    crop = apply("D_I", frames, tracks.ids, tracks.items, CONFIG, tube=tubes[0])
    x0, y0, x1, y1 = pixel_box(tubes[0].box, frames.shape[1:3])
    assert crop.shape == (16, y1 - y0, x1 - x0, 3)
    agent = next(track for track in tracks.items if track.is_agent)
    flow = flow_backend("dis")
    kept, cancelled, true = [], [], []
    for index in range(15):
        mask = tracks.ids[index] == agent.id
        true.append(4.0)
        kept.append(np.median(flow(crop[index], crop[index + 1])[mask[y0:y1, x0:x1]], axis=0)[0])
        centres = [np.array(agent.centres[at]).astype(int) for at in (index, index + 1)]
        per_frame = [
            np.pad(frames[index + at], ((40, 40), (40, 40), (0, 0)))[c[1] : c[1] + 80, c[0] : c[0] + 80]
            for at, c in enumerate(centres)
        ]
        cancelled.append(np.median(flow(*per_frame)[30:50, 30:50, 0]))
    assert np.mean(kept) >= 0.8 * np.mean(true)
    assert abs(np.mean(cancelled)) < 0.3 * np.mean(true)


def test_a_tube_holds_both_things_with_room_around_them():
    _, tracks = example()
    tube = find_tubes(tracks, find_interactions(tracks, InteractionConfig()), CONFIG)[0]
    x0, y0, x1, y1 = np.array(tube.box) * (160, 120, 160, 120)
    for track in tracks.items:
        for index, box in zip(track.frames, track.boxes):
            if tube.first <= index <= tube.last:
                assert x0 <= box[0]
                assert y0 <= box[1]
                assert x1 >= box[2]
                assert y1 >= box[3]
    assert Tube.from_json(tube.to_json()) == tube


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_fly_and_on_disk_give_equal_pixels(tmp_path, kind):
    frames, tracks = example()
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    interactions = [vars(item) for item in find_interactions(tracks, InteractionConfig())]
    tracks.as_segmentation(interactions=interactions).save(tmp_path / "masks.npz")
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, 15 / 8, "case", masks=str(tmp_path / "masks.npz"))
    row = next(row for row in plan_factors(clip, KINDS, CONFIG).clips if row.meta["factor"] == kind)
    import json

    written = Clip(**json.loads(render_factor(row, 8.0, tmp_path / "out")["clip"]))
    times = np.arange(row.start_s, row.end_s + 1e-6, 1 / 8)
    live = factor_frames(row, times)
    stored = factor_frames(written, times - times[0])
    assert live.shape[0] >= 8
    assert np.array_equal(live, stored)
    assert not np.array_equal(live, factor_frames(clip, times))


@pytest.mark.parametrize(("kind", "setting"), [("D_L", "blur_sigma"), ("D_L", "feather"), ("D_A", "background")])
def test_settings_travel_in_the_row_to_whoever_composes_it(tmp_path, kind, setting):
    frames, tracks = example()
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    tracks.as_segmentation(interactions=[]).save(tmp_path / "masks.npz")
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, 15 / 8, "case", masks=str(tmp_path / "masks.npz"))
    changed = FactorConfig.model_validate({setting: 0.9})
    (usual,), (other,) = (plan_factors(clip, [kind], config).clips for config in (CONFIG, changed))
    assert set(usual.meta) == {"factor"}  # what was planned before this was written down reads as it always did
    times = np.arange(16) / 8
    assert not np.array_equal(factor_frames(usual, times), factor_frames(other, times))


def test_an_ordinary_row_gives_its_ordinary_frames(tmp_path):
    frames, _ = example()
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, 15 / 8, "case")
    assert factor_frames(clip, [0.0, 1.0]).shape == (2, 120, 160, 3)
    with pytest.raises(DataError, match="surg data segment"):
        plan_factors(clip, KINDS, CONFIG)


def test_clips_with_too_much_or_too_little_are_dropped():
    frames, tracks = example()
    assert why_not("D_L", tracks, [], CONFIG) is None
    assert "more than 1%" in str(why_not("D_L", tracks, [], FactorConfig(max_agents=0.01)))
    assert "less than 50" in str(why_not("D_A", tracks, [], FactorConfig(min_agents=0.5)))
    assert why_not("D_I", tracks, [], CONFIG) == "no interaction"
    lonely = link(scene({1: moves(40, 50, 4, 0)}), TrackConfig())
    with pytest.raises(DataError, match="no D_I"):
        apply("D_I", frames, lonely.ids, lonely.items, CONFIG)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("D_L", {"blur_sigma": 3.0}), ("D_L", {"feather": 8.0}), ("D_A", {"feather": 0.0}), ("D_A", {"background": 0.5}),
        ("D_I", {"margin": 0.3, "square": False}), ("D_I", {"square": False}), ("D_I", {"min_tube": 1.0, "margin": 0.0}),
    ],
)  # fmt: skip
def test_every_setting_changes_the_pixels(kind, change):
    frames, tracks = example()
    base = apply(kind, frames, tracks.ids, tracks.items, CONFIG)
    other = apply(kind, frames, tracks.ids, tracks.items, FactorConfig(**change))
    assert base.shape != other.shape or not np.array_equal(base, other)


def test_no_more_tubes_than_asked_for():
    tracks = link(scene({1: moves(20, 30, 4, 1), 2: rests(60, 60), 3: rests(90, 40)}), TrackConfig())
    found = find_interactions(tracks, InteractionConfig())
    assert len(find_tubes(tracks, found, CONFIG)) == 2
    assert len(find_tubes(tracks, found, FactorConfig(max_tubes=1))) == 1


def test_layout_without_its_agent_hardly_moves():
    frames, tracks = example()
    config = MotionConfig(size=120)
    moving = clip_features(frames, config)[0]
    assert clip_features(apply("D_L", frames, tracks.ids, tracks.items, CONFIG), config)[0] < 0.6 * moving
