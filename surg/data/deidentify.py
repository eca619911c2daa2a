"""A copy of a video that tells less about people: no metadata, no sound, no burnt-in text, no views of the room.

The original is never changed. Times stay as they are: what must not be seen becomes black, so that labels still fit. The copy is
opened again and looked at before it counts as done. This lowers risk and does not replace a person who looks.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import numpy.typing as npt

from surg.config import Config
from surg.data.adapters.frame_list import write_frame_list
from surg.data.faces import Detector, cover_faces
from surg.data.manifest import Clip
from surg.data.out_of_body import Look, OutOfBodyConfig, is_dark, look, stretches_outside
from surg.data.overlay import Box, crop_without, find_overlay
from surg.data.stills import is_stills
from surg.data.video import iter_frames, probe, write_video
from surg.errors import CheckFailed, DataError

Frame = npt.NDArray[np.uint8]

LOOK_FPS = 2.0
OVERLAY_FRAMES = 48
# What a muxer writes of itself; everything else in a container or stream came from the recording.
OWN_METADATA = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "handler_name", "vendor_id", "language", "duration"}
)


class DeidentifyConfig(Config):
    out_of_body: Literal["blank", "keep"] = "blank"
    """Views from outside the body become black. `keep` is for recordings of rooms."""
    overlay: Literal["crop", "blank", "keep"] = "crop"
    """Burnt-in text is cut off with its side of the picture, or, where that costs too much, painted black."""
    outside: OutOfBodyConfig = OutOfBodyConfig()
    crf: int = 18
    """Quality of the copy's H.264: smaller is better and larger."""


@dataclass(frozen=True)
class Finding:
    """What was done to one video. Says no name and shows no picture."""

    frames: int
    duration_s: float
    blanked: tuple[tuple[float, float], ...]
    overlay_boxes: tuple[Box, ...]
    overlay_told: bool
    crop: Box | None
    faces: int
    metadata_removed: tuple[str, ...]
    streams_removed: int

    @property
    def blanked_s(self) -> float:
        return sum(min(end, self.duration_s) - start for start, end in self.blanked)


def deidentify(
    source: Path, target: Path, config: DeidentifyConfig, detect: Detector | None = None, *, rate: float | None = None
) -> tuple[Path, Finding]:
    """Write the copy and return its path (a list of pictures when the source is pictures) and what was done.

    `rate` is how many pictures of a source without times make a second.
    Raises DataError when the source cannot be read or would be overwritten, CheckFailed when the copy still tells something.
    """
    if target.exists() and source.exists() and target.resolve() == source.resolve():
        raise DataError(f"{target} would overwrite the original. Choose another --out.")
    stills = is_stills(source)
    rate = rate if stills else None
    blanked, boxes, told = _survey(source, config, rate)
    crop = crop_without(boxes) if config.overlay == "crop" and boxes else None
    info = probe(source, fps=rate)
    fps = info.fps or 25.0
    faces = 0

    def finished() -> Iterator[tuple[float, Frame]]:
        nonlocal faces
        times: list[float] = []
        blank_dark = config.out_of_body == "blank"
        # A video comes at a constant rate, so that a recording of varying rate keeps its times.
        read = iter_frames(source, rate if stills else fps)
        frames = (_painted(time, frame, blanked, boxes, crop, times, blank_dark) for time, frame in read)
        for index, (frame, seen) in enumerate(cover_faces(frames, detect) if detect else ((frame, 0) for frame in frames)):
            faces += seen
            yield times[index], frame

    path, count, end_s = _write(source, target, finished(), fps, config.crf, info.pixel_aspect)
    keys, streams = _tells(source)
    left, more = _tells(path)
    if left or more:
        path.unlink()
        raise CheckFailed(
            f"The copy {path} still has metadata ({', '.join(left) or 'none'}) and {more} streams beside the picture."
        )
    return path, Finding(count, end_s, tuple(blanked), tuple(boxes), told, crop, faces, keys, streams)


def deidentified(clip: Clip, copy: Path, finding: Finding) -> Clip:
    """The same clip on the copy: its zone, and the crop that decoders are asked for, follow the crop that was done."""
    if finding.crop is None:
        return replace(clip, video=str(copy))
    if clip.masks:
        raise DataError("Masks do not follow a crop: use --overlay blank for manifests with masks.")
    x0, y0, x1, y1 = finding.crop

    def moved(x: float, y: float) -> list[float]:
        return [_inside((x - x0) / (x1 - x0)), _inside((y - y0) / (y1 - y0))]

    meta = dict(clip.meta)
    if asked := meta.pop("crop", None):
        left, top, right, bottom = (float(number) for number in asked.split(","))
        left, top, right, bottom = *moved(left, top), *moved(right, bottom)
        if (left, top, right, bottom) != (0.0, 0.0, 1.0, 1.0) and left < right and top < bottom:
            meta["crop"] = f"{left:.6g},{top:.6g},{right:.6g},{bottom:.6g}"
    return replace(clip, video=str(copy), zone=clip.zone and [moved(x, y) for x, y in clip.zone], meta=meta)


