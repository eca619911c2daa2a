"""Where the models run: one call starts a server on a repository, whichever engine.

embedded   the real Triton of a PyPI wheel, on this machine, no Docker and no GPU needed
docker     NVIDIA's image through the Docker engine
"""

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

EngineName = Literal["embedded", "docker"]


@runtime_checkable
class Server(Protocol):
    """A running Triton. `http_url` and `grpc_url` are host:port."""

    @property
    def http_url(self) -> str: ...
    @property
    def grpc_url(self) -> str: ...
    @property
    def metrics_url(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def alive(self) -> bool: ...
    def stop(self) -> int: ...
    def log_tail(self, lines: int = 30) -> str: ...
    def reload(self) -> None: ...
    def rollback(self, to: int | None = None) -> tuple[list[int], list[int]]: ...
    def __enter__(self) -> "Server": ...
    def __exit__(self, *_: object) -> None: ...


def start_server(
    repo: Path | str,
    engine: EngineName = "embedded",
    *,
    http_port: int = 0,
    grpc_port: int = 0,
    metrics_port: int = 0,
    threads: int = 0,
    start_timeout_s: float | None = None,
) -> Server:
    """Start a server on `repo` and return when it has answered a synthetic inference. It ends with this process, or by `stop()`.

    start_timeout_s: None goes by the size of what is served.
    """
    if engine == "embedded":
        from surg.serving.engines import embedded

        return embedded.start(
            Path(repo),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            threads=threads,
            start_timeout_s=start_timeout_s,
        )
    from surg.serving.engines import docker

    return docker.start(
        Path(repo), http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port, start_timeout_s=start_timeout_s
    )
