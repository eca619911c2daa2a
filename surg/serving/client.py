"""The client: numpy in, typed results out, the same whether the models run on a server or in this process. No torch.

    client = surg.connect("127.0.0.1:8001")
    result = client.clip(frames, zone)            # result.breach_probability, result.action, result.embedding
    for window in client.watch("operation.mp4"):
        print(window.end_s, window.breach)

Thread-safe. Close it, or use it as a context manager.
"""

import logging
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surg.errors import ConfigError, ServerError
from surg.serving.contract import Array, Contract, ModelSpec, contract_from_parameters
from surg.serving.results import ClipResult, EncoderResult, Window, WorldResult
from surg.serving.transport import RETRIED, Answer, GrpcTransport, HttpTransport, Request, Transport, TransportError

if TYPE_CHECKING:
    from surg.data.preprocess import Polygon

logger = logging.getLogger(__name__)

LONGEST_S = 1e9
"""Thirty years: what means for ever, infinity itself, fits into no protocol's number."""

RESTART_S = 1.0
"""A server that is ended and started on another repository answers nobody for longer than that."""

Protocol = Literal["grpc", "http", "local"]


def connect(
    url: str,
    protocol: Protocol | None = None,
    *,
    timeout_s: float = 30.0,
    patience_s: float = 10.0,
    max_in_flight: int = 4,
    shared_memory: bool | None = None,
    version: int | None = None,
    expect: Contract | None = None,
    threads: int = 0,
) -> "Client":
    """Open a client and check that the server speaks our contract.

    url: `host:8001` (gRPC), `http://host:8000`, or `local:REPO` for onnxruntime in this process.
    timeout_s: a request's deadline.  patience_s: how long within it to go on trying when the server restarts or its queue is full.
    max_in_flight: requests under way at once, over all threads.  shared_memory: None tries it with a server on this machine.
    version: model version to use; None means the newest served.  expect: refuse a server whose interface differs from this.
    Raises ServerError when nobody answers or the contract does not match.
    """
    transport = _transport(url, protocol, shared_memory, threads)
    try:
        return Client(
            transport, timeout_s=timeout_s, patience_s=patience_s, max_in_flight=max_in_flight, version=version, expect=expect
        )
    except BaseException:
        transport.close()
        raise


def _transport(url: str, protocol: Protocol | None, shared_memory: bool | None, threads: int) -> Transport:
    scheme, colon, rest = url.partition("://")
    if not colon:
        scheme, rest = (
            ("local", url.removeprefix("local:"))
            if url.startswith("local:") or protocol == "local"
            else (protocol or "grpc", url)
        )
    if scheme == "local":
        from surg.serving.local import LocalTransport

        return LocalTransport(Path(rest), threads)
    host = rest.rstrip("/")
    if ":" not in host:
        raise ServerError(f"{url!r} names no port. Triton's are 8001 for gRPC and 8000 for HTTP: {host}:8001")
    if not host.rpartition(":")[2].isdigit():
        raise ServerError(f"{url!r} does not end in a port: an address is host:port, without a path.")
    if scheme == "grpc":
        return GrpcTransport(host, shared_memory=shared_memory)
    if scheme in ("http", "https"):
        return HttpTransport(host, tls=scheme == "https")
    raise ServerError(f"{url!r} is no server address. Use host:8001, grpc://host:8001, http://host:8000 or local:REPO.")


