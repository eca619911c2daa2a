"""Keeps one tritonserver process: starts it, proves it answers, sees it die, restarts it, cleans up behind it.

A small process of its own, so that the server outlives no one who should own it: it watches its starter's pipe (or, detached, a
SIGTERM), and the server gets SIGTERM from the kernel if the guardian itself is killed. Run as a plain script on the standard
library alone (`python -I -S guardian.py SPEC`), which makes it ready in 30 ms.

Ready means that a synthetic inference of every model came back with data in it: Triton's own `ready` stays 200 with a dead stub.
"""

import contextlib
import ctypes
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHM = Path("/dev/shm")
POLL_S = 0.25
BYTES = {"UINT8": 1, "INT32": 4, "INT64": 8, "FP16": 2, "FP32": 4}
RESTARTS_ALLOWED = 5
"""Within RESTARTS_WINDOW_S; a server that dies faster than that is broken and not unlucky."""
RESTARTS_WINDOW_S = 120.0


class StartFailed(Exception):
    pass


class PortTaken(StartFailed):
    pass


class Guardian:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.server: subprocess.Popen[bytes] | None = None
        self.stubs: set[int] = set()
        self.ports: list[int] = list(spec["ports"])
        self.state: dict[str, Any] = {
            "guardian_pid": os.getpid(),
            "guardian_born": born(os.getpid()),
            "restarts": 0,
            "error": None,
            "rc": None,
        }
        self.name = f"triton-{os.getpid()}"
        self.stopping = False
        self.restarted_at: list[float] = []
        self.prefix = f"{shm_namespace()}{os.getpid()}_"
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> int:
        sweep_dead()
        try:
            self._start_on_free_ports()
        except StartFailed as failure:
            return self._fail(str(failure))
        if not self.stopping:
            self._write("ready")
        while not self.stopping:
            if self._told_to_stop(POLL_S):
                break
            if not self._healthy() and not self._restart():
                return 1
        self._write("stopping")
        rc = self._end(kill=False)
        self._write("stopped", rc=rc)
        return rc

    def _start_on_free_ports(self) -> None:
        wanted = self.spec["ports"]
        if taken := [port for port in wanted if port and not is_free(port)]:
            raise PortTaken(f"port {' and '.join(map(str, taken))} is taken by another process")
        for attempt in range(6):
            # A port found free can be taken before the server binds it: then others are tried.
            self.ports = free_ports(wanted, self.spec.get("usual_ports", ()) if attempt == 0 else ())
            try:
                self._start()
                return
            except PortTaken:
                self._end(kill=True)
                if attempt == 5 or all(wanted):
                    raise

    def _start(self) -> None:
        http_port, grpc_port, metrics_port = self.ports
        command = [
            *self.spec["command"],
            f"--http-port={http_port}",
            f"--grpc-port={grpc_port}",
            f"--metrics-port={metrics_port}",
            f"--id={self.name}",
            f"--backend-config=python,shm-region-prefix-name={self.prefix}",
        ]
        log = Path(self.spec["log"])
        begin = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            # The server's own session: a Ctrl-C in the terminal must not hit it before its clients are done.
            self.server = subprocess.Popen(
                command,
                env=self.spec["env"],
                # An empty folder: the stub imports a module named `model`, and one that lies in the working folder would win.
                cwd=self.spec["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._write("starting")
        self._wait_until_ready(log, begin)
        self.stubs = children(self.server.pid)

    def _wait_until_ready(self, log: Path, begin: int) -> None:
        deadline = time.monotonic() + self.spec["start_timeout_s"]
        while not self.stopping:
            if self.server is None or self.server.poll() is not None:
                text = log.read_bytes()[begin:].decode(errors="replace")
                if "already in use" in text or "Address in use" in text:
                    raise PortTaken(f"a port of {self.ports} is taken by another process")
                raise StartFailed(
                    f"tritonserver ended with status {self.server.returncode if self.server else '?'} before it was ready"
                )
            # Of two servers started at once the other may hold our port, and answer until ours has found out.
            if self._status("/v2/health/ready") == 200 and self._status("/metrics", port=2) == 200 and self._is_ours():
                answered = self._answers()
                if self.server.poll() is not None:
                    continue
                if answered:
                    return
                raise StartFailed("tritonserver says it is ready, but a synthetic inference did not come back with data")
            if time.monotonic() > deadline:
                raise StartFailed(f"tritonserver was not ready after {self.spec['start_timeout_s']:.0f} s")
            if self._told_to_stop(0.03):
                self.stopping = True

    def _healthy(self) -> bool:
        """Cheap look every quarter of a second: is the server there, and are its stubs? A stub may also go because a model was
        reloaded, so a missing one only leads to asking the models."""
        if self.server is None or self.server.poll() is not None:
            return False
        now = children(self.server.pid)
        gone = self.stubs - now
        self.stubs = now
        return not gone or self._answers(patience_s=3.0)

    def _restart(self) -> bool:
        now = time.monotonic()
        self.restarted_at = [at for at in self.restarted_at if now - at < RESTARTS_WINDOW_S] + [now]
        if len(self.restarted_at) > RESTARTS_ALLOWED:
            self._fail(f"the server died {RESTARTS_ALLOWED} times in {RESTARTS_WINDOW_S:.0f} s")
            return False
        self.state["restarts"] += 1
        self._write("restarting")
        self._end(kill=True)
        try:
            for attempt in range(4):
                try:
                    self._start()  # the same ports: clients reconnect by themselves
                    break
                except PortTaken:
                    self._end(kill=True)
                    if attempt == 3:
                        raise
                    time.sleep(0.5)
        except StartFailed as failure:
            self._fail(f"the server could not be restarted: {failure}")
            return False
        self._write("ready")
        return True

    def _end(self, *, kill: bool) -> int:
        """Stop the server and remove its shared memory. Returns its exit status."""
        server = self.server
        if server is None:
            return 0
        if server.poll() is None and not kill:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(self.spec["exit_timeout_s"] + 10)
        # Its stubs are in its process group; after a kill they would linger until they notice.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, signal.SIGKILL)
        rc = server.wait()
        self.server = None
        remove_regions(self.prefix)
        return rc

    def _fail(self, error: str) -> int:
        self._end(kill=True)
        self._write("failed", error=error)
        # State and log are about to be swept away: not before the starter, if it is still there, has read them.
        while self.spec["follow_parent"] and not self._told_to_stop(POLL_S):
            pass
        return 1

    def _told_to_stop(self, wait_s: float) -> bool:
        if not self.spec["follow_parent"]:
            time.sleep(wait_s)
            return self.stopping
        readable, _, _ = select.select([sys.stdin], [], [], wait_s)
        return self.stopping or (bool(readable) and not os.read(sys.stdin.fileno(), 1024))

    def _answers(self, patience_s: float = 0.0) -> bool:
        deadline = time.monotonic() + patience_s
        while True:
            if all(self._probe(probe) for probe in self.spec["probes"]):
                return True
            if time.monotonic() >= deadline or self.server is None or self.server.poll() is not None:
                return False
            time.sleep(0.1)

    def _probe(self, probe: dict[str, Any]) -> bool:
        inputs, body = [], b""
        for tensor in probe["inputs"]:
            size = BYTES[tensor["datatype"]]
            for length in tensor["shape"]:
                size *= length
            inputs.append({**tensor, "parameters": {"binary_data_size": size}})
            body += bytes(size)
        header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        headers = {
            "Inference-Header-Content-Length": str(len(header)),
            "Content-Type": "application/octet-stream",
            "Connection": "close",
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=self.spec["probe_timeout_s"])
        try:
            connection.request("POST", f"/v2/models/{probe['model']}/infer", header + body, headers)
            response = connection.getresponse()
            data = response.read()
            length = int(response.headers.get("Inference-Header-Content-Length", len(data)))
            # A stub with numpy 2 answers 200 and no bytes.
            return response.status == 200 and len(data) > length
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _is_ours(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=2)
        try:
            connection.request("GET", "/v2", headers={"Connection": "close"})
            return bool(json.loads(connection.getresponse().read())["name"] == self.name)
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        finally:
            connection.close()

    def _status(self, path: str, port: int = 0) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=2)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _write(self, status: str, error: str | None = None, rc: int | None = None) -> None:
        ports = dict(zip(("http", "grpc", "metrics"), self.ports))
        self.state.update(
            status=status, error=error, rc=rc, server_pid=self.server.pid if self.server else None, since=time.time(), **ports
        )
        path = Path(self.spec["state"])
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({**self.spec["public"], **self.state}, indent=2))
        temporary.chmod(0o600)
        temporary.replace(path)

    def _on_signal(self, *_: object) -> None:
        self.stopping = True


