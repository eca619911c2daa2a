"""From a checkpoint to a repository that serves it, through the parity gate: what does not equal PyTorch is not kept."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from surg.errors import CheckpointError
from surg.model.bundle import Bundle, load_bundle
from surg.serving import repository
from surg.serving.contract import Contract
from surg.serving.models import Served, ServedConfig, prepare
from surg.serving.onnx import Precision, export_onnx
from surg.serving.repository import QueueConfig

logger = logging.getLogger(__name__)

VIDEO = Path(__file__).parent / "backend" / "video" / "model.py"


@dataclass
class Exported:
    repo: Path
    version: int
    contract: Contract
    notes: list[str] = field(default_factory=list)


def find_bundle(path: Path) -> Path:
    """The bundle meant by a run folder (best, else last) or by a file."""
    path = Path(path)
    if path.is_dir():
        for folder in (path / "checkpoints", path):
            for name in ("best.safetensors", "last.safetensors"):
                if (folder / name).is_file():
                    return folder / name
        raise CheckpointError(
            f"{path} holds no checkpoints/best.safetensors or last.safetensors.\nName a run folder of surg train, or a .safetensors file."
        )
    if not path.is_file():
        raise CheckpointError(f"There is no {path}. Name a run folder of surg train, or a .safetensors file.")
    return path


def export_repository(
    checkpoint: Path,
    repo: Path,
    *,
    served: ServedConfig | None = None,
    queue: QueueConfig | None = None,
    precision: Precision = "fp32",
    gate: Callable[[Bundle, Served, dict[str, Path]], object] | None = None,
) -> Exported:
    """Export every model that the checkpoint has the parts for into a new version of `repo`.

    gate: called with the bundle, the modules and the ONNX files before anything is published; what it raises stops the export.
    """
    path = find_bundle(checkpoint)
    bundle = load_bundle(path)
    ready = prepare(bundle, served or ServedConfig(), str(bundle.meta.get("architecture") or ""))
    contract = ready.contract.model_copy(update={"precision": precision})
    repo = Path(repo)
    repo.resolve().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".surg-export-", dir=repo.resolve().parent) as scratch:
        files: dict[str, dict[str, Path | str]] = {}
        graphs: dict[str, Path] = {}
        for name, module in ready.modules.items():
            written = export_onnx(module, contract.model(name), Path(scratch) / name / "model.onnx", precision)
            files[name] = {file.name: file for file in written}
            graphs[name] = written[0]
        files["surg_video"] = {"model.py": VIDEO}
        if gate is not None:
            gate(bundle, ready, graphs)
        version = repository.publish(repo, contract, files, queue)
    return Exported(repo, version, contract, ready.notes)
