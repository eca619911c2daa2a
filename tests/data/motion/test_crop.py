"""What a manifest's crop cuts off, such as the strip in which SurgVU names its tools, no command on clips sees."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surg.data.factor_clips import factor_frames, plan_factors
from surg.data.factor_disk import render_factor, write_lossless
from surg.data.factors import FactorConfig
from surg.data.manifest import Clip
from surg.data.motion import MotionConfig, describe_clip
from surg.data.segment.build import SegmentConfig, segment
from surg.data.sources import read_clip
from tests.data.motion.test_factors import example

CROP = "0,0,1,0.75"
CONFIG = FactorConfig()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Clip, Clip]:
    """A clip with a lively strip below that its crop cuts off, and the same one cut beforehand."""
    frames, _ = example()
    strip = np.random.default_rng(0).integers(0, 255, (len(frames), 40, 160, 3), np.uint8)
    write_lossless(tmp_path / "whole.mkv", np.concatenate([frames, strip], axis=1), 8.0)
    write_lossless(tmp_path / "cut.mkv", frames, 8.0)
    zone = [[0.1, 0.1], [0.5, 0.1], [0.5, 0.6]]
    whole = Clip(str(tmp_path / "whole.mkv"), 0.0, 15 / 8, "p", zone=zone, meta={"crop": CROP})
    return whole, Clip(str(tmp_path / "cut.mkv"), 0.0, 15 / 8, "p", zone=[[x, y / 0.75] for x, y in zone])


def test_motion_does_not_see_what_is_cut_off(pair: tuple[Clip, Clip]) -> None:
    whole, cut = (describe_clip(clip, MotionConfig(size=64)) for clip in pair)
    assert {**whole, "video": ""} == {**cut, "video": ""}


def test_masks_tracks_and_interactions_are_of_what_is_kept(pair: tuple[Clip, Clip]) -> None:
    config = SegmentConfig(size=120, motion={"scene": "room"})
    whole, cut = (segment(clip, config) for clip in pair)
    assert np.array_equal(whole.ids, cut.ids)
    assert whole.extra == cut.extra


def test_masks_that_are_given_for_the_whole_picture_are_cut_along(pair: tuple[Clip, Clip], tmp_path: Path) -> None:
    _, tracks = example()
    ids = tracks.ids.astype(np.uint8)
    np.savez(tmp_path / "cut.npz", ids=ids)
    np.savez(tmp_path / "whole.npz", ids=np.concatenate([ids, np.full((len(ids), 40, 160), 9, np.uint8)], axis=1))
    config = SegmentConfig(segmenter="given", size=120)
    whole, cut = (
        segment(replace(clip, masks=str(tmp_path / name)), config) for clip, name in zip(pair, ("whole.npz", "cut.npz"))
    )
    assert np.array_equal(whole.ids, cut.ids)
    assert cut.ids.any()


def test_factor_clips_are_cut_once(pair: tuple[Clip, Clip], tmp_path: Path) -> None:
    _, tracks = example()
    tracks.as_segmentation().save(tmp_path / "m.npz")
    whole, cut = (replace(clip, masks=str(tmp_path / "m.npz"), zone=None) for clip in pair)
    times = np.arange(8) / 8
    for kind in ("D_L", "D_A"):
        (one,), (other,) = (plan_factors(clip, [kind], CONFIG).clips for clip in (whole, cut))
        frames = factor_frames(one, times)
        assert np.array_equal(frames, factor_frames(other, times))
        written = Clip(**json.loads(render_factor(one, 8.0, tmp_path / "out")["clip"]))
        assert np.array_equal(read_clip(written, times)[0], frames)
