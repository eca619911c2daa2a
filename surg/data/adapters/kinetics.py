"""Kinetics (400, 600, 700): ten-second clips by the official CSV files.

    {train,val,validate,test}.csv    label,youtube_id,time_start,time_end,split
    <split>/<label>/<id>_<start>_<end>.mp4      <split>/<id>_<start>_<end>.mp4      <split>/<id>.mp4

Times in the file name are padded to six digits. Files are cut already: a clip lasts from 0 to the file's end, not from
time_start. Two clips of one YouTube video are one case. Many videos are gone: allow for that with max_missing.
"""

from collections.abc import Iterator
from pathlib import Path

from surg.data.adapters.files import duration_s, first_folder, read_rows
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip, Label
from surg.errors import DataError

LICENCE = "CC BY 4.0 (labels); videos belong to their makers"
TABLES = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


def read(root: Path, ledger: Ledger) -> Iterator[Clip]:
    tables = first_folder(root, "annotations", "") or root
    for name, split in TABLES.items():
        table = tables / f"{name}.csv"
        if not table.is_file():
            continue
        for row in read_rows(table):
            start, end = int(float(row["time_start"])), int(float(row["time_end"]))
            path = _find(root, name, row.get("label", ""), row["youtube_id"], start, end)
            try:
                length_s = duration_s(path) if path else None
            except DataError:
                length_s = None
            if path is None or length_s is None:
                ledger.lack("readable video", f"{name}/{row['youtube_id']}_{start:06d}_{end:06d}")
                continue
            ledger.find()
            labels: dict[str, Label] = {"class": row["label"]} if row.get("label") else {}
            meta = {"time_start": str(start), "time_end": str(end)}
            yield Clip(
                video=str(path),
                start_s=0.0,
                end_s=length_s,
                case=f"youtube_{row['youtube_id']}",
                split=split,
                labels=labels,
                meta=meta,
            )


def _find(root: Path, folder: str, label: str, video: str, start: int, end: int) -> Path | None:
    names = (f"{video}_{start:06d}_{end:06d}", f"{video}_{start}_{end}", video)
    for parent in (root / folder / label, root / folder / label.replace(" ", "_"), root / folder, root / "videos", root):
        for name in names:
            for suffix in (".mp4", ".mkv", ".webm", ".avi"):
                if (parent / (name + suffix)).is_file():
                    return parent / (name + suffix)
    return None
