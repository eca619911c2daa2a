"""Ways to carry one inference request: gRPC, HTTP, or none at all (onnxruntime in this process). One interface, one kind of failure.

Transport ── GrpcTransport   one channel, safe across threads; shared memory when server and client share a machine
          ├─ HttpTransport   one connection per request, safe across threads (tritonclient's synchronous HTTP client is not)
          └─ LocalTransport  surg.serving.local
"""

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import quote

import numpy as np

from surg.serving.contract import NUMPY, Array
from surg.serving.shm import SharedInputs, can_share

Kind = Literal["unreachable", "busy", "stub", "deadline", "invalid", "missing", "internal", "foreign"]

RETRIED: tuple[Kind, ...] = ("unreachable", "busy", "stub")
"""What a little patience can cure: a server that restarts, a full queue, a stub that is being replaced."""


CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC would go through the proxy that $http_proxy names for the web, even to this very machine. Patients' frames go straight to the
    # server, or not at all; our HTTP does so too.
    ("grpc.enable_http_proxy", 0),
]


class TransportError(Exception):
    """A request failed. `kind` says whose fault it is and whether trying again can help."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Request:
    model: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    version: int
    request_id: str
    timeout_s: float


@dataclass(frozen=True)
class Answer:
    outputs: dict[str, Array]
    version: int


class Transport(Protocol):
    where: str

    def configuration(self, model: str, timeout_s: float) -> tuple[dict[str, str], list[int]]:
        """A model's parameters and the versions it serves."""

    def infer(self, request: Request) -> Answer: ...

    def stream(self, request: Request) -> Iterator[Answer]:
        """All answers of a decoupled model, as they come."""

    def close(self) -> None: ...


def kind_of(message: str, status: str = "") -> Kind:
    """Read Triton's answer. Its status codes alone do not tell a full queue from a server that goes down."""
    if "Stub process" in message and "healthy" in message:
        return "stub"
    if "maximum queue size" in message or "RESOURCE_EXHAUSTED" in status:
        return "busy"
    if "DEADLINE" in status or "Request timeout expired" in message or "Deadline Exceeded" in message:
        return "deadline"
    if "UNAVAILABLE" in status or "is not ready" in message or "shutting down" in message:
        return "unreachable"
    if "NOT_FOUND" in status or "unknown model" in message or "is not found" in message:
        return "missing"
    if "INVALID_ARGUMENT" in status or "400" in status:
        return "invalid"
    return "internal"


class GrpcTransport:
    def __init__(self, host: str, *, shared_memory: bool | None = None) -> None:
        import tritonclient.grpc as grpc

        self.where = f"grpc://{host}"
        self._grpc = grpc
        self._client = grpc.InferenceServerClient(host, channel_args=CHANNEL)
        self._shared = SharedInputs(self._client) if (can_share(host) if shared_memory is None else shared_memory) else None

    def configuration(self, model: str, timeout_s: float) -> tuple[dict[str, str], list[int]]:
        with _grpc_errors():
            if not self._client.is_server_live(client_timeout=timeout_s):
                raise TransportError("unreachable", "the server is not live")
            config = self._client.get_model_config(model, client_timeout=timeout_s).config
            metadata = self._client.get_model_metadata(model, client_timeout=timeout_s)
        return {key: value.string_value for key, value in config.parameters.items()}, sorted(
            int(version) for version in metadata.versions
        )

    def infer(self, request: Request) -> Answer:
        lease = self._shared.put(request.inputs) if self._shared else None
        try:
            with _grpc_errors():
                result = self._client.infer(
                    request.model,
                    [self._input(name, array, lease) for name, array in request.inputs.items()],
                    model_version=str(request.version) if request.version else "",
                    outputs=[self._grpc.InferRequestedOutput(name) for name in request.outputs],
                    request_id=request.request_id,
                    timeout=int(request.timeout_s * 1e6),
                    client_timeout=request.timeout_s,
                )
        except TransportError as error:
            if lease is None or self._shared is None:
                raise
            if error.kind == "deadline":
                # The server may still read this memory: it is not lent out again.
                self._shared.discard(lease)
                lease = None
                raise
            if "shared memory region" not in str(error):
                raise
            self._shared.forget()  # a restarted server does not know our regions: send it over the wire, register anew next time
            lease = None
            return self._over_the_wire(request)
        finally:
            if lease is not None and self._shared is not None:
                self._shared.give_back(lease)
        return Answer({name: result.as_numpy(name) for name in request.outputs}, int(result.get_response().model_version or 0))

    def stream(self, request: Request) -> Iterator[Answer]:
        import queue

        import tritonclient.grpc as grpc

        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        host = self.where.removeprefix("grpc://")
        # A stream belongs to one client object: its own, so that other threads keep using ours.
        client = grpc.InferenceServerClient(host, channel_args=CHANNEL)
        try:
            # No deadline for the stream as a whole: it has an answer for every window, and each has its own below.
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer(
                request.model,
                [self._input(name, array, None) for name, array in request.inputs.items()],
                model_version=str(request.version) if request.version else "",
                request_id=request.request_id,
                enable_empty_final_response=True,
            )
            while True:
                try:
                    result, error = answers.get(timeout=request.timeout_s)
                except queue.Empty:
                    raise TransportError("deadline", f"no answer within {request.timeout_s:.0f} s") from None
                if error is not None:
                    raise TransportError(kind_of(error.message(), str(error.status())), error.message())
                response = result.get_response()
                final = response.parameters["triton_final_response"].bool_param
                if response.outputs:
                    yield Answer(
                        {output.name: result.as_numpy(output.name) for output in response.outputs},
                        int(response.model_version or 0),
                    )
                if final:
                    return
        finally:
            client.stop_stream(cancel_requests=True)
            client.close()

    def close(self) -> None:
        if self._shared:
            self._shared.close()
        self._client.close()

    def _over_the_wire(self, request: Request) -> Answer:
        with _grpc_errors():
            result = self._client.infer(
                request.model,
                [self._input(name, array, None) for name, array in request.inputs.items()],
                model_version=str(request.version) if request.version else "",
                outputs=[self._grpc.InferRequestedOutput(name) for name in request.outputs],
                request_id=request.request_id,
                client_timeout=request.timeout_s,
            )
        return Answer({name: result.as_numpy(name) for name in request.outputs}, int(result.get_response().model_version or 0))

    def _input(self, name: str, array: Array, lease: Any) -> Any:
        tensor = self._grpc.InferInput(name, list(array.shape), _triton_name(array))
        place = lease.places.get(name) if lease is not None else None
        if place is None:
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
        else:
            tensor.set_shared_memory(lease.region.name, place[1], offset=place[0])
        return tensor


