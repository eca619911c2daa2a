"""Where the numbers come from: one client interface, four ways to run the models behind it.

triton     a Triton server: the one named, or the embedded one started on the exported checkpoint
tensorrt   the same, on a server whose models run in TensorRT (NVIDIA's image and a GPU)
onnx       the exported ONNX files in this process
torch      the checkpoint itself in this process: the original modules, nothing exported

A server must prove that it did the work: it names its version, and its inference counts rise by what was sent (`Proof`).
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from surg.data.preprocess import PreprocessSpec
from surg.errors import CheckFailed, ServerError
from surg.serving.client import Client, connect
from surg.serving.contract import Array
from surg.serving.results import ClipResult, EncoderResult, WorldResult
from surg.serving.transport import CHANNEL

logger = logging.getLogger(__name__)

BackendName = Literal["triton", "tensorrt", "onnx", "torch"]
COUNTS_SETTLE_S = 5.0
"""Triton counts an inference after its answer went out; on a busy machine the last of them stand in the statistics a moment later."""
BACKENDS: tuple[BackendName, ...] = ("triton", "tensorrt", "onnx", "torch")


@dataclass
class Backend:
    """A client, what it runs on, and how to prove it."""

    name: BackendName
    client: Client
    description: dict[str, Any] = field(default_factory=dict)
    proof: "Proof | None" = None
    repository: Path | None = None
    """What the server or onnxruntime serves, where it is on this machine."""

    @property
    def spec(self) -> PreprocessSpec:
        return self.client.contract.preprocess

    def clip(self, frames: Array, zone: Array | None = None, *, outputs: Sequence[str] | None = None) -> ClipResult:
        return cast(ClipResult, self._counted("surg_clip", frames, lambda: self.client.clip(frames, zone, outputs=outputs)))

    def embed(self, frames: Array) -> EncoderResult:
        return cast(EncoderResult, self._counted("surg_encoder", frames, lambda: self.client.embed(frames)))

    def world(self, frames: Array, *, actions: Array | None = None, states: Array | None = None) -> WorldResult:
        return cast(
            WorldResult, self._counted("surg_world", frames, lambda: self.client.world(frames, actions=actions, states=states))
        )

    def _counted(self, model: str, frames: Array, call: Callable[[], Any]) -> Any:
        result = call()
        if self.proof:
            self.proof.count(model, 1 if frames.ndim == 4 else len(frames))
        return result

    def kept(self, answers: int) -> None:
        """Answers of an earlier run that are used again: nothing is sent for them, so no count can rise."""
        if self.proof:
            self.proof.kept += answers

    def finish(self) -> dict[str, Any]:
        """What ran, for the report; raises CheckFailed when a server cannot account for the work."""
        evidence = self.proof.check() if self.proof else {}
        return {"backend": self.name, **self.description, **evidence}


@contextmanager
def open_backend(
    name: BackendName = "triton",
    *,
    server: str | None = None,
    checkpoint: Path | None = None,
    repository: Path | None = None,
    in_flight: int = 8,
    timeout_s: float = 120.0,
) -> Iterator[Backend]:
    """Open one of the backends; whatever had to be started or exported is stopped and removed again.

    Needs one of: a server's address, a repository made by `surg export`, or a checkpoint (exported on the way).
    """
    with ExitStack() as stack:
        if name == "torch":
            from surg.eval.torch_transport import TorchTransport
            from surg.model.saved import find_bundle

            if checkpoint is None:
                raise ServerError("The torch backend runs a checkpoint: give --checkpoint RUN or a .safetensors file.")
            client = stack.enter_context(Client(TorchTransport(find_bundle(checkpoint)), max_in_flight=1, timeout_s=timeout_s))
            yield _described(Backend("torch", client))
            return
        if name == "onnx":
            repository = repository or stack.enter_context(exported(checkpoint))
            client = stack.enter_context(connect(f"local:{repository}", max_in_flight=1, timeout_s=timeout_s))
            yield _described(Backend("onnx", client, repository=repository))
            return
        if server is None:
            from surg.serving.engine import start_server

            repository = repository or stack.enter_context(exported(checkpoint))
            running = stack.enter_context(start_server(repository))
            server = running.grpc_url
            logger.info("started an embedded server on %s", repository)
        client = stack.enter_context(connect(server, max_in_flight=in_flight, timeout_s=timeout_s))
        backend = _described(Backend(name, client, repository=repository))
        backend.proof = Proof(server, [spec.name for spec in client.contract.models])
        backend.description["server"] = backend.proof.version
        if name == "tensorrt" and not backend.proof.runs_tensorrt():
            raise ServerError(
                f"The server at {server} does not run TensorRT: its models are served by {backend.proof.engines()}.\n"
                "Export with --format tensorrt and serve on NVIDIA's image with a GPU: surg serve start REPO --engine docker"
            )
        yield backend


@contextmanager
def exported(checkpoint: Path | None) -> Iterator[Path]:
    """A repository exported from a checkpoint into a temporary folder."""
    if checkpoint is None:
        raise ServerError("Nothing to evaluate: give --server HOST:PORT, --repository REPO, or --checkpoint RUN.")
    from surg.serving.export import export_repository

    with tempfile.TemporaryDirectory(prefix="surg-eval-") as folder:
        repository = Path(folder) / "repository"
        export_repository(checkpoint, repository)
        yield repository


class Proof:
    """Reads the server's version and its inference counts, over the same address that the client uses."""

    def __init__(self, url: str, models: list[str]) -> None:
        self._url, self._models = url, models
        metadata = self._ask("", "get_server_metadata")
        # `triton`, or what an --id made of it: our own servers' ends in a number of theirs.
        name = str(metadata.get("name") or "?").partition("-")[0]
        self.version = f"{name} {metadata.get('version', '?')}"
        if name != "triton" or not metadata.get("version"):
            raise CheckFailed(f"{url} says it is {self.version!r}; expected Triton with its version. No fall-back is used.")
        self.before = self.counts()
        self.sent: dict[str, int] = {}
        self.kept = 0
        self._lock = threading.Lock()

    def count(self, model: str, inferences: int) -> None:
        with self._lock:
            self.sent[model] = self.sent.get(model, 0) + inferences

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for stats in self._ask("", "get_inference_statistics").get("model_stats", []):
            found[stats["name"]] = found.get(stats["name"], 0) + int(stats.get("inference_count", 0))
        return found

    def check(self) -> dict[str, Any]:
        """Counts now against then; CheckFailed when the server did less than was sent to it."""
        deadline = time.monotonic() + COUNTS_SETTLE_S
        risen = self._risen()
        while self._short(risen) and time.monotonic() < deadline:
            time.sleep(0.02)
            risen = self._risen()
        if self._short(risen) or not sum(self.sent.values()) + self.kept:
            raise CheckFailed(
                f"The server at {self._url} counted {risen} inferences, but {self.sent} were sent: the numbers did not come from it."
            )
        return {
            "server": self.version,
            "inferences_sent": dict(self.sent),
            "inferences_counted": {k: v for k, v in risen.items() if v},
            **({"answers_of_an_earlier_run": self.kept} if self.kept else {}),
        }

    def _risen(self) -> dict[str, int]:
        after = self.counts()
        return {model: after.get(model, 0) - self.before.get(model, 0) for model in self._models}

    def _short(self, risen: dict[str, int]) -> bool:
        return any(risen.get(model, 0) < sent for model, sent in self.sent.items())

    def engines(self) -> dict[str, str]:
        """Backend that serves each model."""
        found = {}
        for model in self._models:
            config = self._ask(model, "get_model_config")
            config = config.get("config", config)
            accelerators = str(config.get("optimization", ""))
            found[model] = "tensorrt" if "tensorrt" in accelerators else str(config.get("backend") or config.get("platform"))
        return found

    def runs_tensorrt(self) -> bool:
        return any("tensorrt" in engine for engine in self.engines().values())

    def _ask(self, model: str, question: str) -> dict[str, Any]:
        """One question, on a connection of its own: tritonclient's HTTP client belongs to one thread."""
        arguments = [model] if model else []
        if self._url.startswith("http"):
            import tritonclient.http as http

            client = http.InferenceServerClient(self._url.split("://")[1].rstrip("/"), ssl=self._url.startswith("https"))
            try:
                return dict(getattr(client, question)(*arguments))
            finally:
                client.close()
        import tritonclient.grpc as grpc

        client = grpc.InferenceServerClient(self._url.removeprefix("grpc://"), channel_args=CHANNEL)
        try:
            return dict(getattr(client, question)(*arguments, as_json=True))
        finally:
            client.close()


def _described(backend: Backend) -> Backend:
    contract = backend.client.contract
    backend.description = {
        "checkpoint_sha256": contract.checkpoint_sha256,
        "architecture": contract.architecture,
        "precision": contract.precision,
        "preprocess": contract.preprocess.model_dump(mode="json"),
    }
    return backend
