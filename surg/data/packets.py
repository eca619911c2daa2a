"""From compressed packets to the frames that are wanted, decoding as little as is exact.

A look-ahead queue of packets tells, before decoding, which frames will be shown at a wanted time. Frames that nobody wants and
that no other frame refers to (half of an ordinary H.264 file) are skipped by the decoder. Where time stamps are missing or
strange everything is decoded: slower, and the same frames.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
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


def stream_clock(stream: Any) -> tuple[int, Fraction]:
    """Stamp of the start of the video, and seconds per stamp."""
    return stream.start_time or 0, stream.time_base


def decode_wanted(
    container: Any, stream: Any, times: npt.NDArray[np.float64] | None, start_s: float = 0.0
) -> Iterator[tuple[float, float, Any]]:
    """(start_s, end_s, frame) from the keyframe at or before the first wanted time, ascending.

    With `times` (ascending) some frames that are not shown at any of them are left out; without, every frame comes.
    """
    first = float(times[0]) if times is not None else start_s
    origin, base = stream_clock(stream)
    produced = False
    if first > 0:
        if _seek(container, stream, int(first / base) + origin):
            for start, end, frame in _decode(container, stream, times):
                if not produced and start > first + 1e-6:
                    break  # The index was wrong and the search came out too late: begin at the beginning.
                produced = True
                yield start, end, frame
            else:
                if produced:
                    return
        if produced:
            return
        if not _seek(container, stream, origin):
            return
    yield from _decode(container, stream, times)


def _seek(container: Any, stream: Any, stamp: int) -> bool:
    try:
        container.seek(stamp, stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _decode(container: Any, stream: Any, times: npt.NDArray[np.float64] | None) -> Iterator[tuple[float, float, Any]]:
    context = stream.codec_context
    origin, base = stream_clock(stream)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    wanted = None if times is None or context.name not in SKIPPING else _Wanted(times, origin, base)
    end, bad, number = 0.0, 0, 0
    for packet, keep in _look_ahead(container, stream, wanted):
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
            start = float((frame.pts - origin) * base) if frame.pts is not None else end if number else 0.0
            length = float(frame.duration * base) if frame.duration else 1.0 / rate
            end = start + length
            number += 1
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


def _look_ahead(container: Any, stream: Any, wanted: _Wanted | None) -> Iterator[tuple[Any, bool]]:
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

    for packet in _demux(container, stream):
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


def _demux(container: Any, stream: Any) -> Iterator[Any]:
    packets = container.demux(stream)
    bad = 0
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.EOFError):
            return
        except av.error.FFmpegError:
            bad += 1
            if bad > MAX_BAD_PACKETS:
                return
            packets = container.demux(stream)
            continue
        yield packet
