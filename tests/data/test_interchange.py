"""In and out of other tools' formats. The expected texts are written by hand from the formats' descriptions."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surg.cli.main import app
from surg.data import interchange
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.video import probe, read_frames
from surg.errors import ConfigError, DataError, SurgError
from tests.data import painted


def run(*arguments: object) -> None:
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if isinstance(done.exception, SurgError):
        raise done.exception
    assert done.exit_code == 0, done.output


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "v").mkdir()
    painted.write(tmp_path / "v" / "a b.mp4", 50, 25)
    clips = [
        Clip("v/a b.mp4", 0, 2, "case one", "train", "own", "CC0", {"action": "cut", "n": 1}, [[0, 0], [1, 0], [0.5, 1]]),
        Clip("v/a b.mp4", 0.4, 1.2, "case two", "val", labels={"action": "a tie"}, meta={"note": 'says "hi", ü'}),
    ]
    return write_manifest(tmp_path / "m.parquet", clips)


def test_csv_there_and_back_is_the_same_manifest_beside_it_and_elsewhere(manifest: Manifest, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "elsewhere"):
        run("export", manifest.path, "--out", folder / "t.csv")
        run("import", folder / "t.csv", "--out", tmp_path / "back.parquet")
        assert Manifest.read(tmp_path / "back.parquet").fingerprint == manifest.fingerprint


def test_a_spreadsheets_csv_with_few_columns_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffcase,video,start_s,end_s\r\nc1,/v.mp4,0,1.5\r\n", encoding="utf-8")
    run("import", tmp_path / "t.csv", "--out", tmp_path / "m.parquet")
    assert list(Manifest.read(tmp_path / "m.parquet").clips()) == [Clip("/v.mp4", 0, 1.5, "c1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,case\na,b\n", "lacks the columns start_s, end_s"),
        ("video,case,start_s,end_s\n/a,b,zero,1\n", "line 2: could not convert"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_by_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        run("import", tmp_path / "t.csv", "--out", tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


def test_vjepa_gets_whole_videos_as_they_are_and_parts_cut_out(manifest: Manifest, tmp_path: Path) -> None:
    run("export", manifest.path, "--out", tmp_path / "x", "--format", "vjepa", "--label", "action")
    assert (tmp_path / "x/train.csv").read_text() == f'"{tmp_path}/v/a b.mp4" 1\n'
    part = tmp_path / "x/clips/0000001.mp4"
    assert (tmp_path / "x/val.csv").read_text() == (f'"{part}" 0\n' if " " in str(part) else f"{part} 0\n")
    assert json.loads((tmp_path / "x/classes.json").read_text()) == {"a tie": 0, "cut": 1}
    assert probe(part).duration_s == pytest.approx(0.8, abs=0.05)
    assert painted.numbers_of(read_frames(part, [0.01, 0.79])) == [10, 29]


def test_vjepa_videos_of_one_name_in_two_folders_are_two_cases_and_an_apostrophe_is_no_quote(tmp_path: Path) -> None:
    for folder in ("O'Brien", "Roe"):
        (tmp_path / folder).mkdir()
        painted.write(tmp_path / folder / "video.mp4", 10, 25)
    quoted = '"' if " " in str(tmp_path) else ""
    rows = [f"{quoted}{tmp_path}/{who}/video.mp4{quoted} {label}\n" for label, who in enumerate(("O'Brien", "Roe"))]
    (tmp_path / "train.csv").write_text("".join(rows))
    run("import", tmp_path / "train.csv", "--out", tmp_path / "m.parquet", "--format", "vjepa")
    clips = list(Manifest.read(tmp_path / "m.parquet").clips())
    assert [Path(clip.video).parent.name for clip in clips] == ["O'Brien", "Roe"]
    # Nothing of where the set lies: a case stays the same when the set is moved.
    assert [clip.case for clip in clips] == ["O'Brien/video", "Roe/video"]
    (tmp_path / "lists").mkdir()
    (tmp_path / "train.csv").rename(tmp_path / "lists/train.csv")
    run("import", tmp_path / "lists/train.csv", "--out", tmp_path / "n.parquet", "--format", "vjepa")
    assert [clip.case for clip in Manifest.read(tmp_path / "n.parquet").clips()] == ["O'Brien/video", "Roe/video"]


def test_vjepa_comes_back_with_names_splits_and_durations(manifest: Manifest, tmp_path: Path) -> None:
    run("export", manifest.path, "--out", tmp_path / "x", "--format", "vjepa", "--label", "action")
    run("import", tmp_path / "x", "--out", tmp_path / "back.parquet", "--format", "vjepa", "--label", "action")
    clips = list(Manifest.read(tmp_path / "back.parquet").clips())
    assert [(clip.split, clip.labels, round(clip.end_s, 1)) for clip in clips] == [
        ("train", {"action": "cut"}, 2.0),
        ("val", {"action": "a tie"}, 0.8),
    ]
    run("import", tmp_path / "x/train.csv", "--out", tmp_path / "one.parquet", "--format", "vjepa")
    assert next(Manifest.read(tmp_path / "one.parquet").clips()).labels == {"label": 1}
    (tmp_path / "x/val.csv").write_text("/v.mp4\n")
    with pytest.raises(DataError, match=r"val\.csv line 1"):
        run("import", tmp_path / "x", "--out", tmp_path / "back.parquet", "--format", "vjepa")


def test_surgmotion_gets_frames_and_its_table_and_comes_back(manifest: Manifest, tmp_path: Path) -> None:
    run("export", manifest.path, "--out", tmp_path / "x", "--format", "surgmotion", "--label", "action", "--fps", "5")
    (row,) = csv.DictReader((tmp_path / "x/val_metadata.csv").open())
    assert list(row) == ["Index", "clip_path", "label", "label_name", "case_id", "clip_idx"]
    assert (row["Index"], row["label"], row["label_name"], row["case_id"], row["clip_idx"]) == (
        "0",
        "0",
        "a tie",
        "case two",
        "0",
    )
    frames = Path(row["clip_path"]).read_text().split("\n")[:-1]
    assert len(frames) == 4
    assert painted.numbers_of([read_frames(frame, [0])[0] for frame in frames]) == [10, 15, 20, 25]
    run(
        "import",
        tmp_path / "x",
        "--out",
        tmp_path / "back.parquet",
        "--format",
        "surgmotion",
        "--fps",
        "5",
        "--label",
        "action",
    )
    clips = {clip.split: clip for clip in Manifest.read(tmp_path / "back.parquet").clips()}
    assert (clips["val"].case, clips["val"].labels, clips["val"].end_s) == ("case two", {"action": "a tie"}, 0.8)
    assert set(clips) == {"train", "val"}


def test_export_of_one_split_and_without_a_label(manifest: Manifest, tmp_path: Path) -> None:
    run("export", manifest.path, "--out", tmp_path / "t.csv", "--split", "val")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 2
    with pytest.raises(ConfigError, match="--label NAME"):
        run("export", manifest.path, "--out", tmp_path / "x", "--format", "vjepa")
    with pytest.raises(DataError, match="Row 1 has no label `n`"):
        run("export", manifest.path, "--out", tmp_path / "x", "--format", "vjepa", "--label", "n")


def test_a_cropped_clip_is_cut_out_in_one_pass_over_its_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = painted.write(tmp_path / "v.mp4", 50, 25)
    clip = Clip(str(video), 0.4, 1.2, "c", "train", labels={"action": "cut"}, meta={"crop": "0,0,1,0.5"})
    other = Clip(str(video), 0.0, 0.4, "c", "train", labels={"action": "tie"})
    write_manifest(tmp_path / "m.parquet", [clip, other])
    # A search for a keyframe and an opening of the file for every frame were 18 times slower.
    monkeypatch.setattr(interchange, "read_clip", lambda *_: pytest.fail("read frame by frame"))
    run("export", tmp_path / "m.parquet", "--out", tmp_path / "x", "--format", "vjepa", "--label", "action")
    frames = read_frames(tmp_path / "x/clips/0000000.mp4", [0.01, 0.79])
    assert painted.numbers_of(frames) == [10, 29]
    assert frames.shape[1:3] == (48, 128)
