"""Live pictures with bounded latency: a ring of the newest frames, and an answer for now or none at all.

Frames that come while the server is busy replace each other; nothing queues up, so what is shown is never older than one request.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surg.data.preprocess import Polygon, PreprocessSpec, preprocess
from surg.demo import metrics
from surg.errors import DataError
from surg.serving.client import Client
from surg.serving.follow import OPEN_TIMEOUT_S, SCHEMES, is_address, open_stream

Frame = npt.NDArray[np.uint8]
MAX_SIDE = 1920


@dataclass(frozen=True)
class Reading:
    """What the model says of this moment."""

    frame: Frame
    action: str
    action_probability: float
    breach: float
    breach_map: npt.NDArray[np.float32]
    box: tuple[int, int, int, int]
    latency_s: float
    """From the newest frame's arrival to the answer."""
    dropped: int
    """Frames that were replaced by newer ones since the reading before."""


class Ring:
    """The newest frames at the model's own rate."""

    def __init__(self, spec: PreprocessSpec) -> None:
        self._spec = spec
        self._frames: deque[tuple[float, Frame]] = deque(maxlen=spec.num_frames)
        self.dropped = 0

    def put(self, frame: Frame, now_s: float) -> bool:
        """Take a frame if it is time for one (the model's frame rate); says whether it was taken."""
        if self._frames and now_s - self._frames[-1][0] < 0.9 / self._spec.fps:
            self.dropped += 1
            return False
        if self._frames and frame.shape != self._frames[-1][1].shape:
            # Another camera or resolution: old frames do not belong to this picture.
            self._frames.clear()
        self._frames.append((now_s, frame))
        return True

    @property
    def newest_s(self) -> float:
        return self._frames[-1][0] if self._frames else 0.0

    def clip(self) -> Frame | None:
        """As many frames as the model takes; until enough came, the first stands in for those before it."""
        if not self._frames:
            return None
        frames = [frame for _, frame in self._frames]
        return np.stack([frames[0]] * (self._spec.num_frames - len(frames)) + frames)


def read(client: Client, ring: Ring, zone: Polygon | None = None) -> Reading | None:
    """One answer for the newest frames, or None before the first."""
    frames = ring.clip()
    if frames is None:
        return None
    arrived, dropped = ring.newest_s, ring.dropped
    ring.dropped = 0
    prepared = preprocess(frames, client.contract.preprocess, zone)
    result = client.clip(prepared.frames, prepared.zone)
    probabilities = result.action_probability[0]
    best = int(probabilities.argmax()) if probabilities.size else -1
    latency_s = time.monotonic() - arrived
    metrics.AGE.observe(latency_s)
    metrics.DROPPED.inc(dropped)
    return Reading(
        frames[-1],
        client.contract.classes[best] if best >= 0 else "",
        float(probabilities[best]) if best >= 0 else float("nan"),
        float(result.breach_probability[0][0]) if result.breach.size else float("nan"),
        result.breach_map_probability[0],
        prepared.box,
        latency_s,
        dropped,
    )


def visitors_stream(address: str) -> "Stream":
    """A stream that a visitor names. Only of the network: a path would show him the files of this machine."""
    if not is_address(address.strip()):
        raise DataError(
            f"That is no address of a stream. Expected one that begins with {', '.join(f'{scheme}://' for scheme in SCHEMES)}; "
            "a file goes to the tab Clip."
        )
    return Stream(address.strip())


class Stream:
    """The newest frame of a camera or network stream, decoded in its own thread. Use as a context manager."""

    def __init__(self, url: str) -> None:
        self._container = open_stream(url)
        self._newest: tuple[float, Frame] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._decode, name="surg-live", daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=OPEN_TIMEOUT_S)
        self._container.close()

    def frames(self, patience_s: float = OPEN_TIMEOUT_S) -> Iterator[tuple[float, Frame]]:
        """Arrival time and frame, the newest each time; ends with the stream, or when nothing came for `patience_s`."""
        last, waited = 0.0, time.monotonic()
        while True:
            with self._lock:
                newest = self._newest
            if newest is not None and newest[0] > last:
                last, waited = newest[0], time.monotonic()
                yield newest
            elif self._ended.wait(0.005) or time.monotonic() - waited > patience_s:
                return

    def _decode(self) -> None:
        import av

        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        began, first = time.monotonic(), None
        is_file = bool(self._container.duration)
        try:
            for frame in self._container.decode(stream):
                if self._ended.is_set():
                    return
                if is_file and frame.time is not None:
                    # A file plays at its own speed, as a camera would.
                    first = frame.time if first is None else first
                    self._ended.wait(max(0.0, frame.time - first - (time.monotonic() - began)))
                scale = min(1.0, MAX_SIDE / max(frame.width, frame.height))
                picture = frame.reformat(
                    int(frame.width * scale) // 2 * 2, int(frame.height * scale) // 2 * 2, "rgb24"
                ).to_ndarray()
                with self._lock:
                    self._newest = (time.monotonic(), np.asarray(picture, np.uint8))
        except av.error.FFmpegError:
            # A broken connection ends the stream; `frames` then ends too, and the page says so.
            return
        finally:
            self._ended.set()
