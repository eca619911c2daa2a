"""A manifest made from another one goes on naming the same files, and keeps notes and timeline."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surg.cli.main import app
from surg.data.derive import derive, derive_batches
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.timeline import Sample, Timeline, timeline_path, write_timeline
from surg.errors import DataError


@pytest.fixture
def source(tmp_path: Path) -> Manifest:
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [
        Clip(str(folder / f"videos/{case}.mp4"), 0, 4, f"case{case}", masks=str(folder / "masks.npz") if case else None)
        for case in range(8)
    ]
    rows.append(Clip(str(tmp_path / "elsewhere/9.mp4"), 0, 4, "case9"))
    manifest = write_manifest(folder / "m.parquet", rows, {"leak": "by clip"})
    write_timeline(
        timeline_path(manifest.path), [Sample("case0", 1.0, "phase", None, "cut"), Sample("case9", 2.0, "phase", None, "sew")]
    )
    return manifest


@pytest.mark.parametrize("place", ["set/again.parquet", "other/deep/m.parquet", "m.parquet", "elsewhere/m.parquet"])
def test_the_same_files_are_named_from_any_folder(source: Manifest, tmp_path: Path, place: str) -> None:
    made = derive_batches(source, tmp_path / place, source.batches())
    assert list(made.clips()) == list(source.clips())
    again = derive(source, tmp_path / place, source.clips())
    assert again.fingerprint == made.fingerprint


def test_a_folder_may_move_with_its_videos_after_a_split(source: Manifest, tmp_path: Path) -> None:
    derive_batches(source, tmp_path / "whole.parquet", source.batches())
    stored = [row["video"] for batch in Manifest.read(tmp_path / "whole.parquet").batches() for row in batch.to_pylist()]
    assert stored == [*(f"set/videos/{case}.mp4" for case in range(8)), "elsewhere/9.mp4"]


def test_notes_and_timeline_come_along(source: Manifest, tmp_path: Path) -> None:
    made = derive(source, tmp_path / "n.parquet", (replace(clip, split="train") for clip in source), {"split": "all"})
    assert made.notes == {"leak": "by clip", "split": "all"}
    assert Timeline(timeline_path(made.path)).track("case9", "phase").texts == ["sew"]
    # Without one in the source, none is left of what lay there before.
    timeline_path(source.path).unlink()
    derive(source, tmp_path / "n.parquet", source.clips())
    assert not timeline_path(made.path).exists()


def test_clips_with_times_of_their_own_leave_the_timeline_behind(source: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "n.parquet"
    derive(source, out, source.clips())
    made = derive(source, out, source.clips(), same_times=False)
    assert made.notes == source.notes
    assert not timeline_path(out).exists()


def test_a_manifest_that_cannot_be_written_costs_nothing(source: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "n.parquet"
    before = derive(source, out, source.clips()).fingerprint
    timeline_path(source.path).unlink()
    with pytest.raises(DataError, match="has no case"):
        derive(source, out, (replace(clip, case="") for clip in source))
    assert Manifest.read(out).fingerprint == before
    assert Timeline(timeline_path(out)).track("case0", "phase").texts == ["cut"]


def test_a_manifest_that_takes_its_own_place_keeps_its_timeline(source: Manifest) -> None:
    derive_batches(source, source.path, source.batches())
    assert Timeline(timeline_path(source.path)).track("case0", "phase").texts == ["cut"]


def test_split_and_classes_write_into_other_folders(source: Manifest, tmp_path: Path) -> None:
    grades = (replace(clip, labels={"grade": "ab"[number % 2]}) for number, clip in enumerate(source))
    graded = derive(source, source.path.with_name("graded.parquet"), grades)
    split, classes = tmp_path / "a/s.parquet", tmp_path / "b/c.parquet"
    for words in (("split", graded.path, "--out", split), ("classes", split, "--label", "grade", "--out", classes)):
        done = CliRunner().invoke(app, ["data", *map(str, words)])
        assert done.exit_code == 0, done.output
    for made in (Manifest.read(split), Manifest.read(classes)):
        assert [(clip.video, clip.masks) for clip in made] == [(clip.video, clip.masks) for clip in source]
        assert made.notes["split"].startswith("by case")
        assert Timeline(timeline_path(made.path)).names("case9") == ["phase"]
