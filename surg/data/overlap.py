"""Data sets that share patients, so that no patient is on two sides of a split under two names.

Strasbourg's cholecystectomies appear in Cholec80, CholecT50, CholecT45, CholecTrack20 and M2CAI16 under one numbering, and six
to nine of them in Endoscapes under another (CAMMA's published table of overlaps). Two halves of one recording, and SurgVU's
public cases, are one patient too. What is not listed here is not known to be independent: `surg data check` looks for
near-duplicate videos.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from surg.errors import DataError

STRASBOURG = frozenset(
    {"cholec80", "cholect50", "cholect45", "cholectrack20", "cholec120", "cholecseg8k", "cholec80_cvs", "m2cai16"}
)
"""Sets that number the same hospital's videos alike."""
ENDOSCAPES_IS = {1: 67, 2: 68, 3: 70, 4: 71, 7: 72, 121: 66, 10: 96, 33: 110, 127: 103}
"""Endoscapes video -> Strasbourg video: with Cholec80 the first six, with CholecT50 the numbers 2, 3, 10, 33, 121 and 127."""
M2CAI16_TOOL_IS = {**{k: 66 + k for k in range(1, 11)}, 11: 61, 12: 62, 13: 64, 14: 65, 15: 66}
"""M2CAI16-tool video -> Cholec80 video: its training videos are 67-76, its test videos five of 61-66."""

Span = tuple[float, float, str, str]
"""start_s, end_s, split, case"""
TOUCH_S = 1e-3
"""Neighbouring clips touch, and rounding makes that a little more."""

_NUMBER = re.compile(r"(\d+)")
_HALVES = re.compile(r"^(\d{3})_\d+_(PKA|TKA)$")


@dataclass(frozen=True)
class Conflict:
    """One patient on two or more sides. `sides` maps a split to the `source case` names that the patient has there."""

    patient: str
    sides: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        sides = "; ".join(f"{split}: {', '.join(names)}" for split, names in sorted(self.sides.items()))
        return f"{self.patient} is one patient, and is in {sides}"


def patient(source: str, case: str) -> str:
    """One name for one patient, whatever data set and case name: equal names are the same person or recording.

    Capitals tell nobody apart: lists kept by hand have P01 and p01, Cholec80 and cholec80.
    """
    bare, source = case.removeprefix(f"{source}/"), source.casefold()
    number = _NUMBER.search(bare.lower().removeprefix("cholec80").removeprefix("m2cai16"))
    if number is None:
        return f"{source}/{bare.casefold()}"
    value = int(number[1])
    if source in STRASBOURG:
        return f"strasbourg/video{value:02d}"
    if source == "endoscapes" and value in ENDOSCAPES_IS:
        return f"strasbourg/video{ENDOSCAPES_IS[value]:02d}"
    if source == "m2cai16_tool" and value in M2CAI16_TOOL_IS:
        return f"strasbourg/video{M2CAI16_TOOL_IS[value]:02d}"
    if source.startswith("surgvu"):
        # surgvu24/case_125 and the question answering sample's case125.
        return f"surgvu/case_{value:03d}"
    if source == "mmor":
        halves = _HALVES.match(bare)
        return f"mmor/{halves[1]}_{halves[2]}" if halves else f"mmor/{bare}"
    return f"{source}/{bare.casefold()}"


def seen_twice(spans: Iterable[Span]) -> str:
    """A moment of one video that lies on two sides under two names, in words, or "": one recording, whatever its cases are called."""
    latest: dict[tuple[str, str], float] = {}
    for start, end, split, case in sorted(spans):
        for (other_split, other), until in latest.items():
            if split and other_split != split and other != case and min(until, end) - start > TOUCH_S:
                return (
                    f"{start:g} to {min(until, end):g} s are in {other_split} as case {other!r} and in {split} as case {case!r}"
                )
        if split:
            latest[split, case] = max(end, latest.get((split, case), end))
    return ""


def conflicts(rows: Iterable[tuple[str, str, str]]) -> list[Conflict]:
    """`rows` are (source, case, split), of one manifest or of several together; rows without a split take no side."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for source, case, split in set(rows):
        if split:
            seen[patient(source, case)][split].add(f"{source} {case.removeprefix(source + '/')}")
    return [
        Conflict(name, {split: tuple(sorted(names)) for split, names in sides.items()})
        for name, sides in sorted(seen.items())
        if len(sides) > 1
    ]


def refuse_overlap(rows: Iterable[tuple[str, str, str]]) -> None:
    """Raise DataError that names the patients on two sides, and under which names they are there."""
    found = conflicts(rows)
    if found:
        shown = "\n".join(f"  {conflict}" for conflict in found[:10])
        more = f"\n  … and {len(found) - 10} more" if len(found) > 10 else ""
        raise DataError(
            f"{len(found)} patients are on two sides of the split, so that a test would ask about patients seen in training:\n"
            f"{shown}{more}\nTake them out of one side, or split again by patient: surg data split MANIFEST"
        )
