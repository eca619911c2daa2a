"""What every reader does with a tree of files: find videos and pictures, read tables and JSON with errors that name the line."""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from surg.errors import DataError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".gif"}
    # What recorders, camcorders and DVDs write.
    | {".ts", ".mts", ".m2ts", ".vob", ".mxf", ".asf", ".flv", ".3gp", ".ogv", ".dv", ".m2v", ".h264", ".264", ".hevc", ".265"}
)
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)")


def is_junk(path: Path) -> bool:
    """What zip files from a Mac and file managers leave behind: `__MACOSX/`, `._video.mp4`, `.DS_Store`."""
    return path.name.startswith(".") or "__MACOSX" in path.parts


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not is_junk(path) and path.is_file()


def paths_under(root: Path) -> Iterator[Path]:
    """All files and folders below a folder, sorted, Mac leftovers aside. Links to folders are followed, each target once."""
    seen = {root.resolve()}
    waiting = [root]
    found: list[Path] = []
    while waiting:
        for path in waiting.pop().iterdir():
            if is_junk(path):
                continue
            found.append(path)
            if path.is_dir() and path.resolve() not in seen:
                seen.add(path.resolve())
                waiting.append(path)
    yield from sorted(found)


def videos_under(root: Path) -> list[Path]:
    """All video files below a folder, sorted."""
    return [path for path in paths_under(root) if is_video(path)]


def pictures_in(folder: Path, prefix: str = "") -> list[tuple[int, Path]]:
    """`(number, path)` of the pictures in a folder in order of their number, the last digits of the name.

    By number, not by name: `img10.jpg` comes after `img9.jpg`.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix.lower() in PICTURE_SUFFIXES and path.name.startswith(prefix) and not is_junk(path):
            number = _LAST_NUMBER.search(path.stem.removeprefix(prefix))
            if number:
                found.append((int(number[1]), path))
    return sorted(found)


def first_folder(root: Path, *names: str) -> Path | None:
    """The first of `root/name` that is a folder; a name `""` is the root itself."""
    for name in names:
        folder = root / name if name else root
        if folder.is_dir():
            return folder
    return None


def read_json(path: Path) -> Any:
    try:
        # From bytes: so a byte order mark and UTF-16 are known.
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}. Download it again.") from error


def read_rows(path: Path, delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Rows of a table with a header, values stripped."""
    with _opened(path) as lines:
        for row in csv.DictReader(lines, delimiter=delimiter):
            yield {(key or "").strip(): (value or "").strip() for key, value in row.items() if not isinstance(value, list)}


def read_fields(path: Path, separators: str = r"[\s,]+") -> Iterator[tuple[int, Sequence[str]]]:
    """`(line number, fields)` of a plain text table without quoting; empty lines are passed over."""
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, re.split(separators, line.strip())


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("rb") as file:
            start = file.read(2)
        # Excel writes a byte order mark before the header, and its "Unicode text" is UTF-16.
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        with path.open(encoding=encoding, newline="") as lines:
            yield lines
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        # Not guessed: in the wrong table of letters names of patients and classes would come out as others.
        raise DataError(
            f"{path} is no UTF-8 text: byte {error.object[error.start]:#x} stands at {error.start}. Save it as UTF-8 (Excel: `CSV UTF-8`)."
        ) from error
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error


def number_in(text: str) -> int | None:
    """The last number in a name: video07 -> 7."""
    found = _LAST_NUMBER.search(text)
    return int(found[1]) if found else None


def duration_s(path: Path) -> float:
    """Length of a video by the decoder; raises DataError when it cannot be opened."""
    from surg.data.video import probe

    return float(probe(path).duration_s)
