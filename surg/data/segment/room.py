"""People and things that move in a room seen by a resting camera, without any weights.

What differs from the clip's own background moves or has moved; shadows (darker, same colour) and the noise of the codec do not count.
"""

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.segment.backdrop import backdrop, without_ghosts
from surg.data.segment.masks import Found, Frames, Mask

# A ghost that another one touches comes apart in the second pass; a third changed nothing on simulated rooms.
GHOST_PASSES = 2
SHADOW_TINT = 0.08
"""Most by which a shadow's factor differs between red, green and blue."""
DEEP_SHADOW = (0.45, 0.1)
"""Darkest factor and tint of a pixel that counts for `shadow_share`."""
LIT_AGAIN = (0.36, 0.2)
"""The same for a pixel of the background that the frame shows brighter: a shadow that lay there has gone."""


class RoomConfig(Config):
    contrast: float = Field(4.0, gt=0)
    """How many times the picture's own noise a pixel must differ from the background."""
    min_contrast: float = Field(10.0, ge=0)
    """The least difference in grey levels, however quiet the picture."""
    shadow: float = Field(0.55, gt=0, le=1)
    """A pixel this much darker than the background, in its colour, may be a shadow; below it is a thing. 1 keeps shadows."""
    shadow_share: float = Field(0.55, gt=0, le=1)
    """A thing of which more than this share may be a shadow, a deep one too, or a place that a shadow has left, is none. 1 keeps them."""
    solid: float = Field(0.42, ge=0, lt=1)
    """The least share of its convex hull that a thing fills. Hands at work over a field come out as scraps of hand, cloth and shade,
    which are no thing to follow; a person fills half and more. 0 keeps scraps."""
    edge: float = Field(0.5, ge=0, lt=1)
    """Blur and codec spread a thing over its surroundings. It ends where the difference falls below this share of what it is two pixels
    further in. 0 keeps the halo."""
    min_area: float = Field(0.003, gt=0, lt=1)
    """Smallest thing, as a share of the picture."""
    ghost: float = Field(1.3, ge=1)
    """Somebody who lingers gets into the background and leaves a ghost there when he goes. A thing whose outline is this many times
    sharper in the background than in the frame is such a ghost, and the frame shows what is behind it. 100 leaves ghosts alone."""


def moving_parts(frames: Frames, config: RoomConfig) -> tuple[list[Mask], Frames]:
    """Pixels of each frame that are not background, (H, W) each, and the background (H, W, 3)."""
    behind = backdrop(frames)
    masks = _differences(frames, behind, config)
    for _ in range(GHOST_PASSES):
        bare = without_ghosts(behind, frames, [_parts(mask, config.min_area) for mask in masks], config.ghost)
        if bare is None:
            break
        behind = bare
        masks = _differences(frames, behind, config)
    return masks, behind


def _differences(frames: Frames, still: Frames, config: RoomConfig) -> list[Mask]:
    behind = _soft(still)
    masks = []
    for frame in frames:
        picture = _soft(frame)
        difference = np.abs(picture - behind).max(axis=2)
        # The median difference is the noise of an unmoved pixel as long as most of the picture rests.
        threshold = max(config.min_contrast, config.contrast * float(np.median(difference)))
        mask = (difference > threshold) & ~_shadow(picture, behind, config.shadow, SHADOW_TINT)
        masks.append(_clean(mask))
    return masks


def people(frames: Frames, config: RoomConfig) -> list[list[Found]]:
    """Everything that moves and holds together, on every frame."""
    masks, behind = moving_parts(frames, config)
    soft = _soft(behind)
    found = []
    for frame, mask in zip(frames, masks):
        picture = _soft(frame)
        shaded = _shadow(picture, soft, *DEEP_SHADOW) | _shadow(soft, picture, *LIT_AGAIN)
        difference = np.abs(picture - soft).max(axis=2)
        parts = [
            part
            for part in _parts(mask, config.min_area)
            if shaded[part].mean() <= config.shadow_share and _solidity(part) >= config.solid
        ]
        found.append([Found(_without_halo(part, difference, config.edge), "person", 1.0) for part in parts])
    return found


def _soft(picture: Frames) -> npt.NDArray[np.float32]:
    return cv2.GaussianBlur(picture, (0, 0), 1.0).astype(np.float32)


def _shadow(picture: npt.NDArray[np.float32], behind: npt.NDArray[np.float32], darkest: float, tint: float) -> Mask:
    """Darker by a factor, above `darkest`, that differs by less than `tint` between the three channels."""
    ratio = (picture + 4) / (behind + 4)
    spread = ratio.max(axis=2) - ratio.min(axis=2)
    mean = ratio.mean(axis=2)
    shaded: Mask = (mean > darkest) & (mean < 0.97) & (spread < tint)
    return shaded


def _without_halo(part: Mask, difference: npt.NDArray[np.float32], share: float) -> Mask:
    """A mask without those pixels of its rim that differ much less than what is next to them."""
    inner = cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    kept: Mask = part & (inner | (difference >= share * cv2.dilate(difference, np.ones((5, 5), np.uint8))))
    return kept if kept.any() else part


def _solidity(part: Mask) -> float:
    """Share of its convex hull that a mask fills."""
    ys, xs = np.nonzero(part)
    hull = cv2.contourArea(cv2.convexHull(np.stack([xs, ys], axis=1).astype(np.int32)))
    return len(ys) / max(hull, 1.0)


def _clean(mask: Mask) -> Mask:
    scale = max(1, round(min(mask.shape) / 224))
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((scale + 1, scale + 1), np.uint8))
    radius = 2 * scale
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    closed: Mask = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, kernel).astype(bool)
    return closed


def _parts(mask: Mask, min_area: float) -> list[Mask]:
    """Connected parts, small gaps bridged: a head and legs on either side of a patch that looks like the wall are one person."""
    radius = max(1, round(min(mask.shape) / 45))
    near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    count, labels = cv2.connectedComponents(near, connectivity=8)
    parts = [(labels == number) & mask for number in range(1, count)]
    return [part for part in parts if part.sum() >= min_area * mask.size]
