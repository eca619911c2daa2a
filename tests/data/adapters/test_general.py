"""UCF101, HMDB51, Kinetics, SSv2, folders and tables."""

import shutil
from pathlib import Path

import pytest

from surg.data.adapters.files import read_json, videos_under
from surg.data.adapters.ledger import Ledger
from surg.data.adapters.registry import adapter
from surg.data.manifest import Clip
from surg.doctor.guide import check_before_training
from surg.errors import ConfigError, DataError
from surg.serving.inference import find_videos, follow
from tests.data import painted
from tests.data.adapters import trees

# UCF101


def test_ucf101_clips_of_one_group_are_one_case(tmp_path: Path) -> None:
    found = list(adapter("ucf101").read(trees.ucf101(tmp_path)))
    assert [clip.case for clip in found] == ["ucf101/ApplyEyeMakeup_g08"] * 2 + ["ucf101/YoYo_g01"]


def test_ucf101_lists_give_split_and_class(tmp_path: Path) -> None:
    found = list(adapter("ucf101").read(trees.ucf101(tmp_path)))
    assert [(clip.split, clip.labels["class"], clip.labels["class_id"]) for clip in found] == [
        ("train", "ApplyEyeMakeup", 0),
        ("train", "ApplyEyeMakeup", 0),
        ("test", "YoYo", 100),
    ]


def test_ucf101_has_three_lists(tmp_path: Path) -> None:
    found = list(adapter("ucf101").read(trees.ucf101(tmp_path), fold="2"))
    assert [(clip.split, clip.labels["class"]) for clip in found] == [("train", "YoYo"), ("test", "ApplyEyeMakeup")]


# HMDB51


def test_hmdb51_marks_are_1_train_2_test_0_neither(tmp_path: Path) -> None:
    root = trees.hmdb51(tmp_path)
    assert [clip.split for clip in adapter("hmdb51").read(root)] == ["train", "train", "test"]
    assert [clip.split for clip in adapter("hmdb51").read(root, unused=True)] == ["train", "train", "test", ""]


def test_hmdb51_clips_of_one_film_are_one_case(tmp_path: Path) -> None:
    found = list(adapter("hmdb51").read(trees.hmdb51(tmp_path)))
    assert [clip.case for clip in found] == ["hmdb51/April_09"] * 2 + ["hmdb51/Other_Film"]


# Kinetics


def test_kinetics_files_are_cut_already(tmp_path: Path) -> None:
    found = list(adapter("kinetics").read(trees.kinetics(tmp_path), max_missing=0.5))
    assert {(clip.start_s, clip.end_s) for clip in found} == {(0.0, 2.0)}
    assert found[0].meta == {"time_start": "95", "time_end": "105"}


def test_kinetics_clips_of_one_video_are_one_case(tmp_path: Path) -> None:
    found = list(adapter("kinetics").read(trees.kinetics(tmp_path), max_missing=0.5))
    assert [clip.case for clip in found] == ["kinetics/youtube_0347ZoDXyP0"] * 2 + ["kinetics/youtube_-HwFxb2SLPo"]


def test_kinetics_videos_that_are_gone_are_counted(tmp_path: Path) -> None:
    ledger = Ledger()
    list(adapter("kinetics").read(trees.kinetics(tmp_path), max_missing=0.5, ledger=ledger))
    assert ledger.lacks == [("readable video", "validate/gone0000000_000005_000015")]
    with pytest.raises(DataError, match=r"1 of 4 items are missing \(25.0 %"):
        list(adapter("kinetics").read(tmp_path))


# Something-Something v2


def test_ssv2_templates_lose_their_brackets(tmp_path: Path) -> None:
    found = list(adapter("ssv2").read(trees.ssv2(tmp_path)))
    assert [(clip.split, clip.labels) for clip in found] == [
        ("train", {"class": "Holding something", "class_id": 35}),
        ("val", {"class": "Pushing something from left to right", "class_id": 93}),
        ("test", {}),
    ]


