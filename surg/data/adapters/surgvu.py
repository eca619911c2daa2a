"""SurgVU: robot-assisted training on porcine tissue, 280 videos of 155 cases, with tasks and installed tools.

    surgvu24/case_NNN/case_NNN_video_part_PPP.mp4      or, in one folder,  videos/*.mp4
    labels/case_NNN/tasks.csv, tools.csv

What these files do that a reader must know: intervals start in one part and stop in a later one; rows stand there twice;
parts are written "1" in one table and "1.0" in the other, times as seconds in one and HH:MM:SS.ffffff in the other; the
camera is a tool called "nan(camera in)"; a tool that is installed need not be in the picture; and the lower edge of the
picture names the tools, so that a model that sees it needs no surgery: `meta.crop` keeps what the public test set keeps.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from surg.data.adapters.files import duration_s, read_rows, videos_under
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip
from surg.errors import DataError

LICENCE = "CC BY-NC-SA 4.0"
VQA_SAMPLE = range(122, 133)
"""Cases whose videos are published as the sample of the 2025 question answering challenge."""
CROP = "0.15,0,0.85,1"
"""[0:720, 192:1088] of 1280 x 720, as in the public test set: without the strip that names the tools."""
CAMERA = "nan(camera in)"

_CASE = re.compile(r"case_?(\d+)", re.IGNORECASE)
_PART = re.compile(r"part_?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Moment:
    """A time within one part of a case's recording."""

    part: int
    time_s: float


def read(
    root: Path,
    ledger: Ledger,
    *,
    label: Literal["task", "tool", "none"] = "task",
    crop: bool = True,
    public_sample: Literal["leave_out", "test"] = "leave_out",
) -> Iterator[Clip]:
    """label: which table's intervals become clips; `none` gives every part whole. crop: tell decoders to cut the strip that names the tools.
    public_sample: what becomes of cases 122-132, whose videos are public: out, or in the test split.
    """
    labels = _label_folder(root)
    for case, parts in sorted(_parts(root).items()):
        number = int(case.removeprefix("case_")) if _CASE.fullmatch(case) else -1
        if number in VQA_SAMPLE and public_sample == "leave_out":
            ledger.leave_out("public sample, cases 122-132", case)
            continue
        table = labels / case / f"{label}s.csv" if labels else None
        meta = {"crop": CROP} if crop else {}
        split = "test" if number in VQA_SAMPLE else ""
        lengths = _lengths(parts, ledger)
        if label == "none" or table is None or not table.is_file():
            if labels and label != "none":
                ledger.lack(f"{label} table", case)
            for part, length_s in lengths.items():
                ledger.find()
                yield Clip(video=str(parts[part]), start_s=0.0, end_s=length_s, case=case, split=split, meta=meta)
            continue
        for start, stop, values in _intervals(table, label, ledger):
            for part, start_s, end_s in _over_parts(start, stop, lengths, ledger, f"{case} {start}"):
                ledger.find()
                yield Clip(
                    video=str(parts[part]), start_s=start_s, end_s=end_s, case=case, split=split, labels=values, meta=meta
                )


def _parts(root: Path) -> dict[str, dict[int, Path]]:
    """{case: {part: video}}. A name without `case_NNN` is a case of its own, a name without `part` its part 1."""
    cases: dict[str, dict[int, Path]] = {}
    for path in videos_under(root):
        found, part = _CASE.search(path.stem), _PART.search(path.stem)
        case = f"case_{int(found[1]):03d}" if found else path.stem
        cases.setdefault(case, {})[int(part[1]) if part else 1] = path
    return cases


def _label_folder(root: Path) -> Path | None:
    for folder in (root / "labels", root.parent / "labels", *sorted(root.glob("*/labels"))):
        if folder.is_dir():
            return folder
    return None


def _lengths(parts: dict[int, Path], ledger: Ledger) -> dict[int, float]:
    lengths = {}
    for part, path in sorted(parts.items()):
        try:
            lengths[part] = duration_s(path)
        except DataError as error:
            ledger.lack("readable video", error)
    return lengths


def _intervals(table: Path, label: str, ledger: Ledger) -> Iterator[tuple[Moment, Moment, dict[str, str | float | int]]]:
    seen: set[tuple[object, ...]] = set()
    for line, row in enumerate(read_rows(table), start=2):
        where = f"{table.parent.name}/{table.name} line {line}"
        try:
            if label == "task":
                start = Moment(_part(row["start_part"]), float(row["start_time"]))
                stop = Moment(_part(row["stop_part"]), float(row["stop_time"]))
                name, values = row["groundtruth_taskname"], {"task": row["groundtruth_taskname"]}
            else:
                start = Moment(_part(row["install_case_part"]), _clock(row["install_case_time"]))
                stop = Moment(_part(row["uninstall_case_part"]), _clock(row["uninstall_case_time"]))
                name = (
                    "endoscope"
                    if CAMERA in (row["groundtruth_toolname"], row["commercial_toolname"])
                    else row["groundtruth_toolname"]
                )
                values = {"tool": name, "arm": row["arm"]}
        except (KeyError, ValueError) as error:
            ledger.lack("readable row", f"{where}: {error!r}")
            continue
        if not name or name == "nan":
            ledger.lack(f"{label} name", where)
            continue
        key = (start, stop, *values.values())
        if key in seen:
            ledger.leave_out("row that stands there twice", where)
            continue
        seen.add(key)
        yield start, stop, dict(values)


def _over_parts(
    start: Moment, stop: Moment, lengths: dict[int, float], ledger: Ledger, where: str
) -> Iterator[tuple[int, float, float]]:
    """The interval's share of every part that it runs through."""
    if (stop.part, stop.time_s) <= (start.part, start.time_s):
        ledger.lack("interval that ends after it starts", where)
        return
    told = False
    for part in range(start.part, stop.part + 1):
        if part not in lengths:
            ledger.lack("video of an interval", f"{where}, part {part}")
            told = True
            continue
        start_s = start.time_s if part == start.part else 0.0
        end_s = min(stop.time_s, lengths[part]) if part == stop.part else lengths[part]
        if end_s > start_s:
            told = True
            yield part, start_s, end_s
    if not told:
        ledger.lack("interval that begins before its video ends", f"{where}, part {start.part}")


def _part(text: str) -> int:
    return int(float(text))


def _clock(text: str) -> float:
    """HH:MM:SS.ffffff, or plain seconds."""
    seconds = 0.0
    for piece in text.split(":"):
        seconds = 60.0 * seconds + float(piece)
    return seconds
