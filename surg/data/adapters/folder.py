"""Any folder of videos: the names of folders can be classes and splits.

ROOT/*.mp4                       one unlabelled clip each; ROOT may also be one video
ROOT/CLASS/*.mp4                 labels.class = CLASS            (labels="folder")
ROOT/train|val|test/…            the first folder is the split when it is called so
ROOT/…/FRAMES/000001.png …       a folder that holds pictures and no video is a video; it needs fps=…
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from surg.data.adapters.files import duration_s, is_video, paths_under, pictures_in
from surg.data.adapters.frame_list import write_frame_list
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip
from surg.errors import ConfigError, DataError

LICENCE = ""
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def read(
    root: Path,
    ledger: Ledger,
    *,
    lists: Path,
    labels: Literal["folder", "none"] = "folder",
    case: str = "file",
    fps: float | None = None,
    source: str = "folder",
    licence: str = "",
) -> Iterator[Clip]:
    """case: `file` (every video is a case of its own), `folder` (the videos of a folder are one case), or a regular
    expression whose first group, found in the path below ROOT, names the case: `case="(patient\\d+)"`.
    """
    pattern = _case_pattern(case)
    if fps is not None and not fps > 0:
        raise ConfigError(f"folder: fps={fps:g} pictures a second make no video; expected more than 0.")
    for path in _videos(root, ledger):
        below = path.relative_to(root if root.is_dir() else root.parent)
        split = SPLITS.get(below.parts[0].lower(), "") if len(below.parts) > 1 else ""
        folders = below.parts[1:-1] if split else below.parts[:-1]
        try:
            video, length_s, meta = _video(path, lists / below, fps)
        except DataError as error:
            ledger.lack("unreadable video", f"{below} ({error})")
            continue
        name = _case(below, case, pattern, is_file=path.is_file())
        if name is None:
            ledger.lack(f"no case by the pattern {case!r}", below)
            continue
        ledger.find()
        yield Clip(
            video=str(video),
            start_s=0.0,
            end_s=length_s,
            case=name,
            split=split,
            source=source,
            licence=licence,
            labels={"class": folders[-1]} if folders and labels == "folder" else {},
            meta=meta,
        )


def _videos(root: Path, ledger: Ledger) -> Iterator[Path]:
    if is_video(root):
        yield root
        return
    if not root.is_dir():
        raise DataError(f"{root} is a file and no video. Name a folder; for a table of clips: --format csv")
    paths = list(paths_under(root))
    with_videos = {path.parent for path in paths if is_video(path)}
    for path in paths:
        if is_video(path):
            yield path
        elif path.is_dir() and path.name != "frame_lists" and pictures_in(path):
            if path in with_videos:
                ledger.leave_out("pictures beside videos, such as a recorder's snapshots", path.relative_to(root))
            else:
                yield path


def _video(path: Path, listed: Path, fps: float | None) -> tuple[Path, float, dict[str, str]]:
    if path.is_file():
        return path, duration_s(path), {}
    if fps is None:
        raise ConfigError(f"{path} holds pictures: say how many of them make a second, for example --set fps=25")
    pictures = [(index / fps, picture) for index, (_, picture) in enumerate(pictures_in(path))]
    frames = write_frame_list(listed.with_name(listed.name + ".txt"), pictures)
    return frames.path, frames.end_s, frames.meta


def _case_pattern(case: str) -> re.Pattern[str] | None:
    if case in ("file", "folder"):
        return None
    try:
        pattern = re.compile(case)
    except re.error as error:
        raise ConfigError(f"folder: case={case!r} is no regular expression: {error}.") from error
    if not pattern.groups:
        raise ConfigError(f"folder: case={case!r} has no group; put brackets around the patient's part: case='(patient\\d+)'.")
    return pattern


def _case(below: Path, case: str, pattern: re.Pattern[str] | None, *, is_file: bool) -> str | None:
    if pattern is not None:
        found = pattern.search(below.as_posix())
        return found[1] if found else None
    # The whole path without suffix, so that a/one.mp4 and b/one.mp4 are two cases.
    if case == "folder":
        return below.parent.as_posix()
    # Of a folder of pictures a dot begins no suffix: 1.2.840.1 and 1.2.840.2 are two.
    return (below.with_suffix("") if is_file else below).as_posix()