def test_ssv2_test_answers_are_read_when_there(tmp_path: Path) -> None:
    root = trees.ssv2(tmp_path)
    trees.text(root / "test-answers.csv", ["3;Holding something"])
    assert [clip.labels.get("class_id") for clip in adapter("ssv2").read(root)] == [35, 93, 35]


# folder


def folder(root: Path, tmp_path: Path, **options: object) -> list[Clip]:
    return list(adapter("folder").read(root, lists=tmp_path / "lists", **options))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    for name in ("train/suture/patient1_a.mp4", "train/cut/patient1_b.AVI", "test/suture/patient2_a.mp4"):
        trees.video(root / name, 2)
    trees.text(root / "train/suture/._patient1_a.mp4", ["junk"])
    trees.text(root / "train/suture/notes.txt", ["no video"])
    return root


def test_folders_are_splits_and_classes(videos: Path, tmp_path: Path) -> None:
    found = folder(videos, tmp_path)
    assert [(clip.split, clip.labels) for clip in found] == [
        ("test", {"class": "suture"}),
        ("train", {"class": "cut"}),
        ("train", {"class": "suture"}),
    ]


def test_one_video_is_indexed_as_a_folder_of_it_would_be(videos: Path, tmp_path: Path) -> None:
    video = next(videos.rglob("*.mp4"))
    found = folder(video, tmp_path)
    assert [(clip.video, clip.case, clip.labels) for clip in found] == [(str(video), video.stem, {})]
    assert found[0].end_s == folder(video.parent, tmp_path)[0].end_s


