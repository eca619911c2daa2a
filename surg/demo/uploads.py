"""The folder for what visitors bring and what is made of it: private, gone with the demo, and swept where a demo was killed."""

import logging
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

PREFIX = "surg-uploads-"


@contextmanager
def private_uploads() -> Iterator[Path]:
    """A new folder that is deleted at the end; those of demos that came to no end are deleted now."""
    where = Path(tempfile.gettempdir())
    _sweep(where)
    folder = where / f"{PREFIX}{secrets.token_hex(8)}"
    lock = _lock(folder)
    try:
        with lock:
            folder.mkdir(mode=0o700)  # under the lock: a folder without one is nobody's, however young
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)


def _sweep(where: Path) -> None:
    for folder in where.glob(f"{PREFIX}*/"):
        try:
            if folder.is_symlink():
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
