"""The model that comes with the package, exported once on this machine and kept for the next time."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

from surg.child import interrupt
from surg.errors import ServerError
from surg.model.saved import SHIPPED, shipped
from surg.runs import file_sha256

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where this machine keeps what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surg"


def exporter() -> str:
    """Hash of the code that exports, so that another version of it does not serve what an earlier one made."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def shipped_repository() -> Path:
    """A model repository of `surg-tiny`; the first call exports it, through the parity gate.

    The export needs torch and its callers must do without it, so it runs as the command that a person would type.
    """
    repo = cache_folder() / f"{SHIPPED}-{file_sha256(shipped())[:12]}-{exporter()[:8]}"
    if (repo / "surg_clip" / "config.pbtxt").is_file():
        return repo
    logger.info("Exporting %s once into %s (about half a minute) …", SHIPPED, repo)
    command = [sys.executable, "-m", "surg", "export", SHIPPED, "--out", str(repo)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            _, said = process.communicate()
        except KeyboardInterrupt:
            interrupt(process)
            raise
    if process.returncode != 0:
        raise ServerError(f"{SHIPPED} could not be exported:\n{said.strip()}\nTry: surg export {SHIPPED} --out repo")
    return repo
