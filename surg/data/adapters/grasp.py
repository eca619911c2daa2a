"""GraSP: 13 robot-assisted radical prostatectomies with 11 phases and 21 steps.

    GraSP_30fps/frames/CASE0xx/%09d.jpg      annotations/grasp_long-term_{fold1,fold2,train,test}.json
    annotations/segmentations/CASE0xx/%09d.png

Keyframes are one second apart by definition, whatever their frame numbers: CASE001 was recorded at 45 frames per second, and
the others at 29.97, so that a time worked out from a frame number and a rate drifts by many seconds. The n-th keyframe of a
case is second n; pictures between two keyframes are placed between their seconds.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from surg.data.adapters.files import first_folder, pictures_in, read_json
from surg.data.adapters.frame_list import write_frame_list
from surg.data.adapters.intervals import merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip

LICENCE = "GraSP, non-commercial research"
FOLDS = {
    "": {"train": "train", "test": "test"},
    "1": {"fold2": "train", "fold1": "val"},
    "2": {"fold1": "train", "fold2": "val"},
}


def read(
    root: Path, ledger: Ledger, *, lists: Path, label: Literal["phase", "step"] = "phase", fold: Literal["", "1", "2"] = ""
) -> Iterator[Clip]:
    """fold: train and test, or for cross-validation the fold that is val."""
    base = first_folder(root, "GraSP_30fps", "") or root
    for part, split in FOLDS[fold].items():
        table = base / "annotations" / f"grasp_long-term_{part}.json"
        if not table.is_file():
            ledger.lack("annotation table", table.name)
            continue
        content = read_json(table)
        names = {int(item["id"]): item["name"] for item in content[f"{label}s_categories"]}
        for case, keyframes in sorted(_keyframes(content, f"{label}s").items()):
            pictures = pictures_in(base / "frames" / case)
            if not pictures:
                ledger.lack("frames", case)
                continue
            numbers = np.array([number for number, _ in keyframes], dtype=float)
            listed = write_frame_list(lists / f"{case}.txt", _timed(pictures, numbers))
            drawn = _timed(pictures_in(base / "annotations" / "segmentations" / case), numbers)
            masks = str(write_frame_list(lists / f"{case}.masks.txt", drawn).path) if drawn else None
            moments = ((float(second), value) for second, (_, value) in enumerate(keyframes))
            for start, end, value in merge_runs(moments, 1.0):
                ledger.find()
                yield Clip(
                    video=str(listed.path),
                    start_s=start,
                    end_s=end,
                    case=case,
                    split=split,
                    labels={label: names.get(value, f"{label} {value}"), f"{label}_id": value},
                    masks=masks,
                    meta=listed.meta,
                )


def _keyframes(content: dict[str, Any], field: str) -> dict[str, list[tuple[int, int]]]:
    """{case: [(frame number, label), …]} in order of time."""
    labels = {item["image_id"]: item[field] for item in content["annotations"] if item.get(field) is not None}
    cases: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for image in content["images"]:
        if image["id"] in labels:
            cases[image["video_name"]].append((int(image["frame_num"]), int(labels[image["id"]])))
    return {case: sorted(rows) for case, rows in cases.items()}


def _timed(pictures: list[tuple[int, Path]], keyframes: np.ndarray) -> list[tuple[float, Path]]:
    """Seconds by interpolation between keyframes; past the last one at the last one's rate."""
    numbers = np.array([number for number, _ in pictures], dtype=float)
    times = np.interp(numbers, keyframes, np.arange(len(keyframes)))
    step = keyframes[-1] - keyframes[-2] if len(keyframes) > 1 else 30.0
    times = np.where(numbers > keyframes[-1], len(keyframes) - 1 + (numbers - keyframes[-1]) / step, times)
    inside = numbers >= keyframes[0]
    return [(float(time), path) for time, (_, path), keep in zip(times, pictures, inside) if keep]
