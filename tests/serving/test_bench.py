"""`surg bench serve`: what it measures and what it writes. How fast this machine is, is not asked."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from surg.serving.engine import Server
from surg.serving.export import Exported

SHORT = ("--seconds", 0.2, "--rounds", 2)


def test_it_starts_measures_and_stops_a_server_and_judges_its_bars(
    surg: Callable[..., CompletedProcess[str]], exported: Exported, tmp_path: Path
) -> None:
    done = surg("bench", "serve", exported.repo, *SHORT, "--starts", 1, "--threads", 1, "--out", "figures.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (tmp_path / "figures.md").read_text() in done.stdout
    ways = [(row["kind"], row["clients"]) for row in found["rows"]]
    served = ["Triton, gRPC", "Triton, gRPC and shared memory", "Triton, HTTP"]
    assert ways == [("onnxruntime in this process", 1), *((way, count) for count in (1, 4) for way in served)]
    for row in found["rows"]:
        assert row["requests"] >= 2 * row["clients"]  # every caller at least once a window
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["p50_above_direct_ms"] == pytest.approx(row["p50_ms"] - found["rows"][0]["p50_ms"], abs=0.011)
    assert len(found["ready_s"]) == 1
    assert found["stop_rc"] == [0]
    assert found["left_in_shm"] == []
    assert found["empty_call_ms"] > 0
    assert f"without work, after a clip: {found['empty_call_ms']:g} ms" in done.stdout
    held = {bar["bar"]: bar["held"] for bar in found["bars"]}
    assert len(held) == 6
    assert held["stops that did not end with status 0"]
    assert held["regions left in /dev/shm"]


def test_a_running_server_is_measured_and_left_running(
    surg: Callable[..., CompletedProcess[str]], exported: Exported, server: Server
) -> None:
    done = surg("bench", "serve", exported.repo, *SHORT, "--clients", 2, "--server", server.grpc_url)
    assert done.returncode == 0, done.stderr
    kinds = [line.split(" | ")[:2] for line in done.stdout.splitlines() if line.startswith("| Triton")]
    assert kinds == [["| Triton, gRPC", "2"], ["| Triton, gRPC and shared memory", "2"]]
    assert "ready after" not in done.stdout
    assert "| bar |" not in done.stdout  # none of them was measured
    assert server.alive
