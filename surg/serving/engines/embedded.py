"""A real Triton on any Linux laptop: the server binary of the nvidia-pytriton wheel, in an environment of its own.

No Docker, no GPU. It serves the very repository that NVIDIA's image serves, through our Python-based `onnxruntime` backend.
"""

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surg.advice import quoted
from surg.errors import ServerError
from surg.runs import write_json
from surg.serving import repository
from surg.serving.contract import Contract
from surg.serving.engines.admin import guarded, reload_models, what_matters
from surg.serving.engines.guardian import born

logger = logging.getLogger(__name__)

ENVIRONMENT = "SURG_TRITON_ENV"
GUARDIAN = Path(__file__).with_name("guardian.py")
BACKENDS = Path(__file__).parent.parent / "backend"
EXIT_TIMEOUT_S = 8
"""How long requests in flight and models may take to end; a quiet server is gone in 2.5 s."""


@dataclass(frozen=True)
class TritonEnv:
    """Where the server's own environment keeps what is needed to start it."""

    root: Path
    python: str
    """Its version, as 3.11."""
    site: Path
    libpython: Path | None
    """Folder of the libpython its stub must load; None leaves it to the system's loader."""

    @property
    def triton(self) -> Path:
        return self.site / "pytriton" / "tritonserver"


def find_environment() -> TritonEnv:
    """The server's environment: $SURG_TRITON_ENV, or .venv-triton beside the checkout or beside the running environment."""
    named = os.environ.get(ENVIRONMENT)
    repo_root = Path(__file__).resolve().parents[3]
    candidates = [Path(named)] if named else [repo_root / ".venv-triton", Path(sys.prefix).parent / ".venv-triton"]
    for root in candidates:
        if (root / "bin" / "python").exists():
            return _inspect(root)
    raise ServerError(
        f"The embedded Triton needs an environment of its own (numpy < 2), and there is none at {' or '.join(map(str, candidates))}.\n"
        f"Make it: make triton-env    or point {ENVIRONMENT} to one.\n"
        "Where Triton cannot run (macOS, Windows), use the in-process engine: connect('local:REPO'), surg infer --server local:REPO"
    )


