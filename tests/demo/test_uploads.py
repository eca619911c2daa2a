"""Where visitors' videos lie: gone with the demo, also with one that was killed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from surg.demo import uploads
from surg.demo.uploads import private_uploads

KILLED = """
import os
from surg.demo.uploads import private_uploads

with private_uploads() as folder:
    (folder / "visit").mkdir()
    (folder / "visit" / "patient.mp4").write_bytes(b"1")
    print(folder, flush=True)
    os._exit(9)
"""


@pytest.fixture
def temporary() -> Path:
    """The test's own."""
    return Path(tempfile.gettempdir())


def test_a_demo_that_was_killed_leaves_videos_until_the_next_one_starts(temporary: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True, timeout=240)
    left = Path(done.stdout.strip())
    assert (left / "visit" / "patient.mp4").is_file()
    with private_uploads() as mine:  # at once: whatever looks after the demo starts it again within a second
        assert [path for path in temporary.iterdir() if path.is_dir()] == [mine]
    assert list(temporary.iterdir()) == []


def test_a_demo_that_runs_keeps_its_videos(temporary: Path) -> None:
    with private_uploads() as mine:
        (mine / "a.mp4").write_bytes(b"1")
        with private_uploads():
            pass
        assert (mine / "a.mp4").is_file()
    assert list(temporary.iterdir()) == []


def test_a_folder_is_never_there_without_its_owners_lock(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def another_starts(folder: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        make(folder, mode, parents, exist_ok)
        if folder.name.startswith(uploads.PREFIX):
            uploads._sweep(temporary)

    monkeypatch.setattr(Path, "mkdir", another_starts)
    with private_uploads() as mine:
        assert mine.is_dir()
        assert mine.stat().st_mode & 0o777 == 0o700


def test_a_link_of_that_name_is_not_followed(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir()
    (temporary / "elsewhere" / "a.mp4").write_bytes(b"1")
    (temporary / f"{uploads.PREFIX}link").symlink_to(temporary / "elsewhere")
    with private_uploads():
        pass
    assert sorted(path.name for path in temporary.rglob("*")) == ["a.mp4", "elsewhere", f"{uploads.PREFIX}link"]