def die_with_parent() -> None:
    """In the child: SIGTERM from the kernel when the guardian goes (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def free_ports(wanted: list[int], usual: Sequence[int] = ()) -> list[int]:
    """A port for each of `wanted`: itself, or for 0 the one in the same place of `usual` where that is free, else any."""
    sockets, ports = [], []
    try:
        for place, port in enumerate(wanted):
            if port:
                ports.append(port)
                continue
            preferred = usual[place] if place < len(usual) else 0
            held = socket.socket()
            sockets.append(held)
            if not (preferred and _takes(held, preferred)):
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                held.bind(("127.0.0.1", 0))
            ports.append(held.getsockname()[1])
        return ports
    finally:
        for held in sockets:
            held.close()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return _takes(probe, port)


def _takes(held: socket.socket, port: int) -> bool:
    # As servers do: a port that was just given back is free.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def children(pid: int) -> set[int]:
    """Live processes whose parent is `pid`. A zombie is not live."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state not in "ZX":
                    found.add(int(entry.name))
    return found


def born(pid: int) -> str:
    """When a live process began: its id alone is another's after a restart of the machine, or sooner. Empty when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def shm_namespace() -> str:
    """Start of the names of all our regions here. It holds the process namespace: containers may share /dev/shm, not pids."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        namespace = "0"
    return f"surg_{int(namespace):x}_"


def remove_regions(prefix: str) -> None:
    for region in SHM.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def sweep_dead() -> None:
    """Remove the regions of guardians that were killed together with their server."""
    start = shm_namespace()
    for region in SHM.glob(f"{start}*"):
        owner = region.name.removeprefix(start).split("_")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            region.unlink(missing_ok=True)


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text())
    try:
        return Guardian(spec).run()
    finally:
        if spec.get("scratch"):
            shutil.rmtree(spec["scratch"], ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
