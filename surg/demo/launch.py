"""Puts a server, the page and the examples together, and takes them apart again."""

import ctypes
import logging
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from surg.data.manifest import Manifest
from surg.data.video import probe
from surg.demo import metrics
from surg.demo.examples import FOLDER, shipped
from surg.demo.reference import Reference
from surg.demo.uploads import private_uploads
from surg.errors import ConfigError
from surg.serving.client import Client, connect
from surg.serving.engine import start_server
from surg.serving.shipped import shipped_repository

logger = logging.getLogger(__name__)


M_ARENA_MAX = -8
"""glibc's number for how many heaps the threads of a process may have."""


def launch(
    *,
    server: str | None = None,
    compare: str | None = None,
    repository: Path | None = None,
    reference: Path | None = None,
    reference_clips: int = 200,
    host: str = "127.0.0.1",
    port: int = 7860,
    metrics_port: int | None = None,
    open_browser: bool = False,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM; whatever was started is stopped, and uploads are deleted."""
    if server is not None and repository is not None:
        raise ConfigError("--server is asked for its own model, so --repository would not be shown. Leave one of them out.")
    _share_heaps()
    host = host.strip("[]")
    _require_free(host, port, "The page", "--port")
    if metrics_port is not None:
        if metrics_port == port:
            raise ConfigError(f"Page and metrics cannot share port {port}. Choose another: --metrics-port {port + 1}")
        _require_free(host, metrics_port, "Metrics", "--metrics-port")
    with ExitStack() as stack:
        uploads = stack.enter_context(private_uploads())
        # Gradio reads these once, when it is imported: private uploads, and no calls home.
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        # Gradio asks its own page whether it is there, and would ask the web's proxy.
        os.environ["no_proxy"] = _without_proxy(os.environ, host)
        client = stack.enter_context(connect(server) if server else _embedded(stack, repository))
        other = stack.enter_context(connect(compare)) if compare else None
        examples = shipped()
        known = Reference.build(client, _reference_clips(reference, reference_clips))
        logger.info(
            "connected to %s, checkpoint %s; %d clips to compare moments with",
            client.where,
            client.contract.checkpoint_sha256[:12],
            len(known),
        )

        from surg.demo.app import CSS, HEAD, JS, MAX_UPLOAD, build, theme
        from surg.demo.pages import Page

        page = Page(client, known, other)
        if metrics_port is not None:
            stack.enter_context(metrics.served(host, metrics_port))
            logger.info("metrics for Prometheus: http://%s:%d/metrics", _in_url(host), metrics_port)
        stack.enter_context(page.visits.swept())
        blocks = build(page, examples)
        _, address, _ = blocks.queue(default_concurrency_limit=4, max_size=32).launch(
            server_name=_in_url(host),
            server_port=port or _free_port(host),
            prevent_thread_lock=True,
            inbrowser=open_browser,
            quiet=True,
            css=CSS,
            head=HEAD,
            js=JS,
            theme=theme(),
            max_file_size=MAX_UPLOAD,
            allowed_paths=[str(FOLDER)],
            footer_links=["api"],
        )
        stack.callback(blocks.close, verbose=False)
        _stay_open(address)


def _embedded(stack: ExitStack, repository: Path | None) -> Client:
    running = stack.enter_context(start_server(repository or shipped_repository()))
    return connect(running.grpc_url)


def _reference_clips(manifest: Path | None, count: int) -> Any:
    if manifest is not None:
        return islice(Manifest.read(manifest).clips(), count)
    return (example.as_clip(probe(example.path).duration_s) for example in shipped())


def _require_free(host: str, port: int, what: str, option: str) -> None:
    """Raises ConfigError when nothing could be served there: before a server is started for it."""
    try:
        with _socket_for(host) as wanted:
            # As the page's own server does: a port that was just given back is free.
            wanted.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wanted.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"{what} cannot be served at {_in_url(host)}:{port} ({error.strerror or error}). Another demo may be open there.\n"
            f"Choose another port: {option} {port + 1}"
        ) from error


def _without_proxy(environment: Mapping[str, str], host: str) -> str:
    """What $no_proxy says already, and the addresses of this page."""
    said = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return (
        said
        if said.strip() == "*"
        else ",".join(dict.fromkeys([*filter(None, said.split(",")), "localhost", "127.0.0.1", host]))
    )


def _free_port(host: str) -> int:
    with _socket_for(host) as probe_socket:
        probe_socket.bind((host, 0))
        return int(probe_socket.getsockname()[1])


def _socket_for(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


def _in_url(host: str) -> str:
    """An address of IPv6 stands in brackets there."""
    return f"[{host}]" if ":" in host else host


def _stay_open(address: str) -> None:
    """Until Ctrl-C, or SIGTERM, which the command line takes alike; it may come as soon as the address is told."""
    try:
        print(address, flush=True)  # noqa: T201 - the result of this command
        logger.info("The demo is open at %s    Ctrl-C ends it.", address)
        signal.pause()
    except KeyboardInterrupt:
        logger.info("Closing.")


def _share_heaps() -> None:
    """Two heaps for all threads: with one for each, what five visitors' decoders give back stays with threads that have ended."""
    # Another C library may have no such function, and needs none.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
