"""Which model is asked and what runs it: the options that `surg eval` and `surg embed` share."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from surg.eval.backends import Backend


class BackendChoice(StrEnum):
    triton = "triton"
    onnx = "onnx"
    torch = "torch"
    tensorrt = "tensorrt"


Checkpoint = Annotated[Path | None, typer.Option(help="Run folder or .safetensors; exported and served for the purpose.")]
Server = Annotated[str | None, typer.Option(help="Address of a running server: HOST:8001, or http://HOST:8000.")]
Repository = Annotated[Path | None, typer.Option(help="Repository made by surg export.")]
BackendOption = Annotated[BackendChoice, typer.Option(help="What runs the model.")]


def open_model(
    backend: BackendChoice, server: str | None, checkpoint: Path | None, repository: Path | None
) -> "AbstractContextManager[Backend]":
    """The backend on the one model that was named. Raises ConfigError where several were."""
    from surg.eval.backends import open_backend

    require_one_model(backend, server, checkpoint, repository)
    return open_backend(backend.value, server=server, checkpoint=checkpoint, repository=repository)


def require_one_model(
    backend: BackendChoice, server: str | None, checkpoint: Path | Sequence[str] | None, repository: Path | None
) -> None:
    """Raises ConfigError where a named model would not be the one that is asked: its numbers would pass for the other's."""
    from surg.errors import ConfigError

    given = {"--server": server, "--repository": repository, "--checkpoint": checkpoint}
    named = [option for option, value in given.items() if value]
    if len(named) > 1:
        raise ConfigError(
            f"{' and '.join(named)} each name a model, and one is asked. Leave {'one' if len(named) == 2 else 'two'} out.\n"
            "Do a server and its checkpoint agree? surg eval parity --data MANIFEST --checkpoint RUN --server HOST:8001"
        )
    if server is not None and backend in (BackendChoice.onnx, BackendChoice.torch):
        raise ConfigError(
            f"--backend {backend.value} runs the model in this process; no server is asked. Leave --server out, or --backend."
        )
