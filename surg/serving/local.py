"""The same models without a server: onnxruntime in this process, on the same repository, behind the same client.

The oracle that the served model is compared with, and the way to work where Triton cannot run (macOS, Python 3.13).
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surg.errors import ServerError
from surg.serving import repository
from surg.serving.transport import Answer, Request, TransportError


def session(path: Path, threads: int = 0, *, flush: bool = False) -> Any:
    """An onnxruntime session of a served model: one thread per core unless told.

    flush: numbers below 1e-38 are zeros, as in the server. It changes the arithmetic of the thread that calls, and for good.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ServerError(
            "onnxruntime is not installed. Install one of its two kinds: pip install 'surg[cpu]' or 'surg[gpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads
    options.add_session_config_entry("session.set_denormal_as_zero", str(int(flush)))
    providers = ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


class LocalTransport:
    def __init__(self, repo: Path, threads: int = 0) -> None:
        self.where = f"local:{repo}"
        self._repo = Path(repo)
        self._threads = threads
        self._sessions: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()
        repository.lead_model(self._repo)

    def configuration(self, model: str, timeout_s: float) -> tuple[dict[str, str], list[int]]:  # noqa: ARG002
        if not (self._repo / model / "config.pbtxt").is_file():
            raise TransportError("missing", f"{self._repo} has no model {model}")
        config = repository.read_config(self._repo, model)
        return {key: value.string_value for key, value in config.parameters.items()}, sorted(
            config.version_policy.specific.versions
        )

    def infer(self, request: Request) -> Answer:
        version = request.version or self.configuration(request.model, 0)[1][-1]
        runner = self._session(request.model, version)
        try:
            results = runner.run(list(request.outputs), dict(request.inputs))
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise TransportError(
                "invalid", f"onnxruntime could not run this request: {str(error).splitlines()[0][:500]}"
            ) from error
        return Answer(dict(zip(request.outputs, results)), version)

    def stream(self, request: Request) -> Iterator[Answer]:  # noqa: ARG002
        raise TransportError("invalid", "surg_video runs on a server only; watch() slides the window on this side instead")

    def close(self) -> None:
        self._sessions.clear()

    def _session(self, model: str, version: int) -> Any:
        with self._lock:
            if (model, version) not in self._sessions:
                path = self._repo / model / str(version) / "model.onnx"
                if version not in self.configuration(model, 0)[1] or not path.is_file():
                    raise TransportError("missing", f"{self._repo} serves no version {version} of {model}")
                self._sessions[model, version] = session(path, self._threads)
            return self._sessions[model, version]
