"""Video in and out, through PyAV (or torchcodec, see surg.data.torchcodec): frames by time stamp, upright, RGB.

What is read may be a video file, a GIF, a folder of images, a pattern such as `frames/%06d.png`, a .txt list of images, or one
image (see surg.data.stills). The frame at time t is the one a player shows at t: the last that begins at or before t. Slow
videos and single pictures therefore repeat. A time beyond the end is an error, but for a little rounding: nothing is made up.
Memory holds the frames asked for and a bounded queue of compressed packets, however long the video is.
"""

import logging
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from surg.data import torchcodec
from surg.data.packets import Source, decode_wanted, demux
from surg.data.stills import check_pixels, image_size, is_stills, open_stills
from surg.errors import DataError
from surg.runs import atomic_file

logger = logging.getLogger(__name__)
# What a damaged file makes libav say is counted by us; it does not belong in the user's terminal.
logging.getLogger("libav").setLevel(logging.CRITICAL)

Frame = npt.NDArray[np.uint8]
Frames = npt.NDArray[np.uint8]

# Wanted times further apart than this begin a new search for a keyframe: 10 s is a long group of pictures.
SEEK_GAP_S = 10.0
# How far beyond the last frame's end a time may lie: containers round durations, labels round times.
END_SLACK_S = 0.5
# Times that are listed before decoding; more would take memory that grows with the video.
MOST_NAMED = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Bounds against files made, or damaged, so that they fill memory or never end."""

    pixels: int = 8192 * 8192
    """Largest frame."""
    duration_s: float = 48 * 3600.0
    """Longest video."""
    frames: int = 4096
    """Most frames that one call of `read_frames` returns."""
    bytes: int = 8 << 30
    """Most memory that those frames may take."""
    pause_s: float = 600.0
    """Longest that `iter_frames` repeats one frame: damaged time stamps jump by days."""


LIMITS = Limits()
# A higher rate than this is believed only where there are that many frames.
FASTEST = 240.0
# From so far back, in more frames than this, a file's time has begun again.
AGAIN_S, AGAIN_FRAMES = 1.0, 10
# Codecs of single pictures, MJPEG also of films. A film's second picture comes before so many packets of another stream.
PICTURES = frozenset({"mjpeg", "png", "bmp", "webp", "tiff", "gif"})
COVER_PACKETS = 250
# A file from a stranger must not lead to other files of this machine, whatever its name ends in.
PLAYLISTS = {"hls", "concat", "dash", "imf", "sdp", "image2"}


@dataclass(frozen=True)
class VideoInfo:
    width: int
    """Of the upright picture, as the other numbers too."""
    height: int
    fps: float
    """Average rate; 0 when the file does not say."""
    duration_s: float
    frames: int
    """Number of frames; where the container does not say, duration times rate."""
    rotation: int
    """Degrees counter-clockwise that the stored picture was turned by to be upright: 0, 90, 180 or 270."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height: 1 but for DV, HDV and the like. Frames are read as stored, pixel by pixel."""


def probe(path: Path | str, *, fps: float | None = None, limits: Limits = LIMITS) -> VideoInfo:
    """Size, rate and length without decoding the whole. `fps` is the rate of an image folder.

    A file that does not state its duration is walked packet by packet, which is exact and needs no decoding.
    """
    path = Path(path)
    if is_stills(path):
        stills = open_stills(path, fps)
        width, height = image_size(stills.files[0], limits.pixels)
        return VideoInfo(width, height, stills.fps, stills.duration_s, len(stills.files), 0)
    with _open(path, limits) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        duration = _stated_duration(stream)
        count = int(stream.frames)
        rotation = _rotation_of_first_frame(container, stream)
        if duration is None or not count:
            walked, packets = _walk(path, limits)
            duration = duration if duration is not None else walked
            count = count or packets
            # Browsers and telephones stamp WebM in milliseconds, and libav then takes it for 1000 frames per second.
            if walked and (not rate or (rate > FASTEST and packets / walked < rate / 2)):
                rate = packets / walked
        if duration > limits.duration_s:
            raise DataError(
                f"{path} says it lasts {duration:.0f} s; expected at most {limits.duration_s:.0f}. It is damaged, or no video."
            )
        width, height = stream.codec_context.width, stream.codec_context.height
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if rotation in (90, 270):
            width, height, aspect = height, width, 1 / aspect
        return VideoInfo(width, height, rate, duration, count, rotation, aspect)


