"""Endoscapes2023: 201 laparoscopic cholecystectomies before the first clip, with the critical view of safety.

    {train,val,test}/<video>_<frame>.jpg      annotation_ds_coco.json      annotation_coco.json      all_metadata.csv

Pictures of all videos lie in one folder; the frame number is that of the original video at 25 fps, one picture a second. The
critical view (`ds` of an image: the mean of three raters for its three criteria) stands at every fifth picture only, and
unrated pictures are not "no". The video table of the test part leaves out 228 pictures, so pictures are listed from the disk.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from surg.data.adapters.files import PICTURE_SUFFIXES, is_junk, read_json
from surg.data.adapters.frame_list import write_frame_list
from surg.data.adapters.intervals import merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip
from surg.data.timeline import Sample

LICENCE = "CC BY-NC-SA 4.0"
FPS = 25.0
RATED_EVERY_S = 5.0
CRITERIA = ("two_structures", "cystic_plate", "hepatocystic_triangle")
SPLITS = ("train", "val", "test")


def read(
    root: Path, ledger: Ledger, *, lists: Path, threshold: float = 0.5, label: Literal["cvs", "none"] = "cvs"
) -> Iterator[Clip]:
    """label: intervals of an equal critical view, or whole videos. threshold: share of raters from which a criterion is met."""
    for split in SPLITS:
        ratings = _ratings(root / split, ledger) if label == "cvs" else {}
        for video, pictures in sorted(_pictures(root / split).items()):
            start = pictures[0][0]
            listed = write_frame_list(lists / f"{video}.txt", [((frame - start) / FPS, path) for frame, path in pictures])
            if label == "none":
                ledger.find()
                yield Clip(
                    video=str(listed.path), start_s=0.0, end_s=listed.end_s, case=_case(video), split=split, meta=listed.meta
                )
                continue
            rated = [((frame - start) / FPS, ratings[path.name]) for frame, path in pictures if path.name in ratings]
            if not rated:
                ledger.lack("rated picture", _case(video))
            views = ((time, tuple(int(value >= threshold) for value in view)) for time, view in rated)
            for begin, end, view in merge_runs(views, RATED_EVERY_S):
                ledger.find()
                yield Clip(
                    video=str(listed.path),
                    start_s=begin,
                    end_s=min(end, listed.end_s),
                    case=_case(video),
                    split=split,
                    labels={"cvs": int(all(view)), **dict(zip(CRITERIA, view))},
                    meta={**listed.meta, "first_frame": str(start)},
                )


def timeline(root: Path, _ledger: Ledger) -> Iterator[Sample]:
    """`cvs`: the three criteria's means over raters, at the pictures that were rated."""
    for split in SPLITS:
        ratings = _ratings(root / split, Ledger())
        for video, pictures in sorted(_pictures(root / split).items()):
            for frame, path in pictures:
                if path.name in ratings:
                    yield Sample(_case(video), (frame - pictures[0][0]) / FPS, "cvs", value=ratings[path.name])


def _pictures(folder: Path) -> dict[int, list[tuple[int, Path]]]:
    videos: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    for path in folder.iterdir() if folder.is_dir() else ():
        video, _, frame = path.stem.partition("_")
        if path.suffix.lower() in PICTURE_SUFFIXES and not is_junk(path) and video.isdigit() and frame.isdigit():
            videos[int(video)].append((int(frame), path))
    return {video: sorted(pictures) for video, pictures in videos.items()}


def _ratings(folder: Path, ledger: Ledger) -> dict[str, tuple[float, ...]]:
    path = folder / "annotation_ds_coco.json"
    if not path.is_file():
        if folder.is_dir():
            ledger.lack("annotation_ds_coco.json", folder.name)
        return {}
    return {
        image["file_name"]: tuple(map(float, image["ds"])) for image in read_json(path)["images"] if image.get("ds") is not None
    }


def _case(video: int) -> str:
    return f"endoscapes_{video}"
