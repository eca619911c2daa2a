"""Cholec80, CholecT50, CholecTrack20, Endoscapes: the sets of one operation."""

import shutil
from pathlib import Path

import pytest

from surg.data.adapters.cholect50 import TEST, VAL
from surg.data.adapters.ledger import Ledger
from surg.data.adapters.registry import adapter
from surg.data.manifest import Clip
from surg.data.stills import open_stills
from surg.data.timeline import Sample
from surg.errors import DataError
from tests.data.adapters import trees


def spans(clips: list[Clip], label: str) -> list[tuple[float, float, object]]:
    return [(round(clip.start_s, 3), round(clip.end_s, 3), clip.labels[label]) for clip in clips]


def of(samples: list[Sample], case: str, name: str) -> list[Sample]:
    return [sample for sample in samples if sample.case == case and sample.name == name]


# Cholec80


def test_phases_at_25_frames_a_second_become_intervals_in_seconds(tmp_path: Path) -> None:
    found = list(adapter("cholec80").read(trees.cholec80(tmp_path, [1])))
    assert spans(found, "phase") == [
        (0.0, 2.0, "Preparation"),
        (2.0, 5.0, "CalotTriangleDissection"),
        (5.0, 6.0, "ClippingCutting"),
    ]


def test_phases_are_placed_by_their_frame_number_and_not_by_their_line(tmp_path: Path) -> None:
    root = trees.cholec80(tmp_path, [1])
    trees.text(
        root / "phase_annotations/video01-phase.txt", ["Frame\tPhase", *(f"{25 * second}\tPreparation" for second in range(3))]
    )
    found = list(adapter("cholec80").read(root))
    assert [round(clip.start_s, 2) for clip in found] == [0.0, 1.0, 2.0]


def test_tools_stand_at_every_25th_frame(tmp_path: Path) -> None:
    tools = of(list(adapter("cholec80").timeline(trees.cholec80(tmp_path, [1]))), "cholec80/video01", "tools")
    assert [(sample.time_s, sample.value) for sample in tools[:2]] == [
        (0.0, (0, 0, 1, 0, 0, 0, 0)),
        (1.0, (1, 0, 1, 0, 0, 0, 0)),
    ]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [("40/40", ["train", "train", "test"]), ("32/8/40", ["train", "val", "test"]), ("40/8/32", ["train", "train", "val"])],
)
def test_the_three_protocols_differ(tmp_path: Path, protocol: str, expected: list[str]) -> None:
    found = adapter("cholec80").read(trees.cholec80(tmp_path), protocol=protocol)
    assert list({clip.case: clip.split for clip in found}.values()) == expected


def test_a_video_without_phases_fails_above_the_allowed_share(tmp_path: Path) -> None:
    root = trees.cholec80(tmp_path)
    (root / "phase_annotations/video33-phase.txt").unlink()
    with pytest.raises(DataError, match=r"phase annotations: video33\.mp4"):
        list(adapter("cholec80").read(root))
    assert len({clip.case for clip in adapter("cholec80").read(root, max_missing=0.2)}) == 2


# CholecT50


@pytest.fixture(scope="module")
def triplets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.cholect50(tmp_path_factory.mktemp("cholect50"))


def video01(root: Path, lists: Path, **options: object) -> list[Clip]:
    return [clip for clip in adapter("cholect50").read(root, lists=lists, **options) if clip.case == "cholect50/VID01"]


def test_frame_keys_are_sorted_as_numbers(triplets: Path, tmp_path: Path) -> None:
    found = spans(video01(triplets, tmp_path, drop_black=False), "phase")
    assert found == [(0.0, 10.0, "preparation"), (10.0, 12.0, "carlot-triangle-dissection")]


def test_blacked_out_frames_are_in_no_clip(triplets: Path, tmp_path: Path) -> None:
    found = spans(video01(triplets, tmp_path), "phase")
    assert found == [(0.0, 5.0, "preparation"), (6.0, 10.0, "preparation"), (10.0, 12.0, "carlot-triangle-dissection")]


def test_minus_one_is_no_triplet_and_no_index(triplets: Path, tmp_path: Path) -> None:
    found = spans(video01(triplets, tmp_path, label="triplets", drop_black=False), "triplets")
    both = "grasper,retract,gallbladder + hook,dissect,gallbladder"
    assert found == [(0.0, 8.0, both), (8.0, 10.0, "none"), (10.0, 12.0, both)]
    told = of(list(adapter("cholect50").timeline(triplets)), "cholect50/VID01", "triplets")
    assert told[8].value == ()
    assert told[0].value == (17.0, 60.0)


