"""NVIDIA's Triton image through the Docker engine, on the same repository. Written against docker-py; the image itself is 20 GB
and was not pulled where this was made: the tests run another image under the same code."""

import contextlib
import http.client
import json
import logging
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surg.errors import ServerError
from surg.runs import write_json
from surg.serving import repository
from surg.serving.engines.admin import guarded, reload_models, what_matters
from surg.serving.plans import require_fit
from surg.serving.shipped import cache_folder

logger = logging.getLogger(__name__)

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-py3"
"""Pinned: an engine built by TensorRT loads only under the version that built it."""
STOP_TIMEOUT_S = 20
COMMAND = (
    "tritonserver",
    "--model-repository=/models",
    "--disable-auto-complete-config",
    "--model-control-mode=explicit",
    "--load-model=*",
    "--metrics-config=summary_latencies=true",
    "--exit-timeout-secs=10",
)


@dataclass
class DockerServer:
    """A Triton container. `folder` keeps its state for other shells."""

    folder: Path
    repo: Path
    _state: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Any]:
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
        container = self._container()
        return int(container.attrs["State"]["Pid"]) or None if container is not None else None

    @property
    def alive(self) -> bool:
        container = self._container()
        return container is not None and container.status == "running"

    def log_tail(self, lines: int = 30) -> str:
        container = self._container()
        return container.logs(tail=lines).decode(errors="replace") if container is not None else ""

    def stop(self) -> int:
        """Stop and remove the container. Returns Triton's exit status."""
        container = self._container()
        rc = 1
        if container is not None:
            container.stop(timeout=STOP_TIMEOUT_S)
            rc = int(container.wait()["StatusCode"])
            container.remove()
        self._state = {**self.state, "status": "stopped", "rc": rc}
        write_json(self.folder / "state.json", self._state)
        return rc

    def rollback(self, to: int | None = None) -> tuple[list[int], list[int]]:
        changed = repository.rollback(self.repo, to)
        self.reload()
        return changed

    def reload(self) -> None:
        reload_models(self.http_url, self.repo, str(self.state.get("admin_key", "")))

    def _container(self) -> Any:
        from docker.errors import NotFound

        try:
            return engine().containers.get(self.state["container"])
        except NotFound:
            return None

    def __enter__(self) -> "DockerServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    repo: Path,
    *,
    http_port: int = 0,
    grpc_port: int = 0,
    metrics_port: int = 0,
    start_timeout_s: float | None = None,
    folder: Path | None = None,
    image: str = IMAGE,
) -> DockerServer:
    """Run `image` on `repo`: read-only, loopback ports, the GPU when the engine has one. Ready when Triton says so and the lead
    model answered. Raises ServerError when there is no engine, no image, or the server does not come up."""
    import tempfile

    repo = Path(repo).resolve()
    repository.contracts(repo)
    if start_timeout_s is None:
        start_timeout_s = max(600.0, repository.start_timeout_s(repo))  # TensorRT may build its engines first
    folder = folder or Path(tempfile.mkdtemp(prefix="surg-docker-"))
    key = secrets.token_hex(16)
    container = _started(engine(), image, repo, key, {8000: http_port, 8001: grpc_port, 8002: metrics_port})
    ports = {
        name: int(container.ports[f"{inside}/tcp"][0]["HostPort"])
        for name, inside in (("http", 8000), ("grpc", 8001), ("metrics", 8002))
    }
    state = {"engine": "docker", "repo": str(repo), "image": image, "container": container.id, "admin_key": key, **ports}
    _keep(folder, {**state, "status": "starting"})
    server = DockerServer(folder, repo)
    try:
        _wait(server, container, start_timeout_s)
    except BaseException:
        server.stop()
        raise
    _keep(folder, {**state, "status": "ready"})
    return server


def _started(client: Any, image: str, repo: Path, key: str, ports: dict[int, int]) -> Any:
    """A container of `image` that runs and has its ports; one that does not come so far is removed. Raises ServerError."""
    from docker.errors import APIError, ImageNotFound

    try:
        _have(client, image)
        require_fit(repo, tensorrt=_tensorrt_of(client, image), sm=_sm())
        container = client.containers.create(image, **_wanted(client, repo, key, ports))
        try:
            container.start()
        except BaseException:
            container.remove(force=True)  # a taken port, a GPU that is not there: what was made must not stay behind
            raise
    except ImageNotFound as error:
        raise ServerError(
            f"The image {image} is not here and could not be pulled: {error.explanation}.\nPull it once: docker pull {image}"
        ) from error
    except APIError as error:
        raise ServerError(f"Docker could not start {image}: {error.explanation or error}") from error
    container.reload()
    if not container.ports.get("8002/tcp"):
        end = what_matters(container.logs(tail=2000).decode(errors="replace"))
        container.remove(force=True)
        raise ServerError(f"{image} ended as soon as it was started. The end of its log:\n{end}")
    return container


