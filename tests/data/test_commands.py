"""Real videos, made by nobody here, through every command of `surg data` that reads videos."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from surg.cli.main import app
from surg.data.clips import ClipConfig
from surg.data.loader import ClipLoader, LoaderConfig
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.preprocess import PreprocessSpec
from surg.data.stills import read_image
from surg.data.video import write_video
from surg.errors import RunError, SurgError
from tests.data import painted

Surg = Callable[..., subprocess.CompletedProcess[str]]


def test_real_videos_go_through_every_command(real_videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "set"
    for path in real_videos:
        (folder / path.stem).mkdir(parents=True)
        shutil.copy(path, folder / path.stem / path.name)

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "Next: surg data check" in run("index", folder, "--format", "folder", "--whole", "--out", "m.parquet")
    manifest = Manifest.read(tmp_path / "m.parquet")
    assert len(manifest) == len(real_videos)
    assert "Nothing wrong" in run("check", "m.parquet", "--workers", 1)
    findings = json.loads(run("check", "m.parquet", "--json", "--workers", 1))
    assert (findings["unreadable"], findings["beyond"]) == ([], [])
    if len(real_videos) >= 2:
        run("split", "m.parquet", "--shares", "train=0.5,val=0.5", "--replace")
        assert set(Manifest.read(tmp_path / "m.parquet").counts("split")) == {"train", "val"}
    run("show", "m.parquet", "--clips", len(real_videos), "--frames", "4", "--out", "sheet.jpg")
    assert read_image(tmp_path / "sheet.jpg", 10**9).shape[0] == len(real_videos) * 134
    run("export", "m.parquet", "--out", "m.csv")
    run("import", "m.csv", "--out", "back.parquet")
    assert [clip.video for clip in Manifest.read(tmp_path / "back.parquet").clips()] == [
        clip.video for clip in Manifest.read(tmp_path / "m.parquet").clips()
    ]
    loader = ClipLoader(
        Manifest.read(tmp_path / "m.parquet"),
        ClipConfig(size=64),
        PreprocessSpec(size=64),
        LoaderConfig(batch_size=4, workers=0),
    )
    assert sum(len(batch) for batch in loader.once()) == len(real_videos)
    assert loader.failed == []


def test_index_lists_its_formats_and_refuses_unknown_ones(surg: Surg, tmp_path: Path) -> None:
    listed = surg("data", "index", "--format", "list").stdout
    assert {"folder", "csv", "surgvu", "cholec80"} <= {line.split()[0] for line in listed.splitlines()}
    wrong = surg("data", "index", tmp_path, "--format", "cholec8")
    assert wrong.returncode == 2
    assert "Did you mean `cholec80`?" in wrong.stderr
    assert surg("data", "index", tmp_path, "--set", "split").returncode == 2
    assert "surg data index ROOT --format csv" in surg("data", "index", "--format", "csv").stderr


def test_what_is_no_folder_of_videos_is_told_apart(surg: Surg, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hi")
    (tmp_path / "empty").mkdir()
    write_video(tmp_path / "own" / "a.mp4", np.zeros((8, 64, 64, 3), np.uint8), 8)
    assert "is a file and no video" in surg("data", "index", "notes.txt").stderr
    assert ".mp4" in surg("data", "index", "empty").stderr
    assert surg("data", "index", "own", "--max-missing", -1).returncode == 2
    assert surg("data", "index", "own", "--set", "fps=-3").returncode == 2
    folder = surg("data", "show", "own").stderr
    assert "own is a folder" in folder
    assert "surg data index own --out own.parquet" in folder
    assert surg("data", "index", "own", "--out", "own.parquet").returncode == 0
    assert "The labels here" in surg("data", "show", "own.parquet", "--label", "nothing").stderr
    copied = surg("data", "deidentify", "own", "--out", "clean", "--workers", 1)
    assert copied.returncode == 0, copied.stderr
    for command in re.findall(r"surg (data (?:index|show) \S+(?: --out \S+)?)", copied.stdout.replace(", then", "")):
        done = surg(*command.split())
        assert done.returncode == 0, done.stderr


MEMORY = """
import sys
import numpy as np
from surg.data.video import iter_frames, probe, read_frames
path = sys.argv[1]
count = sum(1 for _ in iter_frames(path, fps=2))
end = probe(path).duration_s
read_frames(path, np.linspace(end - 4, end - 0.1, 16))
read_frames(path, np.linspace(0, end - 0.1, 16))
# Not getrusage: its peak is inherited through fork and exec from the process that runs the tests.
print(count, int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))
"""


def peak(path: Path) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    count, kilobytes = done.stdout.split()
    return int(count), int(kilobytes)


def test_memory_is_flat_from_a_minute_to_an_hour(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "g": "20", "crf": "30"}
    short_count, short = peak(painted.write(tmp_path / "short.mp4", 2 * 60, 2, options=options))
    long_count, long = peak(painted.write(tmp_path / "long.mp4", 2 * 3600, 2, options=options))
    assert (short_count, long_count) == (120, 7200)
    assert long < 1.1 * short


@pytest.mark.parametrize("words", ["data motion m.parquet --out", "data tag m.parquet --out", "embed m.parquet --out"])
def test_a_table_of_parquet_is_not_written_under_the_name_of_another_kind(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest("m.parquet", [Clip("a.mp4", 0, 1, "case")])
    error = CliRunner().invoke(app, [*words.split(), "my table.csv"]).exception
    assert isinstance(error, RunError)
    assert "--out 'my table.parquet'" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["m.parquet"]


@pytest.mark.parametrize(
    "words",
    [
        "data index . --out taken/m.parquet",
        "data check m.parquet --out taken/found.json",
        "data show m.parquet --clips 1 --frames 1 --out taken/s.jpg",
        "data deidentify m.parquet --out taken",
        "data segment m.parquet --out taken",
        "eval sterility --data m.parquet --out taken/run",
        "bench serve repo --out taken/b.json",
        "quickstart --out taken",
    ],
)
def test_a_file_where_a_folder_is_needed_is_named_before_any_work(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", np.zeros((8, 64, 64, 3), np.uint8), 8)
    write_manifest("m.parquet", [Clip("a.mp4", 0, 1, "case", split="train", labels={"kind": "a"})])
    (tmp_path / "taken").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    error = CliRunner().invoke(app, words.split()).exception
    assert isinstance(error, SurgError)
    assert "taken is a file" in str(error)
    assert (tmp_path / "taken").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
