"""Tags that image statistics and motion give honestly, without any weights; what they cannot tell stays unknown.

Confidence says how far a measurement lies from the border between two values: 0.5 at the border, towards 1 away from it.
"""

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.motion import MotionConfig, camera_path, resize_short
from surg.data.segment.endoscopic import is_endoscopic, lens
from surg.data.segment.masks import Frames, Mask
from surg.data.tags.schema import Tag, Tags


class MeasuredConfig(Config):
    slow_px: float = Field(0.4, gt=0)
    """Camera movement per frame, at 224 px and the clip's sampling, from which the camera moves."""
    fast_px: float = Field(3.0, gt=0)
    """And from which it moves fast."""
    dark: float = Field(55.0, ge=0, le=255)
    """Mean brightness of the visible picture below which it is dark."""
    bright: float = Field(190.0, ge=0, le=255)
    """And above which it is bright."""
    sharp: float = Field(40.0, gt=0)
    """Variance of the Laplacian below which the picture is blurred."""
    noise: float = Field(9.0, gt=0)
    """Grey levels of fine noise from which it is noisy."""
    smoke_contrast: float = Field(0.55, gt=0, le=1)
    """Smoke lifts the darkest pixels of a neighbourhood: their brightness over the mean, from which there is much smoke."""


def measure(frames: Frames, config: MeasuredConfig) -> Tags:
    """Tags of a clip.  frames: uint8 (T, H, W, 3) RGB."""
    small = np.stack([resize_short(frame, 224) for frame in frames])
    inside = lens(small)
    endoscopic = is_endoscopic(small)
    tags = {
        "view": Tag(("endoscopic",) if endoscopic else ("room",), 0.8 if endoscopic else 0.5),
        "camera_motion": camera_motion(small, config),
        "lighting": lighting(small, inside, config),
        "quality": quality(small, inside, config),
        "overlay": overlay(small, inside),
        "smoke": smoke(small, inside, config) if endoscopic else Tag(("unknown",), 0.0),
        "out_of_body": out_of_body(small, inside),
    }
    return Tags(tags, "measured")


def camera_motion(frames: Frames, config: MeasuredConfig) -> Tag:
    if len(frames) < 2:
        return Tag(("unknown",), 0.0)
    steps = [float(np.hypot(*camera.shift)) for camera in camera_path(frames, MotionConfig()) if camera.inliers > 0]
    if not steps:
        return Tag(("unknown",), 0.0)
    return _graded(float(np.median(steps)), (config.slow_px, config.fast_px), ("still", "slow", "fast"))


def lighting(frames: Frames, inside: Mask, config: MeasuredConfig) -> Tag:
    return _graded(float(frames[:, inside].mean()), (config.dark, config.bright), ("dark", "normal", "bright"))


def quality(frames: Frames, inside: Mask, config: MeasuredConfig) -> Tag:
    """Good, or the worst of what is wrong: blur, noise, or the 8-pixel blocks of a starved codec."""
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames[:: max(1, len(frames) // 8)]]
    core = cv2.erode(inside.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    if not core.any():
        return Tag(("unknown",), 0.0)
    noise = float(np.median([_noise(gray, core) for gray in grays]))
    sharpness = float(np.median([cv2.Laplacian(gray, cv2.CV_32F)[core].var() for gray in grays]))
    faults = {
        "noisy": noise / config.noise,
        "blurred": config.sharp / max(sharpness, 1e-6),
        "blocky": float(np.median([_blocks(gray, core) for gray in grays])) / 1.6,
    }
    worst = max(faults, key=faults.__getitem__)
    if faults[worst] >= 1:
        return Tag((worst,), _sure(faults[worst], 1.0))
    return Tag(("good",), _sure(1.0, faults[worst]))


def overlay(frames: Frames, inside: Mask) -> Tag:
    """Text and frames burnt into a moving picture: sharp edges that stand still on every frame."""
    if len(frames) < 4:
        return Tag(("unknown",), 0.0)
    edges = np.stack([cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 120, 240) > 0 for frame in frames])
    core = cv2.erode(inside.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    moving = float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean())
    if moving < 1.0:
        return Tag(("unknown",), 0.0)  # everything stands still, a HUD cannot be told apart
    fixed = float((edges.mean(axis=0) > 0.9)[core].mean())
    return _graded(fixed, (0.003,), ("no", "yes"))


def smoke(frames: Frames, inside: Mask, config: MeasuredConfig) -> Tag:
    """The dark channel: without smoke some pixel of every neighbourhood is dark in some colour; smoke lifts them all."""
    lifted = []
    for frame in frames[:: max(1, len(frames) // 8)]:
        dark = cv2.erode(frame.min(axis=2), np.ones((15, 15), np.uint8))
        lifted.append(float(dark[inside].mean()) / max(1.0, float(frame[inside].mean())))
    return _graded(float(np.median(lifted)), (0.7 * config.smoke_contrast, config.smoke_contrast), ("none", "little", "much"))


def out_of_body(frames: Frames, inside: Mask) -> Tag:
    """Inside a body nearly everything is red to yellow."""
    pixels = frames[:: max(1, len(frames) // 8)][:, inside].reshape(-1, 1, 3)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV).reshape(-1, 3)
    coloured = hsv[hsv[:, 1] > 40]
    if len(coloured) < 0.02 * len(hsv):
        return Tag(("yes",), 0.7)
    warm = float(((coloured[:, 0] < 25) | (coloured[:, 0] > 160)).mean()) * min(1.0, 2 * len(coloured) / len(hsv))
    return _graded(warm, (0.6,), ("yes", "no"))


def _noise(gray: npt.NDArray[np.uint8], core: Mask) -> float:
    """Standard deviation of the finest detail (a Laplacian of Laplacians, which edges hardly touch), median-based."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return float(np.median(np.abs(cv2.filter2D(gray.astype(np.float32), -1, kernel)[core]))) / 0.6745 / 6.0


def _blocks(gray: npt.NDArray[np.uint8], core: Mask) -> float:
    """How much larger steps are at every 8th column than between: 1 without a codec's blocks."""
    steps = np.abs(np.diff(gray.astype(np.float32), axis=1)) * core[:, 1:]
    at, between = steps[:, 7::8].mean(), np.delete(steps, np.s_[7::8], axis=1).mean()
    return float((at + 0.5) / (between + 0.5))


def _graded(value: float, borders: tuple[float, ...], names: tuple[str, ...]) -> Tag:
    level = int(np.searchsorted(borders, value, side="right"))
    nearest = min(borders, key=lambda border: abs(np.log(max(value, 1e-9) / border)))
    return Tag((names[level],), _sure(value, nearest))


def _sure(value: float, border: float) -> float:
    """0.5 at the border, 0.9 at twice or half of it."""
    ratio = abs(float(np.log2(max(value, 1e-9) / max(border, 1e-9))))
    return round(1 - 0.5 * float(np.exp(-1.6 * ratio)), 3)
