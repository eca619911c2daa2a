"""A load generator for the served model: windows of all kinds take turns, so that a busy machine slows them alike. No torch.

Beside the clock stands processor time, of this process and of the server's: on a machine that others use too it is the steadier
of the two.
"""

import contextlib
import os
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
from surg.serving.engines.embedded import EmbeddedServer
from surg.serving.engines.embedded import start as start_embedded
from surg.serving.engines.guardian import SHM, children, shm_namespace
from surg.serving.local import session

BARS = {"least_x_direct": 0.95, "most_shared_memory_ms": 1.0, "most_ready_s": 5.0, "most_stop_s": 4.0}
"""What the embedded server is held to, with one thread per core and nothing else running: throughput of `BAR_CLIENTS` callers over
that of one direct caller, p50 over shared memory above the direct call, the slowest start and the slowest stop."""
BAR_CLIENTS = 4


@dataclass
class Kind:
    """One way to call the model, by so many callers at once."""

    label: str
    call: Callable[[], object]
    callers: int
    rates: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    def window(self, seconds: float, server_pid: int | None = None) -> None:
        spent = cpu_seconds(server_pid)
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
        self.cpu_s += cpu_seconds(server_pid) - spent


@dataclass
class Lifetimes:
    """How long embedded servers took to start (by the clock, and in processor time of the server) and to stop, and what they left."""

    repo: Path
    threads: int
    ready_s: list[float] = field(default_factory=list)
    ready_cpu_s: list[float] = field(default_factory=list)
    stop_s: list[float] = field(default_factory=list)
    stop_rc: list[int] = field(default_factory=list)
    left_in_shm: list[str] = field(default_factory=list)

    def start(self) -> EmbeddedServer:
        begun = time.perf_counter()
        running = start_embedded(self.repo, threads=self.threads)
        self.ready_s.append(round(time.perf_counter() - begun, 2))
        self.ready_cpu_s.append(round(cpu_seconds(running.pid) - time.process_time(), 2))
        return running

    def stop(self, running: EmbeddedServer) -> None:
        guardian = running.state["guardian_pid"]
        begun = time.perf_counter()
        self.stop_rc.append(running.stop())
        self.stop_s.append(round(time.perf_counter() - begun, 2))
        self.left_in_shm += [path.name for path in SHM.glob(f"{shm_namespace()}{guardian}_*")]


def measure(
    repo: Path, clients: list[int], seconds: float, rounds: int, threads: int = 0, server: str | None = None, starts: int = 3
) -> dict[str, Any]:
    """Throughput and latency of surg_clip, uint8, one clip a request; and `starts` starts and stops of the embedded server."""
    lives = Lifetimes(Path(repo), threads)
    with contextlib.ExitStack() as stack:
        facts: dict[str, Any] = {}
        grpc, http, pid = server, None, None
        if server is None:
            for _ in range(starts - 1):
                lives.stop(lives.start())
            running = lives.start()
            stack.callback(lives.stop, running)
            grpc, http, pid = running.grpc_url, running.http_url, running.pid
        assert grpc is not None
        most = max(clients)
        wire = stack.enter_context(connect(grpc, shared_memory=False, max_in_flight=most))
        shared = stack.enter_context(connect(grpc, shared_memory=True, max_in_flight=most))
        spec = wire.contract.model("surg_clip")
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (1, *spec.input("frames").shape), dtype=np.uint8)
        zone = np.ones((1, *spec.input("zone").shape), np.float32)
        direct = session(Path(repo) / "surg_clip" / str(wire.version) / "model.onnx", threads, flush=True)
        names = [tensor.name for tensor in spec.outputs]
        kinds = [Kind("onnxruntime in this process", lambda: direct.run(names, {"frames": frames, "zone": zone}), 1)]
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
            kind.cpu_s = 0.0
        empty_ms: list[float] = []
        for _ in range(rounds):
            for kind in kinds:
                kind.window(seconds, pid)
            empty_ms += _empty_calls(grpc, kinds[0].call)
        facts["input"] = f"uint8 {'x'.join(map(str, spec.input('frames').shape))}"
        facts["empty_call_ms"] = round(statistics.median(empty_ms), 2)
        facts["model"] = f"{wire.contract.architecture or 'model'} {wire.contract.precision}"
    rows = [_row(kind, kinds[0]) for kind in kinds]
    if server is None:
        facts |= {key: value for key, value in vars(lives).items() if key not in ("repo", "threads")}
    return {
        "what": "surg_clip served by Triton against onnxruntime in this process, interleaved windows",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": describe_environment(seed=0, data_fingerprint=None),
        "window_s": seconds,
        "rounds": rounds,
        "threads": threads,
        **facts,
        "rows": rows,
        "bars": _bars(rows, lives),
    }


