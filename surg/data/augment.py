"""Random crops, flips and colours for training. Whatever is drawn is drawn once per clip: motion between frames stays as it was."""

import math

import cv2
import numpy as np
from pydantic import Field

from surg.config import Config
from surg.data.preprocess import (
    Box,
    Frames,
    Polygon,
    Prepared,
    PreprocessSpec,
    check_frames,
    resize_box,
    square_around,
    zone_bounds,
    zone_map,
)

# Tries to find a crop of the drawn area and shape that fits the picture, before the largest one is taken.
CROP_TRIES = 10


class AugmentConfig(Config):
    scale: tuple[float, float] = (0.3, 1.0)
    """Share of the picture's area that a random crop keeps, smallest and largest."""
    ratio: tuple[float, float] = (0.75, 1.35)
    """Width by height of a random crop, smallest and largest."""
    zone_jitter: float = Field(0.15, ge=0, lt=1)
    """With a zone: how far its crop is moved and scaled, as a share of its side."""
    flip: float = Field(0.5, ge=0, le=1)
    """Share of clips that are mirrored. Set it to 0 where left and right make the label."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Largest change of brightness, as a share; 0 is none. The other colour settings likewise."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Largest change of contrast around the middle grey."""
    saturation: float = Field(0.0, ge=0, lt=1)
    """Largest change of saturation."""


def augment(
    frames: Frames, spec: PreprocessSpec, config: AugmentConfig, rng: np.random.Generator, zone: Polygon | None = None
) -> Prepared:
    """What `preprocess` does, at random: one crop, one flip and one change of colour for the whole clip."""
    check_frames(frames)
    height, width = frames.shape[1:3]
    if zone is not None and spec.zone_crop > 0:
        box = jittered_zone_box(width, height, spec, config, rng, zone)
    else:
        box = random_box(width, height, config, rng)
    out, shares = resize_box(frames, box, spec.size), zone_map(zone, box, width, height, spec)
    if rng.random() < config.flip:
        out, shares = np.ascontiguousarray(out[:, :, ::-1]), np.ascontiguousarray(shares[:, ::-1])
    return Prepared(change_colours(out, config, rng), shares, box)


def random_box(width: int, height: int, config: AugmentConfig, rng: np.random.Generator) -> Box:
    """A crop of random area, shape and place."""
    for _ in range(CROP_TRIES):
        area = rng.uniform(*config.scale) * width * height
        ratio = math.exp(rng.uniform(math.log(config.ratio[0]), math.log(config.ratio[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - high + 1))
            return left, top, left + wide, top + high
    wide, high = min(width, round(height * config.ratio[1])), min(height, round(width / config.ratio[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def jittered_zone_box(
    width: int, height: int, spec: PreprocessSpec, config: AugmentConfig, rng: np.random.Generator, zone: Polygon
) -> Box:
    """The crop around the zone, moved and scaled a little."""
    x0, y0, x1, y1 = zone_bounds(zone)
    side = spec.zone_crop * max((x1 - x0) * width, (y1 - y0) * height)
    stretch, right, down = rng.uniform(-config.zone_jitter, config.zone_jitter, 3)
    x, y = (x0 + x1) / 2 * width + right * side, (y0 + y1) / 2 * height + down * side
    return square_around(x, y, side * (1 + stretch), width, height)


def change_colours(frames: Frames, config: AugmentConfig, rng: np.random.Generator) -> Frames:
    """Brightness and contrast by one table of 256 values, saturation by mixing with grey."""
    brightness, contrast, saturation = (
        1 + rng.uniform(-amount, amount) for amount in (config.brightness, config.contrast, config.saturation)
    )
    if config.brightness or config.contrast:
        table = (np.arange(256) * brightness - 127.5) * contrast + 127.5
        whole = frames.reshape(-1, frames.shape[2], 3)
        frames = (
            cv2.LUT(whole, np.clip(np.round(table), 0, 255).astype(np.uint8)).reshape(frames.shape).astype(np.uint8, copy=False)
        )
    if config.saturation:
        grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None] for frame in frames)
        mixed = (frame * saturation + shade * (1 - saturation) for frame, shade in zip(frames, grey))
        frames = np.stack([np.clip(np.round(frame), 0, 255).astype(np.uint8) for frame in mixed])
    return frames
