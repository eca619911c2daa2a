"""From decoded frames to the square uint8 picture that everything eats: training, export, client, demo. numpy and OpenCV only.

T frames, H W pixels of the source, S side of the result, h w patches of the result (S / patch_size)
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from surg.config import Config
from surg.errors import DataError

Frames = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
Polygon = list[list[float]]

# Occupancy of a patch is the share of SUBPIXELS x SUBPIXELS points per patch that lie inside the zone.
SUBPIXELS = 16


class PreprocessSpec(Config):
    """What a model expects of a clip. It travels with the checkpoint and with the server's contract."""

    size: int = Field(160, gt=0)
    """Side of the square picture, in pixels."""
    num_frames: int = Field(16, gt=0)
    """Frames per clip."""
    fps: float = Field(4.0, gt=0)
    """Frames per second of video time."""
    patch_size: int = Field(16, gt=0)
    """Side of a patch; the zone is given as its share of each patch."""
    zone_crop: float = Field(1.4, ge=0)
    """With a zone the picture is cropped to this many times the zone's box; 0 keeps the whole picture."""
    fit: Literal["crop", "stretch"] = "crop"
    """Without a zone: the largest centred square, or the whole picture stretched to a square."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green, blue in 0..1 that `normalise` takes away; exported graphs do it inside."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation that `normalise` divides by."""

    @model_validator(mode="after")
    def _whole_patches(self) -> "PreprocessSpec":
        if self.size % self.patch_size:
            raise ValueError(f"size {self.size} is not a multiple of patch_size {self.patch_size}")
        return self


@dataclass(frozen=True)
class Prepared:
    frames: Frames
    """uint8 (T, S, S, 3), RGB."""
    zone: npt.NDArray[np.float32]
    """float32 (h, w): share of each patch inside the zone. All ones is the whole picture."""
    box: Box
    """x0, y0, x1, y1 of what was kept, in pixels of the source."""


def preprocess(frames: Frames, spec: PreprocessSpec, zone: Polygon | None = None) -> Prepared:
    """Crop (around the zone when there is one) and resize, antialiased. frames: uint8 (T, H, W, 3), RGB."""
    check_frames(frames)
    box = crop_box(frames.shape[2], frames.shape[1], spec, zone)
    return Prepared(resize_box(frames, box, spec.size), zone_map(zone, box, frames.shape[2], frames.shape[1], spec), box)


def normalise(frames: Frames, spec: PreprocessSpec) -> npt.NDArray[np.float32]:
    """uint8 (T, H, W, 3) to float32 (3, T, H, W), as an encoder takes it."""
    scaled = (frames.astype(np.float32) / 255.0 - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(3, 0, 1, 2))


def crop_box(width: int, height: int, spec: PreprocessSpec, zone: Polygon | None) -> Box:
    """The part of a width x height picture that is kept: a square wherever the picture is large enough for it."""
    if zone is not None and spec.zone_crop > 0:
        x0, y0, x1, y1 = zone_bounds(zone)
        side = spec.zone_crop * max((x1 - x0) * width, (y1 - y0) * height)
        return square_around((x0 + x1) / 2 * width, (y0 + y1) / 2 * height, side, width, height)
    if zone is not None or spec.fit == "stretch":
        return 0, 0, width, height
    side = min(width, height)
    return square_around(width / 2, height / 2, side, width, height)


def square_around(x: float, y: float, side: float, width: int, height: int) -> Box:
    """A square of `side` pixels about (x, y), moved into the picture; where it does not fit, that side is the picture's."""
    wide, high = (max(1, min(round(side), limit)) for limit in (width, height))
    left = min(max(round(x - wide / 2), 0), width - wide)
    top = min(max(round(y - high / 2), 0), height - high)
    return left, top, left + wide, top + high


def zone_bounds(zone: Polygon) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a polygon, cut to the picture. Raises DataError when nothing of it is in the picture."""
    corners = np.asarray(zone, np.float64)
    if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise DataError(
            f"A zone of shape {corners.shape} is no polygon; expected three or more [x, y] corners in 0..1 of the frame."
        )
    (x0, y0), (x1, y1) = np.clip(corners.min(0), 0, 1), np.clip(corners.max(0), 0, 1)
    if x1 <= x0 or y1 <= y0:
        raise DataError(
            f"The zone from {corners.min(0).tolist()} to {corners.max(0).tolist()} covers nothing of the picture.\n"
            "Corners are [x, y] in 0..1 of the frame, not pixels."
        )
    return float(x0), float(y0), float(x1), float(y1)


def resize_box(frames: Frames, box: Box, size: int) -> Frames:
    """Cut `box` out of every frame and bring it to size x size: by area when it shrinks, linearly when it grows."""
    x0, y0, x1, y1 = box
    shrinks = x1 - x0 >= size and y1 - y0 >= size
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for index, frame in enumerate(frames):
        cv2.resize(
            frame[y0:y1, x0:x1], (size, size), dst=out[index], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
    return out


def zone_map(zone: Polygon | None, box: Box, width: int, height: int, spec: PreprocessSpec) -> npt.NDArray[np.float32]:
    """Share of each patch of the kept picture that lies inside the zone: float32 (h, w)."""
    patches = spec.size // spec.patch_size
    if zone is None:
        return np.ones((patches, patches), np.float32)
    x0, y0, x1, y1 = box
    corners = (np.asarray(zone, np.float64) * (width, height) - (x0, y0)) / (x1 - x0, y1 - y0)
    fine = patches * SUBPIXELS
    inside = _points_inside(corners * fine, fine)
    shares: npt.NDArray[np.float32] = inside.reshape(patches, SUBPIXELS, patches, SUBPIXELS).mean((1, 3), dtype=np.float32)
    return shares


def _points_inside(corners: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.bool_]:
    """Even-odd rule at the pixel centres of a side x side grid. (cv2.fillPoly also paints the rim, half a pixel too much.)"""
    centres = np.arange(side) + 0.5
    inside = np.zeros((side, side), np.bool_)
    for (xa, ya), (xb, yb) in zip(corners, np.roll(corners, -1, axis=0)):
        crossed = (ya > centres) != (yb > centres)
        if crossed.any():
            rows = np.flatnonzero(crossed)
            at = xa + (centres[rows] - ya) * (xb - xa) / (yb - ya)
            inside[rows] ^= centres[None, :] < at[:, None]
    return inside


def check_frames(frames: Frames) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise DataError(f"Frames are {frames.dtype} of shape {frames.shape}; expected uint8 (T, H, W, 3), RGB.")
