"""Segmenters find what is there: given masks, grey on red, what moves in a room, and SAM through its real processor."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from surg.config import load_config
from surg.data.manifest import Clip
from surg.data.segment import room
from surg.data.segment.backdrop import backdrop
from surg.data.segment.build import SegmentConfig, segment, segment_clip
from surg.data.segment.endoscopic import EndoscopicConfig, instruments, is_endoscopic, lens
from surg.data.segment.given import GivenSegmenter
from surg.data.segment.masks import Segmentation
from surg.data.segment.motion import MotionSegmenter, MotionSegmenterConfig
from surg.data.segment.room import RoomConfig, people
from surg.data.tracks import Tracks
from surg.data.video import write_video
from surg.errors import CheckpointError, ConfigError, DataError
from tests.data.motion.moving import pan, texture

TIMES = np.arange(8) / 8.0


def tissue(frames: int = 8, tools: tuple[tuple[float, float], ...] = ((6.0, 0.0),)) -> tuple[np.ndarray, np.ndarray]:
    """Red tissue with grey shafts that slide in from below by (dx, dy) a frame; frames and true masks."""
    rng = np.random.default_rng(0)
    base = texture(rng, 224, 224).astype(np.float32)
    base = np.stack([130 + 0.5 * base[..., 0], 40 + 0.2 * base[..., 1], 40 + 0.2 * base[..., 2]], axis=-1)
    pictures, masks = [], []
    for index in range(frames):
        picture = base.clip(0, 255).astype(np.uint8)
        mask = np.zeros((224, 224), np.uint8)
        for number, (dx, dy) in enumerate(tools):
            tip = (int(70 + 80 * number + dx * index), int(90 + dy * index))
            cv2.line(picture, (60 + 90 * number, 223), tip, (120, 120, 125), 14)
            cv2.line(mask, (60 + 90 * number, 223), tip, number + 1, 14)
        pictures.append(picture)
        masks.append(mask)
    return np.stack(pictures), np.stack(masks)


def walker(lingers: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A dark figure walks in, stands for most of the clip, and walks out; frames and true masks."""
    room = (texture(np.random.default_rng(3), 160, 208) // 3 + 120).astype(np.uint8)
    stops = [10, 30, 50, *([90] * (10 if lingers else 1)), 130, 160, 190]
    frames, masks = [], []
    for x in stops:
        mask = np.zeros((160, 208), bool)
        mask[50:140, max(0, x - 14) : x + 14] = True
        frame = room.copy()
        frame[mask] = (40, 50, 90)
        frames.append(frame)
        masks.append(mask)
    return np.stack(frames), np.stack(masks)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def test_a_grey_shaft_on_red_tissue_is_found():
    frames, masks = tissue()
    for found, true in zip(instruments(frames, EndoscopicConfig()), masks):
        assert len(found) == 1
        assert iou(found[0].mask, true > 0) > 0.8


def test_two_instruments_that_touch_stay_two():
    frames, _ = tissue(8, ((9.0, 0.0), (-4.0, 0.0)))
    assert [len(found) for found in instruments(frames, EndoscopicConfig())] == [2] * 8


def test_a_grey_island_is_no_instrument_unless_wanted():
    frames, _ = tissue()
    for frame in frames:
        cv2.circle(frame, (170, 60), 12, (130, 130, 130), -1)
    assert len(instruments(frames, EndoscopicConfig())[0]) == 1
    assert len(instruments(frames, EndoscopicConfig(from_border=False))[0]) == 2


def test_a_patch_that_is_only_a_little_greyer_is_smoke():
    frames, _ = tissue()
    grey = frames.mean(axis=3, keepdims=True)
    weight = np.zeros((224, 224, 1))
    cv2.circle(weight, (190, 30), 40, 0.45, -1)
    smoky = (frames * (1 - weight) + grey * weight).astype(np.uint8)
    assert len(instruments(smoky, EndoscopicConfig())[0]) == 1
    assert len(instruments(smoky, EndoscopicConfig(step=1.0))[0]) > 1


def test_the_picture_of_an_endoscope_ends_at_its_circle():
    frames, _ = tissue()
    yy, xx = np.mgrid[:224, :224]
    circle = np.hypot(xx - 112, yy - 112) < 100
    frames[:, ~circle] = 0
    assert iou(lens(frames), circle) > 0.95
    assert is_endoscopic(frames)
    assert not is_endoscopic(np.stack(pan(0, 0)))


def test_the_empty_room_is_found_behind_someone_who_stands_there_most_of_the_time():
    frames, masks = walker()
    never_covered = backdrop(frames)
    empty = frames[0].copy()
    empty[masks[0]] = frames[-1][masks[0]]
    assert np.abs(never_covered.astype(int) - empty).mean() < 3
    assert np.abs(np.median(frames, axis=0) - empty)[masks[5]].mean() > 40  # a median is wrong there


def test_a_person_is_found_while_moving_and_while_standing():
    frames, masks = walker()
    for found, true in zip(people(frames, RoomConfig()), masks):
        assert max(iou(thing.mask, true) for thing in found) > 0.7


def test_a_shadow_is_no_person_unless_shadows_are_kept():
    room = np.full((160, 208, 3), 150, np.uint8)
    frames = np.stack([room] * 8)
    for index in range(8):
        frames[index, 60:120, 20 * index : 20 * index + 30] = 105
    assert all(not found for found in people(frames, RoomConfig()))
    assert all(found for found in people(frames, RoomConfig(shadow=1.0, shadow_share=1.0)))
    # What is left of a shadow pixel by pixel is one as a whole.
    assert all(not found for found in people(frames, RoomConfig(shadow=1.0)))


def test_a_place_that_a_shadow_has_left_is_no_thing_unless_shadows_are_kept(monkeypatch):
    """Somebody's shadow lay there for so long that it got into the background."""
    frames = np.full((8, 160, 208, 3), 150, np.uint8)
    still = frames[0].copy()
    still[60:120, 40:90] = 95
    monkeypatch.setattr(room, "backdrop", lambda frames: still)
    assert all(not found for found in people(frames, RoomConfig(ghost=100.0)))
    assert all(found for found in people(frames, RoomConfig(ghost=100.0, shadow_share=1.0)))
    # A bright gown in front of a dark wall has a colour of its own.
    frames[:, 60:120, 40:90] = (120, 160, 200)
    assert all(found for found in people(frames, RoomConfig(ghost=100.0)))


def test_what_shows_in_a_room_on_few_frames_is_no_track_unless_told(tmp_path):
    """Shades and cloth that hands uncover come and go; a true mask counts."""
    frames = np.full((24, 160, 208, 3), 150, np.uint8)
    for index in range(6):
        frames[9 + index, 50:110, 20 + 10 * index : 44 + 10 * index] = (20, 60, 90)
    write_video(tmp_path / "clip.mp4", frames, 8, crf=10)
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, 23 / 8, "case")
    assert not Tracks.of(segment(clip, SegmentConfig())).items
    (kept,) = Tracks.of(segment(clip, load_config(SegmentConfig, {"tracks": {"min_frames": 4}}))).items
    assert kept.is_agent

    masks = np.zeros((24, 160, 208), np.uint8)
    masks[9:15, 50:110, 20:44] = 1
    np.savez(tmp_path / "truth.npz", ids=masks, times=np.arange(24) / 8)
    (given,) = Tracks.of(segment(replace(clip, masks=str(tmp_path / "truth.npz")), SegmentConfig(segmenter="given"))).items
    assert len(given.frames) == 6