def test_folders_that_are_links_are_followed(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    (root / "train").symlink_to(videos / "train")
    (videos / "train/suture/back").symlink_to(videos / "train")
    assert len(folder(root, tmp_path)) == 2


def test_folders_need_be_no_classes(videos: Path, tmp_path: Path) -> None:
    assert all(clip.labels == {} for clip in folder(videos, tmp_path, labels="none"))


def test_each_video_is_a_case_unless_told(videos: Path, tmp_path: Path) -> None:
    assert len({clip.case for clip in folder(videos, tmp_path)}) == 3
    assert {clip.case for clip in folder(videos, tmp_path, case=r"(patient\d+)")} == {"patient1", "patient2"}
    assert {clip.case for clip in folder(videos, tmp_path, case="folder")} == {"train/suture", "train/cut", "test/suture"}


def test_a_video_that_the_case_pattern_does_not_fit_is_counted(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no case by the pattern"):
        folder(videos, tmp_path, case="(patient1)")


@pytest.mark.parametrize("pattern", ["patient", "(patient"])
def test_a_case_pattern_without_a_group_is_refused(videos: Path, tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="case="):
        folder(videos, tmp_path, case=pattern)


@pytest.mark.parametrize("suffix", [".ts", ".mts", ".vob", ".flv", ".wmv", ".MPG"])
def test_index_infer_and_doctor_look_at_the_same_files(suffix: str, videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(next(videos.rglob("*.mp4")), folder / f"a{suffix}")
    (folder / "._a.mp4").write_bytes(b"left by a Mac")
    assert (
        videos_under(folder)
        == find_videos([folder])
        == list(follow(folder, for_s=0.2, every_s=0.05, settle_s=0))
        == [folder / f"a{suffix}"]
    )
    (data,) = (finding for finding in check_before_training(folder, None) if finding.name == "Data set")
    assert data.found == "1 videos, all sampled ones readable"


def test_an_unreadable_video_is_counted_and_not_replaced(videos: Path, tmp_path: Path) -> None:
    trees.text(videos / "train/cut/broken.mp4", ["no video at all"])
    ledger = Ledger()
    assert len(folder(videos, tmp_path, ledger=ledger, max_missing=0.5)) == 3
    assert [kind for kind, _ in ledger.lacks] == ["unreadable video"]


def test_snapshots_beside_a_video_are_no_video(tmp_path: Path) -> None:
    trees.video(tmp_path / "set/p1/a.mp4", 2)
    trees.picture(tmp_path / "set/p1/Still_001.jpg")
    ledger = Ledger()
    found = list(adapter("folder").read(tmp_path / "set", ledger=ledger))
    assert [Path(clip.video).name for clip in found] == ["a.mp4"]
    assert [what for _, what in ledger.left_out] == ["p1"]


def test_folders_of_pictures_whose_names_have_dots_are_cases_of_their_own(tmp_path: Path) -> None:
    for name in ("1.2.840.1", "1.2.840.2"):
        trees.picture(tmp_path / f"set/{name}/0.png")
    found = adapter("folder").read(tmp_path / "set", lists=tmp_path / "lists", fps=1)
    assert [clip.case for clip in found] == ["1.2.840.1", "1.2.840.2"]


@pytest.mark.parametrize("suffix", ["ts", "m2ts", "MTS", "vob", "mxf"])
def test_what_recorders_write_is_found(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"set/a.{suffix}"
    path.parent.mkdir()
    painted.write(path, 25, 25, codec="mpeg2video", format={"vob": "vob", "mxf": "mxf"}.get(suffix, "mpegts"))
    (clip,) = adapter("folder").read(tmp_path / "set")
    assert clip.end_s == pytest.approx(1.0, abs=0.25)


def test_a_folder_of_pictures_is_a_video_of_the_rate_given(tmp_path: Path) -> None:
    for index in (1, 2, 10):
        trees.picture(tmp_path / f"set/knot/one/img{index}.png", grey=index)
    with pytest.raises(ConfigError, match="fps"):
        folder(tmp_path / "set", tmp_path)
    (clip,) = folder(tmp_path / "set", tmp_path, fps="2")
    assert (clip.end_s, clip.labels, clip.case) == (1.5, {"class": "knot"}, "knot/one")
    assert [Path(line.split("\t")[0]).name for line in Path(clip.video).read_text().splitlines()] == [
        "img1.png",
        "img2.png",
        "img10.png",
    ]


# csv


def test_a_table_names_clips_cases_splits_and_labels(tmp_path: Path) -> None:
    trees.video(tmp_path / "a/one.mp4", 3)
    trees.text(
        tmp_path / "clips.csv",
        [
            "\ufeffvideo,start_s,end_s,case,split,phase,grade,meta.site",
            "a/one.mp4,0.5,2,p1,train,cutting,3,north",
            "a/one.mp4,,,p1,,,,",
        ],
    )
    first, second = adapter("csv").read(tmp_path / "clips.csv")
    assert (first.start_s, first.end_s, first.case, first.split) == (0.5, 2.0, "p1", "train")
    assert (first.labels, first.meta) == ({"phase": "cutting", "grade": 3}, {"site": "north"})
    assert (second.start_s, second.end_s, second.labels) == (0.0, 3.0, {})


def test_only_what_is_written_as_a_number_becomes_one(tmp_path: Path) -> None:
    trees.video(tmp_path / "one.mp4", 2)
    words = ["007", "1_2", "5e3", "-0.5", "1e-05", "40", "0", "nan", "NaN"]
    trees.text(tmp_path / "clips.csv", ["video,case,label", *(f"one.mp4,p1,{word}" for word in words)])
    found = [clip.labels.get("label") for clip in adapter("csv").read(tmp_path / "clips.csv")]
    assert found == ["007", "1_2", "5e3", -0.5, 1e-05, 40, 0, None, None]
    assert [type(value) for value in found[3:7]] == [float, float, int, int]


def test_a_table_in_utf_16_is_read_and_one_in_an_older_alphabet_is_refused(tmp_path: Path) -> None:
    trees.video(tmp_path / "one.mp4", 2)
    table, text = tmp_path / "clips.csv", "video\tcase\r\none.mp4\tMüller\r\n"
    table.write_bytes(text.encode("utf-16"))
    assert [clip.case for clip in adapter("csv").read(table, delimiter="tab")] == ["Müller"]
    table.write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match=r"is no UTF-8 text: byte 0xfc .* Save it as UTF-8"):
        list(adapter("csv").read(table, delimiter="tab"))


def test_a_cell_that_is_no_cell_is_no_traceback(tmp_path: Path) -> None:
    trees.text(tmp_path / "clips.csv", ["video,case", f"one.mp4,{'x' * 140_000}"])
    with pytest.raises(DataError, match="cannot be read as a table: field larger"):
        list(adapter("csv").read(tmp_path / "clips.csv"))


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\ufeff{"phase": "Präparation"}', "utf-8")
    assert read_json(tmp_path / "a.json") == {"phase": "Präparation"}


def test_another_column_can_be_the_case(tmp_path: Path) -> None:
    trees.video(tmp_path / "one.mp4", 2)
    trees.text(tmp_path / "clips.csv", ["video;patient", "one.mp4;p7"])
    assert [clip.case for clip in adapter("csv").read(tmp_path / "clips.csv", case="patient", delimiter=";")] == ["p7"]
    assert [clip.case for clip in adapter("csv").read(tmp_path, delimiter=";")] == ["one"]


def test_a_patient_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    trees.video(tmp_path / "a.mp4", 2)
    trees.text(tmp_path / "t.csv", ["video,patient,phase", "a.mp4,p1,cut"])
    with pytest.raises(DataError, match="no column `patiend`"):
        list(adapter("csv")(tmp_path / "t.csv", case="patiend"))


def test_a_row_that_leaves_its_patient_open_is_no_patient_of_its_own(tmp_path: Path) -> None:
    for name in "ab":
        trees.video(tmp_path / f"{name}.mp4", 2)
    trees.text(tmp_path / "t.csv", ["video,patient", "a.mp4,p1", "b.mp4,"])
    ledger = Ledger()
    found = list(adapter("csv").read(tmp_path / "t.csv", case="patient", ledger=ledger, max_missing=0.5))
    assert [clip.case for clip in found] == ["p1"]
    assert ledger.lacks == [("patient of a row", "line 3: b.mp4")]


def test_rows_whose_video_is_missing_are_counted(tmp_path: Path) -> None:
    trees.text(tmp_path / "clips.csv", ["video,case", "gone.mp4,p1"])
    with pytest.raises(DataError, match=r"gone\.mp4"):
        list(adapter("csv").read(tmp_path / "clips.csv"))


def test_a_table_without_a_video_column_is_refused(tmp_path: Path) -> None:
    trees.text(tmp_path / "clips.csv", ["path,label", "one.mp4,3"])
    with pytest.raises(DataError, match="no column `video`; it has path, label"):
        list(adapter("csv").read(tmp_path / "clips.csv"))


def test_a_csv_without_patients_says_that_each_video_counts_as_one(tmp_path: Path) -> None:
    trees.video(tmp_path / "one.mp4", 1)
    trees.text(tmp_path / "clips.csv", ["video,label", "one.mp4,3", "one.mp4,4"])
    silent, told = Ledger(), Ledger()
    list(adapter("csv").read(tmp_path / "clips.csv", ledger=told))
    assert told.summary().count("--set case=COLUMN") == 1
    trees.text(tmp_path / "clips.csv", ["video,case", "one.mp4,p1"])
    list(adapter("csv").read(tmp_path / "clips.csv", ledger=silent))
    assert silent.remarks == []


def test_a_table_cut_by_another_sign_is_told_how_to_say_so(tmp_path: Path) -> None:
    for name, sign in ((";", ";"), ("tab", "\t")):
        trees.text(tmp_path / "clips.csv", [sign.join(("case", "video")), sign.join(("p1", "one.mp4"))])
        with pytest.raises(DataError, match=f"--set delimiter='{name}'"):
            list(adapter("csv").read(tmp_path / "clips.csv"))
        with pytest.raises(DataError, match="video file: line 2"):
            list(adapter("csv").read(tmp_path / "clips.csv", delimiter=name))
    with pytest.raises(ConfigError, match="not one sign"):
        list(adapter("csv").read(tmp_path / "clips.csv", delimiter=";;"))
