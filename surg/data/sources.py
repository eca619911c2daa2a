"""The pixels of a clip: decoded at given times, cut to the part of the frame that the manifest keeps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from surg.data.manifest import Clip
from surg.data.preprocess import Frames, Polygon
from surg.data.video import LIMITS, Limits, VideoInfo, probe, read_frames
from surg.errors import DataError


def read_clip(
    clip: Clip, times_s: Sequence[float] | npt.NDArray[np.floating[Any]], *, threads: int = 0, limits: Limits = LIMITS
) -> tuple[Frames, Polygon | None]:
    """Frames at `times_s` and the zone in 0..1 of those frames, after the crop that `meta["crop"]` asks for (a HUD, a border)."""
    return kept_part(read_frames(clip.video, times_s, fps=image_rate(clip), threads=threads, limits=limits), clip)


def kept_part(frames: Frames, clip: Clip) -> tuple[Frames, Polygon | None]:
    """What `meta["crop"]` keeps of decoded frames, and the zone in 0..1 of that."""
    crop = crop_of(clip)
    if crop is None:
        return frames, clip.zone
    height, width = frames.shape[1:3]
    x0, y0, x1, y1 = crop
    left, top, right, bottom = round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)
    if right <= left or bottom <= top:
        raise DataError(f"The crop {clip.meta['crop']} leaves nothing of a picture of {width} x {height}.")
    return np.ascontiguousarray(frames[:, top:bottom, left:right]), cropped_zone(clip.zone, crop)


def probe_clip(clip: Clip, limits: Limits = LIMITS) -> VideoInfo:
    return probe(clip.video, fps=image_rate(clip), limits=limits)


def image_rate(clip: Clip) -> float | None:
    """Images per second of an image folder, from `meta["fps"]`."""
    if "fps" not in clip.meta:
        return None
    try:
        return float(clip.meta["fps"])
    except ValueError as error:
        raise DataError(f"meta fps is {clip.meta['fps']!r}; expected a number of images per second.") from error


def crop_of(clip: Clip) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 in 0..1 of the frame, from `meta["crop"]`."""
    if not (text := clip.meta.get("crop")):
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(f"meta crop is {text!r}; expected `x0,y0,x1,y1`, for example 0.15,0,0.85,1.") from error
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise DataError(f"meta crop is {text!r}; expected 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, as shares of the frame.")
    return x0, y0, x1, y1


def kept_zone(clip: Clip) -> Polygon | None:
    """The clip's zone in 0..1 of what its crop keeps."""
    crop = crop_of(clip)
    return clip.zone if crop is None else cropped_zone(clip.zone, crop)


def cropped_zone(zone: Polygon | None, crop: tuple[float, float, float, float]) -> Polygon | None:
    """The polygon in coordinates of the cropped picture; corners outside of it stay outside 0..1."""
    if zone is None:
        return None
    x0, y0, x1, y1 = crop
    return [[(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)] for x, y in zone]
