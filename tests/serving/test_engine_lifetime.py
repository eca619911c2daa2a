"""Starting, dying, coming back, and leaving nothing behind."""

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer

from surg.errors import ConfigError, ServerError
from surg.runs import write_json
from surg.serving import registry, repository, shm
from surg.serving.client import connect
from surg.serving.engine import Server, start_server
from surg.serving.engines import embedded
from surg.serving.engines.embedded import EmbeddedServer
from surg.serving.engines.guardian import SHM, born, children, free_ports, shm_namespace
from tests.serving.toy import toy_repository

pytestmark = pytest.mark.triton


def started(repo: Path) -> EmbeddedServer:
    server = start_server(repo, threads=1)
    assert isinstance(server, EmbeddedServer)
    return server


def regions(server: EmbeddedServer) -> list[Path]:
    guardian = server.state["guardian_pid"]
    return list(SHM.glob(f"{shm_namespace()}{guardian}_*"))


def until(condition: Callable[[], object], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_stop_ends_with_status_zero_and_an_empty_shared_memory(tmp_path: Path) -> None:
    repo, clip = toy_repository(tmp_path)
    server = started(repo)
    with connect(server.grpc_url) as client:
        client.clip(clip)
    assert regions(server)
    state, folder = server.state, server.folder
    assert server.stop() == 0
    assert not regions(server)
    assert not folder.exists()
    assert not born(state["server_pid"])


def test_only_loopback_is_bound(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    with started(repo) as server:
        ports = {server.state[name] for name in ("http", "grpc", "metrics")}
        # gRPC may open its IPv4 address through an IPv6 socket: then it stands in tcp6, mapped.
        tables = [table for name in ("tcp", "tcp6") if (table := Path("/proc/net") / name).exists()]  # no tcp6 without IPv6
        listening = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
        mine = [fields[1] for fields in listening if fields[3] == "0A" and int(fields[1].split(":")[1], 16) in ports]
        assert len(mine) >= 3
        assert {address.split(":")[0] for address in mine} <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_a_killed_stub_is_seen_and_replaced_while_a_client_waits(tmp_path: Path) -> None:
    repo, clip = toy_repository(tmp_path)
    with started(repo) as server, connect(server.grpc_url, patience_s=120, timeout_s=120) as client:
        before = client.clip(clip).embedding
        stubs = children(server.pid)
        assert stubs
        for stub in stubs:
            os.kill(stub, signal.SIGKILL)
        np.testing.assert_array_equal(client.clip(clip).embedding, before)
        assert until(lambda: server.state["restarts"] == 1 and server.state["status"] == "ready")


def test_a_killed_server_comes_back_on_its_ports_without_leftovers(tmp_path: Path) -> None:
    repo, clip = toy_repository(tmp_path)
    with started(repo) as server, connect(server.grpc_url, patience_s=120, timeout_s=120) as client:
        before, url, pid = client.clip(clip).embedding, server.grpc_url, server.pid
        os.kill(pid, signal.SIGKILL)
        np.testing.assert_array_equal(client.clip(clip).embedding, before)
        assert until(lambda: server.state["status"] == "ready")
        assert server.grpc_url == url
        assert server.pid != pid
    assert not regions(server)


def test_a_killed_starter_takes_its_server_along(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    code = (
        "import sys, time; from surg.serving.engine import start_server\n"
        "server = start_server(sys.argv[1], threads=1); print(server.pid, server.state['guardian_pid'], flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(repo)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    server_pid, guardian_pid = map(int, starter.stdout.readline().split())
    starter.kill()
    starter.wait()
    starter.stdout.close()
    assert until(lambda: not born(server_pid) and not born(guardian_pid))
    assert not list(SHM.glob(f"{shm_namespace()}{guardian_pid}_*"))


def test_a_killed_guardian_takes_the_server_along_and_the_next_start_sweeps(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    server = started(repo)
    guardian, pid = server.state["guardian_pid"], server.pid
    os.kill(guardian, signal.SIGKILL)
    assert until(lambda: not born(pid))
    left = SHM / f"{shm_namespace()}{guardian}_left"
    left.write_bytes(b"x")
    server.guardian.wait()
    with start_server(repo, threads=1):
        assert not left.exists()


def test_a_killed_client_leaves_nothing_in_dev_shm_and_its_memory_is_dropped(tmp_path: Path) -> None:
    import tritonclient.grpc as grpc

    repo, clip = toy_repository(tmp_path)
    code = (
        "import sys, os, signal, numpy as np; from surg.serving import shm; shm.LEAST_BYTES = 1; from surg.serving.client import connect\n"
        "client = connect(sys.argv[1]); client.clip(np.zeros((4, 32, 32, 3), np.uint8)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with start_server(repo, threads=1) as server:
        with subprocess.Popen([sys.executable, "-c", code, server.grpc_url]) as dead:
            pass
        assert dead.returncode == -signal.SIGKILL
        assert not list(SHM.glob(f"{shm.prefix()}{dead.pid}_*"))
        raw = grpc.InferenceServerClient(server.grpc_url)
        assert len(raw.get_system_shared_memory_status().regions) == 1
        with connect(server.grpc_url) as client:
            inputs = {"frames": np.zeros((8, *clip.shape), np.uint8)}
            lease = client._transport._shared.put(inputs)  # type: ignore[attr-defined]
            assert lease is not None
            assert list(raw.get_system_shared_memory_status().regions) == [lease.region.name]
        raw.close()


def test_memory_of_clients_that_were_never_closed_is_dropped(tmp_path: Path) -> None:
    """Of those that are still in use it stays."""
    from tritonclient.grpc import InferenceServerClient

    repo, clip = toy_repository(tmp_path)
    clips = {"frames": np.stack([clip] * 8)}
    with start_server(repo, threads=1) as server, InferenceServerClient(server.grpc_url) as look:
        kept, lost = connect(server.grpc_url), connect(server.grpc_url)
        names = [client._transport._shared.put(clips).region.name for client in (kept, lost)]  # type: ignore[attr-defined]
        assert sorted(look.get_system_shared_memory_status().regions) == sorted(names)
        del lost
        gc.collect()
        with connect(server.grpc_url) as client:
            name = client._transport._shared.put(clips).region.name  # type: ignore[attr-defined]
            assert sorted(look.get_system_shared_memory_status().regions) == sorted([names[0], name])
        kept.close()


def test_memory_of_requests_that_ran_out_of_time_is_dropped_too(tmp_path: Path) -> None:
    from tritonclient.grpc import InferenceServerClient

    repo, clip = toy_repository(tmp_path, slow=True)
    clips = np.stack([clip] * 8)
    with (
        start_server(repo, threads=1) as server,
        connect(server.grpc_url) as client,
        InferenceServerClient(server.grpc_url) as look,
    ):
        client.clip(clips)
        for _ in range(4):
            with pytest.raises(ServerError, match="ran out of time"):
                client.clip(clips, timeout_s=0.02)
        with connect(server.grpc_url, shared_memory=False) as behind:
            behind.clip(clips)  # queued after those that were abandoned: they are over when it is answered
        client.clip(clips)
        assert len(look.get_system_shared_memory_status().regions) <= 2


def test_a_forked_client_shares_no_memory_with_its_parent(tmp_path: Path) -> None:
    """Both would write their clips into one region, and each be answered for the other's."""
    repo, _ = toy_repository(tmp_path)
    code = (
        "import os, sys, numpy as np; from surg.serving import shm; shm.LEAST_BYTES = 1; from surg.serving.client import connect\n"
        "client = connect(sys.argv[1]); shared = client._transport._shared; zeros = np.zeros((4, 32, 32, 3), np.uint8)\n"
        "client.clip(zeros); woken, wake = os.pipe(); child = os.fork()\n"
        "if child == 0:\n"
        "    os.read(woken, 1); lit = client.clip(zeros + 255).embedding[0, 0]; client.close(); os._exit(0 if lit > 254 else 1)\n"
        "lease = shared.put({'frames': zeros}); os.write(wake, b'.'); assert os.waitpid(child, 0)[1] == 0\n"
        "assert not any(lease.region.memory[:zeros.nbytes]), 'the pixels of the child'\n"
        "shared.give_back(lease); assert client.clip(zeros).embedding[0, 0] == 0; client.close()"
    )
    with start_server(repo, threads=1) as server:
        done = subprocess.run(
            [sys.executable, "-c", code, server.grpc_url], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr


def test_another_process_that_got_the_guardians_id_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State outlives a restart of the machine, process ids do not."""
    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path))
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        folder = registry.servers_folder() / "default"
        state = {"engine": "embedded", "repo": str(tmp_path), "status": "ready", "rc": None}
        write_json(folder / "state.json", {**state, "guardian_pid": stranger.pid, "guardian_born": "before:1"})
        server = registry.find()
        assert not server.alive
        server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_broken_repository_shows_the_end_of_the_log(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    (repo / "surg_clip" / "1" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ServerError, match=r"(?s)did not start.*log.*surg_clip"):
        start_server(repo, threads=1)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        grpc_port, metrics_port = free_ports([0, 0])
        ports = {"http_port": holder.getsockname()[1], "grpc_port": grpc_port, "metrics_port": metrics_port}
        with pytest.raises(ServerError, match=r"(?s)taken.*Leave the ports out"):
            start_server(repo, threads=1, **ports)


def test_servers_that_are_started_at_once_share_the_usual_ports_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path / "state"))
    ports = free_ports([0, 0, 0])
    monkeypatch.setattr(registry, "PORTS", tuple(ports))
    repo, _ = toy_repository(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        servers = list(pool.map(lambda name: registry.start(repo, name, threads=1), ("a", "b")))
    try:
        taken = [{server.state[port] for port in ("http", "grpc", "metrics")} for server in servers]  # type: ignore[attr-defined]
        assert not taken[0] & taken[1]
        assert set(ports) & (taken[0] | taken[1])
    finally:
        assert [server.stop() for server in servers] == [0, 0]


def test_a_port_that_a_server_has_just_given_back_is_taken_and_one_in_use_is_not() -> None:
    """For a minute the kernel remembers who hung up first, which of a server's port is the server."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            listening.accept()[0].close()
            assert client.recv(1) == b""
        assert free_ports([0], [port]) != [port]
    assert free_ports([0], [port]) == [port]


def test_a_guardian_that_ends_by_itself_is_not_called_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, _ = toy_repository(tmp_path)
    (tmp_path / "guardian.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(embedded, "GUARDIAN", tmp_path / "guardian.py")
    with pytest.raises(ServerError, match="did not start: the process that looks after it ended with status 3"):
        start_server(repo, threads=1)


def test_spaces_and_signs_in_the_names_of_folders_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton starts its stubs through a shell, and quotes nothing."""
    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path / "it's (my) $tate"))
    (folder := tmp_path / "o'er the hill & far; away").mkdir()
    repo, clip = toy_repository(folder)
    server = registry.start(repo, threads=1)
    try:
        with connect(server.grpc_url) as client:
            client.clip(clip)
    finally:
        assert server.stop() == 0


def test_a_name_is_started_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path / "state"))
    with registry._starting("a"), pytest.raises(ServerError, match="being started by another command"):
        registry.start(tmp_path, "a")
    with pytest.raises(ServerError, match="No server named a was started"):
        registry.find("a")
    with registry._starting("a"), pytest.raises(ServerError, match="being started by another command"):
        registry.find("a")


@pytest.fixture
def guardian() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that stands for one."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def guarded(tmp_path: Path, status: str, guardian: int) -> Path:
    """The entry of a server under a guardian of our own."""
    state = {"engine": "embedded", "repo": str(tmp_path / "repo"), "status": status, "http": 9, "grpc": 9, "metrics": 9}
    folder = registry.servers_folder() / "default"
    write_json(folder / "state.json", state | {"guardian_pid": guardian, "guardian_born": born(guardian)})
    return folder


def test_a_server_that_is_stopped_while_it_starts_is_said_to_have_been_stopped(
    guardian: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both the command that stops it and the one that waits for it."""
    from surg.cli import serve

    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path / "state"))
    folder = guarded(tmp_path, "starting", guardian.pid)
    serve.stop("default")
    assert "Stopped default before it was ready." in capsys.readouterr().out
    guarded(tmp_path, "stopped", guardian.pid)
    with pytest.raises(ServerError, match="was stopped before it was ready"):
        embedded._wait(embedded.EmbeddedServer(folder, tmp_path / "repo"), guardian, 600)


def test_the_state_of_a_server_whose_repository_is_gone_is_told_all_the_same(
    guardian: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from surg.cli import serve

    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path / "state"))
    guarded(tmp_path, "ready", guardian.pid)
    with pytest.raises(typer.Exit):
        serve.status("default", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["pid"] is None
    assert told["versions"] == f"unknown: {tmp_path / 'repo'} holds no model repository any more"


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "a/b", "/data/repo"])
def test_a_name_that_is_no_folder_of_its_own_leaves_every_other_server_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting and stopping empty the folder of the name: an empty one named the folder of all servers."""
    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path / "state"))
    other = registry.servers_folder() / "default" / "state.json"
    write_json(other, {"engine": "embedded", "repo": str(tmp_path)})
    for use in (lambda: registry.start(tmp_path, name), lambda: registry.remove(name), lambda: registry.find(name)):
        with pytest.raises(ConfigError, match="cannot be the name of a server"):
            use()
    assert other.exists()


def test_a_server_that_failed_to_start_is_forgotten_by_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from surg.cli import serve

    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path / "state"))
    repo, _ = toy_repository(tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(ServerError, match=f"port {holder.getsockname()[1]} is taken"):
            registry.start(repo, "other", ports=(0, holder.getsockname()[1], 0))
        assert not (registry.servers_folder() / "other" / "server.log").exists()  # no server was started for it
    assert registry.names() == ["other"]
    serve.stop("other")
    assert registry.names() == []


def test_a_server_that_does_not_run_is_neither_rolled_back_nor_reloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surg.cli import serve

    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path / "state"))
    repo, _ = toy_repository(tmp_path)
    toy_repository(tmp_path, scale=2)
    state = {"engine": "embedded", "repo": str(repo), "status": "stopped", "http": 9, "grpc": 9, "metrics": 9, "admin_key": ""}
    write_json(registry.servers_folder() / "default" / "state.json", state)
    for change in (lambda: serve.rollback(to=1, repo=None), serve.reload):
        with pytest.raises(ServerError, match="nothing was changed"):
            change()
    assert repository.served_versions(repo) == [1, 2]


def test_how_long_a_start_may_take_goes_by_the_size_of_what_is_served(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    assert repository.start_timeout_s(repo) == pytest.approx(120, abs=1)
    with (repo / "surg_clip" / "1" / "model.onnx.data").open("wb") as file:
        file.truncate(2_400_000_000)  # a hole: it takes no room
    assert repository.start_timeout_s(repo) == pytest.approx(120 + 1440, abs=1)


def test_a_start_that_takes_too_long_says_how_to_wait_longer(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    with pytest.raises(ServerError, match=r"(?s)not ready after 0 s.*--timeout"):
        start_server(repo, threads=1, start_timeout_s=0.1)


def test_no_environment_names_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, _ = toy_repository(tmp_path)
    monkeypatch.setenv("SURG_TRITON_ENV", str(tmp_path / "none"))
    with pytest.raises(ServerError, match=r"(?s)make triton-env.*connect\('local:REPO'\)"):
        start_server(repo)


def test_what_is_no_repository_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="surg export"):
        start_server(tmp_path)


def test_the_backend_refuses_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's stub reads silent zeros from numpy 2; here surg's own numpy 2 stands in for a wrong server environment."""
    import types

    class Refused(Exception):
        pass

    stub = types.ModuleType("triton_python_backend_utils")
    stub.TritonModelException = Refused  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub)
    source = embedded.BACKENDS / "onnxruntime" / "model.py"
    module: dict[str, object] = {}
    exec(compile(source.read_text(), str(source), "exec"), module)
    with pytest.raises(Refused, match="make triton-env"):
        module["TritonPythonModel"]().initialize({"model_config": "{}"})  # type: ignore[operator]


def test_a_warm_up_takes_a_row_for_every_core_and_real_rows_are_never_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub that Triton starts again gets no warm-up: its first batch is real, and each row must have its own answer."""
    import types
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    source = embedded.BACKENDS / "onnxruntime" / "model.py"
    module: dict[str, object] = {}
    exec(compile(source.read_text(), str(source), "exec"), module)
    model = module["TritonPythonModel"]()  # type: ignore[operator]
    runs: list[float] = []

    class Doubles:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            runs.append(float(feed["x"][0, 0]))
            return [2 * feed["x"], feed["x"] + 1]

    def rows(*values: float) -> list[dict[str, np.ndarray]]:
        return [{"x": np.array([[value]])} for value in values]

    model.cores, model.narrow, model.wide, model.warm_ups_left = 2, Doubles(), None, 2
    monkeypatch.setattr(model, "widen", lambda: None, raising=False)
    with ThreadPoolExecutor(2) as model.pool:
        twice, more = model.run(rows(0, 0, 0, 0, 0, 0, 0, 0), ["twice", "more"])
        assert (twice.ravel().tolist(), more.ravel().tolist()) == ([0] * 8, [1] * 8)
        assert runs == [0, 0]
        twice, more = model.run(rows(1, 2, 3, 4, 5), ["twice", "more"])
        assert (twice.ravel().tolist(), more.ravel().tolist()) == ([2, 4, 6, 8, 10], [2, 3, 4, 5, 6])
        # Now that it is warm, alike or not.
        assert model.run(rows(7, 7, 7, 7), ["twice", "more"])[0].ravel().tolist() == [14] * 4
        assert sorted(runs[2:]) == [1, 2, 3, 4, 5, 7, 7, 7, 7]  # two threads: in any order


def test_known_pixels_arrive_as_they_were_sent(tmp_path: Path) -> None:
    """The canary: a server environment with numpy 2 would answer zeros, or nothing, and no error."""
    repo, clip = toy_repository(tmp_path)
    with start_server(repo, threads=1) as server, connect(server.grpc_url) as client:
        np.testing.assert_allclose(client.clip(clip).embedding[0], clip.reshape(-1, 3).mean(0), rtol=1e-5)


def test_metrics_count_what_was_asked(tmp_path: Path) -> None:
    import urllib.request

    repo, clip = toy_repository(tmp_path)
    with start_server(repo, threads=1) as server, connect(server.grpc_url) as client:
        before = _count(urllib.request.urlopen(server.metrics_url).read().decode())
        for _ in range(5):
            client.clip(clip)
        # Triton counts a request a moment after it has answered.
        assert until(lambda: _count(urllib.request.urlopen(server.metrics_url).read().decode()) == before + 5)


def test_a_request_that_the_backend_answers_with_an_error_is_counted_as_failed(tmp_path: Path) -> None:
    """Triton takes it for a success; the alert on failing requests looks at this counter too."""
    import urllib.request

    def failed() -> int:
        text = urllib.request.urlopen(server.metrics_url).read().decode()
        return int(re.findall(r'surg_request_failure\{model="surg_clip",reason="ANSWERED",version="1"\} (\d+)', text)[0])

    repo, clip = toy_repository(tmp_path)
    with start_server(repo, threads=1) as server, connect(server.grpc_url) as client:
        for _ in range(3):
            with pytest.raises(ServerError, match="onnxruntime could not run"):
                client.clip(clip, np.full((2, 2), 9, np.float32))
        client.clip(clip)
        assert failed() == 3


def _count(text: str) -> int:
    found = re.search(r'nv_inference_request_success\{model="surg_clip",version="1"\} (\d+)', text)
    assert found
    return int(found.group(1))


@pytest.mark.triton
def test_the_server_is_told_to_send_no_events(server: Server) -> None:
    environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    assert b"ORT_DISABLE_TELEMETRY=1" in environment
