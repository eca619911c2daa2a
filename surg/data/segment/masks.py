"""What a segmenter says about a clip, and the one file it is kept in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from surg.errors import DataError
from surg.runs import atomic_file

Frames = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]


class Found(NamedTuple):
    """One thing on one frame."""

    mask: Mask
    name: str
    score: float


@dataclass(frozen=True)
class Segmentation:
    """Instances per frame as one picture of ids.

    A pixel belongs to one instance: where masks overlap (a gloved hand on the person it belongs to) the smaller one is on top.
    """

    ids: Ids
    """(T, H, W); 0 is nothing."""
    times_s: npt.NDArray[np.float64]
    """(T,) seconds from the start of the video."""
    names: dict[int, str] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    linked: bool = False
    """Whether an id means the same thing on every frame; if not, `surg.data.tracks` finds out."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else is kept with it: settings, tracks, interactions."""

    def __post_init__(self) -> None:
        assert self.ids.ndim == 3, self.ids.shape
        assert len(self.ids) == len(self.times_s), (self.ids.shape, len(self.times_s))

    def save(self, path: Path) -> None:
        notes = {"names": self.names, "scores": self.scores, "linked": self.linked, "extra": self.extra}
        # Ids are few: a byte a pixel where that is enough, and zlib makes about 1 kB of a frame.
        ids = self.ids.astype(np.uint8) if self.ids.max(initial=0) < 256 else self.ids
        with atomic_file(Path(path)) as file:
            np.savez_compressed(file, ids=ids, times_s=self.times_s, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8))

    @classmethod
    def load(cls, path: Path) -> "Segmentation":
        """Raises DataError when the file is missing or something else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                notes = json.loads(file["notes"].tobytes())
                names = {int(key): str(value) for key, value in notes["names"].items()}
                scores = {int(key): float(value) for key, value in notes["scores"].items()}
                return cls(file["ids"].astype(np.uint16), file["times_s"], names, scores, bool(notes["linked"]), notes["extra"])
        except (OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{path} does not hold masks of surg ({type(error).__name__}).\nMake them: surg data segment MANIFEST --out FOLDER"
            ) from error

    def at(
        self,
        times_s: Sequence[float] | npt.NDArray[np.float64],
        shape: tuple[int, int],
        crop: tuple[float, float, float, float] | None = None,
    ) -> Ids:
        """The ids nearest in time to `times_s`, cut to `crop` (x0, y0, x1, y1 in 0..1), scaled to `shape` (H, W): (len(times_s), H, W)."""
        nearest = np.abs(self.times_s[None, :] - np.asarray(times_s, np.float64)[:, None]).argmin(axis=1)
        ids = self.ids[nearest]
        if crop is not None:
            height, width = ids.shape[1:]
            x0, y0, x1, y1 = crop
            ids = ids[:, round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
        return resize_ids(ids, shape)


class Segmenter(Protocol):
    """Finds things in the frames of a clip. Built once, used for many clips."""

    def __call__(self, frames: Frames, times_s: npt.NDArray[np.float64]) -> Segmentation:
        """frames: uint8 (T, H, W, 3) RGB, consecutive; times_s: (T,)."""
        ...


def paint(found: Sequence[Sequence[Found]], shape: tuple[int, int], times_s: npt.NDArray[np.float64]) -> Segmentation:
    """A segmentation from loose masks, each with an id of its own: found[t] is what frame t shows."""
    ids = np.zeros((len(found), *shape), np.uint16)
    names: dict[int, str] = {}
    scores: dict[int, float] = {}
    number = 0
    for frame, things in zip(ids, found):
        for thing in sorted(things, key=lambda item: -int(item.mask.sum())):
            number += 1
            frame[thing.mask] = number
            names[number], scores[number] = thing.name, thing.score
    return Segmentation(ids, times_s, names, scores)


def resize_ids(ids: Ids, shape: tuple[int, int]) -> Ids:
    """Nearest neighbour, so that no id is made up.  ids: (T, H, W)."""
    if ids.shape[1:] == shape:
        return ids
    size = (shape[1], shape[0])
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST_EXACT) for frame in ids])


def relabel(ids: Ids, mapping: Mapping[int, int]) -> Ids:
    """Ids renamed by `mapping`; what it does not name becomes 0."""
    table = np.zeros(max(int(ids.max(initial=0)), *mapping, 0) + 1 if mapping else int(ids.max(initial=0)) + 1, np.uint16)
    for old, new in mapping.items():
        table[old] = new
    renamed: Ids = table[ids]
    return renamed
