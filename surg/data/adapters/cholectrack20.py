"""CholecTrack20: tools tracked through 20 laparoscopic cholecystectomies, annotated once a second.

    {Training,Validation,Testing}/VIDxx/VIDxx.json   with   Frames/*.png   or   VIDxx.mp4

Keys of the annotations are frame numbers of the 25 fps video, 25 apart with holes. All twenty are Cholec80 or CholecT50 patients.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surg.data.adapters.files import is_video, pictures_in, read_json
from surg.data.adapters.frame_list import write_frame_list
from surg.data.adapters.intervals import merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip
from surg.data.timeline import Sample

LICENCE = "CC BY-NC-SA 4.0"
FPS = 25.0
FOLDERS = {"Training": "train", "Validation": "val", "Testing": "test"}
PHASES = (
    "preparation",
    "calot-triangle-dissection",
    "clipping-and-cutting",
    "gallbladder-dissection",
    "gallbladder-packaging",
    "cleaning-and-coagulation",
    "gallbladder-extraction",
)
TOOLS = ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator", "specimen-bag")


def read(root: Path, ledger: Ledger, *, lists: Path) -> Iterator[Clip]:
    for split, table in _tables(root):
        annotations = _annotations(table)
        found = _video(table, annotations, lists)
        if found is None:
            ledger.lack("video or frames", table.stem)
            continue
        video, meta = found
        # A second without tools has no row and so no phase: runs go on over up to ten of them.
        phases = ((frame / FPS, int(rows[0]["phase"])) for frame, rows in annotations if rows and int(rows[0]["phase"]) >= 0)
        for start, end, phase in merge_runs(phases, 1.0, max_gap_s=10.0):
            ledger.find()
            yield Clip(
                video=str(video),
                start_s=start,
                end_s=end,
                case=table.stem,
                split=split,
                labels={"phase": PHASES[phase], "phase_id": phase},
                meta=meta,
            )


def timeline(root: Path, _ledger: Ledger) -> Iterator[Sample]:
    """`tracks`: the tools of a second as JSON, [tool, track in the operation, left, top, width, height] in 0..1."""
    for _, table in _tables(root):
        for frame, rows in _annotations(table):
            tracks = [
                [TOOLS[row["instrument"]], row["intraoperative_track"], *row["tool_bbox"]]
                for row in rows
                if row["instrument"] >= 0
            ]
            yield Sample(table.stem, frame / FPS, "tracks", text=json.dumps(tracks))


def _tables(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, split in FOLDERS.items():
        for table in sorted((root / folder).glob("VID*/VID*.json")):
            yield split, table


def _annotations(table: Path) -> list[tuple[int, list[dict[str, Any]]]]:
    return sorted(((int(frame), rows) for frame, rows in read_json(table)["annotations"].items()), key=lambda item: item[0])


def _video(table: Path, annotations: list[tuple[int, Any]], lists: Path) -> tuple[Path, dict[str, str]] | None:
    for path in sorted(table.parent.iterdir()):
        if is_video(path):
            return path, {}
    pictures = pictures_in(table.parent / "Frames")
    if not pictures:
        return None
    # Names are frame numbers of the 25 fps video where they agree with the annotations' keys, else a count of seconds.
    keys = {frame for frame, _ in annotations}
    rate = FPS if keys & {number for number, _ in pictures} and max(number for number, _ in pictures) >= max(keys) else 1.0
    listed = write_frame_list(lists / f"{table.stem}.txt", [(number / rate, path) for number, path in pictures])
    return listed.path, listed.meta
