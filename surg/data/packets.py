"""From compressed packets to the frames that are wanted, decoding as little as is exact.

A look-ahead queue of packets tells, before decoding, which frames will be shown at a wanted time. Frames that nobody wants and
that no other frame refers to (half of an ordinary H.264 file) are skipped by the decoder. Where time stamps are missing or
strange everything is decoded: slower, and the same frames.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt

# Packets of a stream come in decoding order; H.264 and HEVC reorder over at most 16 frames.
LOOK_AHEAD = 40
# Decoders that skip non-reference frames exactly and mark the others by their own time stamps.
SKIPPING = frozenset({"h264", "hevc"})
# One damaged packet must not end a video; a run of them means that nothing more will come.
MAX_BAD_PACKETS = 64
SEEK_BEFORE_S = (0.0, 12.0)
REWIND_S = 60
REORDERED = 8


@dataclass
class Source:
    """An open container, its video stream, and the clock of that."""

    container: Any
    stream: Any
    origin: int
    """Stamp of the first frame: the start of the video."""
    base: Fraction
    """Seconds per stamp."""
    fresh: bool
    """Nothing was read yet: there is no need to go back to the start."""

    @classmethod
    def of(cls, container: Any, stream: Any) -> "Source":
        origin, fresh = stream.start_time or 0, True
        if container.format.name == "avi" and stream.codec_context.has_b_frames:
            # AVI has no display times: libav derives them, begins a frame or more late, and does not say so.
            stamps = [packet.pts for packet in islice(demux(container, stream), LOOK_AHEAD) if packet.pts is not None]
            origin, fresh = min(stamps, default=origin), False
        return cls(container, stream, origin, stream.time_base, fresh)

    def seek(self, seconds: float) -> bool:
        self.fresh = False
        try:
            self.container.seek(self.origin + int(seconds / self.base), stream=self.stream, backward=True)
        except av.error.FFmpegError:
            return False
        return True


def decode_wanted(
    source: Source, times: npt.NDArray[np.float64] | None, start_s: float = 0.0
) -> Iterator[tuple[float, float, Any]]:
    """(start_s, end_s, frame) from the keyframe at or before the first wanted time, ascending.

    With `times` (ascending) some frames that are not shown at any of them are left out; without, every frame comes.
    """
    first = float(times[0]) if times is not None else start_s
    # Containers without an index can come out behind the time that was sought: then earlier, at last from the start.
    for seconds_before in SEEK_BEFORE_S:
        if first <= seconds_before or not source.seek(first - seconds_before):
            continue
        produced = False
        for start, end, frame in _decode(source, times):
            if not produced and start > first + 1e-6:
                break
            produced = True
            yield start, end, frame
        if produced:
            return
    # Before the start, where the container allows it: the decoding time of the first packet may lie there.
    if source.fresh or any(source.seek(seconds) for seconds in (-REWIND_S, 0.0)):
        yield from _decode(source, times)


def _decode(source: Source, times: npt.NDArray[np.float64] | None) -> Iterator[tuple[float, float, Any]]:
    """(start_s, end_s, frame) from where the container stands, with ascending times."""
    source.fresh = False
    packets = demux(source.container, source.stream)
    first = list(islice(packets, LOOK_AHEAD))
    context = source.stream.codec_context
    # Some muxers give frames that are reordered the stamps of their decoding. The decoder's order holds, and the stamps are sorted.
    muddled = context.has_b_frames and all(packet.pts == packet.dts for packet in first if packet.pts is not None)
    if muddled or source.container.format.name == "avi":
        yield from _sorted(_decode_packets(source, chain(first, packets), None))
        return
    wanted = None if times is None or context.name not in SKIPPING else _Wanted(times, source.origin, source.base)
    yield from _decode_packets(source, chain(first, packets), wanted)


def _sorted(frames: Iterator[tuple[float, float, Any]]) -> Iterator[tuple[float, float, Any]]:
    held: deque[Any] = deque()
    stamps: list[tuple[float, float]] = []
    for start, end, frame in frames:
        held.append(frame)
        insort(stamps, (start, end))
        if len(held) > REORDERED:
            yield *stamps.pop(0), held.popleft()
    for stamp, frame in zip(stamps, held):
        yield *stamp, frame


def _decode_packets(source: Source, packets: Iterator[Any], wanted: "_Wanted | None") -> Iterator[tuple[float, float, Any]]:
    context, origin, base = source.stream.codec_context, source.origin, float(source.base)
    rate = float(source.stream.average_rate or source.stream.guessed_rate or 25)
    end, bad = 0.0, 0
    for packet, keep in _look_ahead(packets, wanted):
        context.skip_frame = "DEFAULT" if keep else "NONREF"
        try:
            frames = context.decode(packet)
            bad = 0
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            bad += 1
            if bad > MAX_BAD_PACKETS:
                return
            continue
        for frame in frames:
            if frame.is_corrupt:
                continue
            # A frame without a stamp follows the one before.
            start = (frame.pts - origin) * base if frame.pts is not None else end
            end = start + (frame.duration * base if frame.duration else 1.0 / rate)
            yield start, end, frame


class _Wanted:
    """Which stamps are shown at a wanted time, given the stamps around them."""

    def __init__(self, times: npt.NDArray[np.float64], origin: int, base: Fraction) -> None:
        # The millionth of a second matches the tolerance with which a frame counts as begun.
        self._stamps = sorted(int((time + 1e-9) / float(base) + 1e-6) + origin for time in times.tolist())

    def shown(self, stamp: int, following: int | None) -> bool:
        """Is the frame at `stamp` on the screen at a wanted time, when the next one begins at `following`?"""
        index = bisect_left(self._stamps, stamp)
        return index < len(self._stamps) and (following is None or self._stamps[index] < following)


def _look_ahead(packets: Iterator[Any], wanted: _Wanted | None) -> Iterator[tuple[Any, bool]]:
    """(packet, must it be decoded?), ending with the packet that flushes the decoder."""
    queue: deque[Any] = deque()
    stamps: list[int] = []
    past: deque[int] = deque()
    exact = wanted is not None

    def keep(packet: Any) -> bool:
        if wanted is None or not exact or packet.pts is None:
            return True
        index = bisect_left(stamps, packet.pts + 1)
        # One stamp of doubt on each side costs a frame more and saves from rounding.
        return wanted.shown(packet.pts - 1, stamps[index] + 1 if index < len(stamps) else None)

    for packet in packets:
        if not packet.size:
            continue
        if packet.pts is None:
            exact = False
        else:
            insort(stamps, packet.pts)
        queue.append(packet)
        if len(queue) > LOOK_AHEAD:
            head = queue.popleft()
            yield head, keep(head)
            if head.pts is not None:
                past.append(head.pts)
            if len(past) > LOOK_AHEAD:
                stamps.remove(past.popleft())
    while queue:
        head = queue.popleft()
        yield head, keep(head)
    yield None, True


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream, over damaged places as long as there are not too many."""
    bad = 0
    while bad <= MAX_BAD_PACKETS:
        try:
            yield from container.demux(stream)
        except av.error.EOFError:
            return
        except (av.error.FFmpegError, IndexError):
            # IndexError: a damaged stream that appears on the way confuses PyAV's list of streams.
            bad += 1
        else:
            return
