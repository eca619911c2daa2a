"""The frames of `surg.data.video.read_frames` through torchcodec, where that is installed: on the CPU, or on a GPU's own decoder.

Which frame is shown at a time, what is upright and where a video ends are the same as with PyAV; only who decodes differs. AVI,
MPEG-TS and raw streams, whose time stamps torchcodec takes as they are written, stay with PyAV, and so do videos of one frame.
"""

import os
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from surg.errors import ConfigError, DataError

Decoder = Literal["pyav", "torchcodec", "torchcodec-cuda"]
VARIABLE = "SURG_DECODER"
CONTAINERS = ("mp4", "matroska")


def wanted_decoder() -> Decoder:
    """What $SURG_DECODER names; PyAV, which needs nothing beside the package, when it is not set."""
    name = os.environ.get(VARIABLE) or "pyav"
    if name not in get_args(Decoder):
        raise ConfigError(f"{VARIABLE} is {name!r}; expected one of: {', '.join(get_args(Decoder))}.")
    return cast(Decoder, name)


def reads(container: Any, stream: Any) -> bool:
    """Whether this decoder is wanted, and gives the right frames of such a file."""
    return (
        wanted_decoder() != "pyav"
        and stream.frames != 1
        # Of several it takes the one that it finds best.
        and len(container.streams.video) == 1
        and any(name in CONTAINERS for name in container.format.name.split(","))
    )


def read(path: Path, times_s: npt.NDArray[np.float64], *, threads: int = 0, slack_s: float = 0.5) -> npt.NDArray[np.uint8]:
    """Frames shown at `times_s` (seconds since the video begins): uint8 (T, H, W, 3), RGB, upright."""
    make = _loaded()
    try:
        # One thread a decoder when 0: torchcodec's own default, and workers run side by side.
        device = "cuda" if wanted_decoder() == "torchcodec-cuda" else "cpu"
        decoder = make(str(path), dimension_order="NHWC", num_ffmpeg_threads=threads or 1, device=device, seek_mode="exact")
        begin, end = float(decoder.metadata.begin_stream_seconds), float(decoder.metadata.end_stream_seconds)
        last = end - begin
        if times_s.max() > last + slack_s:
            raise DataError(
                f"{path} was asked for a frame at {times_s.max():.2f} s, but the last that can be decoded ends at {last:.2f} s.\n"
                "The clip ends beyond the video, or the video is damaged there: surg data check MANIFEST lists all of them."
            )
        # The last frame is shown a little beyond its end: containers round durations, labels round times.
        inside = np.minimum(times_s + begin, np.nextafter(end, 0))
        return np.asarray(decoder.get_frames_played_at(seconds=inside.tolist()).data.cpu().numpy())
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} cannot be decoded by torchcodec: {str(error).splitlines()[0]}\nTry PyAV: leave {VARIABLE} unset."
        ) from error


def _loaded() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"{VARIABLE} asks for torchcodec, which cannot be loaded: {str(error).strip().splitlines()[0]}\n"
            f"Install it and FFmpeg's libraries (pip install torchcodec; apt install ffmpeg), or leave {VARIABLE} unset."
        ) from error
    return VideoDecoder
