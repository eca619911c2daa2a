"""Servers started by `surg serve` outlive the command: where each one's state and log lie, so that any shell finds it.

$SURG_STATE_DIR (default ~/.local/state/surg)/servers/NAME/state.json   status, ports, process ids, repository
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surg.advice import quoted
from surg.errors import ConfigError, ServerError
from surg.serving.engine import EngineName, Server
from surg.serving.engines import embedded
from surg.serving.engines.guardian import is_free

logger = logging.getLogger(__name__)

DEFAULT = "default"
PORTS = (8000, 8001, 8002)
"""Triton's own, taken when they are free."""


def servers_folder() -> Path:
    named = os.environ.get("SURG_STATE_DIR")
    base = Path(named) if named else Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "surg"
    return base / "servers"


def start(
    repo: Path,
    name: str = DEFAULT,
    engine: EngineName = "embedded",
    *,
    ports: tuple[int, int, int] = (0, 0, 0),
    threads: int = 0,
    image: str = "",
    timeout_s: float | None = None,
) -> Server:
    """Start a server that goes on running after this process. Raises ServerError when one of that name runs already, or is being
    started.

    timeout_s: until it must be ready; None goes by the size of what is served.
    """
    folder = _folder(name)
    with _starting(name):
        _clear(repo, name, engine)
        if engine == "docker":
            from surg.serving.engines import docker

            wanted = [port or (usual if is_free(usual) else 0) for port, usual in zip(ports, PORTS)]
            return docker.start(
                repo,
                http_port=wanted[0],
                grpc_port=wanted[1],
                metrics_port=wanted[2],
                folder=folder,
                image=image or docker.IMAGE,
                start_timeout_s=timeout_s,
            )
        return embedded.start(
            repo,
            http_port=ports[0],
            grpc_port=ports[1],
            metrics_port=ports[2],
            threads=threads,
            folder=folder,
            start_timeout_s=timeout_s,
            usual_ports=PORTS,
        )


def remove(name: str) -> None:
    """Forget a server that does not run: its state and its log."""
    shutil.rmtree(_folder(name), ignore_errors=True)


def _folder(name: str) -> Path:
    """Where state and log of a server lie. Raises ConfigError for what names no folder of its own: starting and stopping empty it."""
    if not name or name.startswith(".") or "/" in name:
        raise ConfigError(
            f"{name!r} cannot be the name of a server; expected a word without slashes that begins with no dot, such as `second`.\n"
            "Leave --name out for the usual one. A repository is given without an option: surg serve start REPO"
        )
    return servers_folder() / name


def _lock(name: str) -> Path:
    return servers_folder() / f".{name}.lock"


@contextmanager
def _starting(name: str) -> Iterator[None]:
    """One start of a name at a time: the second would sweep away the folder of the first."""
    import fcntl

    servers_folder().mkdir(parents=True, exist_ok=True)
    with _lock(name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerError(
                f"A server named {name} is being started by another command.\nWait for it: surg serve status --name {quoted(name)}    or choose another --name."
            ) from error
        yield


def _clear(repo: Path, name: str, engine: EngineName) -> None:
    """Make room for a new server of this name. Raises ServerError when there is one that runs."""
    folder = _folder(name)
    if (folder / "state.json").exists():
        running = find(name)
        try:
            alive = running.alive
        except ServerError:
            if engine == "docker":
                raise
            logger.warning(
                "Docker is off: the container of the server named %s before, if it is still there, stays behind.", name
            )
            remove(name)
            return
        if alive:
            raise ServerError(
                f"A server named {name} runs already (gRPC {running.grpc_url}).\n"
                f"Stop it: surg serve stop --name {quoted(name)}    or start a second one: surg serve start {quoted(repo)} --name OTHER"
            )
        running.stop()  # a container that ended by itself is still there, and nothing would know its name any more
    remove(name)


def find(name: str = DEFAULT) -> Server:
    """A server that was started under this name, running or not. Raises ServerError when there is none."""
    folder = _folder(name)
    try:
        state = json.loads((folder / "state.json").read_text())
    except FileNotFoundError as error:
        if _lock(name).exists():
            with _starting(name):  # raises while another command is at it
                pass
        others = names()
        raise ServerError(
            f"No server named {name} was started here{' (there is ' + ', '.join(others) + ')' if others else ''}.\nStart one: surg serve start REPO"
        ) from error
    if state["engine"] == "docker":
        from surg.serving.engines import docker

        return docker.DockerServer(folder, Path(state["repo"]))
    return embedded.EmbeddedServer(folder, Path(state["repo"]))


def names() -> list[str]:
    return sorted(path.parent.name for path in servers_folder().glob("*/state.json"))