class _grpc_errors:
    """Turn tritonclient's exception into ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from tritonclient.utils import InferenceServerException

        if isinstance(error, InferenceServerException):
            raise TransportError(kind_of(error.message() or "", str(error.status())), error.message() or str(error)) from error


class HttpTransport:
    def __init__(self, host: str, *, tls: bool = False) -> None:
        self.where = f"{'https' if tls else 'http'}://{host}"
        self._host = host
        self._connection = http.client.HTTPSConnection if tls else http.client.HTTPConnection

    def configuration(self, model: str, timeout_s: float) -> tuple[dict[str, str], list[int]]:
        config = self._ask(f"/v2/models/{quote(model)}/config", timeout_s)
        metadata = self._ask(f"/v2/models/{quote(model)}", timeout_s)
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        return parameters, sorted(int(version) for version in metadata.get("versions", []))

    def infer(self, request: Request) -> Answer:
        arrays = {name: np.ascontiguousarray(array) for name, array in request.inputs.items()}
        header = json.dumps(
            {
                "id": request.request_id,
                "parameters": {"timeout": int(request.timeout_s * 1e6)},
                "inputs": [
                    {
                        "name": name,
                        "shape": list(array.shape),
                        "datatype": _triton_name(array),
                        "parameters": {"binary_data_size": array.nbytes},
                    }
                    for name, array in arrays.items()
                ],
                "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in request.outputs],
            }
        ).encode()
        version = f"/versions/{request.version}" if request.version else ""
        body, length = self._call(
            "POST",
            f"/v2/models/{quote(request.model)}{version}/infer",
            b"".join([header, *(array.tobytes() for array in arrays.values())]),
            {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
            request.timeout_s,
        )
        try:
            answer = json.loads(body[:length])
            outputs, start = {}, length
            for output in answer["outputs"]:
                size = output["parameters"]["binary_data_size"]
                outputs[output["name"]] = np.frombuffer(
                    body, NUMPY[output["datatype"]], size // np.dtype(NUMPY[output["datatype"]]).itemsize, start
                ).reshape(output["shape"])
                start += size
            return Answer(outputs, int(answer.get("model_version") or 0))
        except (ValueError, KeyError, TypeError) as error:
            raise _foreign(body) from error

    def stream(self, request: Request) -> Iterator[Answer]:  # noqa: ARG002
        raise TransportError("invalid", "many answers to one request need a stream, which HTTP has not; connect with gRPC")

    def close(self) -> None:
        """Nothing is kept open: an idle keep-alive connection would hold up the server's shutdown."""

    def _ask(self, path: str, timeout_s: float) -> dict[str, Any]:
        data, _ = self._call("GET", path, b"", {}, timeout_s)
        try:
            return dict(json.loads(data))
        except (ValueError, TypeError) as error:
            raise _foreign(data) from error

    def _call(self, method: str, path: str, body: bytes, headers: dict[str, str], timeout_s: float) -> tuple[bytes, int]:
        connection = self._connection(self._host, timeout=timeout_s)
        deadline = time.monotonic() + timeout_s
        try:
            connection.connect()
            wire = connection.sock
            connection.request(method, path, body, {**headers, "Connection": "close"})
            wire.settimeout(_left(deadline))
            response = connection.getresponse()
            parts = []
            # A socket's time-out is that of one read: an answer that trickles in would never run out of it.
            while part := response.read1(READ_BYTES):
                parts.append(part)
                wire.settimeout(_left(deadline))
            data = b"".join(parts)
            if response.length:
                raise http.client.IncompleteRead(data, response.length)
        except TimeoutError as error:
            raise TransportError("deadline", f"no answer within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise TransportError("unreachable", str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if response.status != 200:
            message, status = _error_text(data), HTTP_STATUS.get(response.status)
            if message is None and status is None:
                # A proxy's page, or another program's: its words say nothing of a model.
                raise TransportError("foreign", f"status {response.status} {response.reason}")
            message = message or f"status {response.status} {response.reason}"
            raise TransportError(kind_of(message, status or str(response.status)), message)
        return data, int(response.headers.get("Inference-Header-Content-Length", len(data)))


HTTP_STATUS = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    # What a proxy says while the server behind it restarts.
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


READ_BYTES = 1 << 20


def _left(deadline: float) -> float:
    """Seconds until `deadline`; TimeoutError when there are none."""
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _foreign(data: bytes) -> TransportError:
    return TransportError("foreign", data.decode(errors="replace")[:200] or "an empty body")


def _error_text(data: bytes) -> str | None:
    """The reason in an answer of Triton's; None in anybody else's."""
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return None


def _triton_name(array: Array) -> str:
    for name, dtype in NUMPY.items():
        if array.dtype == dtype:
            return name
    raise TypeError(f"arrays of {array.dtype} cannot be sent")