def _empty_calls(grpc: str, between: Callable[[], object], count: int = 10) -> list[float]:
    """Milliseconds of gRPC calls that ask for no work, each after a clip: what a lone client cannot go below, whatever serves it."""
    import tritonclient.grpc

    with tritonclient.grpc.InferenceServerClient(grpc) as client:
        client.is_server_live()
        found = []
        for _ in range(count):
            between()
            start = time.perf_counter()
            client.is_server_live()
            found.append(1e3 * (time.perf_counter() - start))
    return found


def _bars(rows: list[dict[str, Any]], lives: Lifetimes) -> list[dict[str, Any]]:
    """Each bar with what was found; only those that this run measured."""
    found = []

    def bar(what: str, value: float, bound: float, *, least: bool = False) -> None:
        found.append({"bar": what, "found": value, "bound": bound, "held": value >= bound if least else value <= bound})

    served = [row for row in rows if row["clients"] == BAR_CLIENTS and row["kind"].startswith("Triton, gRPC")]
    if served:
        what = f"throughput of {BAR_CLIENTS} clients over direct onnxruntime, at least"
        bar(what, max(row["x_direct"] for row in served), BARS["least_x_direct"], least=True)
    for row in rows:
        if row["clients"] == 1 and "shared memory" in row["kind"]:
            bar(
                "p50 of one client over shared memory above direct, ms, at most",
                row["p50_above_direct_ms"],
                BARS["most_shared_memory_ms"],
            )
    if lives.ready_s:
        bar("start to ready, slowest, s, at most", max(lives.ready_s), BARS["most_ready_s"])
        bar("stop, slowest, s, at most", max(lives.stop_s), BARS["most_stop_s"])
        bar("stops that did not end with status 0", float(sum(rc != 0 for rc in lives.stop_rc)), 0)
        bar("regions left in /dev/shm", float(len(lives.left_in_shm)), 0)
    return found


def cpu_seconds(server_pid: int | None) -> float:
    """Processor time of this process so far, plus that of a server and its workers."""
    total = time.process_time()
    for pid in ({server_pid} | children(server_pid)) if server_pid else ():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


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
        "cpu_ms_per_clip": round(1e3 * kind.cpu_s / max(1, len(kind.latencies_ms)), 2),
        "requests": len(kind.latencies_ms),
    }


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"{result['model']}, {result['input']}, {result['date']}; {result['rounds']} windows of {result['window_s']} s per row, in turns"
        + (
            f"; ready after {_list(result['ready_s'])} s, stopped in {_list(result['stop_s'])} s (status {_list(result['stop_rc'])})"
            if "ready_s" in result
            else ""
        )
        + f"; a gRPC call without work, after a clip: {result['empty_call_ms']:g} ms",
        "",
        "| kind | clients | clips/s | x direct | p50 ms | p95 ms | p99 ms | p50 above direct | CPU ms a clip |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    keys = (
        "kind",
        "clients",
        "clips_per_s",
        "x_direct",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "p50_above_direct_ms",
        "cpu_ms_per_clip",
    )
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in result["rows"]]
    if result["bars"]:
        lines += ["", "| bar | bound | found | held |", "|---|---|---|---|"]
    lines += [
        f"| {bar['bar']} | {bar['bound']:g} | {bar['found']:g} | {'yes' if bar['held'] else 'NO'} |" for bar in result["bars"]
    ]
    return "\n".join(lines) + "\n"


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
