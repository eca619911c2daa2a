"""Manifests put together: nothing lost, nothing twice, no patient on two sides."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surg.cli.main import app
from surg.data.check import check
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.merge import merge
from surg.data.splits import parse_shares, split_by_clip
from surg.data.timeline import Sample, Timeline, timeline_path, write_timeline
from surg.errors import DataError


def part(path: Path, name: str, split: str = "train", clips: int = 3, source: str = "folder") -> Manifest:
    path.parent.mkdir(exist_ok=True)
    video = str(path.parent / f"{name}.mp4")
    return write_manifest(path, [Clip(video, n, n + 1, name, split, source, labels={"n": n}) for n in range(clips)])


def test_every_clip_of_every_part_stands_in_the_whole(tmp_path: Path) -> None:
    parts = [part(tmp_path / "x/m.parquet", "one"), part(tmp_path / "y/m.parquet", "two", "test", 5)]

    merged = merge(parts, tmp_path / "z/all.parquet")

    assert list(merged.clips()) == [clip for manifest in parts for clip in manifest.clips()]
    assert merged.counts("split") == {"test": 5, "train": 3}
    assert merged.notes["part 2"] == parts[1].fingerprint


def test_a_clip_in_two_parts_is_refused_and_nothing_written(tmp_path: Path) -> None:
    first, again = part(tmp_path / "m.parquet", "one"), part(tmp_path / "n.parquet", "one", clips=1)

    with pytest.raises(DataError, match=r"0 to 1 s, stands in .*m\.parquet and again in .*n\.parquet"):
        merge([first, again], tmp_path / "all.parquet")

    assert not (tmp_path / "all.parquet").exists()


@pytest.mark.parametrize("other", ["link/one.mp4", "x/../one.mp4"])
def test_a_clip_in_two_parts_is_found_by_its_file_and_not_by_its_path(other: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "x").mkdir()
    first = part(tmp_path / "m.parquet", "one")
    again = write_manifest(tmp_path / "n.parquet", [Clip(f"{tmp_path}/{other}", 0, 1, "one", "train", "folder")])

    with pytest.raises(DataError, match="0 to 1 s, stands in"):
        merge([first, again], tmp_path / "all.parquet")


def test_a_moment_of_one_video_is_refused_on_two_sides_although_its_cases_have_two_names(tmp_path: Path) -> None:
    # The same folder, indexed from two places: its files are cases by their path from there.
    first = part(tmp_path / "m.parquet", "one")
    clip = Clip(str(tmp_path / "one.mp4"), 1.5, 2, "site/one", "test", "folder")

    with pytest.raises(DataError, match=r"1\.5 to 2 s are in train as case 'one' and in test as case 'site/one'"):
        merge([first, write_manifest(tmp_path / "n.parquet", [clip])], tmp_path / "all.parquet")

    assert not (tmp_path / "all.parquet").exists()
    merge([first, write_manifest(tmp_path / "n.parquet", [replace(clip, split="train")])], tmp_path / "all.parquet")
    merge([first, write_manifest(tmp_path / "n.parquet", [replace(clip, start_s=3, end_s=9)])], tmp_path / "all.parquet")


def test_a_patient_under_two_names_is_refused_on_two_sides(tmp_path: Path) -> None:
    one = part(tmp_path / "m.parquet", "video02", "train", source="cholec80")
    other = part(tmp_path / "n.parquet", "VID02", "test", source="cholect50")

    with pytest.raises(DataError, match="1 patients are on two sides"):
        merge([one, other], tmp_path / "all.parquet")


def test_a_part_that_leaks_makes_the_whole_leak(tmp_path: Path) -> None:
    leaky = tmp_path / "m.parquet"
    split_by_clip(part(leaky, "one", "", 40), leaky, parse_shares("train=0.5,test=0.5"), seed=0, force=True, replace=True)
    clean = part(tmp_path / "n.parquet", "two")
    # Its patient is on two sides already: whole it would be refused, and of one side it is still part of a leaking split.
    whole = merge([clean, Manifest.read(leaky).select(split="train")], tmp_path / "all.parquet")

    assert any("on several sides" in problem for problem in check(whole, tmp_path / "videos.parquet", depth="none").problems)


def test_timelines_come_along_and_are_not_told_twice(tmp_path: Path) -> None:
    one, two, bare = (part(tmp_path / f"{name}.parquet", name) for name in ("one", "two", "bare"))
    write_timeline(
        timeline_path(one.path), [Sample("one", 0.5, "state", value=(1.0, 2.0)), Sample("one", 1.5, "phase", text="close")]
    )
    write_timeline(timeline_path(two.path), [Sample("two", 0.0, "state", value=(3.0, 4.0))])

    merged = Timeline(timeline_path(merge([one, bare, two], tmp_path / "all.parquet").path))

    assert merged.cases() == ["one", "two"]
    assert merged.track("one", "phase").texts == ["close"]
    assert merged.track("two", "state").values.tolist() == [[3.0, 4.0]]
    # Without any, what an earlier file of that name had told is gone as well.
    merge([bare, part(tmp_path / "more.parquet", "more")], tmp_path / "all.parquet")
    assert not timeline_path(tmp_path / "all.parquet").exists()

    write_timeline(timeline_path(bare.path), [Sample("one", 0.5, "state", value=(1.0, 2.0))])
    with pytest.raises(DataError, match=r"tell 'state' of case 'one'"):
        merge([one, bare], tmp_path / "twice.parquet")
    assert not (tmp_path / "twice.parquet").exists()


def test_command_names_the_sides_and_refuses_to_write_over_a_part(tmp_path: Path) -> None:
    one, two = (str(part(tmp_path / f"{name}.parquet", name).path) for name in ("one", "two"))

    done = CliRunner().invoke(app, ["data", "merge", one, two, "--out", str(tmp_path / "all.parquet")])
    assert done.exit_code == 0, done.output
    assert "6 clips" in done.stdout

    refused = CliRunner().invoke(app, ["data", "merge", one, two, "--out", one])
    assert "is one of the manifests" in str(refused.exception)
    assert len(Manifest.read(one)) == 3
