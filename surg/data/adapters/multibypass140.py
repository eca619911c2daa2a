"""MultiBypass140: 140 laparoscopic gastric bypasses of two hospitals, 12 phases and 46 steps, five folds.

    labels/{bern,strasbourg}/labels_by70/BBPxx.mp4.json                    segments in milliseconds
    labels/{bern,strasbourg}/labels_by70_splits/labels/{train,val,test}/   1fps_K.pickle, for train 1fps_100_K.pickle
    **/BBPxx/imgN.jpg   or   **/BBPxx.mp4                                  SBPxx for Strasbourg

The pickles fix the fold and are read by an unpickler that runs nothing. Without them the segments are read: there "out of body"
and "severe" lie over the phases, so they are taken out of those. A row's `Frame_id` counts from 1, `Original_frame_id` from 0.
"""

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
Task = Literal["phase", "step"]
Found = tuple[Path, dict[str, str]]


def read(
    root: Path, ledger: Ledger, *, lists: Path, label: Task = "phase", fold: Literal["0", "1", "2", "3", "4"] = "0"
) -> Iterator[Clip]:
    """label: phases or steps. fold: which of the five official splits."""
    names = _names(root, label)
    rows = dict(_split_rows(root, fold))
    if rows:
        for (split, case), frames in rows.items():
            yield from _from_frames(root, ledger, lists, case, split, frames, label, names)
        return
    for table in _segment_files(root):
        yield from _from_segments(root, ledger, lists, table, label)


def _from_frames(
    root: Path,
    ledger: Ledger,
    lists: Path,
    case: str,
    split: str,
    frames: list[dict[str, Any]],
    label: Task,
    names: dict[int, str],
) -> Iterator[Clip]:
    found = _video(root, case, lists)
    if found is None:
        ledger.lack("video or frames", case)
        return
    key = "Phase_gt" if label == "phase" else "Step_gt"
    moments = sorted((float(frame["Original_frame_id"]), int(frame[key])) for frame in frames)
    for start, end, value in merge_runs(moments, 1.0):
        ledger.find()
        labels: dict[str, Label] = {label: names.get(value, f"{label} {value}"), f"{label}_id": value}
        yield Clip(video=str(found[0]), start_s=start, end_s=end, case=case, split=split, labels=labels, meta=found[1])


def _from_segments(root: Path, ledger: Ledger, lists: Path, table: Path, label: Task) -> Iterator[Clip]:
    case = table.name.split(".")[0]
    found = _video(root, case, lists)
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
    for folder in sorted(root.rglob("labels_by70_splits/labels")):
        for split in ("train", "val", "test"):
            # 1fps_100_K: the training rows at 100 % of the labels; other shares stand beside them.
            path = folder / split / (f"1fps_100_{fold}.pickle" if split == "train" else f"1fps_{fold}.pickle")
            if path.is_file():
                for case, frames in sorted(read_pickle(path).items()):
                    yield (split, str(case)), frames


def _segment_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("labels_by70/*.mp4.json") if not is_junk(path))


def _names(root: Path, label: Task) -> dict[int, str]:
    return {int(item["label_id"]): item["label_name"] for path in _segment_files(root) for item in read_json(path)[f"{label}s"]}


def _video(root: Path, case: str, lists: Path) -> Found | None:
    for path in sorted(root.rglob(f"{case}*")):
        if is_video(path) and path.stem == case:
            return path, {}
        if path.is_dir() and path.name == case and lists not in path.parents:
            # img1.jpg is second 0.
            pictures = [(float(number - 1), picture) for number, picture in pictures_in(path)]
            if pictures:
                listed = write_frame_list(lists / f"{case}.txt", [(max(0.0, time), picture) for time, picture in pictures])
                return listed.path, listed.meta
    return None