def test_scraps_that_are_spread_out_are_no_thing_unless_wanted():
    room = np.full((160, 208, 3), 150, np.uint8)
    frames = np.stack([room] * 8)
    # An L of three squares and thin bridges fills little of its hull; a full square of the same reach all of it.
    for index in range(1, 7):
        left = 10 * index
        frames[index, 20:110, left : left + 8] = (30, 90, 60)
        frames[index, 102:110, left : left + 90] = (30, 90, 60)
    assert all(not found for found in people(frames, RoomConfig())[1:7])
    assert all(found for found in people(frames, RoomConfig(solid=0.0))[1:7])


def test_a_blurred_thing_ends_at_its_edge_and_not_at_that_of_its_halo():
    frames, true = np.full((8, 160, 208, 3), 150, np.uint8), np.zeros((8, 160, 208), bool)
    for index in range(8):
        true[index, 50:110, 20 * index + 10 : 20 * index + 34] = True
        frames[index][true[index]] = (20, 60, 90)
        frames[index] = cv2.GaussianBlur(frames[index], (0, 0), 2.0)

    def overlap(config: RoomConfig) -> float:
        masks = np.stack([np.any([thing.mask for thing in things], axis=0) for things in people(frames, config)])
        return float((masks & true).sum() / (masks | true).sum())

    assert overlap(RoomConfig()) > 0.85
    assert overlap(RoomConfig(edge=0.0)) < 0.82


