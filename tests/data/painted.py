"""Videos whose every frame says which one it is: eight bars, black or white, are its number in binary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np


def paint(number: int, width: int = 128, height: int = 96) -> np.ndarray:
    frame = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            frame[:, bit * width // 8 : (bit + 1) * width // 8] = 255
    return frame


def number_of(frame: np.ndarray) -> int:
    height, width = frame.shape[:2]
    return sum(int(frame[height // 2, bit * width // 8 + width // 16].mean() > 128) << bit for bit in range(8))


def numbers_of(frames: np.ndarray) -> list[int]:
    return [number_of(frame) for frame in frames]


def write(
    path: Path,
    count: int = 100,
    fps: int = 25,
    *,
    codec: str = "libx264",
    format: str | None = None,
    stamps: Sequence[int] | None = None,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    stream_options: dict[str, Any] | None = None,
) -> Path:
    """A painted video, by plain PyAV. `stamps` are times in milliseconds, for a variable rate."""
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        stream.options = options or {}
        if stamps is not None:
            from fractions import Fraction

            stream.codec_context.time_base = Fraction(1, 1000)
            count = len(stamps)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(paint(index), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[index], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path, degrees: int) -> Path:
    """Write a rotation into the track header of an MP4, as a telephone does: only the matrix changes."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one, minus = (0x00010000).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big")
    none, last = bytes(4), (0x40000000).to_bytes(4, "big")
    rows = {
        90: (none, one, none, minus, none, none, none, none, last),
        180: (minus, none, none, none, minus, none, none, none, last),
        270: (none, minus, none, one, none, none, none, none, last),
    }[degrees]
    data[at : at + 36] = b"".join(rows)
    path.write_bytes(bytes(data))
    return path
