"""Frame lists: pictures as video, each with the time it was taken (read by surg.data.stills).

Many surgical sets ship numbered pictures: one per second, with gaps, several cameras in one folder, or by time stamps.
A frame list names them in order and says when each was taken, so that nothing has to guess a rate from file names:
one line a picture, its path, a tab, its time in seconds.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from surg.errors import DataError
from surg.runs import write_text


@dataclass(frozen=True)
class FrameList:
    """A list that was written. `step_s` is the usual distance between two pictures; the last one lasts that long."""

    path: Path
    frames: int
    step_s: float
    end_s: float

    @property
    def meta(self) -> dict[str, str]:
        return {"fps": f"{1.0 / self.step_s:g}"}


def write_frame_list(path: Path, frames: Sequence[tuple[float, Path]]) -> FrameList:
    """Write `(time_s, picture)` pairs. Raises DataError when there are none or the times do not increase."""
    if not frames:
        raise DataError(f"There are no pictures to list in {path}.")
    for (earlier, _), (later, picture) in itertools.pairwise(frames):
        if not later > earlier:
            raise DataError(f"{picture} is at {later} s, after one at {earlier} s: the times of a frame list have to increase.")
    home = _home(path)
    write_text(path, "".join(f"{_stored(picture, path, home)}\t{round(time_s, 6)}\n" for time_s, picture in frames))
    step = median(later - earlier for (earlier, _), (later, _) in itertools.pairwise(frames)) if len(frames) > 1 else 1.0
    return FrameList(path, len(frames), step, frames[-1][0] + step)


def _home(path: Path) -> Path:
    """The folder that is moved as one: the manifest's, where the list lies in a NAME.frames of it, else the list's own."""
    parents = path.absolute().parents
    return next((folder.parent for folder in parents if folder.suffix == ".frames" or folder.name == "frame_lists"), parents[0])


def _stored(picture: Path, path: Path, home: Path) -> str:
    """As in a manifest: relative to the list below the folder that is moved as one, absolute elsewhere."""
    whole = picture.absolute()
    return (
        os.path.relpath(whole, path.absolute().parent) if whole.is_relative_to(home) and ".." not in whole.parts else str(whole)
    )
