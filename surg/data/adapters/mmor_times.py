"""The clock of an MM-OR or 4D-OR take: its list of time stamps, and which picture each camera shows at each of them."""

import itertools
from dataclasses import dataclass
from math import log10
from pathlib import Path
from statistics import median
from typing import Any, Literal

from surg.data.adapters.files import pictures_in, read_json
from surg.data.adapters.frame_list import FrameList, write_frame_list
from surg.errors import DataError

Unit = Literal["auto", "s", "ms", "us", "ns"]
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


@dataclass(frozen=True)
class TakeClock:
    """times_s[i] is when time point i was, from the take's start; images[i] are the picture ids of its cameras."""

    times_s: list[float]
    images: list[dict[str, Any]]

    @property
    def step_s(self) -> float:
        return (
            median(later - earlier for earlier, later in zip(self.times_s, self.times_s[1:])) if len(self.times_s) > 1 else 1.0
        )

    def end_of(self, index: int) -> float:
        """When time point `index` gives way to the next; a pause of the recording belongs to neither."""
        longest = self.times_s[index] + 2 * self.step_s
        return min(self.times_s[index + 1], longest) if index + 1 < len(self.times_s) else self.times_s[index] + self.step_s


def read_clock(path: Path, unit: Unit = "auto") -> TakeClock:
    """Entries are `[time stamp, {camera: picture id, …}]`, sometimes with more behind."""
    entries = read_json(path)
    try:
        stamps = [float(entry[0]) for entry in entries]
        images = [dict(entry[1]) for entry in entries]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path} is no list of [time stamp, pictures]: {error!r}.") from error
    if not stamps:
        raise DataError(f"{path} has no time points.")
    scale = _PER_SECOND[_unit(stamps) if unit == "auto" else unit]
    times = [(stamp - stamps[0]) / scale for stamp in stamps]
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise DataError(f"{path}: the time stamps do not increase. Download it again.")
    return TakeClock(times, images)


def list_camera(clock: TakeClock, key: str, folder: Path, prefix: str, path: Path) -> FrameList | None:
    """Frame list of one camera: at each time point the picture that the clock names, found by its number."""
    pictures = dict(pictures_in(folder, prefix))
    frames = []
    for time_s, images in zip(clock.times_s, clock.images):
        image = images.get(key)
        picture = pictures.get(int(image)) if image is not None else None
        if picture is not None:
            frames.append((time_s, picture))
    return write_frame_list(path, frames) if frames else None


def _unit(stamps: list[float]) -> str:
    """By size where the stamps count from 1970, else by what makes the steps closest to one second."""
    for unit, least in (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", 1e8)):
        if stamps[0] >= least:
            return unit
    if len(stamps) < 2:
        return "s"
    step = median(later - earlier for earlier, later in itertools.pairwise(stamps))
    return min(_PER_SECOND, key=lambda unit: abs(_decades(step / _PER_SECOND[unit])))


def _decades(ratio: float) -> float:
    return log10(ratio) if ratio > 0 else float("inf")
