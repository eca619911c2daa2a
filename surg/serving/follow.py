"""Following a camera or network stream: windows of the newest frames, on the stream's own clock.

One thread reads and decodes and keeps the newest window alone: what the model has no time for is dropped and counted, nothing
queues up. Where decoding itself falls behind, packets are skipped up to a keyframe. A broken connection is opened again, for
as long as it takes; windows never reach across the gap.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, cast
from urllib.parse import urlsplit

import av
import av.error
import numpy as np
import numpy.typing as npt

from surg.data.preprocess import Box, Polygon, PreprocessSpec, crop_box, resize_box, zone_bounds, zone_map
from surg.errors import DataError, ServerError
from surg.serving.client import Client
from surg.serving.results import Window
from surg.serving.stream import Cut, mean_change, steps, window_of
from surg.serving.transport import RETRIED, TransportError

logger = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "udp", "srt")
PROTOCOLS = ",".join((*SCHEMES, "rtp", "srtp", "tls", "crypto", "data", "httpproxy"))
"""All that an address may lead to: a playlist from the network must not name files of this machine."""
OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 5.0
"""Nothing for so long is a broken connection."""
PAUSES_S = (0.5, 8.0)
"""First and longest pause before a connection is tried again; it doubles in between."""
PROBING = {"analyzeduration": "1000000", "probesize": "1000000"}
"""A second, or a megabyte, of looking what the stream is; FFmpeg takes five of each by itself, and the first picture waits."""
GAP_S = 2.0
"""A longer hole between two frames starts the window anew."""
BEHIND_S = 2.0
"""Decoding that is so much later than what arrives skips to the next keyframe."""
AT_THE_EDGE_S = 0.005
"""A read that had to wait so long got what was sent just now."""


def is_address(text: str) -> bool:
    """Whether `text` is the address of a stream; a folder has no scheme."""
    return urlsplit(text).scheme in SCHEMES and "://" in text


def is_away(error: BaseException | None) -> bool:
    """Whether it is the server that does not answer just now, and not our request that is wrong: what is followed is followed on."""
    cause = error.__cause__ if isinstance(error, ServerError) else None
    return isinstance(cause, TransportError) and cause.kind in (*RETRIED, "deadline")


def open_stream(address: str) -> Any:
    """A PyAV container that has video; DataError, which does not repeat the address, when there is none."""
    where = f"The stream at {host}" if (host := urlsplit(address).hostname) else "The stream"
    options = PROBING | ({"rtsp_transport": "tcp"} if address.startswith("rtsp") else {})
    if is_address(address):
        options["protocol_whitelist"] = PROTOCOLS
    try:
        container = av.open(address, options=options, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        # The address may hold a password: only its host is repeated.
        raise DataError(
            f"{where} cannot be opened: {type(error).__name__}.\nCheck address, port and password, and that another player shows it."
        ) from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{where} holds no video, only other tracks.")
    return container


class Cutter:
    """Cuts a run of frames into windows, as `surg.serving.stream.cuts` does a file: the frame at t is the one shown at t."""

    def __init__(self, spec: PreprocessSpec, zone: Polygon | None, stride_s: float) -> None:
        if zone is not None:
            zone_bounds(zone)  # here and not in the camera's thread, which would take it for a broken stream
        self._spec, self._zone = spec, zone
        self._substeps, self._stride = steps(stride_s, spec.fps)
        self._span = (spec.num_frames - 1) * self._substeps + 1
        self._ring: deque[tuple[float, Frame]] = deque(maxlen=self._span)
        self._index = 0
        self._occupancy = np.zeros((0, 0), np.float32)
        self.restart()

    def restart(self) -> None:
        """Forget the frames: those to come do not follow on them."""
        self._ring.clear()
        self._held: tuple[float, Frame] | None = None
        self._prepared: Frame | None = None
        self._start_s, self._seen = 0.0, 0
        self._box: Box | None = None

    def push(self, time_s: float, frame: Frame) -> list[Cut]:
        """The next frame, shown from `time_s` on. Returns the windows that the one before it completed."""
        if self._held is not None and (
            frame.shape != self._held[1].shape or not self._held[0] <= time_s < self._held[0] + GAP_S
        ):
            self.restart()
        found = []
        if self._held is None:
            self._start_s = time_s
        while self._held is not None and (wanted := self._wanted()) < time_s - 1e-9:
            cut = self._take(wanted)
            if cut is not None:
                found.append(cut)
        self._held, self._prepared = (time_s, frame), None
        return found

    def _wanted(self) -> float:
        return self._start_s + self._seen / (self._spec.fps * self._substeps)

    def _take(self, time_s: float) -> Cut | None:
        assert self._held is not None
        frame = self._held[1]
        height, width = frame.shape[:2]
        if self._box is None:
            self._box = crop_box(width, height, self._spec, self._zone)
            self._occupancy = zone_map(self._zone, self._box, width, height, self._spec)
        if self._prepared is None:
            self._prepared = resize_box(frame[None], self._box, self._spec.size)[0]
        self._ring.append((time_s, self._prepared))
        self._seen += 1
        if self._seen < self._span or (self._seen - self._span) % self._stride:
            return None
        picked = list(self._ring)[:: self._substeps]
        self._index += 1
        pictures = np.stack([picture for _, picture in picked])
        return Cut(self._index - 1, picked[0][0], time_s, pictures, self._occupancy, self._box)


@dataclass(frozen=True)
class Latest:
    """The newest window, and what became of those before it."""

    cut: Cut
    arrived_s: float
    """time.monotonic() when its last frame was there."""
    dropped: int
    """Windows since the one before that were replaced unseen."""


class Camera:
    """The newest window of a stream, read in a thread of its own. A context manager; DataError when the stream does not open.

    `reconnects` counts broken connections, `skipped` packets that were left undecoded to catch up.
    """

    def __init__(self, address: str, cutter: Cutter) -> None:
        self._address, self._cutter = address, cutter
        self._began = time.monotonic()
        self._last_s = 0.0
        self._latest: Latest | None = None
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self.reconnects = self.skipped = 0
        self._container = open_stream(address)
        self._thread = threading.Thread(target=self._run, name="surg-camera", daemon=True)

    def __enter__(self) -> "Camera":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(OPEN_TIMEOUT_S + READ_TIMEOUT_S)

    def windows(self, for_s: float | None = None) -> Iterator[Latest]:
        """The newest window each time there is one; ends after `for_s` seconds, or never."""
        deadline = None if for_s is None else self._began + for_s
        while True:
            with self._changed:
                while self._latest is None:
                    left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                    if left <= 0:
                        return
                    self._changed.wait(left)
                latest, self._latest = self._latest, None
            yield latest

    def _run(self) -> None:
        pause = PAUSES_S[0]
        while not self._ended.is_set():
            container, self._container = self._container, None
            try:
                container = container or open_stream(self._address)
                if self._read(container):
                    pause = PAUSES_S[0]
            except (av.error.FFmpegError, DataError, OSError) as error:
                logger.debug("stream broken: %s", type(error).__name__)
            finally:
                if container is not None:
                    container.close()
            if self._ended.is_set():
                return
            self.reconnects += 1
            self._cutter.restart()
            logger.warning("the stream broke off; trying again in %.1f s", pause)
            self._ended.wait(pause)
            pause = min(2 * pause, PAUSES_S[1])

    def _read(self, container: Any) -> bool:
        """Decode until the connection ends. Returns whether a frame came."""
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        base, origin, offset, edge, skipping, came = float(stream.time_base), None, 0.0, 0.0, False, False
        asked = time.monotonic()
        for packet in container.demux(stream):
            now = time.monotonic()
            if self._ended.is_set():
                return came
            stamp = packet.dts if packet.dts is not None else packet.pts
            if stamp is not None:
                if origin is None:
                    # A stream that ran ahead of the clock, as from a buffer, must not send time back when it is opened again.
                    origin, offset = stamp, max(now - self._began, self._last_s)
                late = now - self._began - (offset + (stamp - origin) * base)
                if now - asked > AT_THE_EDGE_S:
                    edge = late
                skipping = late - edge > BEHIND_S if packet.is_keyframe or not skipping else True
            if skipping:
                self.skipped += 1
            else:
                for frame in packet.decode():
                    came = True
                    if frame.pts is not None and origin is not None:
                        self._take(offset + (frame.pts - origin) * base, frame)
            asked = time.monotonic()
        return came

    def _take(self, time_s: float, frame: Any) -> None:
        self._last_s = time_s
        picture = cast(Frame, frame.to_ndarray(format="rgb24"))
        for cut in self._cutter.push(time_s, picture):
            with self._changed:
                dropped = 0 if self._latest is None else self._latest.dropped + 1
                self._latest = Latest(cut, time.monotonic(), dropped)
                self._changed.notify()


@dataclass(frozen=True)
class Sight:
    """One answer about a stream."""

    window: Window
    """Its large arrays are left out; its times are seconds since the following began."""
    latency_s: float
    """From the window's last frame to the answer."""
    dropped: int
    """Windows dropped before this one."""


def follow_stream(
    client: Client,
    address: str,
    zone: Polygon | None = None,
    *,
    stride_s: float = 1.0,
    surprise: bool = False,
    for_s: float | None = None,
) -> Iterator[Sight]:
    """Answers for the newest windows of a stream, as they come. While the server does not answer windows are lost, and counted."""
    contract = client.contract
    if surprise:
        contract.model("surg_world")
    nothing, lost = np.zeros(0, np.float32), 0
    with Camera(address, Cutter(contract.preprocess, zone, stride_s)) as camera:
        for latest in camera.windows(for_s):
            cut = latest.cut
            try:
                found = client.clip(cut.frames, cut.zone)
                surprised = float(client.world(cut.frames).surprise[0]) if surprise else None
            except ServerError as error:
                if not is_away(error):
                    raise
                lost += 1 + latest.dropped
                logger.warning("%s\nThe camera is followed on; windows are lost until the server answers.", error)
                continue
            window = window_of(contract, found, cut.index, cut.start_s, cut.end_s, cut.box, surprised, mean_change(cut.frames))
            yield Sight(
                replace(window, breach_map=nothing, embedding=nothing),
                time.monotonic() - latest.arrived_s,
                latest.dropped + lost,
            )
            lost = 0
