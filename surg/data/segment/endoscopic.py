"""Instruments in an endoscopic picture without any weights: tissue is colourful, instruments are grey.

Saturation is compared with the picture's own median, so that blood, fat, dim light and smoke move the border along.
"""

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.segment.masks import Found, Frames, Mask

Components = list[Mask]


class EndoscopicConfig(Config):
    saturation: float = Field(0.65, gt=0, le=1)
    """A pixel less colourful than this share of the picture's median is grey. On simulated tissue 0.55 to 0.7 score within 0.03."""
    highlight: int = Field(215, ge=0, le=255)
    """Grey blobs brighter than this are reflections of the lamp on wet tissue, unless an instrument surrounds them."""
    min_area: float = Field(0.004, gt=0, lt=1)
    """Smallest instrument, as a share of the picture."""
    step: float = Field(0.75, gt=0, le=1)
    """Saturation inside over saturation around, at most. Smoke fades out softly; an instrument ends. 1 lets both through."""
    from_border: bool = True
    """Keep only what reaches the border of the visible picture, as every instrument does; reflections, fat and smoke lie inside."""
    smooth_px: float = Field(0.8, ge=0)
    """Blur against chroma noise of the codec, in pixels at a short side of 224."""


def lens(frames: Frames) -> Mask:
    """The part of the picture that is not the black around it: (H, W). frames: (T, H, W, 3)."""
    bright = frames.max(axis=(0, 3)) > 24
    height, width = bright.shape
    kernel = np.ones((max(3, height // 24) | 1,) * 2, np.uint8)
    closed = cv2.morphologyEx(bright.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    if closed.mean() > 0.97:
        return np.ones((height, width), bool)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
    if count < 2:
        return np.ones((height, width), bool)
    inside: Mask = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return inside


def is_endoscopic(frames: Frames) -> bool:
    """Red rules: in most of the visible picture red is clearly the strongest channel, as in tissue and in no room."""
    inside = lens(frames)
    pixels = frames[:: max(1, len(frames) // 4)][:, inside].astype(np.float32)
    red, rest = pixels[..., 0], pixels[..., 1:].max(axis=-1)
    return float(((red - rest) > 0.12 * (red + 1)).mean()) > 0.5


def instruments(frames: Frames, config: EndoscopicConfig) -> list[list[Found]]:
    """Every instrument on every frame."""
    inside = lens(frames)
    depth = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    near = 0.06 * min(frames.shape[1:3]) if config.from_border else np.inf
    found = []
    for frame in frames:
        colour = saturation_of(frame, config)
        parts = components(grey_parts(frame, colour, inside, config), config)
        found.append([part for part in parts if depth[part].min() <= near and stands_out(part, colour, inside, config)])
    return [[Found(part, "instrument", 1.0) for part in parts] for parts in keep_apart(found)]


def saturation_of(frame: Frames, config: EndoscopicConfig) -> npt.NDArray[np.float32]:
    """How colourful each pixel is, 0..1: (H, W)."""
    scale = min(frame.shape[:2]) / 224
    picture = cv2.GaussianBlur(frame, (0, 0), config.smooth_px * scale) if config.smooth_px > 0 else frame
    strong, weak = picture.max(axis=2).astype(np.float32), picture.min(axis=2).astype(np.float32)
    # 12 grey levels keep the noise of near black, where any hue is possible, from looking colourful.
    saturation: npt.NDArray[np.float32] = (strong - weak) / (strong + 12)
    return saturation


def stands_out(part: Mask, saturation: npt.NDArray[np.float32], inside: Mask, config: EndoscopicConfig) -> bool:
    """Whether a part is much greyer than what is right beside it."""
    if config.step >= 1:
        return True
    mask = part.astype(np.uint8)
    scale = max(1, round(min(part.shape) / 224))
    ring = (cv2.dilate(mask, _disc(5 * scale)) > 0) & (cv2.dilate(mask, _disc(2 * scale)) == 0) & inside
    if not ring.any():
        return True
    return float(np.median(saturation[part])) <= config.step * float(np.median(saturation[ring]))


def grey_parts(frame: Frames, saturation: npt.NDArray[np.float32], inside: Mask, config: EndoscopicConfig) -> Mask:
    """Pixels that have too little colour for tissue, cleaned of reflections and holes."""
    scale = min(frame.shape[:2]) / 224
    middle = float(np.median(saturation[inside])) if inside.any() else 0.0
    grey = (saturation < config.saturation * middle) & inside
    bright = frame.max(axis=2) > config.highlight
    small = max(1, round(scale))
    opened = cv2.morphologyEx((grey & ~bright).astype(np.uint8), cv2.MORPH_OPEN, _disc(small))
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _disc(2 * small))
    filled: Mask = _fill_holes(closed.astype(bool))
    return filled & inside


def components(mask: Mask, config: EndoscopicConfig) -> Components:
    """Connected parts that are large enough."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    least = config.min_area * mask.size
    return [labels == number for number in range(1, count) if stats[number, cv2.CC_STAT_AREA] >= least]


def keep_apart(parts: list[Components]) -> list[Components]:
    """Split what touches on one frame and was apart on its neighbour: each pixel goes to the nearest of the earlier things.

    Once forth and once back, so that it does not matter whether two things meet or part.
    """
    forth = _propagate(parts)
    return _propagate(forth[::-1])[::-1]


def _propagate(parts: list[Components]) -> list[Components]:
    out = parts[:1]
    for current in parts[1:]:
        split: Components = []
        for part in current:
            size = part.sum()
            # Both earlier things must be mostly inside this one; a neighbour that is merely grazed splits nothing.
            sources = [
                before for before in out[-1] if (before & part).sum() > 0.5 * before.sum() and before.sum() > 0.15 * size
            ]
            split += _nearest(part, sources) if len(sources) > 1 else [part]
        out.append(split)
    return out


def _nearest(part: Mask, sources: Components) -> Components:
    distances = np.stack([cv2.distanceTransform((~source).astype(np.uint8), cv2.DIST_L2, 3) for source in sources])
    owner = distances.argmin(axis=0)
    return [piece for index in range(len(sources)) if (piece := part & (owner == index)).any()]


def _fill_holes(mask: Mask, share: float = 0.002) -> Mask:
    """Close holes up to a share of the picture: the lamp's stripe along a shaft, the gap between jaws not."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = np.zeros(count, bool)
    small[1:] = stats[1:, cv2.CC_STAT_AREA] <= share * mask.size
    filled: Mask = mask | small[labels]
    return filled


def _disc(radius: int) -> npt.NDArray[np.uint8]:
    kernel: npt.NDArray[np.uint8] = np.asarray(
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8
    )
    return kernel
