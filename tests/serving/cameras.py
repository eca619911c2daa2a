"""Cameras on loopback: a small RTSP server and a bare TCP one, both sending MPEG-TS at its own pace."""

import contextlib
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any

import av
import numpy as np

PACKETS = 7
"""Transport stream packets of 188 bytes in one RTP packet."""


def moving_stripes(seconds: float, fps: int = 8, side: int = 96) -> Iterator[np.ndarray]:
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    for time_ in range(int(seconds * fps)):
        wave = 127 + 120 * np.sin((x + 5 * time_) / 9) * np.cos((y - time_) / 7)
        yield np.stack([wave, wave[::-1], 255 - wave], -1).astype(np.uint8)


def transport_stream(seconds: float, fps: int = 8) -> list[tuple[float, bytes]]:
    """(time, bytes) of each frame of an H.264 transport stream with a keyframe every second."""
    pieces: list[tuple[float, bytes]] = []
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps))
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(fps), "threads": "1"}
        sent = 0
        for number, frame in enumerate(moving_stripes(seconds, fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            pieces.append((number / fps, buffer.getvalue()[sent:]))
            sent = len(buffer.getvalue())
        container.mux(stream.encode())
    pieces.append((seconds, buffer.getvalue()[sent:]))
    return pieces


class Camera:
    """Sends `pieces` to every caller, paced by their times; `address` is where. `breaks_at_s` ends each connection early."""

    def __init__(self, pieces: list[tuple[float, bytes]], *, rtsp: bool, breaks_at_s: float = 1e9, speed: float = 1.0) -> None:
        self.pieces, self.rtsp, self.breaks_at_s, self.speed = pieces, rtsp, breaks_at_s, speed
        self.calls = 0
        self.requests: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0.2)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def address(self) -> str:
        port = self.listener.getsockname()[1]
        return f"rtsp://viewer:hunter2@127.0.0.1:{port}/theatre" if self.rtsp else f"tcp://127.0.0.1:{port}"

    def __enter__(self) -> "Camera":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        self.thread.join(5)
        self.listener.close()

    def _serve(self) -> None:
        while not self.ended.is_set():
            try:
                caller, _ = self.listener.accept()
            except TimeoutError:
                continue
            with caller, contextlib.suppress(OSError):
                self.calls += 1
                caller.settimeout(10)
                send = caller.sendall
                if self.rtsp:
                    if not self._agree(caller):
                        continue
                    send = _as_rtp(caller.sendall)
                self._send(send)

    def _send(self, send: Callable[[bytes], object]) -> None:
        begun = time.monotonic()
        for due, piece in self.pieces:
            if due > self.breaks_at_s or self.ended.wait(max(0.0, due / self.speed - (time.monotonic() - begun))):
                return
            send(piece)

    def _agree(self, caller: socket.socket) -> bool:
        """OPTIONS, DESCRIBE, SETUP and PLAY, with the video inside this connection."""
        sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=theatre\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:video\r\n"
        waiting = b""
        while True:
            while b"\r\n\r\n" not in waiting:
                got = caller.recv(4096)
                if not got:
                    return False
                waiting += got
            head, _, waiting = waiting.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            method = lines[0].split()[0]
            self.requests.append(method)
            number = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
            extra, body = "", ""
            if method == "OPTIONS":
                extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                extra, body = f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n", sdp
            elif method == "SETUP":
                extra = "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            elif method == "PLAY":
                extra = "Session: 1\r\n"
            caller.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{extra}\r\n{body}".encode())
            if method == "PLAY":
                return True


def _as_rtp(send: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Wrap transport stream packets as interleaved RTP of payload type 33."""
    count = 0

    def wrapped(piece: bytes) -> None:
        nonlocal count
        for start in range(0, len(piece), 188 * PACKETS):
            part = piece[start : start + 188 * PACKETS]
            packet = struct.pack("!BBHII", 0x80, 33, count & 0xFFFF, int(time.monotonic() * 90_000) & 0xFFFFFFFF, 7) + part
            send(b"$\x00" + struct.pack("!H", len(packet)) + packet)
            count += 1

    return wrapped
