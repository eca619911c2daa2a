from pathlib import Path

import pytest

from surg.data.adapters.ledger import Ledger
from surg.data.adapters.registry import adapter
from surg.data.manifest import Clip
from surg.errors import DataError
from tests.data.adapters import trees


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.surgvu(tmp_path / "surgvu")


def clips(root: Path, **options: object) -> list[Clip]:
    return list(adapter("surgvu").read(root, max_missing=0.5, **options))


def spans(found: list[Clip], **labels: object) -> list[tuple[str, float, float]]:
    chosen = [clip for clip in found if labels.items() <= clip.labels.items()]
    return [(Path(clip.video).stem[-8:], round(clip.start_s, 2), round(clip.end_s, 2)) for clip in chosen]


def test_an_interval_over_two_parts_becomes_a_clip_of_each(root: Path) -> None:
    assert spans(clips(root), task="Range of motion") == [("part_001", 5.0, 8.0), ("part_002", 0.0, 2.5)]


def test_a_row_that_stands_twice_is_read_once(root: Path) -> None:
    ledger = Ledger()
    assert len(clips(root, ledger=ledger)) == 4
    assert any("twice" in reason for reason, _ in ledger.left_out)


def test_cases_of_the_public_sample_are_left_out(root: Path) -> None:
    assert {clip.case for clip in clips(root)} == {"surgvu/case_001"}


def test_the_public_sample_can_be_the_test_split(root: Path) -> None:
    sample = [clip for clip in clips(root, public_sample="test") if clip.case == "surgvu/case_125"]
    assert [clip.split for clip in sample] == ["test"]


def test_files_that_a_mac_left_are_no_videos(root: Path) -> None:
    ledger = Ledger()
    assert not any("__MACOSX" in clip.video or "/._" in clip.video for clip in clips(root, ledger=ledger))
    assert not ledger.lacks


def test_part_numbers_are_read_as_1_and_as_1_point_0(root: Path) -> None:
    assert spans(clips(root, label="tool"), tool="needle driver") == [("part_001", 1.0, 4.5)]


def test_the_camera_is_called_endoscope_and_not_nan(root: Path) -> None:
    assert spans(clips(root, label="tool"), tool="endoscope") == [("part_001", 0.0, 8.0), ("part_002", 0.0, 6.0)]


def test_a_tool_without_a_name_is_counted_as_missing_and_not_read(root: Path) -> None:
    ledger = Ledger()
    assert all(clip.labels["tool"] for clip in clips(root, label="tool", ledger=ledger))
    assert [kind for kind, _ in ledger.lacks] == ["tool name"]


def test_the_strip_that_names_the_tools_is_cut_off(root: Path) -> None:
    x0, y0, x1, y1 = (float(number) for number in clips(root)[0].meta["crop"].split(","))
    assert [round(x0 * 1280), round(y0 * 720), round(x1 * 1280), round(y1 * 720)] == [192, 0, 1088, 720]
    assert "crop" not in clips(root, crop=False)[0].meta


def test_one_flat_folder_of_videos_without_labels_is_read_whole(tmp_path: Path) -> None:
    for name in ("case_007_video_part_001", "case_007_video_part_002", "endoscope_left"):
        trees.video(tmp_path / f"videos/{name}.mp4", 2)
    found = clips(tmp_path)
    assert sorted((clip.case, clip.end_s) for clip in found) == [
        ("surgvu/case_007", 2.0),
        ("surgvu/case_007", 2.0),
        ("surgvu/endoscope_left", 2.0),
    ]


def test_whole_videos_are_all_parts_also_those_that_no_interval_covers(tmp_path: Path) -> None:
    root = trees.surgvu(tmp_path)
    trees.video(root / "surgvu24/case_001/case_001_video_part_003.mp4", 4)
    found = list(adapter("surgvu").read(root, whole=True))
    assert [(Path(clip.video).stem[-3:], clip.end_s) for clip in found] == [("001", 8.0), ("002", 6.0), ("003", 4.0)]


def test_the_flat_folder_takes_labels_that_lie_beside_it(tmp_path: Path) -> None:
    trees.video(tmp_path / "videos/case_001_video_part_001.mp4", 4)
    trees.text(tmp_path / "labels/case_001/tasks.csv", [trees.TASKS_HEADER, "0,1,1.0,1,3.0,Suturing"])
    assert spans(clips(tmp_path), task="Suturing") == [("part_001", 1.0, 3.0)]


def test_an_interval_in_a_part_that_is_not_there_counts_as_missing(root: Path) -> None:
    (root / "surgvu24/case_001/case_001_video_part_002.mp4").unlink()
    with pytest.raises(DataError, match="video of an interval"):
        list(adapter("surgvu").read(root))


def test_an_interval_that_outlasts_the_video_ends_with_it(root: Path) -> None:
    trees.text(root / "labels/case_001/tasks.csv", [trees.TASKS_HEADER, "0,2,1.0,2,99.0,Suturing"])
    assert spans(clips(root)) == [("part_002", 1.0, 6.0)]


def test_an_interval_that_begins_after_its_video_ends_counts_as_missing(root: Path) -> None:
    rows = ["0,2,1.0,2,3.0,Suturing", "1,2,8.0,2,9.0,Suturing"]
    trees.text(root / "labels/case_001/tasks.csv", [trees.TASKS_HEADER, *rows])
    assert spans(clips(root)) == [("part_002", 1.0, 3.0)]
    with pytest.raises(DataError, match=r"1 of 2 items are missing .*\n.*interval that begins before its video ends"):
        list(adapter("surgvu").read(root))


def test_minutes_and_hours_count_in_the_times_of_tools(root: Path) -> None:
    from surg.data.adapters.surgvu import _clock

    assert _clock("01:02:03.500000") == 3723.5
    assert _clock("12.25") == 12.25
