import errno
import json
import os
import signal
import subprocess
import sys
import time
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


def test_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    code = (
        "import sys, time; from pathlib import Path; from surg.runs import atomic_file\n"
        "with atomic_file(Path(sys.argv[1]), 'w') as file:\n"
        "    file.write('new'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == "writing"
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    writer.stdout.close()
    assert target.read_text() == "old"


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert (tmp_path / "a.json").stat().st_mtime <= time.time() + 1
