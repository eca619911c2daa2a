"""Servers started by `surg serve` outlive the command: where each one's state and log lie, so that any shell finds it.

$SURG_STATE_DIR (default ~/.local/state/surg)/servers/NAME/state.json   status, ports, process ids, repository
"""

import json
import os
import shutil
from pathlib import Path

from surg.errors import ServerError
from surg.serving.engine import EngineName, Server
from surg.serving.engines import embedded

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
) -> Server:
    """Start a server that goes on running after this process. Raises ServerError when one of that name runs already."""
    folder = servers_folder() / name
    if (folder / "state.json").exists():
        if (running := find(name)).alive:
            raise ServerError(
                f"A server named {name} runs already (gRPC {running.grpc_url}).\n"
                f"Stop it: surg serve stop --name {name}    or start a second one: surg serve start {repo} --name OTHER"
            )
        running.stop()  # a container that ended by itself is still there, and nothing would know its name any more
    shutil.rmtree(folder, ignore_errors=True)
    wanted = [port or (usual if _is_free(usual) else 0) for port, usual in zip(ports, PORTS)]
    if engine == "docker":
        from surg.serving.engines import docker

        return docker.start(
            repo, http_port=wanted[0], grpc_port=wanted[1], metrics_port=wanted[2], folder=folder, image=image or docker.IMAGE
        )
    return embedded.start(
        repo, http_port=wanted[0], grpc_port=wanted[1], metrics_port=wanted[2], threads=threads, folder=folder
    )


def find(name: str = DEFAULT) -> Server:
    """A server that was started under this name, running or not. Raises ServerError when there is none."""
    folder = servers_folder() / name
    try:
        state = json.loads((folder / "state.json").read_text())
    except FileNotFoundError as error:
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


def _is_free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
