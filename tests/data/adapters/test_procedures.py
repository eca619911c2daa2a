"""AutoLaparo, MultiBypass140, SAR-RARP50, JIGSAWS, GraSP."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from surg.data.adapters.ledger import Ledger
from surg.data.adapters.registry import adapter
from surg.data.adapters.restricted_pickle import read_pickle
from surg.data.kinematics import actions_between
from surg.data.manifest import Clip
from surg.data.segment.given import GivenSegmenter
from surg.data.stills import open_stills
from surg.errors import ConfigError, DataError
from tests.data.adapters import trees


def spans(clips: list[Clip], label: str) -> list[tuple[float, float, object]]:
    return [(round(clip.start_s, 3), round(clip.end_s, 3), clip.labels[label]) for clip in clips]


# AutoLaparo


def test_autolaparo_counts_frames_and_phases_from_one(tmp_path: Path) -> None:
    found = list(adapter("autolaparo").read(trees.autolaparo(tmp_path)))
    first = [clip for clip in found if clip.split == "train"]
    assert spans(first, "phase") == [(0.0, 3.0, "Dividing Ligament and Peritoneum"), (3.0, 5.0, "Washing")]


def test_autolaparo_is_split_by_its_numbers(tmp_path: Path) -> None:
    found = adapter("autolaparo").read(trees.autolaparo(tmp_path))
    assert list({clip.case: clip.split for clip in found}.values()) == ["train", "val", "test"]


def test_autolaparo_is_found_in_its_task_folder(tmp_path: Path) -> None:
    trees.autolaparo(tmp_path / "Task 1 Surgical workflow recognition")
    assert len(list(adapter("autolaparo").read(tmp_path))) == 6


# MultiBypass140


@pytest.fixture(scope="module")
def bypass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.multibypass140(tmp_path_factory.mktemp("bypass"))


def test_the_training_rows_have_another_file_name_than_the_others(bypass: Path, tmp_path: Path) -> None:
    found = list(adapter("multibypass140").read(bypass, lists=tmp_path))
    assert {(clip.case, clip.split) for clip in found} == {("multibypass140/BBP01", "train"), ("multibypass140/BBP03", "test")}


def test_the_fold_chooses_the_rows(bypass: Path, tmp_path: Path) -> None:
    found = list(adapter("multibypass140").read(bypass, lists=tmp_path, fold="1"))
    assert {(clip.case, clip.split) for clip in found} == {("multibypass140/BBP03", "train"), ("multibypass140/BBP01", "test")}


def test_seconds_count_from_zero_and_pictures_from_one(bypass: Path, tmp_path: Path) -> None:
    found = [clip for clip in adapter("multibypass140").read(bypass, lists=tmp_path) if clip.split == "train"]
    assert spans(found, "phase") == [(0.0, 4.0, "preparation"), (4.0, 12.0, "gastric pouch creation")]
    shown = open_stills(Path(found[0].video))
    assert (shown.files[0].name, shown.times_s[0]) == ("img1.jpg", 0.0)


def test_pictures_are_in_order_of_their_number_and_not_of_their_name(bypass: Path, tmp_path: Path) -> None:
    found = next(iter(adapter("multibypass140").read(bypass, lists=tmp_path)))
    assert [path.name for path in open_stills(Path(found.video)).files][-3:] == ["img10.jpg", "img11.jpg", "img12.jpg"]


def test_steps_can_be_the_label(bypass: Path, tmp_path: Path) -> None:
    found = adapter("multibypass140").read(bypass, lists=tmp_path, label="step")
    assert {clip.labels["step"] for clip in found} == {"step five"}


def test_segments_lose_what_lies_over_them(bypass: Path, tmp_path: Path) -> None:
    root = shutil.copytree(bypass, tmp_path / "copy")
    shutil.rmtree(root / "labels/bern/labels_by70_splits")
    found = [clip for clip in adapter("multibypass140").read(root, lists=tmp_path / "lists") if clip.case.endswith("BBP01")]
    assert spans(found, "phase_id") == [(0.0, 4.0, 0), (4.0, 6.0, 1), (8.0, 9.0, 1), (9.5, 12.0, 1)]


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "1fps_0.pickle"
    path.write_bytes(pickle.dumps({"BBP01": [_Bomb()]}))
    with pytest.raises(DataError, match="system"):
        read_pickle(path)
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_of_numpy_numbers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.pickle"
    path.write_bytes(pickle.dumps({"BBP01": [{"Phase_gt": np.int64(3)}]}))
    assert read_pickle(path) == {"BBP01": [{"Phase_gt": 3}]}


def test_a_pickle_cut_short_is_an_error_for_the_user(tmp_path: Path) -> None:
    path = tmp_path / "rows.pickle"
    path.write_bytes(pickle.dumps({"BBP01": list(range(100))})[:-20])
    with pytest.raises(DataError, match="cannot be read as a pickle"):
        read_pickle(path)


# SAR-RARP50


@pytest.fixture(scope="module")
def rarp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.sarrarp50(tmp_path_factory.mktemp("rarp"))


def test_labels_are_a_tenth_of_a_second_apart_whatever_their_frame_numbers(rarp: Path, tmp_path: Path) -> None:
    found = list(adapter("sarrarp50").read(rarp, lists=tmp_path))
    for case in ("video_01", "video_02"):
        clips = [clip for clip in found if clip.case == f"sarrarp50/{case}"]
        assert spans(clips, "action_id") == [(0.0, 1.0, 0), (1.0, 3.0, 1)]


def test_one_odd_row_does_not_stretch_the_times_of_the_others(tmp_path: Path) -> None:
    root = trees.sarrarp50(tmp_path / "rarp")
    table = root / "train1/video_01/action_discrete.txt"
    table.write_text(table.read_text().replace("000000030,0", "000000029,0"))
    found = list(adapter("sarrarp50").read(root, lists=tmp_path / "lists"))
    clips = [clip for clip in found if clip.case == "sarrarp50/video_01"]
    assert spans(clips, "action_id") == [(0.0, 1.0, 0), (1.0, 3.0, 1)]


def test_pictures_are_placed_on_the_labels_clock(rarp: Path, tmp_path: Path) -> None:
    found = next(clip for clip in adapter("sarrarp50").read(rarp, lists=tmp_path) if clip.case == "sarrarp50/video_02")
    assert open_stills(Path(found.video)).times_s[:3].tolist() == pytest.approx([0.0, 0.1, 0.2])


def test_videos_41_to_50_are_test(rarp: Path, tmp_path: Path) -> None:
    splits = {clip.case: clip.split for clip in adapter("sarrarp50").read(rarp, lists=tmp_path)}
    assert splits == {
        "sarrarp50/video_01": "train",
        "sarrarp50/video_02": "train",
        "sarrarp50/video_11": "train",
        "sarrarp50/video_45": "test",
    }


def test_a_patient_cut_into_two_videos_is_one_case(rarp: Path, tmp_path: Path) -> None:
    found = {clip.video for clip in adapter("sarrarp50").read(rarp, lists=tmp_path) if clip.case == "sarrarp50/video_11"}
    assert len(found) == 2


def test_masks_stand_at_their_second_of_the_video_and_not_of_the_clip(rarp: Path, tmp_path: Path) -> None:
    found = [clip for clip in adapter("sarrarp50").read(rarp, lists=tmp_path) if clip.case == "sarrarp50/video_01"]
    (later,) = (clip for clip in found if clip.start_s == 1.0)
    masks = GivenSegmenter(later)(np.zeros((3, 48, 64, 3), np.uint8), np.array([1.0, 2.0, 2.9]))
    levels = [masks.names[int(frame.max())] for frame in masks.ids]
    assert levels == [f"object {0x010101 * grey}" for grey in (11, 12, 12)]


# JIGSAWS


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.jigsaws(tmp_path_factory.mktemp("jigsaws"))


def test_gestures_count_frames_from_one_and_include_the_last(bench: Path) -> None:
    found = [clip for clip in adapter("jigsaws").read(bench) if clip.meta == {"trial": "Knot_Tying_C001", "camera": "capture1"}]
    assert spans(found, "gesture") == [(1.0, 2.0, "G1"), (2.0, 2.5, "G13")]


def test_both_cameras_of_a_trial_share_the_case(bench: Path) -> None:
    found = [clip for clip in adapter("jigsaws").read(bench, case="trial") if clip.meta["trial"] == "Knot_Tying_C001"]
    assert {(clip.case, clip.meta["camera"]) for clip in found} == {
        ("jigsaws/Knot_Tying_C001", "capture1"),
        ("jigsaws/Knot_Tying_C001", "capture2"),
    }


def test_a_surgeons_trials_are_one_case_by_default(bench: Path) -> None:
    assert {clip.case for clip in adapter("jigsaws").read(bench)} == {"jigsaws/surgeon_C"}


def test_the_trial_without_a_usable_video_is_left_out(bench: Path) -> None:
    ledger = Ledger()
    assert not [clip for clip in adapter("jigsaws").read(bench, ledger=ledger) if "H002" in clip.meta["trial"]]
    assert ledger.left_out == [("trial without usable video and labels", "Knot_Tying_H002")]
    assert not [sample for sample in adapter("jigsaws").timeline(bench) if "surgeon_H" in sample.case]


def test_an_official_list_gives_the_split(bench: Path) -> None:
    found = adapter("jigsaws").read(bench, scheme="OneTrialOut", case="trial")
    assert {clip.case: clip.split for clip in found} == {"jigsaws/Knot_Tying_C001": "train", "jigsaws/Knot_Tying_C002": "test"}


def test_gesture_recognition_exists_in_one_scheme_only(bench: Path) -> None:
    with pytest.raises(ConfigError, match="UserOut"):
        list(adapter("jigsaws").read(bench, scheme="OneTrialOut", experiment="GestureRecognition"))


def test_a_fold_that_is_not_there_is_said(bench: Path) -> None:
    with pytest.raises(DataError, match="fold=9"):
        list(adapter("jigsaws").read(bench, scheme="OneTrialOut", fold=9))


def test_skill_and_score_come_with_the_gestures(bench: Path) -> None:
    clip = next(iter(adapter("jigsaws").read(bench)))
    assert (clip.labels["skill"], clip.labels["grs"]) == ("intermediate", 14)


def test_states_are_those_of_the_patient_side_arms(bench: Path) -> None:
    def first(arm: str) -> list[tuple[float, ...]]:
        samples = adapter("jigsaws").timeline(bench, arm=arm)
        return [
            sample.value or ()
            for sample in samples
            if sample.name == "state" and sample.video == "Knot_Tying_C001_capture1.avi"
        ]

    right, left, both = first("right"), first("left"), first("both")
    assert right[2][:3] == pytest.approx((0.02, 0.04, 0.0))
    assert left[2][:3] == pytest.approx((-0.02, 0.04, 0.0))
    assert both[2] == pytest.approx(left[2] + right[2])
    assert right[0][3:] == pytest.approx((0.0, 0.0, np.radians(170), 0.5), abs=1e-4)


def test_an_action_over_the_half_turn_is_small(bench: Path) -> None:
    actions = [sample.value for sample in adapter("jigsaws").timeline(bench) if sample.name == "action"]
    assert len(actions) == 89 * 4
    for action in actions:
        assert action is not None
        assert action[5] == pytest.approx(np.radians(1.0), abs=1e-3)


def test_actions_at_a_lower_rate_come_from_the_states_seen() -> None:
    turns = Rotation.from_rotvec(np.outer(np.arange(9), [0.1, 0.2, -0.1]))
    states = np.concatenate([np.outer(np.arange(9), [1.0, 0, 0]), turns.as_euler("xyz"), np.zeros((9, 1))], axis=1)
    action = actions_between(states[::4])[0]
    assert action[:3] == pytest.approx([4.0, 0, 0])
    assert Rotation.from_euler("xyz", action[3:6]).as_rotvec() == pytest.approx([0.4, 0.8, -0.4])


# GraSP


@pytest.fixture(scope="module")
def prostate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.grasp(tmp_path_factory.mktemp("grasp"))


def test_keyframes_are_a_second_apart_whatever_their_frame_numbers(prostate: Path, tmp_path: Path) -> None:
    found = list(adapter("grasp").read(prostate, lists=tmp_path))
    for case in ("CASE001", "CASE041"):
        clips = [clip for clip in found if clip.case == f"grasp/{case}"]
        assert spans(clips, "phase") == [(0.0, 4.0, "Idle"), (4.0, 6.0, "Dissection")]


def test_pictures_between_keyframes_are_placed_between_their_seconds(prostate: Path, tmp_path: Path) -> None:
    found = next(clip for clip in adapter("grasp").read(prostate, lists=tmp_path) if clip.case == "grasp/CASE001")
    times = open_stills(Path(found.video)).times_s
    assert times[:4].tolist() == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0], abs=1e-5)
    assert times[-1] == pytest.approx(5 + 2 / 3, abs=1e-5)
    assert found.masks is not None
    assert open_stills(Path(found.masks)).times_s.tolist() == [1.0]
    with pytest.raises(DataError, match="nearest given mask is 3"):
        GivenSegmenter(found)(np.zeros((2, 16, 24, 3), np.uint8), np.array([1.0, 4.0]))


def test_the_folds_of_grasp(prostate: Path, tmp_path: Path) -> None:
    splits = {clip.case: clip.split for clip in adapter("grasp").read(prostate, lists=tmp_path)}
    assert splits == {"grasp/CASE001": "train", "grasp/CASE041": "test"}
    assert {clip.split for clip in adapter("grasp").read(prostate, lists=tmp_path, fold="1")} == {"val"}
    assert {clip.split for clip in adapter("grasp").read(prostate, lists=tmp_path, fold="2")} == {"train"}
