"""`surg data check` finds what is wrong, and says nothing where nothing is."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from surg.cli.main import app
from surg.data import hashing
from surg.data.check import Findings, check
from surg.data.manifest import Clip, Label, Manifest, write_manifest
from surg.data.video import iter_frames, write_video
from surg.errors import CheckFailed, DataError
from surg.eval.takes import events_of
from surg.train.breach import breaches_of


def scene(seed: int, count: int = 24) -> np.ndarray:
    """A moving picture of its own: smooth random clouds that drift."""
    rng = np.random.default_rng(seed)
    cloud = cv2.GaussianBlur(rng.uniform(0, 255, (160, 400, 3)), (0, 0), 12)
    cloud = (cloud - cloud.min()) / np.ptp(cloud) * 255
    return np.stack([cloud[:120, 5 * t : 5 * t + 160] for t in range(count)]).astype(np.uint8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(4):
        write_video(folder / f"{seed}.mp4", scene(seed), 8)
    small = (cv2.resize(frame, (112, 84)) for _, frame in iter_frames(folder / "1.mp4"))
    write_video(folder / "copy_of_1.mp4", small, 8, crf=33)
    return folder


def found(clips: list[Clip], tmp_path: Path, depth: str = "sample") -> Findings:
    return check(write_manifest(tmp_path / "m.parquet", clips), tmp_path / "work.parquet", depth=depth, workers=1)


def sound(videos: Path) -> list[Clip]:
    return [
        Clip(str(videos / f"{n}.mp4"), 0, 3, f"c{n}", ("train", "val")[n % 2], "own", "CC0", {"action": "ab"[n % 2]})
        for n in range(4)
    ]


def test_a_sound_manifest_has_no_problems(videos: Path, tmp_path: Path) -> None:
    result = found(sound(videos), tmp_path)
    assert (result.problems, result.remarks, result.duplicates) == ([], [], [])
    assert result.classes == {"action": {"a": {"train": 2}, "b": {"val": 2}}}
    assert (result.splits, result.cases, result.licences) == ({"train": 2, "val": 2}, {"train": 2, "val": 2}, {"CC0": 4})
    assert (result.clips, result.videos, round(result.hours * 3600)) == (4, 4, 12)


def test_unreadable_videos_are_listed_with_the_reason(videos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((videos / "0.mp4").read_bytes()[:500])
    clips = [*sound(videos), Clip(str(broken), 0, 1, "x"), Clip(str(tmp_path / "absent.mp4"), 0, 1, "y")]
    result = found(clips, tmp_path)
    assert {Path(video).name for video, _ in result.unreadable} == {"broken.mp4", "absent.mp4"}
    assert any("There is no video" in error for _, error in result.unreadable)
    only_bad = found([Clip(str(broken), 0, 1, "x")], tmp_path)
    assert [Path(video).name for video, _ in only_bad.unreadable] == ["broken.mp4"]


def test_full_depth_finds_damage_in_the_middle_that_a_sample_may_miss(videos: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", (frame for seed in range(9) for frame in scene(seed)), 8, gop=200)
    data = bytearray((tmp_path / "long.mp4").read_bytes())
    half = len(data) // 2
    data[half : half + 4000] = np.random.default_rng(0).bytes(4000)
    (tmp_path / "long.mp4").write_bytes(bytes(data))
    clip = Clip(str(tmp_path / "long.mp4"), 0, 20, "c")
    assert found([clip], tmp_path, "none").unreadable == []
    assert len(found([clip], tmp_path, "full").unreadable) == 1


def test_clips_beyond_the_end_of_their_video_are_found(videos: Path, tmp_path: Path) -> None:
    clips = [*sound(videos), replace(sound(videos)[0], start_s=3, end_s=10)]
    ((video, end_s, duration_s),) = found(clips, tmp_path).beyond
    assert (Path(video).name, end_s, duration_s) == ("0.mp4", 10, 3)


def test_a_smaller_recompressed_copy_is_found_and_is_a_problem_across_sides(videos: Path, tmp_path: Path) -> None:
    copy = Clip(str(videos / "copy_of_1.mp4"), 0, 3, "other", "train", "own", "CC0")
    result = found([*sound(videos), copy], tmp_path)
    ((one, other, bits, across),) = result.duplicates
    assert {Path(one).name, Path(other).name} == {"1.mp4", "copy_of_1.mp4"}
    assert across
    assert bits < hashing.NEAR_BITS
    assert result.problems == ["1 pairs of near-duplicate videos lie on two sides of the split"]
    assert found([*sound(videos), replace(copy, split="val")], tmp_path).problems == []


def test_black_videos_are_not_called_copies_of_each_other(tmp_path: Path) -> None:
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", np.zeros((16, 64, 64, 3), np.uint8), 8)
    assert found([Clip(str(tmp_path / f"{name}.mp4"), 0, 1, name) for name in "ab"], tmp_path).duplicates == []


def test_many_videos_are_compared_by_bands_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(1, 2**62, (300, hashing.FRAMES))
    for original, copy in ((3, 200), (50, 51), (7, 299)):
        table[copy] = table[original]
        for frame in range(hashing.FRAMES):
            table[copy, frame] ^= 1 << int(rng.integers(0, 62))
    every = hashing.near_duplicates(table)
    monkeypatch.setattr(hashing, "ALL_PAIRS", 10)
    assert [(one, other) for one, other, _ in every] == [(3, 200), (7, 299), (50, 51)]
    assert hashing.near_duplicates(table) == every
    # More than a few that look alike, too: they share every band with each other.
    table[:205] = table[0]
    assert len(hashing.near_duplicates(table)) == 205 * 204 // 2


def test_patients_on_two_sides_are_a_leak_also_under_two_names(videos: Path, tmp_path: Path) -> None:
    clips = sound(videos)
    assert len(found([*clips, replace(clips[0], split="val")], tmp_path, "none").leaks) == 1
    one = replace(clips[0], source="cholec80", case="cholec80/video02", split="train")
    other = replace(clips[1], source="cholect50", case="cholect50/VID02", split="val")
    assert len(found([one, other], tmp_path, "none").leaks) == 1


def test_a_moment_of_one_video_on_two_sides_is_a_leak_whatever_its_cases_are_called(videos: Path, tmp_path: Path) -> None:
    clips = sound(videos)
    (tmp_path / "link.mp4").symlink_to(clips[0].video)
    again = replace(clips[0], case="elsewhere/c0", split="val", start_s=2.0)
    for video in (clips[0].video, str(tmp_path / "link.mp4")):
        result = found([*clips, replace(again, video=video)], tmp_path, "none")
        assert len(result.leaks) == 1
        assert "2 to 3 s are in train as case 'c0' and in val as case 'elsewhere/c0'" in result.leaks[0]
    # A camera that runs all day sees other patients later.
    result = found([*clips, replace(again, start_s=3.0, end_s=4.0)], tmp_path, "none")
    assert (result.problems, len(result.remarks)) == ([], 1)
    assert "at times that do not overlap" in result.remarks[0]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"breach": 1, "breach_t0": 3.0, "breach_t1": 2.0}, "from 3 to 2 s makes no sense"),
        ({"breach": 1, "breach_t0": 0.5, "breach_t1": "abc"}, "`breach_t1` is 'abc'"),
        ({"breach": 1, "breach_t0": 0.5}, "from 0.5 to -1 s makes no sense"),
        ({"breach": "yes"}, "expected 0 or 1"),
        ({"breach": 1, "breaches": "0.5-1"}, "as JSON"),
    ],
)
def test_a_breach_that_cannot_be_read_is_found_and_refused_alike_by_training_and_evaluation(
    labels: dict[str, Label], told: str, videos: Path, tmp_path: Path
) -> None:
    wrong = replace(sound(videos)[0], labels=labels)
    report = found([wrong, *sound(videos)[1:]], tmp_path, "none")
    assert report.problems == ["1 clips have breach labels that cannot be read"]
    assert told in report.breaches[0]
    for read in (breaches_of, events_of):
        with pytest.raises(DataError, match=re.escape(told)):
            read(wrong)


def test_a_breach_beyond_its_clip_is_remarked_upon(videos: Path, tmp_path: Path) -> None:
    late = replace(sound(videos)[0], labels={"breach": 1, "breach_t0": 300.0, "breach_t1": 500.0})
    report = found([late, *sound(videos)[1:]], tmp_path, "none")
    assert report.problems == []
    assert "1 clips are labelled as a breach whose times lie outside the clip" in report.remarks


def test_the_command_reports_as_text_and_json_and_fails_with_status_1(videos: Path, tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", sound(videos)).path
    done = CliRunner().invoke(app, ["data", "check", str(path), "--out", str(tmp_path / "f.json"), "--workers", "1"])
    assert done.exit_code == 0
    assert "Nothing wrong." in done.output
    assert json.loads((tmp_path / "f.json").read_text())["videos"] == 4
    write_manifest(path, [*sound(videos), Clip(str(tmp_path / "absent.mp4"), 0, 1, "x")])
    done = CliRunner().invoke(app, ["data", "check", str(path), "--json", "--workers", "1"])
    assert isinstance(done.exception, CheckFailed)
    assert json.loads(done.stdout)["problems"] == ["1 videos cannot be read"]


def test_a_forced_split_by_clip_stays_a_problem(videos: Path, tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", [replace(clip, split="") for clip in sound(videos)]).path
    CliRunner().invoke(app, ["data", "split", str(path), "--unit", "clip", "--force"])
    result = check(Manifest.read(path), tmp_path / "w.parquet", depth="none")
    assert any("forced" in problem for problem in result.problems)
