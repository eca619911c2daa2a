"""The commands, one after the other, on real files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from surg.cli.main import app
from surg.data.classes import ClassConfig, fit_label_classes
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.timeline import Sample, timeline_path, write_timeline
from surg.data.video import write_video
from surg.errors import CheckFailed, ConfigError, DataError
from tests.data.motion.test_segment import tissue


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    clips = []
    for number, step in enumerate([(5.0, 0.0), (-5.0, 0.0), (5.0, 0.5), (-5.0, 0.5)]):
        frames, _ = tissue(12, (step, (0.0, 0.0)))
        write_video(folder / f"{number}.mp4", frames, 8.0)
        split = "train" if number < 3 else "test"
        clips.append(
            Clip(str(folder / f"{number}.mp4"), 0.0, 11 / 8, f"case{number}", split, labels={"gesture": "ab"[number % 2]})
        )
    return write_manifest(folder / "manifest.parquet", clips).path


def surg(*words: object) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_videos_to_factor_clips(manifest, tmp_path):
    table, masks = tmp_path / "motion.parquet", tmp_path / "masks" / "manifest.parquet"
    told = json.loads(surg("motion", manifest, "--out", table, "--workers", 1, "--json"))
    assert (told["clips"], len(told["features"])) == (4, 23)
    classes = tmp_path / "classes.parquet"
    settings = ("--set", "magnitudes=1", "--set", "directions=2")
    told = json.loads(surg("classes", manifest, "--motion", table, "--out", classes, *settings, "--json"))
    assert set(told["counts"]) == {"right-moves", "left-moves"}
    assert [clip.labels["motion_class"] for clip in Manifest.read(classes)] == ["right-moves", "left-moves"] * 2
    again = surg(
        "classes", manifest, "--motion", table, "--out", tmp_path / "b.parquet", "--book", tmp_path / "classes.classes.json"
    )
    assert "right-moves" in again
    told = json.loads(surg("segment", classes, "--out", tmp_path / "masks", "--workers", 1, "--json"))
    assert (told["tracks"], told["agents"]) == (8, 4)
    assert "agents yellow" in surg("factors", "show", masks, "--out", tmp_path / "factors.jpg", "--clips", 2)
    assert (tmp_path / "factors.jpg").stat().st_size > 5000
    write_timeline(timeline_path(masks), [Sample("case0", 0.5, "phase", None, "cut")])
    told = json.loads(surg("factors", "make", masks, "--out", tmp_path / "factors", "--json"))
    assert timeline_path(Path(told["manifest"])).is_file()
    assert told["clips"]["D_L"] == told["clips"]["D_A"] == 4
    disk = json.loads(
        surg("factors", "make", masks, "--out", tmp_path / "disk", "--kinds", "D_A", "--to-disk", "--workers", 1, "--json")
    )
    assert disk["clips"] == {"D_A": 4}
    assert all(Path(clip.video).suffix == ".mkv" for clip in Manifest.read(disk["manifest"]))
    # They begin at 0: the times of the case are not theirs.
    assert not list((tmp_path / "disk").glob("*.timeline.parquet"))


def test_a_class_book_of_another_kind_is_refused_and_no_manifest_without_labels_is_written(manifest, tmp_path):
    book, out = tmp_path / "book.json", tmp_path / "out.parquet"
    fit_label_classes(["a", "a", "b", "b"], ClassConfig(label="side")).save(book)
    for words, way in ((("--label", "colour"), "--label side"), (("--label", "side", "--set", "classes=3"), "--set")):
        answer = CliRunner().invoke(app, ["data", "classes", str(manifest), "--out", str(out), "--book", str(book), *words])
        assert way in str(answer.exception)
    assert not out.exists()


def test_a_label_makes_classes_without_motion(manifest, tmp_path):
    told = json.loads(
        surg("classes", manifest, "--label", "gesture", "--name", "kind", "--out", tmp_path / "c.parquet", "--json")
    )
    assert told["counts"] == {"a": {"train": 2}, "b": {"train": 1, "test": 1}}
    with pytest.raises(ConfigError, match="one of"):
        surg("classes", manifest, "--out", tmp_path / "c.parquet")


def test_tags_and_their_recall(manifest, tmp_path):
    told = json.loads(surg("tag", manifest, "--out", tmp_path / "tags.parquet", "--workers", 1, "--recall", "--json"))
    assert told["counts"]["view"] == {"endoscopic": 4}
    assert told["counts"]["instruments"] == {"unknown": 4}
    assert told["recall"] == {}


def test_changed_settings_are_not_taken_for_done(manifest, tmp_path):
    import pyarrow.parquet as pq

    table = tmp_path / "motion.parquet"
    surg("motion", manifest, "--out", table, "--workers", 1)
    first = pq.read_table(table).column("flow_mean").to_pylist()
    surg("motion", manifest, "--out", table, "--workers", 1)
    assert pq.read_table(table).column("flow_mean").to_pylist() == first
    surg("motion", manifest, "--out", table, "--workers", 1, "--set", "size=112")
    assert pq.read_table(table).column("flow_mean").to_pylist() != first


def test_failed_clips_are_counted_and_fail_the_run_above_a_share(manifest, tmp_path):
    clips = [*Manifest.read(manifest), Clip(str(tmp_path / "absent.mp4"), 0.0, 1.0, "case9", "train")]
    broken = write_manifest(tmp_path / "broken.parquet", clips).path
    with pytest.raises(CheckFailed, match="1 of 5"):
        surg("motion", broken, "--out", tmp_path / "m.parquet", "--workers", 1)
    assert "4 clips" in surg("motion", broken, "--out", tmp_path / "m.parquet", "--workers", 1, "--max-failed", 0.5)


def test_wrong_combinations_are_said(manifest, tmp_path):
    for words, message in (
        (("segment", manifest, "--out", tmp_path, "--weights", tmp_path), "takes no weights"),
        (("segment", manifest, "--out", tmp_path, "--prompt", "hand"), "takes no prompts"),
        (("tag", manifest, "--weights", tmp_path), "takes no weights"),
        (("factors", "make", manifest, "--out", tmp_path, "--kinds", "D_X"), "expected some of"),
        (("motion", manifest, "--flow", "raft-small"), "weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            surg(*words)
    with pytest.raises(DataError, match="surg data segment"):
        surg("factors", "show", manifest)
    unsplit = write_manifest(tmp_path / "u.parquet", [Clip("x.mp4", 0.0, 1.0, "c", labels={"gesture": "a"})]).path
    with pytest.raises(DataError, match="surg data split"):
        surg("classes", unsplit, "--label", "gesture", "--out", tmp_path / "o.parquet")


def test_motion_of_a_long_clip_is_sampled_and_of_a_slow_video_not_repeated(manifest):
    from surg.data.motion import MotionConfig, clip_runs, describe_clip

    clip = next(iter(Manifest.read(manifest)))
    assert describe_clip(clip, MotionConfig())["pairs"] == 11  # 12 frames at the video's own 8 fps, though 16 were asked for
    runs = list(clip_runs(clip, MotionConfig(frames=6)))
    assert [len(np.asarray(run)) for run in runs] == [2, 2, 2]
    assert describe_clip(clip, MotionConfig(fps=4.0))["flow_mean"] > describe_clip(clip, MotionConfig())["flow_mean"]


def test_two_zones_of_one_stretch_have_masks_of_their_own(manifest, tmp_path):
    first = next(iter(Manifest.read(manifest)))
    zones = ([[0.0, 0.0], [0.4, 0.0], [0.4, 1.0]], [[0.6, 0.0], [1.0, 0.0], [1.0, 1.0]])
    two = write_manifest(tmp_path / "two.parquet", [replace(first, zone=zone) for zone in zones]).path
    surg("segment", two, "--out", tmp_path / "masks", "--workers", 1)
    assert len({clip.masks for clip in Manifest.read(tmp_path / "masks/manifest.parquet")}) == 2
