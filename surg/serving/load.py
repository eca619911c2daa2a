"""A load generator for the served model: windows of all kinds take turns, so that a busy machine slows them alike. No torch."""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from surg.runs import describe_environment
from surg.serving.client import Client, connect
from surg.serving.engine import start_server
from surg.serving.local import LocalTransport


@dataclass
class Kind:
    """One way to call the model, by so many callers at once."""

    label: str
    call: Callable[[], object]
    callers: int
    rates: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def window(self, seconds: float) -> None:
        found: list[list[float]] = [[] for _ in range(self.callers)]
        end = time.perf_counter() + seconds
        begun = time.perf_counter()

        def run(mine: list[float]) -> None:
            while (start := time.perf_counter()) < end:
                self.call()
                mine.append(1e3 * (time.perf_counter() - start))

        workers = [threading.Thread(target=run, args=(mine,)) for mine in found]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        everything = [value for mine in found for value in mine]
        # Until the last answer: a request that began inside the window is counted with all of its time.
        self.rates.append(len(everything) / (time.perf_counter() - begun))
        self.latencies_ms += everything


def measure(
    repo: Path, clients: list[int], seconds: float, rounds: int, threads: int = 0, server: str | None = None
) -> dict[str, Any]:
    """Throughput and latency of surg_clip, uint8, one clip a request."""
    with contextlib.ExitStack() as stack:
        facts: dict[str, Any] = {}
        grpc, http = server, None
        if server is None:
            begun = time.perf_counter()
            running = start_server(repo, threads=threads)
            facts["ready_s"] = round(time.perf_counter() - begun, 2)
            grpc, http = running.grpc_url, running.http_url

            def stop() -> None:
                start = time.perf_counter()
                facts["stop_rc"] = running.stop()
                facts["stop_s"] = round(time.perf_counter() - start, 2)

            stack.callback(stop)
        assert grpc is not None
        most = max(clients)
        wire = stack.enter_context(connect(grpc, shared_memory=False, max_in_flight=most))
        shared = stack.enter_context(connect(grpc, shared_memory=True, max_in_flight=most))
        spec = wire.contract.model("surg_clip")
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (1, *spec.input("frames").shape), dtype=np.uint8)
        zone = np.ones((1, *spec.input("zone").shape), np.float32)
        session = LocalTransport(Path(repo), threads)._session("surg_clip", wire.version)
        names = [tensor.name for tensor in spec.outputs]
        kinds = [Kind("onnxruntime in this process", lambda: session.run(names, {"frames": frames, "zone": zone}), 1)]
        for count in clients:
            kinds.append(Kind("Triton, gRPC", _asker(wire, frames, zone), count))
            kinds.append(Kind("Triton, gRPC and shared memory", _asker(shared, frames, zone), count))
            if http is not None:
                kinds.append(
                    Kind(
                        "Triton, HTTP",
                        _asker(stack.enter_context(connect(f"http://{http}", max_in_flight=most)), frames, zone),
                        count,
                    )
                )
        for kind in kinds:
            kind.window(min(seconds, 0.5))
            kind.rates.clear()
            kind.latencies_ms.clear()
        for _ in range(rounds):
            for kind in kinds:
                kind.window(seconds)
        facts["input"] = f"uint8 {'x'.join(map(str, spec.input('frames').shape))}"
        facts["model"] = f"{wire.contract.architecture or 'model'} {wire.contract.precision}"
    return {
        "what": "surg_clip served by Triton against onnxruntime in this process, interleaved windows",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": describe_environment(seed=0, data_fingerprint=None),
        "window_s": seconds,
        "rounds": rounds,
        "threads": threads,
        **facts,
        "rows": [_row(kind, kinds[0]) for kind in kinds],
    }


def _asker(client: Client, frames: Any, zone: Any) -> Callable[[], object]:
    return lambda: client.clip(frames, zone)


def _row(kind: Kind, base: Kind) -> dict[str, Any]:
    ratios = [mine / other for mine, other in zip(kind.rates, base.rates)]
    p50, p95, p99 = np.percentile(kind.latencies_ms, [50, 95, 99])
    base_p50 = float(np.percentile(base.latencies_ms, 50))
    return {
        "kind": kind.label,
        "clients": kind.callers,
        "clips_per_s": round(statistics.median(kind.rates), 2),
        "x_direct": round(statistics.median(ratios), 3),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
        "p50_above_direct_ms": round(float(p50) - base_p50, 2),
        "requests": len(kind.latencies_ms),
    }


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"{result['model']}, {result['input']}, {result['date']}; {result['rounds']} windows of {result['window_s']} s per row, in turns"
        + (
            f"; ready after {result['ready_s']} s, stopped in {result['stop_s']} s (status {result['stop_rc']})"
            if "ready_s" in result
            else ""
        ),
        "",
        "| kind | clients | clips/s | x direct | p50 ms | p95 ms | p99 ms | p50 above direct |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = ("kind", "clients", "clips_per_s", "x_direct", "p50_ms", "p95_ms", "p99_ms", "p50_above_direct_ms")
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in result["rows"]]
    return "\n".join(lines) + "\n"
