"""Text and symbols that a recorder burns into the picture: found as edges that stay while the picture moves.

A name, a date or the names of instruments stand at the same pixels in every frame. The rim of an endoscope's disc does so too,
and is told apart by its shape: it bounds a large area that is always black. Where the camera itself never moves, everything
stands still and nothing can be told; that is said, and not guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in 0..1 of the frame."""

WIDTH = 640
"""Frames are compared at this width: letters of a 720p recorder keep their strokes."""
EDGE = 12.0
"""Grey levels per pixel that make an edge."""
LASTING = 0.8
"""Share of the frames that an edge has to be in."""
STILL = 4.0
"""Standard deviation over time, in grey levels, up to which a pixel stands still; coding noise stays below."""
STANDING_SHARE = 0.5
"""Where more of the textured pixels than this stand still, it is the camera that does."""
FEWEST_FRAMES = 16


@dataclass(frozen=True)
class Overlay:
    """boxes of burnt-in marks; `told` is False when the camera stands still and the question has no answer."""

    boxes: tuple[Box, ...]
    told: bool


def find_overlay(frames: Sequence[Frame]) -> Overlay:
    """frames: uint8 (H, W, 3), RGB, spread over the video. Fewer than sixteen tell nothing."""
    if len(frames) < FEWEST_FRAMES:
        return Overlay((), told=False)
    height, width = frames[0].shape[:2]
    size = (min(WIDTH, width), max(8, round(height * min(WIDTH, width) / width)))
    small = (cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames)
    grey: Frame = np.stack([np.asarray(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), np.uint8) for one in small])
    edges = np.stack([_gradient(one) > EDGE for one in grey])
    # The median over time keeps what stands still sharp and blurs what moves; chance leaves few edges in most frames as well.
    sharp = (_gradient(_median(grey)) > 1.5 * EDGE) & (edges.mean(axis=0) >= LASTING)
    # A letter's inside stands still even where its anti-aliased edge mixes with what moves behind it.
    steadiness = _steadiness(grey)
    still = sharp & (cv2.erode(steadiness, np.ones((3, 3), np.uint8)) <= STILL)
    textured = edges.mean(axis=0) >= 0.2
    if not textured.any() or (steadiness[textured] <= STILL).mean() > STANDING_SHARE:
        return Overlay((), told=False)
    return Overlay(tuple(_boxes(still & ~_rim(grey))), told=True)


def crop_without(boxes: Sequence[Box], least: float = 0.4) -> Box | None:
    """The largest of the crops that cut one side for every box; None when less than `least` of the picture would be left."""
    x0, y0, x1, y1 = 0.0, 0.0, 1.0, 1.0
    for left, top, right, bottom in sorted(boxes, key=lambda box: -(box[2] - box[0]) * (box[3] - box[1])):
        if right <= x0 or left >= x1 or bottom <= y0 or top >= y1:
            continue
        choices = [(right, y0, x1, y1), (x0, y0, left, y1), (x0, bottom, x1, y1), (x0, y0, x1, top)]
        x0, y0, x1, y1 = max(choices, key=lambda box: max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))
    return (x0, y0, x1, y1) if max(0.0, x1 - x0) * max(0.0, y1 - y0) >= least else None


def _gradient(grey: Frame) -> npt.NDArray[np.float32]:
    x, y = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return np.asarray(np.hypot(x, y) / 4, np.float32)


def _median(stack: Frame) -> Frame:
    """Over time, the upper of two in the middle; stays in bytes, which is several times faster than numpy's."""
    middle = len(stack) // 2
    return np.asarray(np.partition(stack, middle, axis=0)[middle], np.uint8)


def _steadiness(grey: Frame) -> npt.NDArray[np.float32]:
    """How far each pixel strays from its median: robust against the frames in which a mark is not yet there."""
    median = _median(grey)
    strays = np.stack([np.asarray(cv2.absdiff(one, median), np.uint8) for one in grey])
    return np.asarray(_median(strays) * 1.4826, np.float32)


def _rim(grey: Frame) -> Mask:
    """Pixels along the border of large areas that are always black: the edge of an endoscope's disc, or of a letterbox."""
    black = (grey.max(axis=0) < 40).astype(np.uint8)
    # Letters on black are filled in, so that their own edges do not count as the black area's.
    filled = cv2.morphologyEx(black, cv2.MORPH_CLOSE, _square(25, black.shape[1]))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(filled)
    large = np.isin(labels, [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] > 0.001 * black.size])
    border = cv2.morphologyEx(large.astype(np.uint8), cv2.MORPH_GRADIENT, _square(13, black.shape[1]))
    return border > 0


def _square(side: int, width: int) -> Frame:
    """A kernel given for frames 640 wide, at this width."""
    scaled = max(3, round(side * width / WIDTH)) | 1
    return np.ones((scaled, scaled), np.uint8)


def _boxes(marks: Mask) -> list[Box]:
    """One box for each line of text: strokes are joined sideways, then lone specks and thin lines are dropped."""
    height, width = marks.shape
    unit = width / WIDTH
    reach = max(5, round(25 * unit)) | 1
    joined = cv2.morphologyEx(marks.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((max(3, reach // 5), reach), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    boxes = []
    for label in range(1, count):
        x, y, w, h, _ = (int(number) for number in stats[label])
        strokes = int((marks & (labels == label)).sum())
        if strokes < 60 * unit or h < 5 or w < 8 or strokes / (w * h) < 0.15:
            continue
        pad = max(3, h // 4)
        box = (x - pad) / width, (y - pad) / height, (x + w + pad) / width, (y + h + pad) / height
        boxes.append((max(0.0, box[0]), max(0.0, box[1]), min(1.0, box[2]), min(1.0, box[3])))
    return sorted(boxes)
