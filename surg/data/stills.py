"""Pictures as video: a folder of images, a pattern such as `VID01/%06d.png`, a .txt list of images, or one image.

A list has one image a line, relative to the list, optionally followed by a tab and its time in seconds. Without times an image
stands every 1/fps seconds, where fps is the clip's (`meta["fps"]`), one per second when nobody says.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from surg.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_NUMBER = re.compile(r"%0?(\d*)d")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Stills:
    files: list[Path]
    times_s: npt.NDArray[np.float64]
    """When each image is shown, ascending."""
    fps: float

    @property
    def duration_s(self) -> float:
        """Until the last image has been shown for one period."""
        return float(self.times_s[-1]) + 1.0 / self.fps

    def read(self, index: int, max_pixels: int) -> npt.NDArray[np.uint8]:
        return read_image(self.files[index], max_pixels)


def is_stills(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or path.suffix.lower() == ".txt" or _is_pattern(path) or path.is_dir()


def open_stills(path: Path, fps: float | None = None) -> Stills:
    """Raises DataError when there is no image, or the list is not one."""
    if fps is not None and not fps > 0:
        raise DataError(f"Images at {fps} frames per second make no video; expected more than 0.")
    rate = fps if fps is not None else 1.0
    if path.suffix.lower() == ".txt":
        return _from_list(path, rate)
    files = _matching(path) if _is_pattern(path) else in_order(path) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise DataError(f"{path} holds no images; expected {', '.join(sorted(SUFFIXES))}.")
    return Stills(files, np.arange(len(files)) / rate, rate)


def _is_pattern(path: Path) -> bool:
    """`%06d.png`, and not a file that is really called `blood 5% down.mp4`."""
    return _NUMBER.search(path.name) is not None and not path.exists()


def read_image(path: Path, max_pixels: int) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3), RGB, upright. The header is read first: a picture over `max_pixels` is refused before any is decoded."""
    try:
        with Image.open(path) as image:
            check_pixels(path, *image.size, max_pixels)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                # Pillow cuts 16 bits off at 255, which is white all over.
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.mode == "F" or (upright.mode == "I" and np.asarray(upright).max() > 255):
                raise DataError(f"{path} has 32 bits a pixel, which are no brightness; expected 8 or 16 bits.")
            return np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def image_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height of the upright image, from its header."""
    try:
        with Image.open(path) as image:
            check_pixels(path, *image.size, max_pixels)
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else (image.width, image.height)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def check_pixels(path: Path, width: int, height: int, limit: int) -> None:
    if width < 1 or height < 1 or width * height > limit:
        raise DataError(f"{path} says it is {width} x {height} pixels; expected 1 to {limit} in all. It is damaged, or a trap.")


def in_order(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """The pictures in a folder, img2 before img10. A Mac leaves `._img1.png` beside `img1.png`, which is none."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in suffixes and not file.name.startswith("."))
    return sorted(files, key=_natural)


def _matching(pattern: Path) -> list[Path]:
    """Files of a printf pattern, by number. Numbers may start anywhere and have gaps."""
    expression = re.compile(r"(\d+)".join(re.escape(part) for part in _NUMBER.split(pattern.name)[::2]))
    if not pattern.parent.is_dir():
        return []
    found = [(int(match[1]), file) for file in pattern.parent.iterdir() if (match := expression.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def _from_list(path: Path, rate: float) -> Stills:
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of images: {error}") from error
    rows = [line.split("\t") for line in lines]
    timed = [len(row) == 2 for row in rows]
    if not rows or any(timed) != all(timed):
        raise DataError(
            f"{path} is no list of images: expected one path a line, all or none followed by a tab and a time in seconds."
        )
    files = [path.parent / row[0].strip() for row in rows]
    if strange := next((file for file in files if file.suffix.lower() not in SUFFIXES), None):
        raise DataError(f"{path} lists {strange.name!r}, which is no image; expected {', '.join(sorted(SUFFIXES))}.")
    if not all(timed):
        return Stills(files, np.arange(len(files)) / rate, rate)
    try:
        times = np.array([float(row[1]) for row in rows])
    except ValueError as error:
        raise DataError(f"{path}: {error}; expected a time in seconds after the tab.") from error
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise DataError(f"{path} has times that go back or are no numbers; expected seconds, ascending.")
    period = float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / rate
    return Stills(files, times, 1.0 / period if period > 0 else rate)


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(file.name)]