def _inspect(root: Path) -> TritonEnv:
    code = "import sys, sysconfig; print(sys.version_info[0], sys.version_info[1], sysconfig.get_config_var('LIBDIR'), sys.base_prefix, sep='\\n')"
    try:
        run = subprocess.run(
            [root / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"The Python of {root} does not run: {error}\nMake the environment again: make triton-env") from error
    major, minor, libdir, base = run.stdout.splitlines()
    version = f"{major}.{minor}"
    site = root / "lib" / f"python{version}" / "site-packages"
    env = TritonEnv(root, version, site, _libpython(version, [Path(libdir), Path(base) / "lib"]))
    stub = env.triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not (env.triton / "bin" / "tritonserver").is_file() or not stub.is_file():
        raise ServerError(
            f"{root} holds no Triton server for Python {version} (nvidia-pytriton 0.7.0).\nMake the environment again: make triton-env"
        )
    return env


def _libpython(version: str, folders: list[Path]) -> Path | None:
    # Python from pyenv or conda brings its own; the stub would otherwise pair the system's library with the other's modules.
    return next((folder for folder in folders if (folder / f"libpython{version}.so.1.0").exists()), None)


@dataclass
class EmbeddedServer:
    """A running embedded Triton. Stop it, or use it as a context manager; it also stops when this process goes."""

    folder: Path
    repo: Path
    guardian: "subprocess.Popen[bytes] | None" = None
    _state: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Any]:
        """What the guardian last wrote: status, ports, process ids, restarts, error."""
        with contextlib.suppress(FileNotFoundError):
            self._state = json.loads((self.folder / "state.json").read_text())
        return self._state

    @property
    def http_url(self) -> str:
        return f"127.0.0.1:{self.state['http']}"

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.state['grpc']}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.state['metrics']}/metrics"

    @property
    def pid(self) -> int | None:
        """Process id of tritonserver itself."""
        pid = self.state.get("server_pid")
        return int(pid) if pid else None

    @property
    def alive(self) -> bool:
        return self.state.get("status") in ("starting", "ready", "restarting") and self._guarded()

    def log_tail(self, lines: int = 30) -> str:
        log = self.folder / "server.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def stop(self) -> int:
        """Let requests in flight finish, end the server and remove what it left. Returns tritonserver's exit status."""
        if self.guardian is not None:
            if self.guardian.stdin is not None and not self.guardian.stdin.closed:
                self.guardian.stdin.close()
            try:
                rc = self.guardian.wait(EXIT_TIMEOUT_S + 20)
            except KeyboardInterrupt:
                self.guardian.wait(EXIT_TIMEOUT_S + 20)  # it is ending, and needs its folder until then
                raise
            finally:
                self._state = {**self._state, "status": "stopped"}
                shutil.rmtree(self.folder, ignore_errors=True)
            return rc
        pid = self.state.get("guardian_pid")
        if isinstance(pid, int) and self._guarded():
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + EXIT_TIMEOUT_S + 20
        while self._guarded() and time.monotonic() < deadline:
            time.sleep(0.05)
        status = self.state.get("rc")
        return int(status) if status is not None else 1

    def _guarded(self) -> bool:
        """Whether the guardian is still there, and is the one that wrote the state."""
        pid = self.state.get("guardian_pid")
        return isinstance(pid, int) and bool(began := born(pid)) and began == self._state.get("guardian_born")

    def rollback(self, to: int | None = None) -> tuple[list[int], list[int]]:
        """Serve older versions and make the running server take them, without a restart. Returns (before, now)."""
        changed = repository.rollback(self.repo, to)
        self.reload()
        return changed

    def reload(self) -> None:
        """Make the running server read the repository again: after an export into it or a rollback."""
        reload_models(self.http_url, self.repo, str(self.state["admin_key"]))

    def __enter__(self) -> "EmbeddedServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    repo: Path,
    *,
    http_port: int = 0,
    grpc_port: int = 0,
    metrics_port: int = 0,
    threads: int = 0,
    start_timeout_s: float | None = None,
    folder: Path | None = None,
    usual_ports: tuple[int, int, int] = (0, 0, 0),
) -> EmbeddedServer:
    """Start Triton on `repo`, loopback only, and return when a synthetic inference came back. A port of 0 means any free one.

    usual_ports: taken for ports of 0 where they are free.

    start_timeout_s: None goes by the size of what is served.
    folder: keep state and log there and leave the server running after this process (the `surg serve` commands); otherwise both
    belong to this process and go with it. Raises ServerError with the end of the server's log.
    """
    env = find_environment()
    repo = Path(repo).resolve()
    start_timeout_s = repository.start_timeout_s(repo) if start_timeout_s is None else start_timeout_s
    spec_contracts = repository.contracts(repo)
    contract = spec_contracts[repository.served_versions(repo)[-1]]
    if repository.read_config(repo, repository.lead_model(repo)).backend == "tensorrt":
        raise ServerError(
            f"{repo} serves TensorRT plans, which need a GPU and NVIDIA's image.\n"
            f"Serve them there: surg serve start {quoted(repo)} --engine docker    or their ONNX files in this process: local:{quoted(repo)}"
        )
    detached = folder is not None
    folder = folder or Path(tempfile.mkdtemp(prefix="surg-triton-"))
    folder.mkdir(parents=True, exist_ok=True)
    for old in ("state.json", "server.log"):
        (folder / old).unlink(missing_ok=True)
    spec = _guardian_spec(
        env, repo, contract, folder, [http_port, grpc_port, metrics_port], threads, start_timeout_s, follow_parent=not detached
    )
    spec["usual_ports"] = usual_ports
    spec_path = folder / "spec.json"
    write_json(spec_path, spec)
    spec_path.chmod(0o600)
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARDIAN), str(spec_path)],
        stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = EmbeddedServer(folder, repo, None if detached else guardian)
    try:
        _wait(server, guardian, start_timeout_s + len(spec["probes"]) * spec["probe_timeout_s"] + 30)
    except KeyboardInterrupt as stopped:
        # It may not have written who it is, so it is not asked to stop by way of the state.
        guardian.terminate()
        guardian.wait(EXIT_TIMEOUT_S + 20)
        shutil.rmtree(folder, ignore_errors=True)
        if detached:
            stopped.add_note("No server was left running.")
        raise
    logger.info(
        "Triton is ready: grpc %s, http %s, version(s) %s", server.grpc_url, server.http_url, repository.served_versions(repo)
    )
    return server


