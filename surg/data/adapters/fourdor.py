"""4D-OR: ten simulated knee replacements seen by several cameras of one room.

    export_holistic_take<k>_processed/timestamp_to_pcd_and_frames_list.json     [time stamp, {"color_1": picture id, …}]
    export_holistic_take<k>_processed/colorimage/camera0K_colorimage-N.jpg

One clip a camera and take; scene graphs are in MM-OR's relationships_*.json (take names that end in _4DOR) and go to the timeline.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from surg.data.adapters.files import read_json
from surg.data.adapters.ledger import Ledger
from surg.data.adapters.mmor_times import Unit, list_camera, read_clock
from surg.data.manifest import Clip
from surg.data.timeline import Sample

LICENCE = "4D-OR, research use"
TRAIN, VAL, TEST = (1, 3, 5, 7, 9, 10), (4, 8), (2, 6)
CAMERAS = range(1, 7)
LIST = "timestamp_to_pcd_and_frames_list.json"
_TAKE = re.compile(r"take_?(\d+)")


def read(root: Path, ledger: Ledger, *, lists: Path, unit: Unit = "auto") -> Iterator[Clip]:
    for number, folder in _takes(root):
        if not (folder / LIST).is_file():
            ledger.lack("list of time stamps", folder.name)
            continue
        clock = read_clock(folder / LIST, unit)
        seen = 0
        for camera in CAMERAS:
            if not any(f"color_{camera}" in images for images in clock.images):
                continue
            path = lists / f"4dor_take{number}_camera{camera}.txt"
            listed = list_camera(clock, f"color_{camera}", folder / "colorimage", f"camera0{camera}_colorimage-", path)
            if listed is None:
                ledger.lack("pictures of a camera", f"{folder.name} {camera}")
                continue
            seen += 1
            ledger.find()
            meta = {**listed.meta, "camera": str(camera), "take": str(number)}
            end = clock.end_of(len(clock.times_s) - 1)
            yield Clip(video=str(listed.path), start_s=0.0, end_s=end, case=_case(number), split=_split(number), meta=meta)
        if not seen:
            ledger.lack("cameras of a take", folder.name)


def timeline(root: Path, _ledger: Ledger, *, unit: Unit = "auto", graphs: str = "") -> Iterator[Sample]:
    """`relations`: the scene graph of a time point as JSON. graphs: folder of relationships_*.json."""
    folder = Path(graphs) if graphs else root
    clocks = {number: read_clock(take / LIST, unit) for number, take in _takes(root) if (take / LIST).is_file()}
    for path in sorted(folder.glob("relationships_*.json")):
        for item in read_json(path):
            take, _, source = item["take_name"].rpartition("_")
            index = int(item["frame_id"])
            if source == "4DOR" and int(take) in clocks and index < len(clocks[int(take)].times_s):
                time_s = clocks[int(take)].times_s[index]
                yield Sample(_case(int(take)), time_s, "relations", text=json.dumps(item["relationships"]))


def _takes(root: Path) -> list[tuple[int, Path]]:
    folders = [(_TAKE.search(path.name), path) for path in root.iterdir() if path.is_dir()]
    return sorted((int(found[1]), path) for found, path in folders if found)


def _case(number: int) -> str:
    return f"take{number}"


def _split(number: int) -> str:
    return "train" if number in TRAIN else "val" if number in VAL else "test" if number in TEST else ""