def read_frames(
    path: Path | str,
    times_s: Sequence[float] | npt.NDArray[np.floating[Any]],
    *,
    fps: float | None = None,
    threads: int = 0,
    limits: Limits = LIMITS,
) -> Frames:
    """The frames shown at `times_s`, in that order: uint8 (T, H, W, 3), RGB, upright.

    One search for a keyframe per window (times up to 10 s apart), then forward. `fps` is the rate of an image folder; `threads`
    is how many decode (0: as many as help; 1 in a worker of a loader). Raises DataError when a frame cannot be read.
    $SURG_DECODER can let torchcodec do the decoding of video files.
    """
    path = Path(path)
    times = np.asarray(times_s, np.float64)
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or (times < 0).any():
        raise DataError(f"Frames were asked for at {times.tolist()[:5]}; expected times in seconds, 0 or later.")
    if len(times) > limits.frames:
        raise DataError(f"{len(times)} frames were asked for in one call; expected at most {limits.frames}.")
    if is_stills(path):
        return _read_stills(path, times, fps, limits)
    order = np.argsort(times, kind="stable")
    out: Frames | None = None
    with _open(path, limits, threads) as (container, stream):
        _check_bytes(path, stream.codec_context.width, stream.codec_context.height, len(times), limits)
        if torchcodec.reads(container, stream):
            return torchcodec.read(path, times, threads=threads, slack_s=END_SLACK_S)
        source = Source.of(container, stream)
        for group in np.split(order, np.flatnonzero(np.diff(times[order]) > SEEK_GAP_S) + 1):
            for positions, frame in _shown_at(path, source, times[group]):
                picture = _upright(frame)
                if out is None:
                    out = np.empty((len(times), *picture.shape), np.uint8)
                if picture.shape != out.shape[1:]:
                    raise DataError(
                        f"{path} changes its size to {picture.shape[1]} x {picture.shape[0]} on the way; cut it where it does."
                    )
                out[group[positions]] = picture
    assert out is not None
    return out


def iter_frames(
    path: Path | str,
    fps: float | None = None,
    *,
    start_s: float = 0.0,
    end_s: float = math.inf,
    threads: int = 0,
    limits: Limits = LIMITS,
) -> Iterator[tuple[float, Frame]]:
    """(time in seconds, frame) from `start_s` to `end_s`, in constant memory.

    With `fps` the times are start_s, start_s + 1/fps, … and a slow video repeats; without, every frame comes once, with
    its own time.
    For image folders `fps` is also their rate.
    """
    path = Path(path)
    if fps is not None and not fps > 0:
        raise DataError(f"{fps} frames per second were asked for; expected more than 0.")
    if is_stills(path):
        for time, picture, _ in _iter_stills(path, fps, start_s, limits):
            if time >= end_s:
                return
            if time >= start_s:
                yield time, picture
        return
    if fps is None:
        for time, frame, _ in _iter_video(path, start_s, None, threads, limits):
            if time >= end_s:
                return
            if time >= start_s:
                yield time, _upright(frame)
        return
    number = 0
    for time, frame, until in _iter_video(path, start_s, _wanted(start_s, end_s, fps), threads, limits):
        if until - max(time, start_s) > limits.pause_s and time < end_s:
            raise DataError(
                f"{path} stands still from {time:.1f} to {until:.1f} s; expected at most {limits.pause_s:.0f} s. It may be damaged."
            )
        # A frame is shown until the next one begins. Only what is shown becomes a picture: at 4 of 25 frames/s that is a sixth.
        shown: Frame | None = None
        while (wanted := start_s + number / fps) < min(until, end_s) - 1e-9:
            shown = _upright(frame) if shown is None else shown
            yield wanted, shown
            number += 1
        if until >= end_s:
            return


def write_video(
    path: Path | str,
    frames: Iterable[Frame],
    fps: float,
    *,
    crf: int = 18,
    preset: str = "veryfast",
    gop: int = 30,
    repeatable: bool = False,
    pixel_aspect: Fraction = Fraction(1),
) -> None:
    """Write RGB frames as H.264 in MP4, atomically. Sides are cut to even numbers, as 4:2:0 needs them.

    `pixel_aspect` is the width of a pixel over its height; players stretch the picture by it.

    `repeatable` gives the same bytes every time: one thread, and without x264's macroblock tree, whose vector code does not
    (seen with x264 165: the same 16 frames came out in three versions, depending on what the process had done before).
    """
    rate = Fraction(fps).limit_denominator(60_000)
    with atomic_file(Path(path)) as file, av.open(file, "w", format="mp4") as container:
        stream: Any = None
        for frame in frames:
            height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
            if stream is None:
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": str(crf), "preset": preset, "g": str(gop)}
                if pixel_aspect != 1:
                    stream.codec_context.sample_aspect_ratio = pixel_aspect
                if repeatable:
                    stream.codec_context.thread_count = 1
                    stream.options = stream.options | {"x264-params": "mbtree=0"}
            if (width, height) != (stream.width, stream.height):
                raise DataError(
                    f"Frames change size from {stream.width} x {stream.height} to {width} x {height}; a video has one size."
                )
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24"))
            )
        if stream is None:
            raise DataError("A video of no frames cannot be written.")
        container.mux(stream.encode())


