"""From a checkpoint to a repository that serves it, through the parity gate: what does not equal PyTorch is not kept."""

import contextlib
import errno
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from surg.config import Config
from surg.errors import ExportError, ServerError
from surg.model.bundle import Bundle, load_bundle
from surg.model.saved import find_bundle
from surg.runs import write_text
from surg.serving import parity, repository
from surg.serving.client import connect
from surg.serving.contract import Contract
from surg.serving.engine import start_server
from surg.serving.engines.embedded import find_environment
from surg.serving.models import ServedConfig, prepare
from surg.serving.onnx import Precision, export_onnx
from surg.serving.repository import QueueConfig
from surg.serving.tensorrt import add_plans

logger = logging.getLogger(__name__)

# EFBIG is what a FAT stick says to a file beyond 4 GB.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
UNWRITABLE = (*FULL, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)

VIDEO = Path(__file__).parent / "backend" / "video" / "model.py"


class ExportConfig(Config):
    """Settings of an export."""

    served: ServedConfig = Field(default_factory=ServedConfig)
    """The models."""
    queue: QueueConfig = Field(default_factory=QueueConfig)
    """How the server queues and batches them."""


@dataclass
class Exported:
    repo: Path
    version: int
    contract: Contract
    notes: list[str] = field(default_factory=list)
    rows: list[parity.Row] = field(default_factory=list)
    """The parity table."""


@dataclass
class ExportedFiles:
    paths: list[Path]
    contract: Contract
    rows: list[parity.Row]


def export_repository(
    checkpoint: Path,
    repo: Path,
    *,
    served: ServedConfig | None = None,
    queue: QueueConfig | None = None,
    precision: Precision = "fp32",
    clips: int = 18,
    tolerance: float | None = None,
    through_server: bool = True,
    standard_operators: bool = False,
    plans: bool = False,
) -> Exported:
    """Export every model that the checkpoint has the parts for into a new version of `repo`.

    standard_operators: leave out onnxruntime's fused attention; a queue with the TensorRT accelerator implies it.
    plans: build TensorRT plans for this machine's GPU too, which are then what is served. Implies standard operators.
    Before anything is published, PyTorch, onnxruntime and (`through_server`) an embedded Triton must agree on `clips` clips.
    Raises ExportError when they do not; the repository is then as it was.
    """
    repo = Path(repo)
    with _workplace(repo) as scratch:
        fused = not standard_operators and not plans and (queue is None or queue.accelerator == "none")
        made = _export(
            checkpoint, scratch, served, precision, clips, tolerance, queue, repo, through_server=through_server, fused=fused
        )
        if plans:
            add_plans(made.contract, made.files, repo.resolve().parent / f".{repo.name}-timing")
        version = repository.publish(repo, made.contract, made.files, queue)
        parity.write_table(made.rows, repo / "surg_clip" / str(version) / "parity.json")
    return Exported(repo, version, made.contract, made.notes, made.rows)


def export_files(
    checkpoint: Path,
    out: Path,
    *,
    served: ServedConfig | None = None,
    precision: Precision = "fp32",
    clips: int = 18,
    tolerance: float | None = None,
) -> ExportedFiles:
    """The ONNX files alone, in `out`/<model>/, with contract.json beside them: standard operators, the same gate without a server."""
    out = Path(out)
    with _workplace(out) as scratch:
        made = _export(checkpoint, scratch, served, precision, clips, tolerance, None, None, through_server=False, fused=False)
        paths = []
        for model, files in made.files.items():
            for name, content in files.items():
                if isinstance(content, Path) and model != "surg_video":
                    target = out / model / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(content, target)
                    paths.append(target)
    write_text(out / "contract.json", made.contract.model_dump_json(indent=2) + "\n")
    return ExportedFiles(paths, made.contract, made.rows)


@contextlib.contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A folder to work in, on the disk of `out` where that can be. Raises ExportError when `out` cannot be written, before the
    work as far as it can be seen."""
    places = [out.absolute(), out.resolve()]
    working = False
    try:
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        parent = out.resolve().parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".surg-export-", dir=out if out.exists() else parent):
            pass
        with contextlib.ExitStack() as stack:
            try:
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".surg-export-", dir=parent))
            except PermissionError:  # a volume of its own, in a folder of another's
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="surg-export-"))
            places.append(Path(scratch))
            working = True
            yield Path(scratch)
    except OSError as error:
        # A checkpoint that may not be read, for one, says nothing of `out`.
        elsewhere = working and error.filename and not any(Path(error.filename).is_relative_to(place) for place in places)
        if error.errno not in UNWRITABLE or (elsewhere and error.errno not in FULL):
            raise
        raise ExportError(
            f"{out} cannot be written: {error.strerror}.\nNothing was published. Make room there, or choose another --out."
        ) from error


@dataclass
class _Made:
    contract: Contract
    files: dict[str, dict[str, Path | str]]
    rows: list[parity.Row]
    notes: list[str]


def _export(
    checkpoint: Path,
    scratch: Path,
    served: ServedConfig | None,
    precision: Precision,
    clips: int,
    tolerance: float | None,
    queue: QueueConfig | None,
    repo: Path | None,
    *,
    through_server: bool,
    fused: bool,
) -> _Made:
    bundle = load_bundle(find_bundle(checkpoint))
    ready = prepare(bundle, served or ServedConfig())
    contract = ready.contract.model_copy(update={"precision": precision})
    if repo is not None:
        repository.interchangeable(repo, contract)  # before minutes of work
    files: dict[str, dict[str, Path | str]] = {}
    for name, module in ready.modules.items():
        written = export_onnx(module, contract.model(name), scratch / name / "model.onnx", precision, fused=fused)
        files[name] = {file.name: file for file in written}
    files["surg_video"] = {"model.py": VIDEO}
    trial = scratch / "trial"
    repository.publish(trial, contract, files, queue)
    rows = _gate(bundle, contract, trial, clips, tolerance, ready.notes, through_server=through_server)
    return _Made(contract, files, rows, ready.notes)


def _gate(
    bundle: Bundle,
    contract: Contract,
    trial: Path,
    clips: int,
    tolerance: float | None,
    notes: list[str],
    *,
    through_server: bool,
) -> list[parity.Row]:
    with contextlib.ExitStack() as stack:
        runners = [("onnxruntime", stack.enter_context(connect(f"local:{trial}")))]
        if through_server:
            try:
                find_environment()
            except ServerError as error:
                notes.append(f"not compared with a server: {str(error).splitlines()[0]}")
            else:
                server = stack.enter_context(start_server(trial))
                # A batch of a large model takes minutes on a CPU, and there is nobody who waits for one answer.
                patient = connect(server.grpc_url, timeout_s=repository.start_timeout_s(trial))
                runners.append(("Triton", stack.enter_context(patient)))
        return parity.check(bundle, contract, runners, clips=clips, tolerance=tolerance)
