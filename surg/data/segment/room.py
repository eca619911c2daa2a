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


class RoomConfig(Config):
    contrast: float = Field(4.0, gt=0)
    """How many times the picture's own noise a pixel must differ from the background."""
    min_contrast: float = Field(10.0, ge=0)
    """The least difference in grey levels, however quiet the picture."""
    shadow: float = Field(0.55, gt=0, le=1)
    """A pixel this much darker than the background, in its colour, may be a shadow; below it is a thing. 1 keeps shadows."""
    min_area: float = Field(0.003, gt=0, lt=1)
    """Smallest thing, as a share of the picture."""
    ghost: float = Field(1.3, ge=1)
    """Somebody who lingers gets into the background and leaves a ghost there when he goes. A thing whose outline is this many times
    sharper in the background than in the frame is such a ghost, and the frame shows what is behind it. 100 leaves ghosts alone."""


def moving_parts(frames: Frames, config: RoomConfig, still: Frames | None = None) -> list[Mask]:
    """Pixels of each frame that are not background: (H, W) each. `still` is the empty room where it is known."""
    if still is not None:
        return _differences(frames, still, config)
    behind = backdrop(frames)
    masks = _differences(frames, behind, config)
    for _ in range(GHOST_PASSES):
        bare = without_ghosts(behind, frames, [_parts(mask, config.min_area) for mask in masks], config.ghost)
        if bare is None:
            break
        behind = bare
        masks = _differences(frames, behind, config)
    return masks


def _differences(frames: Frames, still: Frames, config: RoomConfig) -> list[Mask]:
    behind = cv2.GaussianBlur(still, (0, 0), 1.0).astype(np.float32)
    masks = []
    for frame in frames:
        picture = cv2.GaussianBlur(frame, (0, 0), 1.0).astype(np.float32)
        difference = np.abs(picture - behind).max(axis=2)
        # The median difference is the noise of an unmoved pixel as long as most of the picture rests.
        threshold = max(config.min_contrast, config.contrast * float(np.median(difference)))
        mask = (difference > threshold) & ~_shadow(picture, behind, config.shadow)
        masks.append(_clean(mask))
    return masks


def people(frames: Frames, config: RoomConfig) -> list[list[Found]]:
    """Everything that moves, on every frame."""
    masks = moving_parts(frames, config)
    return [[Found(part, "person", 1.0) for part in _parts(mask, config.min_area)] for mask in masks]


def _shadow(picture: npt.NDArray[np.float32], behind: npt.NDArray[np.float32], darkest: float) -> Mask:
    """Darker by a factor that is nearly the same in all three channels."""
    if darkest >= 1:
        return np.zeros(picture.shape[:2], bool)
    ratio = (picture + 4) / (behind + 4)
    spread = ratio.max(axis=2) - ratio.min(axis=2)
    mean = ratio.mean(axis=2)
    shaded: Mask = (mean > darkest) & (mean < 0.97) & (spread < 0.08)
    return shaded


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