@contextmanager
def _open(path: Path, limits: Limits, threads: int = 0) -> Iterator[tuple[Any, Any]]:
    """The container and its film; everything that libav raises inside becomes a DataError."""
    if not path.is_file():
        raise DataError(f"There is no video {path}.")
    try:
        # max_pixels keeps the decoder from allocating what a header merely claims, while the format is being probed already.
        options = {"max_pixels": str(limits.pixels), "protocol_whitelist": "file"}
        with av.open(path, options=options, timeout=(30.0, 30.0), metadata_errors="ignore") as container:
            if PLAYLISTS & set(container.format.name.split(",")):
                raise DataError(
                    f"{path} is a playlist: it names other files and is no video itself. Give the files that it names."
                )
            if not container.streams.video:
                raise DataError(f"{path} has no video in it, only {len(container.streams)} other streams.")
            stream = _film(path, container, options)
            context = stream.codec_context
            if context is None:
                raise DataError(f"{path} is coded in a way that no decoder here knows.")
            check_pixels(path, context.width, context.height, limits.pixels)
            context.options = {**context.options, "max_pixels": str(limits.pixels)}
            context.thread_type = "AUTO"
            context.thread_count = threads
            yield container, stream
    except av.error.FFmpegError as error:
        raise DataError(
            f"{path} cannot be read as a video: {error.strerror or error}. It may be damaged, cut short or of another kind."
        ) from error


def _film(path: Path, container: Any, options: dict[str, str]) -> Any:
    """The first video stream; where that is a single picture beside a film, such as a cover that nothing marks as one, the film."""
    first, *others = container.streams.video
    films = [stream for stream in others if stream.codec_context is not None and stream.codec_context.name not in PICTURES]
    if not films or first.codec_context is None or first.codec_context.name not in PICTURES:
        return first
    counts = dict.fromkeys((first.index, films[0].index), 0)
    # In a container of its own: this one is still to be read from its beginning.
    with av.open(path, options=options, timeout=(30.0, 30.0), metadata_errors="ignore") as again:
        for packet in demux(again, list(again.streams.video)):
            if packet.size and packet.stream_index in counts:
                counts[packet.stream_index] += 1
            if counts[first.index] > 1:
                return first
            if counts[films[0].index] > COVER_PACKETS:
                break
    return films[0]


def _shown_at(path: Path, source: Source, times: npt.NDArray[np.float64]) -> Iterator[tuple[slice, Any]]:
    """For ascending times: (which of them, frame) for every frame that is shown at one or more of them."""
    done, last, last_start, last_until, longest = 0, None, 0.0, 0.0, 0.0
    for start, until, frame in decode_wanted(source, times):
        if last is not None:
            # `start` is where the previous frame ends.
            upto = done + int(np.searchsorted(times[done:], start - 1e-9))
            if upto > done:
                yield slice(done, upto), last
                done = upto
            if done == len(times):
                return
            longest = max(longest, start - last_start)
        last, last_start, last_until = frame, start, until
    if last is None:
        raise DataError(f"{path} has no frame that can be decoded from {times[0]:.2f} s on. It may be damaged or cut short.")
    # With a variable rate the last frame may be shown for as long as others were.
    if times[-1] > last_until + max(END_SLACK_S, longest) and source.stream.frames != 1:
        raise DataError(
            f"{path} was asked for a frame at {times[-1]:.2f} s, but the last that can be decoded ends at {last_until:.2f} s.\n"
            "The clip ends beyond the video, or the video is damaged there: surg data check MANIFEST lists all of them."
        )
    yield slice(done, len(times)), last


def _upright(frame: Any) -> Frame:
    picture = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _rotation_of_first_frame(container: Any, stream: Any) -> int:
    """The display matrix is known only once a frame is decoded; that frame also proves that the file can be."""
    for _, _, frame in decode_wanted(Source.of(container, stream), None):
        return int(round(frame.rotation / 90) % 4 * 90)
    raise DataError(f"{container.name} has no frame that can be decoded. It may be damaged or cut short.")


def _stated_duration(stream: Any) -> float | None:
    if stream.duration is not None and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    # Matroska, WebM and FLV tell for all streams together when the last one ends: sound often goes on beyond the picture, and a
    # recorder's second piece begins where its first one ended.
    return None


