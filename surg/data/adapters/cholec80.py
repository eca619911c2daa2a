"""Cholec80: 80 laparoscopic cholecystectomies at 25 frames per second, with phases and tools.

    videos/videoXX.mp4      phase_annotations/videoXX-phase.txt      tool_annotations/videoXX-tool.txt

Phases stand at every frame, tools at every 25th; the first column is the frame's number at 25 fps in both, never a line number.
The same patients are in CholecT50, CholecT45, CholecTrack20, M2CAI16 and Endoscapes: see surg.data.overlap.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from surg.data.adapters.files import first_folder, is_video, number_in, read_fields
from surg.data.adapters.intervals import merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip
from surg.data.timeline import Sample

LICENCE = "CC BY-NC-SA 4.0"
FPS = 25.0
TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")
Protocol = Literal["40/40", "32/8/40", "40/8/32"]
# protocol -> last video of train, last video of val; the rest is test.
_BOUNDS: dict[str, tuple[int, int]] = {"40/40": (40, 40), "32/8/40": (32, 40), "40/8/32": (40, 48)}


def read(root: Path, ledger: Ledger, *, protocol: Protocol = "32/8/40") -> Iterator[Clip]:
    """protocol: how many videos are for train/val/test, in order of their numbers."""
    for number, video in _videos(root):
        phases = _labels(root, "phase", number)
        if phases is None:
            ledger.lack("phase annotations", video.name)
            continue
        for start, end, phase in merge_runs(_phases(phases, ledger), 1 / FPS):
            ledger.find()
            yield Clip(
                video=str(video),
                start_s=start,
                end_s=end,
                case=_case(number),
                split=_split(number, protocol),
                labels={"phase": phase},
            )


def timeline(root: Path, ledger: Ledger) -> Iterator[Sample]:
    """`tools`: which of TOOLS are in the picture, 0 or 1, once a second."""
    for number, _ in _videos(root):
        tools = _labels(root, "tool", number)
        if tools is None:
            ledger.lack("tool annotations", _case(number))
            continue
        for line, fields in read_fields(tools):
            if fields[0] == "Frame":
                continue
            if len(fields) != 1 + len(TOOLS):
                ledger.lack("readable row", f"{tools.name} line {line}")
                continue
            yield Sample(_case(number), int(fields[0]) / FPS, "tools", value=tuple(float(field) for field in fields[1:]))


def _videos(root: Path) -> Iterator[tuple[int, Path]]:
    folder = first_folder(root, "videos", "")
    for path in sorted(folder.iterdir()) if folder else ():
        number = number_in(path.stem)
        if is_video(path) and number is not None:
            yield number, path


def _labels(root: Path, kind: str, number: int) -> Path | None:
    for stem in (f"video{number:02d}", f"video{number}"):
        path = root / f"{kind}_annotations" / f"{stem}-{kind}.txt"
        if path.is_file():
            return path
    return None


def _phases(path: Path, ledger: Ledger) -> Iterator[tuple[float, str]]:
    for line, fields in read_fields(path):
        if fields[0] == "Frame":
            continue
        if len(fields) == 2 and fields[0].isdigit():
            yield int(fields[0]) / FPS, fields[1]
        else:
            ledger.lack("readable row", f"{path.name} line {line}")


def _case(number: int) -> str:
    return f"video{number:02d}"


def _split(number: int, protocol: str) -> str:
    last_train, last_val = _BOUNDS[protocol]
    return "train" if number <= last_train else "val" if number <= last_val else "test"
