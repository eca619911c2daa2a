"""Ctrl-C and SIGTERM in the middle of commands, as a terminal and a container send them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from surg.data.manifest import Manifest
from surg.serving.engines.guardian import SHM, born, shm_namespace
from tests.conftest import ROOT
from tests.serving.toy import toy_repository

Surg = Callable[..., "subprocess.CompletedProcess[str]"]


class Broken:
    """A command that was stopped in the middle: how it ended, and what of it is left."""

    def __init__(
        self, folder: Path, *words: object, when: Callable[[], object], number: int = signal.SIGINT, **environment: str
    ) -> None:
        self.scratch = folder / "scratch"
        self.scratch.mkdir(exist_ok=True)
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "TERM": "dumb",
            "TMPDIR": str(self.scratch),
            **environment,
        }
        command = [sys.executable, "-m", "surg", *map(str, words)]
        with subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            deadline = time.monotonic() + 120
            while not when() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            # A terminal sends to all that run in it, a container to the first process alone.
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            self.out, self.err = process.communicate(timeout=60)
            self.rc = process.returncode
            # What watches for its end, as multiprocessing's tracker, goes a moment after it.
            deadline = time.monotonic() + 5
            while (left := _of_session(process.pid)) and time.monotonic() < deadline:
                time.sleep(0.02)
            self.children = left

    def ended_well(self, number: int) -> bool:
        # One line; a log line may stand before it.
        last = self.err.strip().splitlines()[-1]
        assert "Traceback" not in self.err
        assert last.startswith("Stopped. "), self.err
        assert self.rc == 128 + number
        assert self.children == []
        assert list(self.scratch.iterdir()) == []
        return True


def _of_session(pid: int) -> list[Path]:
    return [entry for entry in Path("/proc").glob("[0-9]*") if _session(entry) == pid]


def _session(entry: Path) -> int:
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[3])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_by_many_processes_ends_at_once_and_goes_on_from_what_was_done(number: int, surg: Surg, tmp_path: Path) -> None:
    words = ("data", "synth", "tissue", "--out", "new", "--clips", 40, "--workers", 2)
    videos = tmp_path / "new" / "videos"
    broken = Broken(tmp_path, *words, when=lambda: len([*videos.glob("*.mp4")]) > 24, number=number)
    assert broken.ended_well(number)
    assert "of 5 are done and kept in new/rendered.parquet.parts; the same command goes on from there." in broken.err
    assert not (tmp_path / "new" / "manifest.parquet").exists()
    assert not [*(tmp_path / "new").rglob("*.tmp")]
    again = surg(*words)
    assert "are done already; going on with the others" in again.stderr
    whole = surg(*map(str, words[:4]), "whole", *map(str, words[5:]))
    assert whole.returncode == again.returncode == 0
    same = [
        [(Path(clip.video).name, clip.labels, clip.split) for clip in Manifest.read(tmp_path / name / "manifest.parquet")]
        for name in ("new", "whole")
    ]
    assert same[0] == same[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_workers_of_a_command_that_was_killed_go_with_it(tmp_path: Path) -> None:
    words = ("data", "synth", "tissue", "--out", "new", "--clips", 40, "--workers", 2)
    videos = tmp_path / "new" / "videos"
    broken = Broken(tmp_path, *words, when=lambda: any(videos.glob("*.mp4")), number=signal.SIGKILL)
    assert broken.rc == -signal.SIGKILL
    assert broken.children == []


def test_ctrl_c_while_the_parts_are_imported_prints_no_traceback(tmp_path: Path) -> None:
    code = """
import os, signal, sys
class Late:
    def find_spec(self, name, *rest):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Late())
from surg.__main__ import run
run()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.triton
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["serve start", "demo --port 0 --repository"])
def test_a_server_that_was_being_started_goes_with_its_command(command: str, number: int, surg: Surg, tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    begun: set[int] = set()

    def guarded() -> bool:
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                if b"guardian.py" in words and os.fsencode(tmp_path) in words:
                    begun.add(int(entry.name))
        return bool(begun)

    (tmp_path / "home").mkdir()
    environment = {"SURG_STATE_DIR": str(tmp_path / "home")}
    broken = Broken(tmp_path, *command.split(), repo, when=guarded, number=number, **environment)
    assert broken.ended_well(number)
    assert begun
    assert not any(map(born, begun))
    assert not [region for pid in begun for region in SHM.glob(f"{shm_namespace()}{pid}_*")]
    assert surg("serve", "list", **environment).stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_tour_that_is_stopped_ends_its_stage_and_says_that_it_goes_on(number: int, tmp_path: Path) -> None:
    videos = tmp_path / "tour" / "tissue" / "videos"
    broken = Broken(tmp_path, "quickstart", "--out", "tour", when=lambda: any(videos.glob("*.mp4")), number=number)
    assert broken.ended_well(number)
    assert "What is done is kept; the same command goes on from there." in broken.err
    assert not [*(tmp_path / "tour").rglob("*.tmp")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_export_of_the_shipped_model_ends_with_the_command_that_needed_it(number: int, tmp_path: Path) -> None:
    kept = tmp_path / "cache"
    broken = Broken(
        tmp_path, "serve", "start", when=lambda: any(kept.rglob("*.onnx")), number=number,
        XDG_CACHE_HOME=str(kept), SURG_STATE_DIR=str(tmp_path / "state"),
    )  # fmt: skip
    assert broken.ended_well(number)
    assert [path for path in kept.rglob("*") if path.is_file()] == []
