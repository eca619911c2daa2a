"""Videos to upload: a short one, drawn; a long one, joined from copies of it."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from surg.data.video import write_video


def moving_square(path: Path, seconds: float = 4.0, side: int = 128, fps: float = 12.0) -> Path:
    """A bright square that crosses a dark picture."""

    def frames() -> Iterator[np.ndarray]:
        for index in range(int(seconds * fps)):
            frame = np.full((side, side, 3), 40, np.uint8)
            at = 4 + index * 2 % (side - 24)
            frame[40:60, at : at + 20] = (220, 180, 60)
            yield frame

    write_video(path, frames(), fps)
    return path


def looped(source: Path, path: Path, seconds: float) -> Path:
    """A long video without coding it: the source's packets over and over."""
    with av.open(str(source)) as short, av.open(str(path), "w", options={"movflags": "faststart"}) as long:
        stream = short.streams.video[0]
        out = long.add_stream_from_template(stream)
        packets = [packet for packet in short.demux(stream) if packet.size]
        first = min(packet.pts for packet in packets)
        length = max(packet.pts + packet.duration for packet in packets) - first
        for number in range(round(seconds / float(length * stream.time_base))):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = out, packet.time_base, packet.is_keyframe
                copy.pts, copy.dts = packet.pts + number * length, packet.dts + number * length
                copy.duration = packet.duration
                long.mux(copy)
    return path


def recoded(source: Path, path: Path, codec: str) -> Path:
    """The same pictures in another coding, as recorders of operating rooms write them."""
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        pictures = given.streams.video[0]
        stream = made.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = pictures.width, pictures.height, "yuv420p"
        for number, picture in enumerate(given.decode(pictures)):
            picture.pts, picture.time_base = number, 1 / stream.codec_context.framerate
            made.mux(stream.encode(picture))
        made.mux(stream.encode())
    return path
