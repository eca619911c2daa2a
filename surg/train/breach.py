"""What the sterility head is taught: is there a breach now or soon, and where.

A breach lasts from `breach_t0` to `breach_t1` (seconds of the video). Seen at time t and asked about horizon h, the answer is yes
when some moment of [t, t + h] lies in it. What the clip no longer shows is not known, and is not counted as a no.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from surg.data.manifest import Clip

Box = tuple[int, int, int, int]
# Labels round times to milliseconds; frames lie on a grid of their own.
SLACK_S = 1e-3


def breach_targets(clip: Clip, time_s: float, horizons_s: Sequence[float]) -> npt.NDArray[np.float32]:
    """Answers at `time_s` for each horizon: 1, 0 or NaN (unknown).  float32 (H,)."""
    known = clip.labels.get("breach")
    if known is None:
        return np.full(len(horizons_s), np.nan, np.float32)
    if not int(known):
        # A clip without a breach says nothing about what follows its end.
        return np.array([0.0 if time_s + h <= clip.end_s + SLACK_S else np.nan for h in horizons_s], np.float32)
    span = _span(clip)
    if span is None:
        return np.array([1.0] + [np.nan] * (len(horizons_s) - 1), np.float32)
    answers = []
    for horizon in horizons_s:
        overlaps = span[0] <= time_s + horizon + SLACK_S and span[1] >= time_s - SLACK_S
        seen_out = time_s + horizon <= clip.end_s + SLACK_S
        answers.append(1.0 if overlaps else 0.0 if seen_out else np.nan)
    return np.array(answers, np.float32)


def place_map(
    clip: Clip,
    stored: tuple[float, float, float, float],
    crop: Box,
    size: int,
    end: int,
    fps: float,
    steps: int,
    tubelet: int,
    patches: int,
) -> npt.NDArray[np.float32]:
    """Share of each patch that the breach's box covers, per time step: float32 (t, h, w), NaN where it is not known.

    stored: the stored square in 0..1 of the source picture; crop: what is shown, in pixels of the stored square (side `size`).
    """
    known = clip.labels.get("breach")
    if known is None:
        return np.full((steps, patches, patches), np.nan, np.float32)
    out = np.zeros((steps, patches, patches), np.float32)
    if not int(known):
        return out
    span, box = _span(clip), _breach_box(clip)
    covered = None if box is None else _coverage(_shown(box, stored, crop, size), patches)
    for step in range(steps):
        # A token sees `tubelet` frames; the last of them is the time it speaks for.
        frame = end - (steps - 1 - step) * tubelet
        time_s = clip.start_s + max(frame, 0) / fps
        if span is None or span[0] - SLACK_S <= time_s <= span[1] + SLACK_S:
            out[step] = np.nan if covered is None or span is None else covered
    return out


def _span(clip: Clip) -> tuple[float, float] | None:
    start, stop = clip.labels.get("breach_t0"), clip.labels.get("breach_t1")
    return None if start is None or stop is None else (float(start), float(stop))


def _breach_box(clip: Clip) -> tuple[float, float, float, float] | None:
    """Label `breach_box`: "x0,y0,x1,y1" in 0..1 of the frame."""
    text = clip.labels.get("breach_box")
    if text is None or not str(text).strip():
        return None
    x0, y0, x1, y1 = (float(part) for part in str(text).strip("[]() ").split(","))
    return x0, y0, x1, y1


def _shown(
    box: tuple[float, float, float, float], stored: tuple[float, float, float, float], crop: Box, size: int
) -> tuple[float, float, float, float]:
    """A box in 0..1 of the source picture as 0..1 of what is shown."""
    width, height = stored[2] - stored[0], stored[3] - stored[1]

    def across(value: float, low: float, extent: float, first: int, last: int) -> float:
        return ((value - low) / extent * size - first) / (last - first)

    return (
        across(box[0], stored[0], width, crop[0], crop[2]),
        across(box[1], stored[1], height, crop[1], crop[3]),
        across(box[2], stored[0], width, crop[0], crop[2]),
        across(box[3], stored[1], height, crop[1], crop[3]),
    )


def _coverage(box: tuple[float, float, float, float], patches: int) -> npt.NDArray[np.float32]:
    """Share of each of patches x patches cells inside a box given in 0..1."""
    cells = np.arange(patches)

    def along(low: float, high: float) -> npt.NDArray[np.float64]:
        return np.clip(np.minimum(high * patches, cells + 1) - np.maximum(low * patches, cells), 0, 1)

    return np.outer(along(box[1], box[3]), along(box[0], box[2])).astype(np.float32)
