"""Which tokens show the instrument that acts, or who is not sterile: dense teaching for the heads that judge a whole clip.

Read from the truth file of a clip (`masks`): `ids` (T, S, S) instance numbers; `mover`, the number of the one that acts;
`instances` (N,) and `sterile` (N,), who is there and whether they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.manifest import Clip
from surg.errors import DataError

Box = tuple[int, int, int, int]
Region = tuple[float, float, float, float]
# Masks are kept at this side: an instrument is 10 pixels wide at 224.
SIDE = 56


@dataclass(frozen=True)
class Shown:
    """Where something is, in one clip."""

    times_s: npt.NDArray[np.float64]
    shares: npt.NDArray[np.uint8]
    """(T, SIDE, SIDE), 255 where the cell shows nothing else."""

    def at(self, moments: Sequence[float], stored: Region, crop: Box, size: int, patches: int) -> npt.NDArray[np.float32]:
        """Share of each patch that shows it at each moment: (t, h, w).

        stored: the stored square in 0..1 of the source picture; crop: what is shown, in pixels of the stored square (side `size`).
        """
        fine = patches * 4
        width, height = stored[2] - stored[0], stored[3] - stored[1]
        left, top = stored[0] + crop[0] / size * width, stored[1] + crop[1] / size * height
        step_x, step_y = (crop[2] - crop[0]) / size * width / fine, (crop[3] - crop[1]) / size * height / fine
        # Centre of a fine cell -> pixel of the mask.
        back = np.array(
            [[step_x * SIDE, 0, (left + step_x / 2) * SIDE - 0.5], [0, step_y * SIDE, (top + step_y / 2) * SIDE - 0.5]]
        )
        out = np.empty((len(moments), patches, patches), np.float32)
        for number, moment in enumerate(moments):
            mask = self.shares[int(np.abs(self.times_s - moment).argmin())]
            shown = cv2.warpAffine(mask, back, (fine, fine), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            out[number] = shown.reshape(patches, 4, patches, 4).mean((1, 3)) / 255
        return out


def acting_of(clip: Clip) -> Shown | None:
    """The instrument that acts, or None where the clip's truth file does not say which."""
    truth = _truth(clip, "ids", "mover")
    return None if truth is None else _shown(clip, truth["ids"] == int(truth["mover"]))


def unsterile_of(clip: Clip) -> Shown | None:
    """All who are not sterile, or None where the clip's truth file does not say."""
    truth = _truth(clip, "ids", "instances", "sterile")
    return None if truth is None else _shown(clip, np.isin(truth["ids"], truth["instances"][~truth["sterile"]]))


def _truth(clip: Clip, *names: str) -> dict[str, npt.NDArray[Any]] | None:
    """These arrays of the clip's truth file, or None where one is missing."""
    if clip.masks is None or not clip.masks.endswith(".npz") or not Path(clip.masks).is_file():
        return None
    try:
        with np.load(clip.masks, allow_pickle=False) as truth:
            return {name: truth[name] for name in names} if all(name in truth for name in names) else None
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(f"{Path(clip.masks).name} cannot be read as the clip's masks: {error}") from error


def _shown(clip: Clip, masks: npt.NDArray[np.bool_]) -> Shown:
    shares = [cv2.resize(mask.astype(np.uint8) * 255, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for mask in masks]
    times = clip.start_s + np.linspace(0.0, clip.end_s - clip.start_s, len(masks))
    return Shown(times, np.stack(shares).astype(np.uint8))
