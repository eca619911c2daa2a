"""What stands between a client and its server: other programs, proxies, networks that trickle, deadlines that are none."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from surg.errors import ConfigError, ServerError
from surg.serving import client as client_module
from surg.serving import repository
from surg.serving.client import Client, connect
from surg.serving.engine import Server
from surg.serving.local import LocalTransport
from surg.serving.transport import Answer, HttpTransport, Request, TransportError
from tests.serving.toy import Clock, toy_contract, toy_model, toy_repository

PAGE = b"<html><body>Welcome to the printer</body></html>"


@contextmanager
def answering(status: int, body: bytes, pause: Callable[[], object] = lambda: None) -> Iterator[str]:
    """An HTTP server that says the same to everything, a byte at a time."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for byte in body:
                self.wfile.write(bytes([byte]))
                pause()

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [200, 301, 401, 413])
@pytest.mark.parametrize("body", [PAGE, b""])
def test_another_program_on_the_port_is_told_from_a_server_that_fails(status: int, body: bytes) -> None:
    with answering(status, body) as url, pytest.raises(ServerError, match=r"(?s)not Triton's: .+\.\n.*8000 for HTTP"):
        connect(url)


def test_a_proxy_whose_server_restarts_is_tried_again() -> None:
    request = Request("surg_clip", {"frames": np.zeros((1, 2), np.uint8)}, ["embedding"], 0, "x", 5)
    for status, kind in ((502, "unreachable"), (503, "unreachable"), (504, "deadline"), (200, "foreign")):
        with answering(status, PAGE) as url, pytest.raises(TransportError) as caught:
            HttpTransport(url.removeprefix("http://")).infer(request)
        assert caught.value.kind == kind


def test_an_answer_that_trickles_in_ends_with_the_deadline() -> None:
    """Every byte comes in time, and the last one never."""
    ended = threading.Event()
    with answering(200, PAGE, lambda: ended.wait(0.1)) as url:
        try:
            with pytest.raises(ServerError, match="ran out of time"):
                connect(url, timeout_s=0.5)
        finally:
            ended.set()


def test_settings_with_which_nothing_would_ever_be_sent_are_refused(tmp_path: Path) -> None:
    repo, clip = toy_repository(tmp_path)
    with pytest.raises(ConfigError, match="max_in_flight is 0"):
        connect(f"local:{repo}", max_in_flight=0)
    for timeout_s in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="timeout_s is"):
            connect(f"local:{repo}", timeout_s=timeout_s)
        with connect(f"local:{repo}") as client, pytest.raises(ConfigError, match="timeout_s is"):
            client.clip(clip, timeout_s=timeout_s)


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_deadline_may_be_for_ever(server: Server, frames: np.ndarray, protocol: str) -> None:
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    with connect(url, timeout_s=float("inf")) as client:
        assert len(client.clip(frames)) == 3
        assert len(client.clip(frames, timeout_s=1e13)) == 3


@pytest.mark.triton
def test_frames_do_not_go_through_a_proxy_for_the_web(
    server: Server, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with connect(server.grpc_url) as client:
        assert len(client.clip(frames)) == 3
        inputs = {"frames": frames[0], "zone": np.ones((4, 4), np.float32), "stride": np.ones(1, np.int32)}
        assert len(list(client.stream("surg_video", inputs))) == 1


class Replaceable(LocalTransport):
    """A server that may be started anew on another repository; the first request after that finds it away, when it says so."""

    def __init__(self, repo: Path) -> None:
        super().__init__(repo, 1)
        self.where, self.away = "grpc://server:8001", False

    def start_anew(self, repo: Path, *, away: bool) -> None:
        self._repo, self.away = repo, away
        self._sessions.clear()

    def infer(self, request: Request) -> Answer:
        if self.away:
            self.away = False
            raise TransportError("unreachable", "refused")
        return super().infer(request)


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("version", [None, 1])
def test_a_server_that_comes_back_with_another_model_under_the_same_version_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int | None, seen: bool
) -> None:
    """Whether a request found it away, or nobody asked meanwhile."""
    clock = Clock()
    monkeypatch.setattr(client_module, "time", clock)
    repos = []
    for scale in (1, 2):
        (tmp_path / str(scale)).mkdir()
        repo, clip = toy_repository(tmp_path / str(scale), scale=scale)
        repos.append(repo)
    transport = Replaceable(repos[0])
    with Client(transport, version=version) as client:
        client.clip(clip)
        transport.start_anew(repos[1], away=seen)
        clock.sleep(0 if seen else 5)
        client.clip(clip)
        assert client.contract.checkpoint_sha256 == client.contracts[1].checkpoint_sha256 == f"{2:064d}"
        other = toy_contract("3" * 64).model_copy(update={"horizons_s": (2.0,)})
        repository.publish(tmp_path / "third", other, {"surg_clip": {"model.onnx": toy_model(tmp_path / "t.onnx")}})
        transport.start_anew(tmp_path / "third", away=seen)
        clock.sleep(0 if seen else 5)
        for _ in range(2):
            with pytest.raises(ServerError, match="speaks another contract"):
                client.clip(clip)