@pytest.mark.parametrize(
    ("scene", "change"),
    [
        ("endoscopic", {"saturation": 0.1}), ("endoscopic", {"highlight": 60}), ("endoscopic", {"min_area": 0.5}),
        ("endoscopic", {"smooth_px": 4.0}), ("room", {"contrast": 60.0}), ("room", {"min_contrast": 120.0}), ("room", {"min_area": 0.5}),
        ("room", {"edge": 0.0}),
    ],
)  # fmt: skip
def test_every_setting_changes_the_masks(scene, change):
    frames, _ = tissue() if scene == "endoscopic" else walker()
    times = np.arange(len(frames)) / 8.0
    if "contrast" in change:
        frames = (frames // 4 + np.random.default_rng(0).integers(0, 9, frames.shape)).astype(np.uint8)
    base = MotionSegmenter(MotionSegmenterConfig(scene=scene))(frames, times)
    other = MotionSegmenter(load_config(MotionSegmenterConfig, {"scene": scene, scene: change}))(frames, times)
    assert not np.array_equal(base.ids > 0, other.ids > 0)


def test_the_scene_is_told_by_its_colours():
    told = MotionSegmenter(MotionSegmenterConfig())
    assert told.scene_of(tissue()[0]) == "endoscopic"
    assert told.scene_of(walker()[0]) == "room"
    assert MotionSegmenter(MotionSegmenterConfig(scene="room")).scene_of(tissue()[0]) == "room"


def test_given_masks_come_from_arrays_and_from_folders_of_pictures(tmp_path):
    frames, masks = tissue(8, ((6.0, 0.0), (-3.0, 2.0)))
    np.savez_compressed(tmp_path / "truth.npz", ids=masks)
    (tmp_path / "pictures").mkdir()
    colours = np.array([[0, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)
    for index, mask in enumerate(masks):
        cv2.imwrite(str(tmp_path / "pictures" / f"{index:04d}.png"), colours[mask])
    clip = Clip("x.mp4", 0.0, 7 / 8, "case", meta={"fps": "8"})
    for path in ("truth.npz", "pictures"):
        given = GivenSegmenter(replace(clip, masks=str(tmp_path / path)))(frames, TIMES)
        assert given.linked
        assert len(given.names) == 2
        assert np.array_equal(given.ids > 0, masks > 0)


def test_a_folder_of_masks_is_read_by_number_and_not_by_letter(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"mask{number}.png"), np.full((8, 8), number + 1, np.uint8))
    (folder / "._mask0.png").write_bytes(b"finder")
    clip = Clip("x.mp4", 0.0, 11.0, "case", masks=str(folder), meta={"fps": "1"})
    given = GivenSegmenter(clip)(np.zeros((12, 8, 8, 3), np.uint8), np.arange(12.0))
    assert [given.names[int(ids[0, 0])] for ids in given.ids] == [f"object {number}" for number in range(1, 13)]


def test_named_instances_leave_floor_and_walls_out(tmp_path):
    _, masks = tissue(8, ((6.0, 0.0), (-3.0, 2.0)))
    roles = np.array(["surgeon"])
    np.savez(tmp_path / "truth.npz", ids=masks, times=TIMES, instances=np.array([2]), roles=roles)
    given = GivenSegmenter(Clip("x.mp4", 0.0, 1.0, "case", masks=str(tmp_path / "truth.npz")))(
        np.zeros((8, 224, 224, 3), np.uint8), TIMES
    )
    assert set(given.names.values()) == {"surgeon"}
    assert np.array_equal(given.ids > 0, masks == 2)


def test_class_masks_are_cut_into_things(tmp_path):
    _, masks = tissue(8, ((0.0, 0.0), (3.0, 0.0)))
    np.savez(tmp_path / "classes.npz", ids=(masks > 0).astype(np.uint8))
    clip = Clip("x.mp4", 0.0, 7 / 8, "case", masks=str(tmp_path / "classes.npz"), meta={"fps": "8"})
    blank = np.zeros((8, 224, 224, 3), np.uint8)
    assert len(np.unique(GivenSegmenter(clip, instances=False)(blank, TIMES).ids[0])) == 3
    assert len(np.unique(GivenSegmenter(clip)(blank, TIMES).ids[0])) == 2


def test_missing_or_foreign_masks_are_said(tmp_path):
    clip = Clip("x.mp4", 0.0, 1.0, "case")
    with pytest.raises(DataError, match="--segmenter motion"):
        GivenSegmenter(clip)
    (tmp_path / "masks.npz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="`ids`"):
        GivenSegmenter(replace(clip, masks=str(tmp_path / "masks.npz")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        GivenSegmenter(replace(clip, masks=str(tmp_path / "empty")))


def test_a_video_becomes_masks_tracks_and_interactions(tmp_path):
    frames, masks = tissue(16, ((5.0, 0.0), (0.0, 0.0)))
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, 15 / 8, "case")
    row = segment_clip(clip, SegmentConfig(), tmp_path / "masks")
    assert (row["tracks"], row["agents"]) == (2, 1)
    saved = Segmentation.load(row["masks"])
    tracks = Tracks.of(saved)
    agent = next(track for track in tracks.items if track.is_agent)
    assert iou(tracks.ids[8] == agent.id, masks[8] == 1) > 0.7
    assert saved.extra["settings"]["segmenter"] == "motion"


@pytest.mark.parametrize("change", [{"fps": 4.0}, {"size": 96}, {"tracks": {"min_frames": 12}}, {"anchor_frames": 4}])
def test_every_setting_of_a_run_has_an_effect(tmp_path, change, monkeypatch):
    frames, _ = tissue(10, ((5.0, 0.0),))
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, 9 / 8, "case")
    config = load_config(SegmentConfig, change)
    if "anchor_frames" in change:
        anchored = segment(clip, config)
        assert [len(track["frames"]) for track in anchored.extra["tracks"]] == [10]  # ids go on across three anchors
        return
    base, other = segment(clip, SegmentConfig()), segment(clip, config)
    assert base.ids.shape != other.ids.shape or len(base.extra["tracks"]) != len(other.extra["tracks"])


def test_a_clip_too_long_for_memory_is_refused(tmp_path):
    frames, _ = tissue(10)
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    with pytest.raises(DataError, match="windows"):
        segment(Clip(str(tmp_path / "clip.mp4"), 0.0, 9 / 8, "case"), SegmentConfig(max_frames=5))


def test_models_without_weights_say_what_to_do(tmp_path):
    clip = Clip("x.mp4", 0.0, 1.0, "case")
    from surg.data.segment.build import build_segmenter

    for name in ("sam3", "sam2"):
        with pytest.raises(ConfigError, match="--segmenter motion"):
            build_segmenter(SegmentConfig(segmenter=name), clip)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            build_segmenter(load_config(SegmentConfig, {"segmenter": name, name: {"weights": str(tmp_path)}}), clip)