class Client:
    """Made by `connect`. `contract` says what this server's models take and give; with no version asked for it follows the server's."""

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_s: float = 30.0,
        patience_s: float = 10.0,
        max_in_flight: int = 4,
        version: int | None = None,
        expect: Contract | None = None,
    ) -> None:
        if max_in_flight < 1:
            raise ConfigError(f"max_in_flight is {max_in_flight}; expected 1 or more: with none no request would ever be sent.")
        self._transport = transport
        self._timeout_s, self._patience_s = _deadline(timeout_s), patience_s
        self._in_flight = threading.BoundedSemaphore(max_in_flight)
        self.max_in_flight = max_in_flight
        self._wanted = version
        self._answered_s = time.monotonic()
        self.contracts, self.versions = self._read_contracts()
        """Contracts by version, and the versions served."""
        self.version = version if version is not None else self.versions[-1]
        if self.version not in self.versions:
            raise self._unknown_version(self.version)
        self.contract = self.contracts[self.version]
        if expect is not None:
            expect.require_same_interface(self.contract, self.where)

    @property
    def where(self) -> str:
        return self._transport.where

    def clip(
        self,
        frames: Array,
        zone: Array | None = None,
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        version: int | None = None,
    ) -> ClipResult:
        """Embedding, action and breach of one clip (T, S, S, 3) or of B clips (B, T, S, S, 3), prepared uint8 RGB.

        zone: share of each patch inside the sterile field, (h, w) or (B, h, w); None is the whole picture.
        outputs: only these are computed, the others stay empty; a head that nobody asks costs nothing. None is all.
        """
        spec = self.contract.model("surg_clip")
        frames = np.asarray(frames)
        frames = frames[None] if frames.ndim == 4 else frames
        shape = spec.input("zone").shape
        zone = np.ones((len(frames), *shape), np.float32) if zone is None else np.asarray(zone, np.float32)
        zone = np.broadcast_to(zone, (len(frames), *shape)) if zone.shape == shape else zone
        answer, request_id = self._infer(spec, {"frames": frames, "zone": zone}, timeout_s, version, outputs)
        out = answer.outputs
        nothing = np.zeros((len(frames), 0), np.float32)
        return ClipResult(
            out.get("embedding", nothing),
            out.get("action", nothing),
            out.get("breach", nothing),
            out.get("breach_map", np.zeros((len(frames), 0, 0, 0), np.float32)),
            answer.version,
            request_id,
        )

    def embed(self, frames: Array, *, timeout_s: float | None = None, version: int | None = None) -> EncoderResult:
        """Tokens, levels and pooled features of one clip or of B clips."""
        frames = np.asarray(frames)
        frames = frames[None] if frames.ndim == 4 else frames
        answer, _ = self._infer(self.contract.model("surg_encoder"), {"frames": frames}, timeout_s, version)
        out = answer.outputs
        return EncoderResult(out["tokens"], out["levels"], out["pooled"], answer.version)

    def world(
        self,
        frames: Array,
        *,
        actions: Array | None = None,
        states: Array | None = None,
        timeout_s: float | None = None,
        version: int | None = None,
    ) -> WorldResult:
        """Predicted future latents and surprise of one clip or of B clips.

        actions, states: (steps, numbers) or (B, steps, numbers), one row for each tubelet seen and each foreseen but the last
        (`contract.actions` says what the numbers are); None is all zeros, which training uses for what is not known.
        """
        spec = self.contract.model("surg_world")
        frames = np.asarray(frames)
        frames = frames[None] if frames.ndim == 4 else frames
        inputs: dict[str, Array] = {"frames": frames}
        for name, given in (("actions", actions), ("states", states)):
            if any(tensor.name == name for tensor in spec.inputs):
                shape = (len(frames), *spec.input(name).shape)
                values = np.zeros(shape, np.float32) if given is None else np.asarray(given, np.float32)
                inputs[name] = np.broadcast_to(values, shape) if values.shape == shape[1:] else values
            elif given is not None:
                raise ServerError(f"This world model takes no {name}: it was exported without an action-conditioned predictor.")
        answer, _ = self._infer(spec, inputs, timeout_s, version)
        out = answer.outputs
        return WorldResult(out["future"], out["surprise"].reshape(-1), out["surprise_map"], answer.version, out.get("present"))

    def raw(
        self, model: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None, version: int | None = None
    ) -> Answer:
        """Any model by name, tensors by name: no more than the contract's check, deadlines and retries."""
        return self._infer(self.contract.model(model), inputs, timeout_s, version)[0]

    def clip_many(self, items: Iterable[tuple[Array, Array | None]], *, version: int | None = None) -> Iterator[ClipResult]:
        """Results of many clips in their order, with at most `max_in_flight` under way. Reads `items` no faster than it sends."""
        yield from self.map(lambda item: self.clip(item[0], item[1], version=version), items)

    def map(self, call: Any, items: Iterable[Any]) -> Iterator[Any]:
        """`call(item)` for every item, in order, from as many threads as may be in flight. Stops at the first error."""
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="surg-client") as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(call, item))
                    # What is done goes out at once: the first result must not wait until as many as may be in flight were sent.
                    while waiting and (len(waiting) > self.max_in_flight or waiting[0].done()):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def watch(
        self,
        video: Path | str,
        zone: "Polygon | None" = None,
        *,
        stride_s: float = 1.0,
        start_s: float = 0.0,
        end_s: float | None = None,
        surprise: bool = False,
        surprise_every: int = 1,
        on_server: bool = False,
    ) -> Iterator[Window]:
        """Slide over a video of any length; memory stays flat. Yields one Window per `stride_s` as results come.

        zone: polygon of [x, y] corners in 0..1 of the frame.  surprise: also ask the world model,
        for every `surprise_every`-th window: it costs twice what the rest of a window costs.
        on_server: send the frames once and let surg_video slide the window (gRPC).
        """
        from surg.serving.stream import watch

        yield from watch(
            self,
            Path(video),
            zone,
            stride_s=stride_s,
            start_s=start_s,
            end_s=end_s,
            surprise=surprise,
            surprise_every=surprise_every,
            on_server=on_server,
        )

    def stream(self, model: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> Iterator[Answer]:
        """All answers of a decoupled model."""
        spec = self.contract.model(model)
        self._check(spec, inputs)
        request = Request(
            model,
            inputs,
            [tensor.name for tensor in spec.outputs],
            self._wanted or 0,
            _request_id(),
            self._timeout_s if timeout_s is None else _deadline(timeout_s),
        )
        answers = self._transport.stream(request)
        try:
            while True:
                # Not while the caller has an answer in hand: it may ask something else before it wants the next one.
                with self._in_flight:
                    answer = next(answers, None)
                if answer is None:
                    return
                self._follow_to(answer.version)
                yield answer
        except TransportError as error:
            raise self._explain(error, request) from error
        finally:
            if isinstance(answers, Generator):
                answers.close()  # the caller may have left early

    def refresh(self) -> None:
        """Read the contract again, after the server's operator changed versions."""
        self.contracts, self.versions = self._read_contracts()
        self.version = self._wanted if self._wanted is not None else self.versions[-1]
        if self.version not in self.versions:
            raise self._unknown_version(self.version)
        self.contract = self.contracts[self.version]

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _infer(
        self,
        spec: ModelSpec,
        inputs: Mapping[str, Array],
        timeout_s: float | None,
        version: int | None,
        outputs: Sequence[str] | None = None,
    ) -> tuple[Answer, str]:
        if version is not None and version not in self.versions:
            raise self._unknown_version(version)
        self._check(spec, inputs)
        budget = self._timeout_s if timeout_s is None else _deadline(timeout_s)
        # None asked for: whatever is newest on the server, so that a rollback reaches clients that are already connected.
        number = version if version is not None else self._wanted or 0
        names = [tensor.name for tensor in spec.outputs]
        if outputs is not None and not set(outputs) <= set(names):
            raise ServerError(f"{spec.name} was asked for {', '.join(outputs)}; it gives {', '.join(names)}.")
        request = Request(spec.name, inputs, names if outputs is None else list(outputs), number, _request_id(), budget)
        with self._in_flight:
            begun = time.monotonic()
            answer, attempts = self._try_until(request, begun + budget)
        silent_s, self._answered_s = begun - self._answered_s, time.monotonic()
        if attempts > 1 or silent_s > RESTART_S:
            self._look_again()
        if number == 0:
            self._follow_to(answer.version)
        return answer, request.request_id

    def _follow_to(self, version: int) -> None:
        """The operator has changed versions: thresholds and fingerprint are to be those of the one that answers."""
        if version in (0, self.version) or self._wanted is not None:
            return
        if version not in self.contracts:
            try:
                contracts, self.versions = self._read_contracts()
            except ServerError as error:
                logger.debug("version %d answers, but its contract cannot be read yet: %s", version, error)
                return  # the next answer brings us here again
            self.contracts = self.contracts | contracts
        if version in self.contracts:
            self.contract.require_same_interface(self.contracts[version], self.where)
            self.version, self.contract = version, self.contracts[version]
            logger.info("%s answers with version %d now.", self.where, version)

    def _look_again(self) -> None:
        """The server may have been started anew since, on another repository: its version 1 is not the one that we know. Raises
        ServerError when it speaks another contract."""
        if self.where.startswith("local:"):
            return
        try:
            contracts, versions = self._read_contracts()
        except ServerError as error:
            logger.debug("the contract cannot be read again yet: %s", error)
            self._answered_s = -LONGEST_S  # with the next answer
            return
        found = contracts.get(self.version)
        if found is not None and found != self.contract:
            try:
                self.contract.require_same_interface(found, self.where)
            except ServerError:
                self._answered_s = -LONGEST_S  # whoever asks on is told again
                raise
            logger.info("%s has another model as version %d now.", self.where, self.version)
            self.contract = found
        self.contracts, self.versions = contracts, versions

    def _try_until(self, request: Request, deadline: float) -> tuple[Answer, int]:
        """The answer, and how many times it was asked for."""
        begun, attempt = time.monotonic(), 0
        while True:
            left = deadline - time.monotonic()
            try:
                return self._transport.infer(Request(**{**request.__dict__, "timeout_s": max(left, 0.001)})), attempt + 1
            except TransportError as error:
                # Full jitter: clients that were refused together do not come back together.
                pause = random.uniform(0.02, min(1.0, 0.05 * 2**attempt))
                now = time.monotonic()
                if error.kind not in RETRIED or now + pause > deadline or now - begun > self._patience_s:
                    raise self._explain(error, request) from error
                logger.debug("request %s: %s; again in %.2f s", request.request_id, error.kind, pause)
                time.sleep(pause)
                attempt += 1

    def _check(self, spec: ModelSpec, inputs: Mapping[str, Array]) -> None:
        for tensor in spec.inputs:
            tensor.check(inputs[tensor.name], batched=spec.batched, model=spec.name)
        if not spec.batched:
            return
        batch = len(inputs[spec.inputs[0].name])
        if batch > spec.max_batch_size or batch == 0:
            raise ServerError(
                f"{batch} clips in one request; {spec.name} takes 1 to {spec.max_batch_size}.\n"
                "Send fewer at once; client.clip_many keeps several requests under way."
            )
        for tensor in spec.inputs:
            if len(inputs[tensor.name]) != batch:
                raise ServerError(f"`{tensor.name}` holds {len(inputs[tensor.name])} items for {batch} clips; send one each.")

    def _read_contracts(self) -> tuple[dict[int, Contract], list[int]]:
        begun = time.monotonic()
        for model in ("surg_clip", "surg_encoder", "surg_world"):
            try:
                parameters, versions = self._transport.configuration(model, min(self._timeout_s, 10.0))
            except TransportError as error:
                if error.kind != "missing":
                    raise self._explain(error, None) from error
                continue
            contracts = contract_from_parameters(parameters, self.where)
            logger.debug("contract read from %s in %.0f ms", self.where, 1e3 * (time.monotonic() - begun))
            return contracts, versions
        raise ServerError(
            f"{self.where} answers, but serves no model of surg (surg_clip, surg_encoder or surg_world).\n"
            "Serve a repository made by surg export: surg serve start REPO"
        )

    def _unknown_version(self, version: int) -> ServerError:
        return ServerError(
            f"{self.where} does not serve version {version}; it serves {', '.join(map(str, self.versions))}.\n"
            "Leave the version out for the newest, or bring it back: surg serve rollback --to VERSION"
        )

    def _explain(self, error: TransportError, request: Request | None) -> ServerError:
        what = f"Request {request.request_id} to {request.model} at {self.where}" if request else f"The server at {self.where}"
        patience = f"after {self._patience_s:g} s of trying"
        text = {
            "unreachable": f"{what} got no answer: {error}.\nIs it running? surg serve status    Start one: surg serve start REPO",
            "busy": f"{what} was refused {patience}: its queue is full.\n"
            "Send less at once (max_in_flight), wait longer (patience_s), or export with a longer queue: --set queue.max_queue_size=256",
            "stub": f"{what} failed {patience}: the server's worker process has died ({error}).\n"
            "The embedded server replaces it by itself; elsewhere restart the server. Look: surg serve logs",
            "deadline": f"{what} ran out of time: {error}.\nGive it longer (timeout_s; surg infer --timeout), or see whether the server is overloaded: surg serve status",
            "missing": f"{what}: the server does not have it: {error}.\nIt serves version(s) {', '.join(map(str, getattr(self, 'versions', [])))}.",
            "foreign": f"{what} got an answer that is not Triton's: {error}.\n"
            "Another program may listen there, or a proxy be in between. Triton's ports are 8001 for gRPC and 8000 for HTTP.",
            "invalid": f"{what} was refused: {error}.\nCompare it with client.contract.",
            "internal": f"{what} failed on the server: {error}.\nIts log says more: surg serve logs",
        }[error.kind]
        return ServerError(text)


def _deadline(timeout_s: float) -> float:
    """A deadline that both protocols can carry."""
    if not timeout_s > 0:
        raise ConfigError(f"timeout_s is {timeout_s}; expected seconds, more than 0. Leave it out for the usual.")
    return min(timeout_s, LONGEST_S)


def _request_id() -> str:
    return uuid.uuid4().hex[:16]