def test_boxes_of_minus_one_are_no_boxes(triplets: Path) -> None:
    boxes = of(list(adapter("cholect50").timeline(triplets)), "cholect50/VID01", "boxes")
    assert [sample.text for sample in boxes[:1]] == ["[[2, 0.1, 0.2, 0.3, 0.4]]"]
    assert 8.0 not in {sample.time_s for sample in boxes}


def test_pictures_become_a_video_at_one_frame_a_second(triplets: Path, tmp_path: Path) -> None:
    shown = open_stills(Path(video01(triplets, tmp_path)[0].video))
    assert shown.times_s.tolist() == [float(index) for index in range(12)]
    assert [path.name for path in shown.files[:2]] == ["000000.png", "000001.png"]


def test_the_split_of_the_rendezvous_paper(triplets: Path, tmp_path: Path) -> None:
    splits = {clip.case[-5:]: clip.split for clip in adapter("cholect50").read(triplets, lists=tmp_path)}
    assert splits == {"VID01": "train", "VID08": "val", "ID111": "test"}
    assert (len(VAL), len(TEST)) == (5, 10)


def test_a_video_without_frames_is_missing(triplets: Path, tmp_path: Path) -> None:
    root = shutil.copytree(triplets, tmp_path / "copy")
    shutil.rmtree(root / "videos/VID08")
    ledger = Ledger()
    list(adapter("cholect50").read(root, lists=tmp_path / "lists", ledger=ledger, max_missing=0.5))
    assert ledger.lacks == [("frames", "VID08")]


# CholecTrack20


def test_keys_are_frames_of_the_25_fps_video(tmp_path: Path) -> None:
    found = list(adapter("cholectrack20").read(trees.cholectrack20(tmp_path / "set"), lists=tmp_path / "lists"))
    first = [clip for clip in found if clip.case == "cholectrack20/VID02"]
    assert spans(first, "phase_id") == [(1.04, 6.04, 0), (6.04, 8.04, 1)]
    assert open_stills(Path(first[0].video)).times_s.tolist() == [1.04, 2.04, 3.04, 6.04, 7.04]


def test_videos_and_frames_stand_side_by_side_and_folders_are_splits(tmp_path: Path) -> None:
    found = list(adapter("cholectrack20").read(trees.cholectrack20(tmp_path / "set"), lists=tmp_path / "lists"))
    assert {(Path(clip.video).suffix, clip.split) for clip in found} == {(".txt", "train"), (".mp4", "test")}


# Endoscapes


def test_pictures_of_several_videos_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    found = list(adapter("endoscapes").read(trees.endoscapes(tmp_path / "set"), lists=tmp_path / "lists", label="none"))
    assert [(clip.case, clip.split, clip.end_s) for clip in found] == [
        ("endoscapes/endoscapes_1", "train", 11.0),
        ("endoscapes/endoscapes_2", "train", 11.0),
        ("endoscapes/endoscapes_190", "test", 11.0),
    ]


def test_a_criterion_is_met_by_the_share_of_raters(tmp_path: Path) -> None:
    root = trees.endoscapes(tmp_path / "set")
    found = [clip for clip in adapter("endoscapes").read(root, lists=tmp_path / "lists") if clip.case.endswith("_1")]
    assert spans(found, "cvs") == [(0.0, 10.0, 0), (10.0, 11.0, 1)]
    assert [found[0].labels[name] for name in ("two_structures", "cystic_plate", "hepatocystic_triangle")] == [1, 1, 0]
    strict = [
        clip for clip in adapter("endoscapes").read(root, lists=tmp_path / "lists", threshold=0.7) if clip.case.endswith("_1")
    ]
    assert {clip.labels["cvs"] for clip in strict} == {0}


def test_pictures_without_a_rating_have_none(tmp_path: Path) -> None:
    told = of(list(adapter("endoscapes").timeline(trees.endoscapes(tmp_path))), "endoscapes/endoscapes_1", "cvs")
    assert [sample.time_s for sample in told] == [0.0, 5.0, 10.0]


def test_pictures_that_the_video_table_leaves_out_are_listed_from_the_disk(tmp_path: Path) -> None:
    root = trees.endoscapes(tmp_path / "set")
    trees.dump(root / "test/annotation_coco_vid.json", {"images": []})
    found = [clip for clip in adapter("endoscapes").read(root, lists=tmp_path / "lists") if clip.split == "test"]
    assert len(open_stills(Path(found[0].video)).files) == 11
