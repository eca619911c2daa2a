"""Drawing on frames: the sterile zone, the breach map, tracks, and a line of words."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.preprocess import Polygon
from surg.demo.analysis import Analysis

Frame = npt.NDArray[np.uint8]
GREEN, ORANGE, WHITE, BLACK = (0, 158, 115), (213, 94, 0), (255, 255, 255), (0, 0, 0)
# Below this the map is noise of an untroubled scene; drawing it would hide the picture.
FAINT = 0.15


def draw_zone(frame: Frame, zone: Polygon | None, *, corners: bool = False) -> Frame:
    """The zone's outline; with `corners` each one is a dot, as wanted while it is being drawn."""
    out = frame.copy()
    if not zone:
        return out
    height, width = frame.shape[:2]
    points = np.array([[round(x * width), round(y * height)] for x, y in zone], np.int32)
    thick = max(2, width // 300)
    if len(points) > 2:
        cv2.polylines(out, [points], True, GREEN, thick, cv2.LINE_AA)
    elif len(points) == 2:
        cv2.line(out, points[0].tolist(), points[1].tolist(), GREEN, thick, cv2.LINE_AA)
    for point in points if corners else ():
        cv2.circle(out, point.tolist(), 2 * thick, GREEN, -1, cv2.LINE_AA)
    return out


def draw_heat(frame: Frame, heat: npt.NDArray[np.floating], box: tuple[int, int, int, int] | None) -> Frame:
    """heat (h, w) in 0..1 over the part of the picture that the model saw."""
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = box or (0, 0, width, height)
    large = cv2.resize(heat.astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    weight = np.clip((large - FAINT) / (1 - FAINT), 0, 1)[..., None] * 0.65
    colours = cv2.cvtColor(
        cv2.applyColorMap((np.clip(large, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )
    out = frame.copy()
    part = out[y0:y1, x0:x1]
    out[y0:y1, x0:x1] = (part * (1 - weight) + colours * weight).astype(np.uint8)
    return out


def draw_boxes(frame: Frame, boxes: Sequence[tuple[int, bool, tuple[float, float, float, float]]]) -> Frame:
    """Tracks as (number, whether it moves of itself, x0 y0 x1 y1 in 0..1)."""
    out = frame.copy()
    height, width = frame.shape[:2]
    for number, agent, (x0, y0, x1, y1) in boxes:
        corner, other = (round(x0 * width), round(y0 * height)), (round(x1 * width), round(y1 * height))
        colour = ORANGE if agent else (120, 120, 120)
        cv2.rectangle(out, corner, other, colour, max(1, width // 400), cv2.LINE_AA)
        _words(out, f"{'agent' if agent else 'layout'} {number}", corner[0], max(corner[1] - 4, 12), 0.4)
    return out


def annotate(frame: Frame, analysis: Analysis, time_s: float, *, width: int | None = None) -> Frame:
    """One frame with all that is known at `time_s`: from the last window that ended by then, never from a later one."""
    before = [index for index, window in enumerate(analysis.windows) if window.end_s <= time_s + 1e-6]
    window = analysis.windows[before[-1]] if before else None
    out: Frame = frame
    if window is not None and window.breach_map.size:
        out = draw_heat(out, window.breach_map[-1], window.box)
    out = draw_zone(out, analysis.zone)
    if width is not None and out.shape[1] > width:
        # H.264 wants even sides.
        size = (width // 2 * 2, round(out.shape[0] * width / out.shape[1] / 2) * 2)
        out = np.asarray(cv2.resize(out, size, interpolation=cv2.INTER_AREA), np.uint8)
    out = np.ascontiguousarray(out[: out.shape[0] // 2 * 2, : out.shape[1] // 2 * 2])
    if window is not None:
        words = [window.action] if window.action else []
        if window.breach == window.breach:
            words.append(f"breach {window.breach:.2f}")
            if window.breach >= analysis.threshold:
                cv2.rectangle(out, (0, 0), (out.shape[1] - 1, out.shape[0] - 1), ORANGE, 6)
                words.append("ALARM")
        _words(out, "  ".join(words), 10, out.shape[0] - 12, max(0.4, out.shape[1] / 1400))
    return out


def _words(picture: Frame, text: str, x: int, y: int, size: float) -> None:
    # A dark rim keeps white letters readable on any picture.
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, BLACK, 3, cv2.LINE_AA)
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, WHITE, 1, cv2.LINE_AA)