def _inside(share: float) -> float:
    return min(1.0, max(0.0, share))


def _survey(source: Path, config: DeidentifyConfig, rate: float | None) -> tuple[list[tuple[float, float]], list[Box], bool]:
    """First pass, at a low rate: when the camera is outside, and where text is burnt in."""
    times: list[float] = []
    looks: list[Look] = []
    kept: list[Frame] = []
    every = 1
    for index, (time, frame) in enumerate(iter_frames(source, rate if is_stills(source) else LOOK_FPS)):
        times.append(time)
        looks.append(look(frame))
        if index % every == 0:
            kept.append(_small(frame))
            if len(kept) > 2 * OVERLAY_FRAMES:
                # Thin out as the video goes on, so that a long one takes no more memory.
                kept, every = kept[::2], 2 * every
    if not times:
        raise DataError(f"{source} has no frames.")
    blanked = stretches_outside(times, looks, config.outside) if config.out_of_body == "blank" else []
    if config.overlay == "keep":
        return blanked, [], True
    overlay = find_overlay(kept)
    return blanked, list(overlay.boxes), overlay.told


def _small(frame: Frame) -> Frame:
    height, width = frame.shape[:2]
    if width <= 640:
        return frame
    return np.asarray(cv2.resize(frame, (640, round(height * 640 / width)), interpolation=cv2.INTER_AREA), np.uint8)


def _painted(
    time: float,
    frame: Frame,
    blanked: Iterable[tuple[float, float]],
    boxes: Iterable[Box],
    crop: Box | None,
    times: list[float],
    blank_dark: bool,
) -> Frame:
    times.append(time)
    height, width = frame.shape[:2]
    # A picture that is black but for a few lines, such as a recorder's title, is neither inside nor outside, and may name the patient.
    hidden = any(start <= time < end for start, end in blanked) or (blank_dark and is_dark(frame))
    out = np.zeros_like(frame) if hidden else frame.copy()
    for x0, y0, x1, y1 in boxes:
        out[math.floor(y0 * height) : math.ceil(y1 * height), math.floor(x0 * width) : math.ceil(x1 * width)] = 0
    if crop is None:
        return out
    x0, y0, x1, y1 = crop
    return out[math.ceil(y0 * height) : math.floor(y1 * height), math.ceil(x0 * width) : math.floor(x1 * width)]


def _write(
    source: Path, target: Path, frames: Iterator[tuple[float, Frame]], fps: float, crf: int, pixel_aspect: Fraction
) -> tuple[Path, int, float]:
    count = 0

    def counted() -> Iterator[Frame]:
        nonlocal count
        for _, frame in frames:
            count += 1
            yield frame

    if not is_stills(source):
        path, _, _ = copies_at(target)
        write_video(path, counted(), fps, crf=crf, pixel_aspect=pixel_aspect)
        return path, count, count / fps
    _, listing, folder = copies_at(target)
    folder.mkdir(parents=True, exist_ok=True)
    listed: list[tuple[float, Path]] = []
    for index, (time, frame) in enumerate(frames):
        picture = folder / f"{index:06d}.png"
        # Encoded from the array: nothing of the original file, such as EXIF, comes along.
        if not cv2.imwrite(str(picture), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)):
            raise DataError(f"{picture} cannot be written. Is the disk full?")
        listed.append((time, picture))
    written = write_frame_list(listing, listed)
    return written.path, written.frames, written.end_s


def copies_at(target: Path) -> tuple[Path, Path, Path]:
    """What a copy may consist of: a video; a list and its folder of pictures. A dot in the name is part of the name."""
    return target.with_name(target.name + ".mp4"), target.with_name(target.name + ".txt"), target


def _tells(path: Path) -> tuple[tuple[str, ...], int]:
    """Names of metadata that a recording brought along, and streams beside its one picture: sound, subtitles, data."""
    if is_stills(path):
        return (), 0
    with av.open(str(path)) as container:
        video: list[Any] = [stream for stream in container.streams if stream.type == "video"]
        keys = {*container.metadata, *(key for stream in container.streams for key in stream.metadata)}
        chapters = container.chapters() if hasattr(container, "chapters") else []
        found = {key.lower() for key in keys} - OWN_METADATA | ({"chapters"} if chapters else set())
        return tuple(sorted(found)), len(container.streams) - min(1, len(video))
