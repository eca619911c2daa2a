"""SAR-RARP50: 50 robot-assisted prostatectomies, suturing of the dorsal vascular complex, 8 actions at 10 Hz.

    {train1,train2,test}/video_NN/{video_left.avi, rgb/%09d.png, segmentation/%09d.png, action_discrete.txt}

Lines of action_discrete.txt are `frame,class`, a tenth of a second apart whatever the step of their frame numbers: the step tells
the frame rate of the numbers (6 -> 60 per second). Videos 41-50 are test. A patient whose video was cut in two (video_NN_1,
video_NN_2) is one case.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from surg.data.adapters.files import number_in, pictures_in, read_fields
from surg.data.adapters.frame_list import write_frame_list
from surg.data.adapters.intervals import merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip

LICENCE = "CC BY-NC-SA 4.0"
RATE = 10.0
ACTIONS = (
    "other",
    "picking up the needle",
    "positioning the needle tip",
    "pushing the needle through the tissue",
    "pulling the needle out of the tissue",
    "tying a knot",
    "cutting the suture",
    "returning the needle",
)
_NUMBER = re.compile(r"video_(\d+)")


def read(root: Path, ledger: Ledger, *, lists: Path) -> Iterator[Clip]:
    for folder in sorted(path for pattern in ("video_*", "*/video_*") for path in root.glob(pattern) if path.is_dir()):
        found = _NUMBER.match(folder.name)
        if found is None:
            continue
        table = folder / "action_discrete.txt"
        if not table.is_file():
            ledger.lack("action_discrete.txt", folder.name)
            continue
        rows = list(_rows(table, ledger))
        frames_per_s = RATE * _step(rows)
        video = _video(folder, frames_per_s, lists)
        if video is None:
            ledger.lack("video or frames", folder.name)
            continue
        number = int(found[1])
        masks = _masks(folder, frames_per_s, lists)
        for start, end, action in merge_runs(((frame / frames_per_s, action) for frame, action in rows), 1 / RATE):
            ledger.find()
            yield Clip(
                video=str(video[0]),
                start_s=start,
                end_s=end,
                case=f"video_{number:02d}",
                split="test" if number > 40 else "train",
                labels={"action": ACTIONS[action], "action_id": action},
                masks=masks,
                meta=video[1],
            )


def _masks(folder: Path, frames_per_s: float, lists: Path) -> str | None:
    """Masks stand once a second, under the numbers of the labels' frames: a list says when."""
    pictures = [(number / frames_per_s, path) for number, path in pictures_in(folder / "segmentation")]
    return str(write_frame_list(lists / f"{folder.parent.name}_{folder.name}.masks.txt", pictures).path) if pictures else None


def _step(rows: list[tuple[int, int]]) -> int:
    """Frame numbers from one label to the next. The commonest: one odd row must not stretch the times of all others."""
    steps = Counter(later - earlier for (earlier, _), (later, _) in itertools.pairwise(rows) if later > earlier)
    return max(steps, key=lambda step: (steps[step], -step), default=1)


def _rows(table: Path, ledger: Ledger) -> Iterator[tuple[int, int]]:
    for line, fields in read_fields(table):
        frame = number_in(fields[0]) if len(fields) == 2 else None
        if frame is None or not fields[1].isdigit() or int(fields[1]) >= len(ACTIONS):
            ledger.lack("readable row", f"{table.parent.name} line {line}")
        else:
            yield frame, int(fields[1])


def _video(folder: Path, frames_per_s: float, lists: Path) -> tuple[Path, dict[str, str]] | None:
    video = folder / "video_left.avi"
    if video.is_file():
        return video, {}
    # Pictures may have been drawn at another rate than the labels; their names count the same frames.
    pictures = [(number / frames_per_s, path) for number, path in pictures_in(folder / "rgb")]
    if not pictures:
        return None
    listed = write_frame_list(lists / f"{folder.parent.name}_{folder.name}.txt", pictures)
    return listed.path, listed.meta
