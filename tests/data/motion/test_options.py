"""Options that no other test here turns; and that no option is forgotten."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from surg.cli.main import app
from surg.config import load_config
from surg.data.classes import ClassConfig
from surg.data.factors import FactorConfig
from surg.data.interactions import InteractionConfig, find_interactions
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.motion import MotionConfig
from surg.data.segment.build import SegmentConfig, segment
from surg.data.segment.room import RoomConfig, people
from surg.data.tags.build import TagConfig, tag_clip
from surg.data.tracks import TrackConfig, link
from surg.data.video import write_video
from tests.data.motion.moving import pan, texture
from tests.data.motion.scenes import moves, rests, scene
from tests.data.motion.test_segment import walker


def lingerer() -> tuple[np.ndarray, np.ndarray]:
    """Somebody walks in, stands in the middle for three quarters of the clip, and walks out; frames and true masks."""
    room = (texture(np.random.default_rng(3), 160, 208) // 6 + 110).astype(np.uint8)
    stops = [8, 40, 70, *([104] * 18), 140, 170, 200]
    cloth = (texture(np.random.default_rng(4), 90, 28) // 8 + 20).astype(np.uint8)
    frames, masks = [], []
    for x in stops:
        mask = np.zeros((160, 208), bool)
        mask[50:140, max(0, x - 14) : x + 14] = True
        frame = room.copy()
        frame[mask] = cloth[:, : int(mask[60].sum())].reshape(-1, 3)
        frames.append(frame)
        masks.append(mask)
    return np.stack(frames), np.stack(masks)


def test_who_lingers_leaves_no_ghost():
    frames, masks = lingerer()
    found = [
        np.any([thing.mask for thing in things] or [np.zeros_like(masks[0])], axis=0) for things in people(frames, RoomConfig())
    ]
    haunted = [
        np.any([thing.mask for thing in things] or [np.zeros_like(masks[0])], axis=0)
        for things in people(frames, RoomConfig(ghost=100.0))
    ]
    true = masks[10]
    assert (found[10] & true).sum() > 0.7 * true.sum()
    assert (found[-1] & true).sum() < 0.1 * true.sum()
    # Without, he is background while he stands there, and something that never was remains when he has gone.
    assert (haunted[-1] & true).sum() > 0.7 * true.sum() or (haunted[10] & true).sum() < 0.3 * true.sum()


def test_hands_at_work_are_no_agent_and_a_body_that_walks_is():
    rng = np.random.default_rng(0)
    ids = np.zeros((16, 120, 160), np.uint16)
    for index in range(16):
        reach = round(14 * (1 + np.sin(index / 2)))
        ids[index, 50:70, 60 - int(rng.integers(0, 6)) : 80 + reach] = 1  # one side goes out and comes back
        ids[index, 10:40, 20 + 2 * index : 40 + 2 * index] = 2
    seen = scene({1: rests(0, 0)})
    both = link(type(seen)(ids, seen.times_s, {1: "person", 2: "person"}, {1: 1.0, 2: 1.0}, True), TrackConfig(ends=False))
    assert [track.is_agent for track in both.items] == [False, True]
    ends = link(type(seen)(ids, seen.times_s, {1: "person", 2: "person"}, {1: 1.0, 2: 1.0}, True), TrackConfig(ends=True))
    assert [track.is_agent for track in ends.items] == [True, True]


def test_somebody_whom_the_border_cuts_off_can_still_be_an_agent():
    ids = np.zeros((16, 120, 160), np.uint16)
    for index in range(16):
        ids[index, 60:120, 30 + 4 * index : 50 + 4 * index] = 1  # the feet are below the picture
        ids[index, 10:50, max(0, 150 - 5 * index) : 160] = 2  # comes in from the right, never wholly inside
    seen = scene({1: rests(0, 0)})
    tracks = link(type(seen)(ids, seen.times_s, {1: "person", 2: "person"}, {1: 1.0, 2: 1.0}, True), TrackConfig(ends=False))
    assert [track.is_agent for track in tracks.items] == [True, True]


def test_contact_with_tissue_needs_as_much_drag_as_is_asked_for():
    tracks = link(scene({1: moves(30, 60, 4, 0)}, side=24), TrackConfig())
    flows = []
    for mask in tracks.ids[:-1] > 0:
        flow = np.zeros((*mask.shape, 2), np.float32)
        flow[mask] = (4, 0)
        flow[:, np.nonzero(mask)[1].max() + 1 :][:, :15] = (2, 0)
        flows.append(flow)
    assert find_interactions(tracks, InteractionConfig(), flows=flows)
    assert not find_interactions(tracks, InteractionConfig(tissue_px=3.0), flows=flows)


def test_fewer_frames_at_once_change_what_the_background_is_learnt_from(tmp_path):
    frames, _ = walker()
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, (len(frames) - 1) / 8, "case")
    whole, chunks = (segment(clip, load_config(SegmentConfig, change)) for change in ({}, {"anchor_frames": 4}))
    assert len(whole.ids) == len(chunks.ids)
    assert not np.array_equal(whole.ids > 0, chunks.ids > 0)


def test_class_masks_are_cut_into_things_by_the_run(tmp_path):
    frames, masks = walker()
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    twice = masks | np.roll(masks, 90, axis=2)
    np.savez(tmp_path / "classes.npz", ids=twice.astype(np.uint8))
    clip = Clip(
        str(tmp_path / "clip.mp4"), 0.0, (len(frames) - 1) / 8, "case", masks=str(tmp_path / "classes.npz"), meta={"fps": "8"}
    )
    one, two = (segment(clip, SegmentConfig(segmenter="given", instances=told)) for told in (True, False))
    assert len(one.extra["tracks"]) == 1
    assert len(two.extra["tracks"]) > 1


@pytest.mark.parametrize("change", [{"fps": 2.0}, {"frames": 2}])
def test_fps_and_frames_change_measured_tags(tmp_path, change):
    # Starts to move after a while: two frames see nothing of it, and a slower sampling sees larger steps.
    frames = np.stack([*pan(0, 0, count=4, height=96, width=120), *pan(1.2, 0, count=8, height=96, width=120)])
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, 11 / 8, "case")
    base, other = (tag_clip(clip, load_config(TagConfig, settings)) for settings in ({}, change))
    assert (base["camera_motion"], base["camera_motion_confidence"]) != (
        other["camera_motion"],
        other["camera_motion_confidence"],
    )


def test_options_of_factors_change_what_is_drawn_and_written(tmp_path):
    frames, _ = walker()
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    clips = [Clip(str(tmp_path / "clip.mp4"), 0.0, (len(frames) - 1) / 8, f"case{number}") for number in range(2)]
    # Two rows of one clip differ in their end, so that each has its own key.
    clips[1] = Clip(clips[1].video, 0.0, clips[1].end_s - 0.125, "case1")
    manifest = write_manifest(tmp_path / "m.parquet", clips).path
    surg("segment", manifest, "--out", tmp_path / "masks", "--workers", 1)
    masks = tmp_path / "masks" / "manifest.parquet"
    sizes = {}
    for name, words in {"a": (), "b": ("--clips", 1), "c": ("--columns", 1)}.items():
        surg("factors", "show", masks, "--out", tmp_path / f"{name}.png", *words)
        sizes[name] = cv2.imread(str(tmp_path / f"{name}.png")).shape
    assert sizes["b"][0] < sizes["a"][0]
    assert sizes["c"][1] < sizes["a"][1]
    lengths = []
    for fps in (8, 2):
        words = ("--kinds", "D_L", "--to-disk", "--fps", fps, "--workers", 1, "--json")
        told = json.loads(surg("factors", "make", masks, "--out", tmp_path / f"disk{fps}", *words))
        assert set(told["clips"]) == {"D_L"}
        written = next(iter(Manifest.read(told["manifest"])))
        capture = cv2.VideoCapture(written.video)
        lengths.append(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    assert lengths[0] > 3 * lengths[1]


def surg(*words: object) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("config", [MotionConfig, ClassConfig, SegmentConfig, FactorConfig, TagConfig])
def test_every_option_is_turned_by_some_test_of_this_folder(config):
    tests = "\n".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py")))
    forgotten = [name for name in leaves(config) if not re.search(rf'"{name}"\s*:|\b{name}=', tests)]
    assert not forgotten, f"no test turns {', '.join(forgotten)}"


def leaves(config: Any) -> list[str]:
    names: list[str] = []
    for name, field in config.model_fields.items():
        inner = field.annotation
        names += leaves(inner) if isinstance(inner, type) and issubclass(inner, BaseModel) else [name]
    return names
