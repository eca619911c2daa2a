"""Run folders: one shape for every run, written so that a crash leaves the old file or the new one, never half.

RUN/config.yaml         the resolved settings           RUN/metrics.jsonl     one JSON object a line
RUN/environment.json    versions, git, seed, data       RUN/checkpoints/      RUN/plots/      RUN/report.html
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from surg.advice import quoted
from surg.config import Config, to_yaml
from surg.errors import RunError

VERSIONED = (
    "surg",
    "torch",
    "timm",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "transformers",
    "opencv-python-headless",
    "av",
)


def file_sha256(path: Path) -> str:
    """Hash of a whole file, as checkpoints, contracts and reports quote it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on a clean exit it is flushed to disk and takes the name.

    On an exception (Ctrl-C and a full disk included) the temporary file goes and `path` stays as it was.
    """
    path = Path(path)
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not a context manager: the name must outlive the handle, which is closed before the rename.
        handle = tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False)  # noqa: SIM115
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(handle.name)
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        refused = _refused(error)
        if refused is not None:
            raise _unwritable(path, refused) from error
        raise


def check_place(path: Path) -> None:
    """Raise RunError when nothing can be written at `path`, a file or a folder to come: before the work, not after."""
    parent = next(folder for folder in Path(path).absolute().parents if folder.exists())
    if not parent.is_dir():
        raise _unwritable(path, NotADirectoryError(errno.ENOTDIR, f"{parent} is a file"))
    if not os.access(parent, os.W_OK):
        raise _unwritable(path, PermissionError(errno.EACCES, f"{parent} takes no files"))


def write_text(path: Path, text: str) -> None:
    with atomic_file(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds all a run leaves behind. Build it with `create` or `reopen`."""

    path: Path

    @classmethod
    def create(
        cls, path: Path, config: Config, *, seed: int, data_fingerprint: str | None = None, overwrite: bool = False
    ) -> "RunFolder":
        """Start a new run: the settings and the environment are on disk before the first step.

        Raises RunError when the folder holds a run already (unless `overwrite`) or cannot be written.
        """
        run = cls.vacant(path, overwrite=overwrite)
        if overwrite:
            # What is left of the run before would be taken for this one's: evaluated, resumed.
            run.metrics_path.unlink(missing_ok=True)
            for folder in (run.checkpoints, run.plots, run.path / "tensorboard"):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (run.checkpoints, run.plots):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _unwritable(folder, error) from error
        write_json(run.path / "environment.json", describe_environment(seed=seed, data_fingerprint=data_fingerprint))
        write_text(run.config_path, to_yaml(config))
        return run

    @classmethod
    def vacant(cls, path: Path, *, overwrite: bool = False) -> "RunFolder":
        """Where a run may be created. Raises RunError where it may not."""
        run = cls(Path(path))
        if run.config_path.exists() and not overwrite:
            raise RunError(
                f"{path} holds a run already.\n"
                f"Go on with it: --resume {quoted(path)}    replace it: --overwrite    or choose another --out."
            )
        if run.path.exists() and not run.path.is_dir():
            raise RunError(f"{path} is a file; a run needs a folder. Choose another --out.")
        return run

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        run = cls(Path(path))
        if not run.config_path.is_file():
            raise RunError(
                f"{path} holds no run (no config.yaml), so it cannot be resumed. Start one with --out {quoted(path)}."
            )
        return run

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. A line is written whole or, after a crash, cut off by `metrics`."""
        line = json.dumps(dict(values), ensure_ascii=False) + "\n"
        try:
            with self.metrics_path.open("a") as file:
                file.write(line)
        except OSError as error:
            raise _unwritable(self.metrics_path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a last line cut short by a crash is left out."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def keep_metrics_until(self, step: int) -> None:
        """Forget what was logged after `step`: a resumed run writes those lines again."""
        kept = [row for row in self.metrics() if row.get("step", 0) <= step]
        write_text(self.metrics_path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def describe_environment(*, seed: int, data_fingerprint: str | None) -> dict[str, Any]:
    """What a run needs to be repeated: versions, git state, seed, data. No host name, user or path."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "data_fingerprint": data_fingerprint,
        "git": git_state(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version for name in VERSIONED if (version := _version(name)) is not None},
    }


def git_state() -> dict[str, Any] | None:
    """Commit and whether the tree was changed, when surg runs from a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(status.stdout.strip())}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _refused(error: BaseException | None) -> OSError | None:
    """What the system said when a write failed. A library may lay an error of its own over "no space left" (PyAV does)."""
    if isinstance(error, OSError):
        return error
    while isinstance(error, Exception):
        error = error.__cause__ or error.__context__
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
    return None


def _unwritable(path: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"The disk is full: {path} was not written, and what stood there before is unharmed.\nFree some space and run it again."
        )
    return RunError(
        f"{path} cannot be written: {error.strerror or error}.\nChoose a folder you may write to, for example --out ./runs/NAME."
    )