def _wanted(client: Any, repo: Path, key: str, ports: dict[int, int]) -> dict[str, Any]:
    """What Triton's container may see and do: as little as it needs. `ports` are inside: outside, 0 for any."""
    user = (os.getuid(), os.getgid()) if os.getuid() else (1000, 1000)
    volumes = {str(repo): {"bind": "/models", "mode": "ro"}}
    if (inside := repository.engine_cache(repo)) is not None:
        volumes[str(_engines(user))] = {"bind": inside, "mode": "rw"}
    return {
        "command": [*COMMAND, *guarded(key)],
        "detach": True,
        "read_only": True,
        # onnxruntime and the Python stubs unpack into /tmp and execute from it.
        "tmpfs": {"/tmp": "exec,size=1g"},
        "shm_size": "1g",
        "user": f"{user[0]}:{user[1]}",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "volumes": volumes,
        "ports": {f"{inside}/tcp": ("127.0.0.1", outside or None) for inside, outside in ports.items()},
        "device_requests": _gpus(client),
        "labels": {"surg.repository": str(repo)},
    }


def _keep(folder: Path, state: dict[str, Any]) -> None:
    """For other shells of this user alone: the state holds the key."""
    write_json(folder / "state.json", state)
    (folder / "state.json").chmod(0o600)


def engine() -> Any:
    """A client of the local Docker engine. Raises ServerError with the way on when there is none."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise ServerError(
            f"No Docker engine answers here ({error}).\n"
            "Start Docker, or serve without it: surg serve start REPO --engine embedded\n"
            f"By hand, elsewhere: docker run --rm --gpus all --shm-size 1g -p 8000-8002:8000-8002 -v $PWD/REPO:/models:ro {IMAGE} {' '.join(COMMAND)}"
        ) from error
    return client


def _have(client: Any, image: str) -> None:
    """Pull the image unless it is here."""
    from docker.errors import ImageNotFound

    try:
        client.images.get(image)
    except ImageNotFound:
        logger.info("Pulling %s: NVIDIA's is 20 GB and takes its time …", image)
        client.images.pull(image)


def _tensorrt_of(client: Any, image: str) -> str | None:
    """TensorRT's version in an image of NVIDIA, from the variable that they all set."""
    variables = client.images.get(image).attrs.get("Config", {}).get("Env") or []
    return next((value.removeprefix("TRT_VERSION=") for value in variables if value.startswith("TRT_VERSION=")), None)


def _sm() -> str | None:
    """Compute capability of this machine's first GPU, as 90; None where it cannot be asked."""
    try:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return found.split()[0].replace(".", "") if found.split() else None


def _engines(user: tuple[int, int]) -> Path:
    """A folder of this machine for the engines that TensorRT builds at the first start, writable for the container's user."""
    folder = cache_folder() / "trt"
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        os.chown(folder, *user)
    return folder


def _gpus(client: Any) -> list[Any]:
    from docker.types import DeviceRequest

    info = client.info()
    # The hook is all that --gpus needs: the toolkit's package brings it, with or without a runtime that Docker was told of.
    if "nvidia" in info.get("Runtimes", {}) or shutil.which("nvidia-container-runtime-hook"):
        return [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    # Docker 28.3 says what devices CDI describes; before, from 25 on, only where descriptions lie.
    described = {str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or []} | {
        "nvidia.com/gpu=all" for folder in info.get("CDISpecDirs") or [] if any(Path(folder).glob("*nvidia*"))
    }
    if "nvidia.com/gpu=all" in described:
        return [DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=all"])]
    return []


def _wait(server: DockerServer, container: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        container.reload()
        if container.status in ("exited", "dead"):
            raise ServerError(f"Triton ended while it started. The end of its log:\n{what_matters(server.log_tail(2000))}")
        if _ready(server.http_url):
            return
        time.sleep(0.2)
    raise ServerError(
        f"Triton was not ready after {timeout_s:.0f} s.\nGive it longer: surg serve start REPO --timeout SECONDS\nThe end of its log:\n{server.log_tail()}"
    )


def _ready(host: str) -> bool:
    connection = http.client.HTTPConnection(host, timeout=2)
    try:
        connection.request("GET", "/v2/health/ready", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
