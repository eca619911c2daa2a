"""Is a picture of an endoscope taken inside the body? By colour and texture, without a model.

Before and after an operation, and whenever the lens is wiped, an endoscope sees the room: faces, badges, screens with names.
Tissue is red where it is lit; rooms are green, blue, grey and white, with sharper edges. The score is the share of red among the
lit pixels, less that of green and blue, less what edges exceed those of tissue. It is a filter that helps people who look, not
a proof: its error rates stand in docs/deidentify.md, and smoke, bile, swabs and metal lower the score inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from surg.config import Config

Frame = npt.NDArray[np.uint8]

SIDE = 160
"""Pictures are looked at this large: colour shares need no more, and texture is comparable across resolutions."""
LIT_L = 12.0
"""Lightness (CIE, 0 to 100) from which a pixel counts; the black around an endoscope's disc does not."""
RED_A, RED_SLOPE = 10.0, 0.35
COOL_A, COOL_B = -4.0, -6.0
TEXTURE_OF_TISSUE = 0.12
"""Mean gradient over mean brightness: simulated tissue has up to 0.12, photographs of rooms and things about 0.15."""
DARK_SHARE = 0.03
"""With fewer lit pixels than this there is nothing to see: neither inside nor outside."""


class OutOfBodyConfig(Config):
    threshold: float = 0.15
    """Score from which a picture counts as inside. Higher finds more of the outside and blanks more of the inside."""
    window_s: float = 1.5
    """The score is the median over this long, so that a flash or a puff of smoke does not flip it; not at either end."""
    margin_s: float = 1.0
    """Blanked on either side of every stretch outside: the way in and out."""


@dataclass(frozen=True)
class Look:
    """What was measured of one picture; shares are of its lit pixels."""

    lit: float
    red: float
    cool: float
    texture: float

    @property
    def dark(self) -> bool:
        return self.lit < DARK_SHARE

    @property
    def score(self) -> float:
        return self.red - self.cool - 4.0 * max(0.0, self.texture - TEXTURE_OF_TISSUE)


def look(frame: Frame) -> Look:
    """frame: uint8 (H, W, 3), RGB."""
    height, width = frame.shape[:2]
    scale = SIDE / max(height, width)
    small = cv2.resize(frame, (max(8, round(width * scale)), max(8, round(height * scale))), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    lightness, a, b = lab[..., 0] * (100 / 255), lab[..., 1] - 128, lab[..., 2] - 128
    lit = lightness > LIT_L
    count = max(1, int(lit.sum()))
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)) / 8
    return Look(
        lit=float(lit.mean()),
        red=float(((a > RED_A) & (a > RED_SLOPE * np.abs(b)) & lit).sum() / count),
        cool=float((((a < COOL_A) | (b < COOL_B)) & lit).sum() / count),
        texture=float(gradient[lit].mean() / (grey[lit].mean() + 1)) if lit.any() else 0.0,
    )


def is_dark(frame: Frame) -> bool:
    """`look(frame).dark`, cheap where a picture is plainly bright: a look at each frame of 720p was 6 to 10 % of a copy's time."""
    red, green, blue = (frame[::7, ::7, channel] > 128 for channel in range(3))
    return not (red | green | blue).mean() > 0.25 and look(frame).dark


def stretches_outside(times_s: Sequence[float], looks: Sequence[Look], config: OutOfBodyConfig) -> list[tuple[float, float]]:
    """`(start_s, end_s)` of what should not be shown, margins included, from looks at regular times."""
    if not looks:
        return []
    times = np.asarray(times_s, float)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    scores = np.array([np.nan if one.dark else one.score for one in looks])
    half = int(config.window_s / step / 2 + 1e-6)
    found: list[tuple[float, float]] = []
    for index, time in enumerate(times):
        # The first and last looks speak for themselves: a recording begins and ends on the way in and out.
        inner = half <= index < len(times) - half
        window = scores[index - half : index + half + 1] if inner else scores[index : index + 1]
        if np.isnan(window).all() or np.nanmedian(window) >= config.threshold:
            continue
        start, end = max(0.0, time - config.margin_s), time + step + config.margin_s
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
