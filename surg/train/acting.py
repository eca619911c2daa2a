"""Which tokens show the instrument that does the clip's action: dense teaching for the action head.

Read from the truth file of a clip (`masks`): `ids` (T, S, S) instance numbers and `mover`, the number of the one that acts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
class Acting:
    """Where one clip's acting instrument is."""

    times_s: npt.NDArray[np.float64]
    shares: npt.NDArray[np.uint8]
    """(T, SIDE, SIDE), 255 where the cell is all instrument."""

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


def acting_of(clip: Clip) -> Acting | None:
    """From the clip's truth file, or None where it does not say who acts."""
    if clip.masks is None or not clip.masks.endswith(".npz") or not Path(clip.masks).is_file():
        return None
    try:
        with np.load(clip.masks, allow_pickle=False) as truth:
            if "mover" not in truth or "ids" not in truth:
                return None
            ids, mover = truth["ids"], int(truth["mover"])
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(f"{Path(clip.masks).name} cannot be read as the clip's masks: {error}") from error
    shares = [cv2.resize((frame == mover).astype(np.uint8) * 255, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in ids]
    times = clip.start_s + np.linspace(0.0, clip.end_s - clip.start_s, len(ids))
    return Acting(times, np.stack(shares).astype(np.uint8))