def _wait(server: EmbeddedServer, guardian: "subprocess.Popen[bytes]", patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while server.state.get("status") != "ready":
        if server.state.get("status") in ("stopping", "stopped"):
            server.stop()
            raise ServerError(
                "The server was stopped before it was ready, by another command.\nStart it again: surg serve start REPO"
            )
        if server.state.get("status") == "failed" or guardian.poll() is not None or time.monotonic() > deadline:
            rc = guardian.poll()
            reason = server.state.get("error") or (
                "it took too long" if rc is None else f"the process that looks after it ended with status {rc}"
            )
            tail = what_matters(server.log_tail(2000))
            server.stop()
            end = f"The end of its log:\n{tail}" if tail else ""
            raise ServerError(f"The embedded Triton did not start: {reason}.\n{_advice(f'{reason} {tail}')}{end}".rstrip())
        time.sleep(0.02)


def _advice(log: str) -> str:
    known = {
        "libpython": "Its stub found no matching libpython: install Python's shared library (Debian: apt-get install libpython3.11).\n",
        "reads silent zeros": "Its environment has numpy 2. Make it again: make triton-env\n",
        "was not ready after": "Give it longer: surg serve start REPO --timeout SECONDS (start_timeout_s)\n",
        "taken by another process": "Leave the ports out and free ones are chosen, or choose another.\n",
        "already in use": "A port is taken. Leave the ports out and free ones are chosen.\n",
        "No space left on device": "/dev/shm or the disk is full: `df -h /dev/shm /tmp`.\n",
        "Permission denied": "Something may not be read or run by this user; a temporary folder mounted `noexec` does that too (set TMPDIR).\n",
    }
    return next((advice for sign, advice in known.items() if sign in log), "")


def _guardian_spec(
    env: TritonEnv,
    repo: Path,
    contract: Contract,
    folder: Path,
    ports: list[int],
    threads: int,
    start_timeout_s: float,
    *,
    follow_parent: bool,
) -> dict[str, Any]:
    _assemble_backends(env, folder / "backends")
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "repository").unlink(missing_ok=True)
    (folder / "repository").symlink_to(repo)
    key = secrets.token_hex(16)
    command = [
        str(env.triton / "bin" / "tritonserver"),
        # As seen from its working folder, `empty`: Triton writes both into a line for bash without quotes, and a name with a space
        # or a bracket in it kept its stubs from starting.
        "--model-repository=../repository",
        "--backend-directory=../backends",
        f"--cache-directory={env.triton / 'caches'}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        "--allow-gpu-metrics=false",
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        "--load-model=*",
        *guarded(key),
        "--metrics-config=summary_latencies=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
    ]
    libraries = [str(path) for path in (env.libpython, env.site / "nvidia_pytriton.libs") if path]
    environment = {
        # Not the caller's PYTHONPATH or LD_LIBRARY_PATH: the stub must see its own environment alone.
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_", "VIRTUAL_ENV"))},
        "PATH": f"{env.root / 'bin'}:{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": ":".join(libraries),
        "SURG_INTRA_OP_THREADS": str(threads or len(os.sched_getaffinity(0))),
        "OMP_NUM_THREADS": "1",
    }
    return {
        "command": command,
        "env": environment,
        "cwd": str(folder / "empty"),
        "ports": ports,
        "log": str(folder / "server.log"),
        "state": str(folder / "state.json"),
        "probes": [_probe(contract, model.name) for model in contract.models if model.kind == "onnx"],
        "start_timeout_s": start_timeout_s,
        "probe_timeout_s": max(120.0, start_timeout_s),
        "exit_timeout_s": EXIT_TIMEOUT_S,
        "follow_parent": follow_parent,
        "scratch": str(folder) if follow_parent else None,
        "public": {"engine": "embedded", "repo": str(repo), "log": str(folder / "server.log"), "admin_key": key},
    }


def _probe(contract: Contract, model: str) -> dict[str, Any]:
    spec = contract.model(model)
    inputs = [
        {"name": tensor.name, "datatype": tensor.dtype, "shape": ([1] if spec.batched else []) + [abs(n) for n in tensor.shape]}
        for tensor in spec.inputs
    ]
    return {"model": model, "inputs": inputs}


def _assemble_backends(env: TritonEnv, folder: Path) -> None:
    """Copy, never link: Triton refuses a backend library that lies outside its backend folder."""
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(env.triton / "backends" / "python" / name, python / name)
    shutil.copy(env.triton / "python_backend_stubs" / env.python / "triton_python_backend_stub", python)
    shutil.copytree(BACKENDS / "onnxruntime", folder / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__"))
