"""For what a TensorRT plan was built, and whether it fits where it is to be served. No torch, no TensorRT."""

import json
from dataclasses import dataclass
from pathlib import Path

from surg.errors import ServerError
from surg.runs import file_sha256
from surg.serving import repository
from surg.serving.repository import PLAN

SIDECAR = "model.plan.json"


@dataclass(frozen=True)
class Sidecar:
    """For what a plan was built. All of it must match where it is served."""

    tensorrt: str
    gpu: str
    sm: str
    onnx_sha256: str
    precision: str
    profiles: dict[str, dict[str, list[int]]]


def require_fit(repo: Path, *, tensorrt: str | None, sm: str | None) -> None:
    """Raise ServerError when a version that `repo` serves has a plan that does not fit. None: not known, not compared."""
    for version in repository.served_versions(repo):
        for folder in sorted(path.parent for path in repo.glob(f"*/{version}/{PLAN}")):
            if repository.read_config(repo, folder.parent.name).backend == "tensorrt":
                check_deploy(folder, tensorrt=tensorrt, sm=sm)


def check_deploy(folder: Path, *, tensorrt: str | None, sm: str | None) -> Sidecar:
    """Compare a plan's sidecar with where it is to be served. Raises ServerError that lists what differs."""
    try:
        found = Sidecar(**json.loads((folder / SIDECAR).read_text()))
    except (FileNotFoundError, TypeError, ValueError) as error:
        raise ServerError(
            f"{folder} holds a plan of unknown origin (no readable {SIDECAR}).\nBuild it again: surg export RUN --format tensorrt"
        ) from error
    wrong = []
    if tensorrt is not None and found.tensorrt.split(".")[:2] != tensorrt.split(".")[:2]:
        wrong.append(f"built by TensorRT {found.tensorrt}, served by {tensorrt}")
    if sm is not None and found.sm != sm:
        wrong.append(f"built for SM {found.sm} ({found.gpu}), this GPU is SM {sm}")
    onnx = folder / "model.onnx"
    if onnx.exists() and file_sha256(onnx) != found.onnx_sha256:
        wrong.append("built from another model.onnx than the one beside it")
    if wrong:
        raise ServerError(
            f"The plan in {folder} does not fit here: {'; '.join(wrong)}.\nBuild it on this machine: surg export RUN --format tensorrt"
        )
    return found
