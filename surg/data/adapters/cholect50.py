"""CholecT50: 50 laparoscopic cholecystectomies at 1 frame per second, with triplets of instrument, verb and target.

    videos/VIDxx/%06d.png      labels/VIDxx.json      label_mapping.txt

A frame's annotation is a list of vectors of 15 numbers; -1 is "none" in all of them, and no index. Frame keys are text, so their
order is that of numbers ("10" after "9"). Views from outside the body are blacked out. Numbers are those of Cholec80.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import cv2

from surg.data.adapters.files import number_in, pictures_in, read_json
from surg.data.adapters.frame_list import write_frame_list
from surg.data.adapters.intervals import merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip
from surg.data.timeline import Sample

LICENCE = "CC BY-NC-SA 4.0"
VAL = frozenset({8, 12, 29, 50, 78})
TEST = frozenset({6, 51, 10, 73, 14, 74, 32, 80, 42, 111})
"""The split of the Rendezvous paper; the other 35 videos are train."""
TRIPLET, INSTRUMENT, VERB, TARGET, PHASE = 0, 1, 7, 8, 14
BOX = slice(3, 7)
_BLACK_PNG_BYTES = 16_384
"""A black 854 x 480 PNG has about 2 kB, a picture of tissue hundreds: only small files are opened to look."""


def read(
    root: Path, ledger: Ledger, *, lists: Path, label: Literal["phase", "triplets"] = "phase", drop_black: bool = True
) -> Iterator[Clip]:
    """label: what intervals are made of; several triplets at once are joined by " + ". drop_black: no clip covers frames
    that were blacked out because they show the room.
    """
    for number, table in _tables(root):
        folder = root / "videos" / table.stem
        pictures = dict(pictures_in(folder))
        if not pictures:
            ledger.lack("frames", folder.name)
            continue
        content = read_json(table)
        rate = float(content.get("fps") or 1)
        listed = write_frame_list(lists / f"{table.stem}.txt", [(index / rate, path) for index, path in pictures.items()])
        black = {index for index, path in pictures.items() if drop_black and _is_black(path)}
        if black:
            ledger.leave_out("video with blacked out frames, which are in no clip", f"{table.stem}: {len(black)} frames")
        moments = (
            (index / rate, _label(rows, label, content["categories"])) for index, rows in _frames(content) if index not in black
        )
        for start, end, name in merge_runs(((time, name) for time, name in moments if name is not None), 1 / rate):
            ledger.find()
            yield Clip(
                video=str(listed.path),
                start_s=start,
                end_s=end,
                case=table.stem,
                split="val" if number in VAL else "test" if number in TEST else "train",
                labels={label: name},
                meta=listed.meta,
            )


def timeline(root: Path, _ledger: Ledger) -> Iterator[Sample]:
    """`triplets`: ids of the triplets in the frame, empty when there are none; `boxes`: instruments with a box, as JSON."""
    for _, table in _tables(root):
        content = read_json(table)
        rate = float(content.get("fps") or 1)
        for index, rows in _frames(content):
            yield Sample(
                table.stem,
                index / rate,
                "triplets",
                value=tuple(sorted({float(row[TRIPLET]) for row in rows if row[TRIPLET] >= 0})),
            )
            boxes = [[int(row[INSTRUMENT]), *row[BOX]] for row in rows if row[INSTRUMENT] >= 0 and min(row[BOX]) >= 0]
            if boxes:
                yield Sample(table.stem, index / rate, "boxes", text=json.dumps(boxes))


def _tables(root: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted((root / "labels").glob("VID*.json")):
        number = number_in(path.stem)
        if number is not None:
            yield number, path


def _frames(content: dict[str, Any]) -> Iterator[tuple[int, list[list[float]]]]:
    yield from sorted((int(index), rows) for index, rows in content["annotations"].items())


def _label(rows: list[list[float]], label: str, categories: dict[str, dict[str, str]]) -> str | None:
    if label == "phase":
        phases = [int(row[PHASE]) for row in rows if row[PHASE] >= 0]
        return categories["phase"][str(phases[0])] if phases else None
    triplets = sorted({int(row[TRIPLET]) for row in rows if row[TRIPLET] >= 0})
    return " + ".join(categories["triplet"][str(triplet)] for triplet in triplets) or "none"


def _is_black(path: Path) -> bool:
    if path.stat().st_size > _BLACK_PNG_BYTES:
        return False
    picture = cv2.imread(str(path))
    return picture is not None and int(picture.max()) == 0
