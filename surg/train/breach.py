"""What the sterility head is taught: is there a breach now or soon, and where.

A breach lasts from t0 to t1 (seconds of the video). Seen at time t and asked about horizon h, the answer is yes when some moment of
[t, t + h] lies in one. What the clip no longer shows is not known, and is not counted as a no.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from surg.data.breach_spans import breach_spans
from surg.data.manifest import Clip
from surg.errors import DataError

Box = tuple[int, int, int, int]
Region = tuple[float, float, float, float]
# Labels round times to milliseconds; frames lie on a grid of their own.
SLACK_S = 1e-3
LEAST_PATCHES = 2.0
"""Side, in patches, of the smallest place that is taught. Where a glove touches a drape is a quarter of a patch: its share of any patch
would teach "no" everywhere, and what tells a touch from a hand above it lies around it."""


@dataclass(frozen=True)
class Breaches:
    """What is known about breaches in one clip."""

    spans: tuple[tuple[float, float], ...]
    """First and last second of each; none: a clip without a breach."""
    times_s: npt.NDArray[np.float64] | None = None
    """Moments at which `boxes` were measured."""
    boxes: npt.NDArray[np.float32] | None = None
    """(T, 4) in 0..1 of the frame, NaN without a breach."""

    def in_breach(self, time_s: float) -> bool:
        return any(start - SLACK_S <= time_s <= stop + SLACK_S for start, stop in self.spans)

    def box_at(self, time_s: float) -> Region | None:
        """Where the breach is at a moment of one, or None where nobody measured it."""
        if self.times_s is None or self.boxes is None or not len(self.times_s):
            return None
        nearest = int(np.abs(self.times_s - time_s).argmin())
        box = self.boxes[nearest]
        return tuple(float(side) for side in box) if np.isfinite(box).all() else None  # type: ignore[return-value]


def breaches_of(clip: Clip) -> Breaches | None:
    """From labels `breach` with `breach_t0`, `breach_t1` or `breaches` (JSON spans), boxes from `breach_box` or the truth file."""
    spans = breach_spans(clip)
    if not spans:
        return None if spans is None else Breaches(())
    times, boxes = _measured(clip)
    return Breaches(tuple(spans), times, boxes)


def _measured(clip: Clip) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float32] | None]:
    text = clip.labels.get("breach_box")
    if text:
        box = np.array([float(part) for part in str(text).strip("[]() ").split(",")], np.float32)
        return np.array([clip.start_s]), box[None]
    if clip.masks is None or not clip.masks.endswith(".npz") or not Path(clip.masks).is_file():
        return None, None
    try:
        with np.load(clip.masks, allow_pickle=False) as truth:
            if "boxes" not in truth or "times" not in truth:
                return None, None
            return truth["times"].astype(np.float64), truth["boxes"].astype(np.float32)
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(f"{Path(clip.masks).name} cannot be read as the clip's masks: {error}") from error


def breach_targets(found: Breaches | None, clip: Clip, time_s: float, horizons_s: Sequence[float]) -> npt.NDArray[np.float32]:
    """Answers at `time_s` for each horizon: 1, 0 or NaN (unknown).  float32 (H,)."""
    if found is None:
        return np.full(len(horizons_s), np.nan, np.float32)
    answers = []
    for horizon in horizons_s:
        until = time_s + horizon
        overlaps = any(start <= until + SLACK_S and stop >= time_s - SLACK_S for start, stop in found.spans)
        answers.append(1.0 if overlaps else 0.0 if until <= clip.end_s + SLACK_S else np.nan)
    return np.array(answers, np.float32)


def place_map(
    found: Breaches | None, times_s: Sequence[float], stored: Region, crop: Box, size: int, patches: int
) -> npt.NDArray[np.float32]:
    """Share of each patch that the breach's surroundings cover at each time: float32 (t, h, w), NaN where it is not known.

    stored: the stored square in 0..1 of the source picture; crop: what is shown, in pixels of the stored square (side `size`).
    """
    if found is None:
        return np.full((len(times_s), patches, patches), np.nan, np.float32)
    out = np.zeros((len(times_s), patches, patches), np.float32)
    for step, time_s in enumerate(times_s):
        if found.in_breach(time_s):
            box = found.box_at(time_s)
            out[step] = (
                np.nan
                if box is None
                else _coverage(_widened(_shown(box, stored, crop, size), LEAST_PATCHES / patches), patches)
            )
    return out


def _shown(box: Region, stored: Region, crop: Box, size: int) -> Region:
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


def _widened(box: Region, least: float) -> Region:
    """The box, at least `least` wide and high around its centre."""

    def along(low: float, high: float) -> tuple[float, float]:
        more = max(least - (high - low), 0) / 2
        return low - more, high + more

    (x0, x1), (y0, y1) = along(box[0], box[2]), along(box[1], box[3])
    return x0, y0, x1, y1


def _coverage(box: Region, patches: int) -> npt.NDArray[np.float32]:
    """Share of each of patches x patches cells inside a box given in 0..1."""
    cells = np.arange(patches)

    def along(low: float, high: float) -> npt.NDArray[np.float64]:
        return np.asarray(np.clip(np.minimum(high * patches, cells + 1) - np.maximum(low * patches, cells), 0, 1))

    return np.outer(along(box[1], box[3]), along(box[0], box[2])).astype(np.float32)
