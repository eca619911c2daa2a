import csv
from pathlib import Path

import pytest

from surg.data.adapters.indexing import index
from surg.data.adapters.intervals import cut_out, merge_runs
from surg.data.adapters.registry import adapter, names
from surg.data.timeline import Timeline
from surg.data.video import read_frames
from surg.errors import ConfigError, DataError
from tests.data.adapters import trees

SETS = {
    "surgvu": trees.surgvu,
    "mmor": trees.mmor,
    "4dor": trees.fourdor,
    "cholec80": trees.cholec80,
    "cholect50": trees.cholect50,
    "cholectrack20": trees.cholectrack20,
    "autolaparo": trees.autolaparo,
    "multibypass140": trees.multibypass140,
    "sarrarp50": trees.sarrarp50,
    "jigsaws": trees.jigsaws,
    "endoscapes": trees.endoscapes,
    "grasp": trees.grasp,
    "ucf101": trees.ucf101,
    "hmdb51": trees.hmdb51,
    "kinetics": trees.kinetics,
    "ssv2": trees.ssv2,
}


def test_every_format_has_a_tree_to_be_tested_on() -> None:
    assert set(names()) == {*SETS, "folder", "csv"}


@pytest.mark.parametrize("name", SETS)
def test_every_clip_of_every_set_can_be_decoded(name: str, tmp_path: Path) -> None:
    options = {"label": "take", "cameras": "azure1"} if name == "mmor" else {}
    indexed = index(name, SETS[name](tmp_path / "set"), tmp_path / "out/set.parquet", max_missing=0.5, **options)
    clips = list(indexed.manifest.clips())
    assert clips
    for clip in clips:
        assert (clip.source, bool(clip.licence), clip.case.startswith(f"{name}/")) == (name, True, True)
        assert 0.0 <= clip.start_s < clip.end_s
        frames = read_frames(clip.video, [clip.start_s, (clip.start_s + clip.end_s) / 2])
        assert frames.shape[0] == 2
        assert clip.masks is None or Path(clip.masks).is_file()


@pytest.mark.parametrize("name", ["surgvu", "cholec80", "cholect50"])
def test_whole_videos_for_training_without_labels(name: str, tmp_path: Path) -> None:
    clips = list(adapter(name).read(SETS[name](tmp_path / "set"), whole=True, max_missing=0.5, lists=tmp_path / "lists"))
    assert len({clip.video for clip in clips}) == len(clips)
    assert all(clip.start_s == 0.0 and clip.labels == {} for clip in clips)
    assert {clip.end_s for clip in clips} == {"surgvu": {8.0, 6.0}, "cholec80": {6.0}, "cholect50": {12.0}}[name]


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean `cholec80`"):
        adapter("cholec8")


def test_an_unknown_option_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean `protocol`"):
        list(adapter("cholec80").read(tmp_path, protocl="40/40"))


def test_an_option_out_of_range_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="40/40, 32/8/40, 40/8/32"):
        list(adapter("cholec80").read(tmp_path, protocol="50/30"))


def test_options_come_as_text_from_the_command_line(tmp_path: Path) -> None:
    root = trees.surgvu(tmp_path)
    assert all("crop" not in clip.meta for clip in adapter("surgvu").read(root, crop="false"))


def test_an_option_of_the_timeline_alone_is_known(tmp_path: Path) -> None:
    assert "arm" in adapter("jigsaws").options()
    assert list(adapter("jigsaws").read(trees.jigsaws(tmp_path), arm="left"))


@pytest.mark.parametrize("name", names())
def test_a_folder_that_is_not_there_or_holds_nothing_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no"):
        list(adapter(name).read(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        list(adapter(name).read(tmp_path / "empty", lists=tmp_path / "lists"))


@pytest.mark.parametrize("name", SETS)
def test_reading_twice_gives_the_same(name: str, tmp_path: Path) -> None:
    root = SETS[name](tmp_path / "set")
    first, second = (list(adapter(name).read(root, max_missing=1.0, lists=tmp_path / "lists")) for _ in range(2))
    assert first == second
    # As text: "no next action" has a number of seconds that is none, and equals nothing.
    assert repr(list(adapter(name).timeline(root))) == repr(list(adapter(name).timeline(root)))


# indexing


def test_indexing_writes_manifest_timeline_and_problems_side_by_side(tmp_path: Path) -> None:
    root = trees.cholec80(tmp_path / "set", range(1, 31))
    (root / "phase_annotations/video03-phase.txt").unlink()
    indexed = index("cholec80", root, tmp_path / "out/c80.parquet")
    assert len(indexed.manifest) == 3 * 29
    assert Timeline(tmp_path / "out/c80.timeline.parquet").track("cholec80/video01", "tools").times_s.tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    assert indexed.problems is not None
    assert list(csv.reader(indexed.problems.open()))[1] == ["yes", "phase annotations", "video03.mp4"]


def test_problems_are_listed_even_when_there_are_too_many(tmp_path: Path) -> None:
    root = trees.cholec80(tmp_path / "set")
    (root / "phase_annotations/video33-phase.txt").unlink()
    with pytest.raises(DataError, match="--max-missing"):
        index("cholec80", root, tmp_path / "c80.parquet")
    assert not (tmp_path / "c80.parquet").exists()
    assert "video33.mp4" in (tmp_path / "c80.problems.csv").read_text()


def test_a_set_without_a_timeline_leaves_none(tmp_path: Path) -> None:
    indexed = index("autolaparo", trees.autolaparo(tmp_path / "set"), tmp_path / "al.parquet")
    assert indexed.timeline is None
    assert not list(tmp_path.glob("*.timeline.parquet"))
    assert indexed.problems is None


def test_a_manifest_with_its_frame_lists_can_be_moved(tmp_path: Path) -> None:
    index("cholect50", trees.cholect50(tmp_path / "set"), tmp_path / "one/t50.parquet")
    (tmp_path / "one").rename(tmp_path / "two")
    from surg.data.manifest import Manifest

    clip = next(Manifest.read(tmp_path / "two/t50.parquet").clips())
    assert read_frames(clip.video, [0.0]).shape[0] == 1


def test_a_manifest_can_be_moved_together_with_its_pictures(tmp_path: Path) -> None:
    index("cholect50", trees.cholect50(tmp_path / "one/set"), tmp_path / "one/t50.parquet")
    (tmp_path / "one").rename(tmp_path / "two")
    from surg.data.manifest import Manifest

    clip = next(Manifest.read(tmp_path / "two/t50.parquet").clips())
    assert read_frames(clip.video, [0.0]).shape[0] == 1


# intervals


def test_equal_labels_are_merged_and_gaps_belong_to_nobody() -> None:
    labels = [(0.0, "a"), (1.0, "a"), (2.0, "b"), (6.0, "b"), (7.0, "a")]
    assert list(merge_runs(labels, 1.0)) == [(0.0, 2.0, "a"), (2.0, 3.0, "b"), (6.0, 7.0, "b"), (7.0, 8.0, "a")]


def test_a_gap_can_be_allowed() -> None:
    assert list(merge_runs([(0.0, "a"), (4.0, "a"), (8.0, "b")], 1.0, max_gap_s=5.0)) == [(0.0, 8.0, "a"), (8.0, 9.0, "b")]


def test_nothing_merges_to_nothing() -> None:
    assert not list(merge_runs([], 1.0))


def test_holes_are_cut_out_of_an_interval() -> None:
    assert list(cut_out(0, 10, [(2, 3), (2.5, 4), (9, 20), (30, 40)])) == [(0, 2), (4, 9)]
    assert not list(cut_out(0, 1, [(0, 5)]))