def _walk(path: Path, limits: Limits) -> tuple[float, int]:
    """Duration and number of frames, from the packets. The file is read whole, so a video of many clips is walked once."""
    stat = path.stat()
    return _walked(path.absolute(), (stat.st_mtime_ns, stat.st_size), limits)


@lru_cache(maxsize=1024)
def _walked(path: Path, state: tuple[int, int], limits: Limits) -> tuple[float, int]:  # noqa: ARG001 - a changed file is another
    count, end = 0, 0.0
    with _open(path, limits) as (container, stream):
        origin, base = stream.start_time or 0, stream.time_base
        clock = _Clock(path)
        for packet in demux(container, stream):
            if not packet.size:
                continue
            count += 1
            if packet.dts is not None:
                clock.read(float((packet.dts - origin) * base))
            if packet.pts is not None:
                end = max(end, float((packet.pts - origin + (packet.duration or 0)) * base))
            if end > limits.duration_s:
                break
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        return (end or (count / rate if rate else 0.0)), count


class _Clock:
    """Refuses a video whose time begins again: recorders and DVDs put pieces into one file, and by time only one could be found."""

    def __init__(self, path: Path) -> None:
        self._path, self._latest, self._behind = path, -math.inf, 0

    def read(self, time_s: float) -> None:
        self._latest = max(self._latest, time_s)
        # A few wrong stamps are damage, over which decoding goes on.
        self._behind += time_s < self._latest - AGAIN_S
        if self._behind > AGAIN_FRAMES:
            raise DataError(
                f"The time of {self._path} begins again after {self._latest:.1f} s: several recordings were joined in it, and all but one "
                "would be passed over.\nGive it one time with ffmpeg -i FILE -c copy NEW.mkv, or give the recordings apart."
            )


def _wanted(start_s: float, end_s: float, fps: float) -> npt.NDArray[np.float64] | None:
    """The times of `iter_frames` when they can be named ahead, so that frames between them need not all be decoded."""
    count = math.ceil((end_s - start_s) * fps - 1e-9) if math.isfinite(end_s) else 0
    return start_s + np.arange(count) / fps if 0 < count <= MOST_NAMED else None


def _iter_video(
    path: Path, start_s: float, wanted: npt.NDArray[np.float64] | None, threads: int, limits: Limits
) -> Iterator[tuple[float, Any, float]]:
    """(time, decoded frame, time at which the next begins); frames not shown at any of the `wanted` times may be left out."""
    with _open(path, limits, threads) as (container, stream):
        held: tuple[float, float, Any] | None = None
        clock = _Clock(path)
        for start, until, frame in decode_wanted(Source.of(container, stream), wanted, start_s):
            clock.read(start)
            if held is not None and start > start_s:
                yield held[0], held[2], start
            held = (start, until, frame)
            if start > limits.duration_s:
                raise DataError(f"{path} goes on beyond {limits.duration_s:.0f} s; expected a shorter video.")
        if held is None:
            raise DataError(f"{path} has no frame that can be decoded. It may be damaged or cut short.")
        yield held[0], held[2], held[1]


def _read_stills(path: Path, times: npt.NDArray[np.float64], fps: float | None, limits: Limits) -> Frames:
    stills = open_stills(path, fps)
    single = len(stills.files) == 1
    if times.max() > stills.duration_s + END_SLACK_S and not single:
        raise DataError(f"{path} was asked for an image at {times.max():.2f} s, but its images end at {stills.duration_s:.2f}.")
    shown = [max(0, bisect_right(stills.times_s, time + 1e-6) - 1) for time in times]
    first = stills.read(shown[0], limits.pixels)
    _check_bytes(path, first.shape[1], first.shape[0], len(times), limits)
    out = np.empty((len(times), *first.shape), np.uint8)
    read = {shown[0]: first}
    for position, index in enumerate(shown):
        if index not in read:
            read = {index: stills.read(index, limits.pixels)}
        if read[index].shape != first.shape:
            raise DataError(f"{path} has images of different sizes; a clip needs one size.")
        out[position] = read[index]
    return out


def _iter_stills(path: Path, fps: float | None, start_s: float, limits: Limits) -> Iterator[tuple[float, Frame, float]]:
    stills = open_stills(path, fps)
    ends = [*stills.times_s[1:].tolist(), stills.duration_s]
    for index, (time, end) in enumerate(zip(stills.times_s.tolist(), ends)):
        if end > start_s:
            yield time, stills.read(index, limits.pixels), end


def _check_bytes(path: Path, width: int, height: int, count: int, limits: Limits) -> None:
    if width * height * 3 * count > limits.bytes:
        raise DataError(
            f"{count} frames of {width} x {height} of {path} need {width * height * 3 * count / 2**30:.1f} GiB; "
            f"the limit is {limits.bytes / 2**30:.1f}."
        )
