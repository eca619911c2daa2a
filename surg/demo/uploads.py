"""The folder for what visitors bring and what is made of it: private, gone with the demo, and swept where a demo was killed."""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

PREFIX = "surg-uploads-"
YOUNG_S = 60.0
"""A younger folder may belong to a demo that has not locked it yet."""


@contextmanager
def private_uploads() -> Iterator[Path]:
    """A new folder that is deleted at the end; those of demos that came to no end are deleted now."""
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = _lock(folder)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)


def _sweep(where: Path) -> None:
    for folder in where.glob(f"{PREFIX}*/"):
        try:
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < YOUNG_S:
                continue
            # Nobody holds the lock of a demo that was killed.
            with (lock := _lock(folder)).acquire(blocking=False):
                shutil.rmtree(folder)
            Path(lock.lock_file).unlink(missing_ok=True)
            logger.info("deleted %s: a demo that was killed had left visitors' videos there", folder)
        except (OSError, Timeout):
            continue  # it runs, or is another user's


def _lock(folder: Path) -> FileLock:
    # Beside the folder: in it, sweeping old uploads would delete it.
    return FileLock(folder.with_name(f"{folder.name}.lock"))
