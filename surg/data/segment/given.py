"""Masks that exist already: files of a data set, or what a simulator drew."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.manifest import Clip
from surg.data.segment.masks import Frames, Ids, Segmentation, relabel
from surg.data.sources import crop_of
from surg.data.stills import in_order, open_stills
from surg.errors import DataError

PICTURES = (".png", ".bmp", ".tif", ".tiff")
REACH_S = 1.0
"""How far in time a listed mask may be from a frame: sets draw one a second, or one in half a minute, which says nothing of its neighbours."""


class GivenSegmenter:
    """Hands out the masks of one clip.

    `masks` of the clip is an .npz with `ids` (T, H, W), with `times_s` if its frames are not evenly spaced from the clip's start, and with
    `instances` and `roles` (n,) if its things have names; or a folder of pictures, one a frame in the order of their names (2 before 10), whose grey
    level or colour is the instance; or a .txt list of such pictures with their times in the video.
    """

    def __init__(self, clip: Clip, *, instances: bool = True) -> None:
        self.instances = instances
        """Whether a number is one thing; if not it is a class, and each connected part of it becomes a thing."""
        if clip.masks is None:
            raise DataError(
                "A clip has no masks to be given: its `masks` column is empty.\nUse --segmenter motion, or index a data set that has masks."
            )
        self._all = read_masks(Path(clip.masks), clip)
        self._listed = clip.masks.endswith(".txt")
        self._crop = None if self._all.extra else crop_of(clip)
        """Masks that surg made are of what the crop keeps already."""

    def __call__(self, frames: Frames, times_s: npt.NDArray[np.float64]) -> Segmentation:
        if self._listed and (lack := np.abs(self._all.times_s[None, :] - times_s[:, None]).min(axis=1)).max() > REACH_S:
            raise DataError(
                f"At {times_s[lack.argmax()]:.1f} s the nearest given mask is {lack.max():.1f} s away, expected {REACH_S:g} at most.\n"
                "These masks are too sparse to follow things by: use --segmenter motion, sam2 or sam3."
            )
        ids = self._all.at(times_s, frames.shape[1:3], self._crop)
        if self.instances:
            return Segmentation(ids, times_s, self._all.names, self._all.scores, self._all.linked)
        return _split(ids, times_s, self._all.names)


def read_masks(path: Path, clip: Clip) -> Segmentation:
    """Masks in any form that we know. Raises DataError that says which forms those are."""
    if path.suffix == ".txt":
        stills = open_stills(path)
        near = np.flatnonzero((stills.times_s >= clip.start_s - REACH_S) & (stills.times_s <= clip.end_s + REACH_S))
        if not len(near):
            raise DataError(f"{path} lists no mask from {clip.start_s:.1f} to {clip.end_s:.1f} s.")
        ids, names = _from_pictures([stills.files[index] for index in near])
        return Segmentation(ids, stills.times_s[near], names, dict.fromkeys(names, 1.0), True)
    if path.is_dir():
        ids, names = _from_pictures(mask_pictures(path))
        return Segmentation(ids, _times(clip, len(ids)), names, dict.fromkeys(names, 1.0), True)
    try:
        with np.load(path, allow_pickle=False) as file:
            if "notes" in file:
                return Segmentation.load(path)
            ids = file["ids"].astype(np.uint16)
            stamped = next((name for name in ("times_s", "times") if name in file), None)
            times_s = file[stamped].astype(np.float64) if stamped is not None else _times(clip, len(ids))
            names = {int(number): f"object {number}" for number in np.unique(ids) if number}
            if "instances" in file and "roles" in file:
                # Whoever names its instances means those alone; its other numbers are floor, walls and tables.
                names = {int(number): str(role) for number, role in zip(file["instances"], file["roles"])}
                ids = relabel(ids, {number: number for number in names})
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} holds no masks that surg can read ({type(error).__name__}).\n"
            f"Expected an .npz with `ids` (T, H, W), or a folder of {', '.join(PICTURES)}, one a frame."
        ) from error
    return Segmentation(ids, times_s, names, dict.fromkeys(names, 1.0), True)


def mask_pictures(folder: Path) -> list[Path]:
    """The masks in a folder, in the order of their frames. Raises DataError when there are none."""
    files = in_order(folder, PICTURES)
    if not files:
        raise DataError(f"The mask folder {folder} has no pictures; expected {', '.join(PICTURES)}, one a frame.")
    return files


def _from_pictures(files: Sequence[Path]) -> tuple[Ids, dict[int, str]]:
    pictures = [_as_numbers(file) for file in files]
    shape = pictures[0].shape
    pictures = [picture if picture.shape == shape else resize_numbers(picture, shape) for picture in pictures]
    stack = np.stack(pictures)
    # Colours are packed into one number each; small running numbers take their place, 0 (black) stays nothing.
    values = np.unique(stack)
    table = {int(value): number for number, value in enumerate((value for value in values if value), start=1)}
    ids = np.searchsorted(values, stack).astype(np.uint16) + (0 if values[0] == 0 else 1)
    return ids.astype(np.uint16), {number: f"object {value}" for value, number in table.items()}


def _as_numbers(file: Path) -> npt.NDArray[np.int64]:
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise DataError(f"The mask picture {file} cannot be read; expected a grey, palette or colour picture.")
    if picture.ndim == 2:
        grey: npt.NDArray[np.int64] = picture.astype(np.int64)
        return grey
    blue, green, red = (picture[..., channel].astype(np.int64) for channel in range(3))
    packed: npt.NDArray[np.int64] = (red << 16) | (green << 8) | blue
    return packed


def resize_numbers(picture: npt.NDArray[np.int64], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    scaled: npt.NDArray[np.int64] = cv2.resize(
        picture.astype(np.int32), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST
    ).astype(np.int64)
    return scaled


def _times(clip: Clip, count: int) -> npt.NDArray[np.float64]:
    """At the rate the manifest states, else spread over the clip."""
    if "fps" in clip.meta:
        return clip.start_s + np.arange(count) / float(clip.meta["fps"])
    return np.linspace(clip.start_s, clip.end_s, count)


def _split(ids: Ids, times_s: npt.NDArray[np.float64], names: dict[int, str]) -> Segmentation:
    out = np.zeros_like(ids)
    own: dict[int, str] = {}
    for index, frame in enumerate(ids):
        for value in (int(number) for number in np.unique(frame) if number):
            count, labels = cv2.connectedComponents((frame == value).astype(np.uint8))
            for part in range(1, count):
                own[len(own) + 1] = names.get(value, f"object {value}")
                out[index][labels == part] = len(own)
    return Segmentation(out, times_s, own, dict.fromkeys(own, 1.0), False)
