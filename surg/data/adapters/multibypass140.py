"""MultiBypass140: 140 laparoscopic gastric bypasses of two hospitals, 12 phases and 46 steps, five folds.

    labels/{bern,strasbourg}/labels_by70/BBPxx.mp4.json                    segments in milliseconds
    labels/{bern,strasbourg}/labels_by70_splits/labels/{train,val,test}/   1fps_K.pickle, for train 1fps_100_K.pickle
    **/BBPxx/imgN.jpg   or   **/BBPxx.mp4                                  SBPxx for Strasbourg

The pickles fix the fold and are read by an unpickler that runs nothing. Without them the segments are read: there "out of body"
and "severe" lie over the phases, so they are taken out of those. A row's `Frame_id` counts from 1, `Original_frame_id` from 0.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from surg.data.adapters.files import is_junk, is_video, pictures_in, read_json
from surg.data.adapters.frame_list import write_frame_list
from surg.data.adapters.intervals import cut_out, merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.adapters.restricted_pickle import read_pickle
from surg.data.manifest import Clip, Label

LICENCE = "CC BY-NC-SA 4.0"
OUT_OF_BODY, SEVERE = 12, 13
"""Labels that lie over others in the segments: time outside the body, and marks of an adverse event."""
_CASE = re.compile(r"[BS]BP\d+")
Task = Literal["phase", "step"]
Found = tuple[Path, dict[str, str]]


def read(
    root: Path, ledger: Ledger, *, lists: Path, label: Task = "phase", fold: Literal["0", "1", "2", "3", "4"] = "0"
) -> Iterator[Clip]:
    """label: phases or steps. fold: which of the five official splits."""
    names, recordings = _names(root, label), _recordings(root)
    rows = dict(_split_rows(root, fold))
    if rows:
        for (split, case), frames in rows.items():
            yield from _from_frames(recordings.get(case), ledger, lists, case, split, frames, label, names)
        return
    for table in _segment_files(root):
        yield from _from_segments(recordings, ledger, lists, table, label)


def _from_frames(
    recording: Path | None,
    ledger: Ledger,
    lists: Path,
    case: str,
    split: str,
    frames: list[dict[str, Any]],
    label: Task,
    names: dict[int, str],
) -> Iterator[Clip]:
    found = _video(recording, case, lists)
    if found is None:
        ledger.lack("video or frames", case)
        return
    key = "Phase_gt" if label == "phase" else "Step_gt"
    moments = sorted((float(frame["Original_frame_id"]), int(frame[key])) for frame in frames)
    for start, end, value in merge_runs(moments, 1.0):
        ledger.find()
        labels: dict[str, Label] = {label: names.get(value, f"{label} {value}"), f"{label}_id": value}
        yield Clip(video=str(found[0]), start_s=start, end_s=end, case=case, split=split, labels=labels, meta=found[1])


def _from_segments(recordings: dict[str, Path], ledger: Ledger, lists: Path, table: Path, label: Task) -> Iterator[Clip]:
    case = table.name.split(".")[0]
    found = _video(recordings.get(case), case, lists)
    if found is None:
        ledger.lack("video or frames", case)
        return
    content = read_json(table)
    over = [
        (item["start"] / 1000, item["end"] / 1000) for item in content["phases"] if item["label_id"] in (OUT_OF_BODY, SEVERE)
    ]
    for item in sorted(content[f"{label}s"], key=lambda segment: float(segment["start"])):
        if label == "phase" and item["label_id"] in (OUT_OF_BODY, SEVERE):
            continue
        for start, end in cut_out(item["start"] / 1000, item["end"] / 1000, over):
            ledger.find()
            labels = {label: item["label_name"], f"{label}_id": int(item["label_id"])}
            yield Clip(video=str(found[0]), start_s=start, end_s=end, case=case, labels=labels, meta=found[1])


def _split_rows(root: Path, fold: str) -> Iterator[tuple[tuple[str, str], list[dict[str, Any]]]]:
    for folder in _label_folders(root, "labels_by70_splits/labels"):
        for split in ("train", "val", "test"):
            # 1fps_100_K: the training rows at 100 % of the labels; other shares stand beside them.
            path = folder / split / (f"1fps_100_{fold}.pickle" if split == "train" else f"1fps_{fold}.pickle")
            if path.is_file():
                for case, frames in sorted(read_pickle(path).items()):
                    yield (split, str(case)), frames


def _segment_files(root: Path) -> list[Path]:
    return sorted(
        path for folder in _label_folders(root, "labels_by70") for path in folder.glob("*.mp4.json") if not is_junk(path)
    )


def _label_folders(root: Path, name: str) -> list[Path]:
    return sorted(
        path for pattern in (f"labels/{name}", f"*/{name}", f"*/*/{name}", name) for path in root.glob(pattern) if path.is_dir()
    )


def _names(root: Path, label: Task) -> dict[int, str]:
    return {int(item["label_id"]): item["label_name"] for path in _segment_files(root) for item in read_json(path)[f"{label}s"]}


def _recordings(root: Path) -> dict[str, Path]:
    """{BBP01: its video or folder of frames}. One walk, which does not go into the folders of a hundred thousand pictures."""
    found: dict[str, Path] = {}
    for folder, below, files in os.walk(root, followlinks=True):
        for name in [name for name in below if _CASE.fullmatch(name)]:
            found.setdefault(name, Path(folder) / name)
        below[:] = sorted(name for name in below if not _CASE.fullmatch(name) and name != "__MACOSX")
        for name in sorted(files):
            path = Path(folder) / name
            if _CASE.fullmatch(path.stem) and is_video(path):
                found[path.stem] = path
    return found


def _video(found: Path | None, case: str, lists: Path) -> Found | None:
    if found is None:
        return None
    if found.is_file():
        return found, {}
    # img1.jpg is second 0.
    pictures = [(max(0.0, float(number - 1)), picture) for number, picture in pictures_in(found)]
    if not pictures:
        return None
    listed = write_frame_list(lists / f"{case}.txt", pictures)
    return listed.path, listed.meta
