"""AutoLaparo, task 1: 21 laparoscopic hysterectomies with 7 phases.

    videos/XX.mp4      labels/label_XX.txt   "Frame  Phase", one line a second, both counted from 1

Line `Frame = 1` is second 0. Many videos lack some of the phases.
"""

from collections.abc import Iterator
from pathlib import Path

from surg.data.adapters.files import first_folder, is_video, number_in, read_fields
from surg.data.adapters.intervals import merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip

LICENCE = "CC BY-NC-SA 4.0"
PHASES = (
    "Preparation",
    "Dividing Ligament and Peritoneum",
    "Dividing Uterine Vessels and Ligament",
    "Transecting the Vagina",
    "Specimen Removal",
    "Suturing",
    "Washing",
)
FPS = 1.0


def read(root: Path, ledger: Ledger) -> Iterator[Clip]:
    base = first_folder(root, "Task 1 Surgical workflow recognition", "") or root
    folder = first_folder(base, "videos", "")
    for video in sorted(folder.iterdir()) if folder else ():
        number = number_in(video.stem)
        if not is_video(video) or number is None:
            continue
        table = base / "labels" / f"label_{number:02d}.txt"
        if not table.is_file():
            ledger.lack("phase labels", video.name)
            continue
        for start, end, phase in merge_runs(_phases(table, ledger), 1 / FPS):
            ledger.find()
            yield Clip(
                video=str(video),
                start_s=start,
                end_s=end,
                case=f"autolaparo_{number:02d}",
                split="train" if number <= 10 else "val" if number <= 14 else "test",
                labels={"phase": PHASES[phase - 1], "phase_id": phase},
            )


def _phases(path: Path, ledger: Ledger) -> Iterator[tuple[float, int]]:
    for line, fields in read_fields(path):
        if fields[0].lower() == "frame":
            continue
        if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and 1 <= int(fields[1]) <= len(PHASES):
            yield (int(fields[0]) - 1) / FPS, int(fields[1])
        else:
            ledger.lack("readable row", f"{path.name} line {line}")
