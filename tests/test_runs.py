import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from surg.config import Config
from surg.errors import RunError
from surg.runs import RunFolder, atomic_file, write_json


class Settings(Config):
    lr: float = 1.0


def make_run(folder: Path, **options: bool) -> RunFolder:
    return RunFolder.create(folder, Settings(), seed=3, data_fingerprint="abc", **options)


def test_settings_and_environment_are_on_disk_before_the_first_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    environment = json.loads((run.path / "environment.json").read_text())
    assert run.config_path.read_text() == "lr: 1.0\n"
    assert environment["seed"] == 3
    assert environment["data_fingerprint"] == "abc"
    assert "torch" in environment["versions"]


def test_the_environment_names_no_user_host_or_path(tmp_path: Path) -> None:
    text = (make_run(tmp_path / "run").path / "environment.json").read_text()
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text


def test_a_run_is_never_overwritten_unasked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.log({"step": 1})
    with pytest.raises(RunError, match="--resume") as caught:
        make_run(tmp_path / "run")
    assert "--overwrite" in str(caught.value)
    assert run.metrics() == [{"step": 1}]
    assert make_run(tmp_path / "run", overwrite=True).metrics() == []


def test_a_run_that_is_replaced_leaves_no_weights_behind(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run.checkpoints / "best.safetensors").write_text("old")
    (run.path / "tensorboard").mkdir()
    (run.path / "cache").mkdir()
    make_run(run.path, overwrite=True)
    assert not list(run.checkpoints.iterdir())
    assert not (run.path / "tensorboard").exists()
    assert (run.path / "cache").is_dir()  # decoded clips are found again by their content


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        RunFolder.reopen(tmp_path)


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        make_run(tmp_path / "file")
    with pytest.raises(RunError, match="cannot be written"):
        make_run(tmp_path / "file" / "run")


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.log({"step": 1})
    run.log({"step": 2})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in run.metrics()] == [1, 2]
    run.keep_metrics_until(1)
    assert [row["step"] for row in run.metrics()] == [1]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("bug")])
def test_an_interrupted_write_leaves_the_old_file_and_no_debris(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "out.json"
    write_json(target, {"old": True})
    with pytest.raises(type(failure)), atomic_file(target, "w") as file:
        file.write('{"new": tr')
        raise failure
    assert json.loads(target.read_text()) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_full_disk_is_said_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.json"
    write_json(target, {"old": True})

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="disk is full"):
        write_json(target, {"new": True})
    assert json.loads(target.read_text()) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


SLOW_WRITER = (
    # Whoever runs the tests in the background of a shell has Ctrl-C ignored, and children with it.
    "import signal, sys, time; from pathlib import Path; from surg.runs import atomic_file\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "with atomic_file(Path(sys.argv[1]), 'w') as file:\n"
    "    file.write('new'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
)
BIG_WRITER = (
    "import resource, signal, sys; from pathlib import Path; from surg.errors import RunError; from surg.runs import write_text\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    "try:\n"
    "    write_text(Path(sys.argv[1]), 'x' * 100_000)\n"
    "except RunError as error:\n"
    "    print(error); sys.exit(2)\n"
)


def interrupted_by(number: signal.Signals, target: Path) -> subprocess.Popen[str]:
    """A process that was in the middle of writing `target` when the signal came."""
    writer = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(target)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "writing"
        writer.send_signal(number)
        writer.wait(timeout=200)
    return writer


def test_a_full_disk_that_a_library_hides_behind_its_own_error_is_said(tmp_path: Path) -> None:
    """As PyAV does when its callback could not write."""
    with pytest.raises(RunError, match="disk is full"), atomic_file(tmp_path / "video.mp4"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("Error in callback")
    with pytest.raises(RuntimeError, match="bug"), atomic_file(tmp_path / "video.mp4"):
        try:
            raise FileNotFoundError("handled")
        except FileNotFoundError:
            raise RuntimeError("bug") from None
    assert list(tmp_path.iterdir()) == []


def test_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    interrupted_by(signal.SIGKILL, target)
    assert target.read_text() == "old"


@pytest.mark.parametrize("before", [None, "old"])
def test_ctrl_c_in_the_middle_of_a_write_leaves_nothing_half_written(tmp_path: Path, before: str | None) -> None:
    target = tmp_path / "out.txt"
    if before is not None:
        target.write_text(before)
    assert interrupted_by(signal.SIGINT, target).returncode != 0
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == ([("out.txt", before)] if before else [])


def test_a_file_that_the_system_cuts_off_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """The kernel itself refuses after 4 KiB, as a full disk does: no part of this is pretended."""
    target = tmp_path / "out.txt"
    target.write_text("old")
    done = subprocess.run([sys.executable, "-c", BIG_WRITER, str(target)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert str(target) in done.stdout
    assert "cannot be written" in done.stdout
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 300 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.container
def test_a_disk_that_is_really_full_is_said_and_harms_nothing(
    small_disk: Path, surg: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # Beside the containers: mounting a small disk needs root, as they do.
    target = small_disk / "out.json"
    write_json(target, {"old": True})
    with pytest.raises(RunError, match="disk is full"):
        write_json(target, {"new": "x" * 400_000})
    assert json.loads(target.read_text()) == {"old": True}
    assert [path.name for path in small_disk.iterdir()] == ["out.json"]

    done = surg("data", "synth", "tissue", "--out", small_disk / "tissue", "--clips", 24, "--seed", 1, timeout=900)
    assert done.returncode == 2
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(small_disk.rglob("*.tmp"))
    assert not list(small_disk.rglob("manifest.parquet"))
    assert json.loads(target.read_text()) == {"old": True}


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert (tmp_path / "a.json").stat().st_mtime <= time.time() + 1
