"""MM-OR: simulated robotic knee replacements in an operating room, several cameras, with breaches of sterility.

    MM-OR_data/<folder>/timestamp_to_pcd_and_frames_list[_<take>].json     [time stamp, {camera: picture id}]
    MM-OR_data/<folder>/{colorimage/camera0K_colorimage-N.jpg, simstation/camera0K_N.jpg, trackercam/N.jpg}
    MM-OR_data/take_timestamp_to_{sterility_breach,next_action,robot_phase}/<take>.json    {"000123": value}
    scene_graph_generation/data/relationships_{train,validation,test}.json

A key such as "000123" is an index into the take's list of time stamps, not a picture's number and not seconds. Takes that share
a folder have a list each, whose name ends in the take: the list without it belongs to another take. An empty list of breach
triplets says "no breach"; a time point without a key says nothing. 004_PKA has no usable robot phases.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from surg.data.adapters.files import first_folder, read_json
from surg.data.adapters.intervals import merge_runs
from surg.data.adapters.ledger import Ledger
from surg.data.adapters.mmor_times import TakeClock, Unit, list_camera, read_clock
from surg.data.manifest import Clip, Label
from surg.data.timeline import Sample
from surg.errors import ConfigError

LICENCE = "MM-OR, research use"
TRAIN = ("001_PKA", "003_TKA", "005_TKA", "006_PKA", "008_PKA", "010_PKA", "012_1_PKA", "012_2_PKA", "035_PKA", "037_TKA")
VAL = ("002_PKA", "007_TKA", "009_TKA")
TEST = ("004_PKA", "011_TKA", "036_PKA", "038_TKA")
SHORT = (*(f"{n:03d}_PKA" for n in range(13, 18)), "018_1_PKA", "018_2_PKA", *(f"{n:03d}_PKA" for n in range(19, 34)))
"""Short clips, kept apart as the split `short`."""
TAKES = (*TRAIN, *VAL, *TEST, *SHORT)
SHARED_FOLDERS = {
    "012_PKA": ("012_1_PKA", "012_2_PKA"),
    "015-018_PKA": ("015_PKA", "016_PKA", "017_PKA", "018_1_PKA", "018_2_PKA"),
    "019-022_PKA": tuple(f"{n:03d}_PKA" for n in range(19, 23)),
    "023-032_PKA": tuple(f"{n:03d}_PKA" for n in range(23, 33)),
}
NO_ROBOT_PHASE = frozenset({"004_PKA"})
NEXT_ACTIONS = (
    "bring in",
    "prepare",
    "clean",
    "cut",
    "drill",
    "saw",
    "hammer",
    "cement",
    "suture",
    "scan",
    "bring out",
    "none",
)
ROBOT_PHASES = (
    "turn on",
    "initial calibration by mps",
    "dressing the robot, to make it sterile",
    "install the saw by nurse",
    "install base array by nurse",
    "install calibration array",
    "calibrate the robot by nurse",
    "remove calibration array",
    "install actual saw tip",
)
# camera -> key in the clock, folder, beginning of the pictures' names
CAMERAS = {
    **{f"azure{k}": ("azure", "colorimage", f"camera0{k}_colorimage-") for k in range(1, 6)},
    **{f"simstation{k}": ("simstation", "simstation", f"camera0{k}_") for k in range(4)},
    "trackercam": ("trackercam", "trackercam", ""),
}
_SOURCES = {"breach": "sterility_breach", "next_action": "next_action", "robot_phase": "robot_phase"}


def read(
    root: Path,
    ledger: Ledger,
    *,
    lists: Path,
    label: Literal["breach", "next_action", "robot_phase", "take"] = "breach",
    cameras: str = "azure",
    unit: Unit = "auto",
) -> Iterator[Clip]:
    """label: what intervals are made of; `take` gives one clip a camera, its labels in the timeline alone.
    cameras: names separated by commas; `azure`, `simstation` and `all` stand for several. unit: of the time stamps.
    """
    base = _base(root)
    wanted = _cameras(cameras)
    for take in TAKES:
        clock = _clock(base, take, unit, ledger)
        if clock is None:
            continue
        folder = _folder(base, take)
        spans = list(_spans(base, take, label, clock, ledger))
        absent: list[str] = []
        for camera in wanted:
            key, below, prefix = CAMERAS[camera]
            listed = list_camera(clock, key, folder / below, prefix, lists / f"{take}_{camera}.txt")
            if listed is None:
                absent.append(camera)
                continue
            for start, end, labels in spans:
                ledger.find()
                yield Clip(
                    video=str(listed.path),
                    start_s=start,
                    end_s=end,
                    case=take,
                    split=_split(take),
                    labels=labels,
                    meta={**listed.meta, "camera": camera, "take": take},
                )
        for camera in absent:
            # A room need not have all of `azure`; a camera asked for by its name, or all of them, is missing.
            if camera in cameras or len(absent) == len(wanted):
                ledger.lack("pictures of a camera", f"{take} {camera}")
            else:
                ledger.leave_out("camera that a take does not have", f"{take} {camera}")


def timeline(root: Path, ledger: Ledger, *, unit: Unit = "auto", graphs: str = "") -> Iterator[Sample]:
    """For every annotated time point: `breach` (0 or 1, and its triplets as JSON), `next_action` (its name and the seconds
    until then, nan for none), `robot_phase`, and `relations` (the scene graph as JSON). graphs: folder of relationships_*.json.
    """
    base = _base(root)
    relations = _relations(Path(graphs) if graphs else root / "scene_graph_generation" / "data")
    for take in TAKES:
        clock = _clock(base, take, unit, Ledger())
        if clock is None:
            continue
        for name in _SOURCES:
            for index, value in _annotations(base, take, name, clock, ledger):
                yield _sample(take, clock.times_s[index], name, value)
        for index, triplets in sorted(relations.get(take, {}).items()):
            if index < len(clock.times_s):
                yield Sample(take, clock.times_s[index], "relations", text=json.dumps(triplets))


def _sample(take: str, time_s: float, name: str, value: Any) -> Sample:
    if name == "breach":
        return Sample(take, time_s, name, value=(float(bool(value)),), text=json.dumps(value or []))
    if name == "next_action":
        action, seconds = (str(value[0]), float(value[1])) if value else ("none", float("nan"))
        return Sample(take, time_s, name, value=(seconds,), text=action)
    return Sample(take, time_s, name, text=str(value).strip().lower())


def _spans(
    base: Path, take: str, label: str, clock: TakeClock, ledger: Ledger
) -> Iterator[tuple[float, float, dict[str, Label]]]:
    if label == "take":
        yield 0.0, clock.end_of(len(clock.times_s) - 1), {}
        return
    values = ((float(index), _text(label, value)) for index, value in _annotations(base, take, label, clock, ledger))
    for first, after, text in merge_runs(values, 1.0):
        start, end = clock.times_s[int(first)], clock.end_of(int(after) - 1)
        if label == "breach":
            breach = int(text == "breach")
            yield start, end, {"breach": breach, **({"breach_t0": start, "breach_t1": end} if breach else {})}
        else:
            yield start, end, {label: text}


def _text(label: str, value: Any) -> str:
    if label == "breach":
        return "breach" if value else "none"
    if label == "next_action":
        return str(value[0]) if value else "none"
    return str(value).strip().lower()


def _annotations(base: Path, take: str, name: str, clock: TakeClock, ledger: Ledger) -> Iterator[tuple[int, Any]]:
    """`(index of the time point, value)` in order."""
    if name == "robot_phase" and take in NO_ROBOT_PHASE:
        ledger.leave_out("robot phases that the set's makers leave out", take)
        return
    path = base / f"take_timestamp_to_{_SOURCES[name]}" / f"{take}.json"
    if not path.is_file():
        ledger.lack(f"{_SOURCES[name]} table", take)
        return
    for key, value in sorted(read_json(path).items(), key=lambda item: int(item[0])):
        if int(key) >= len(clock.times_s):
            ledger.lack("time point of a label", f"{take} {key}")
        elif value is not None or name == "next_action":
            yield int(key), value


def _base(root: Path) -> Path:
    return first_folder(root, "MM-OR_data", "") or root


def _folder(base: Path, take: str) -> Path:
    own = base / take
    if own.is_dir():
        return own
    return next((base / shared for shared, takes in SHARED_FOLDERS.items() if take in takes), own)


def _clock(base: Path, take: str, unit: Unit, ledger: Ledger) -> TakeClock | None:
    folder = _folder(base, take)
    if not folder.is_dir():
        ledger.leave_out("take that was not downloaded", take)
        return None
    # The one with the take's name first: in a shared folder the other one is another take's. 010_PKA has only `_azure`.
    for name in (f"_{take}", "", "_azure"):
        path = folder / f"timestamp_to_pcd_and_frames_list{name}.json"
        if path.is_file() and (take in path.name or folder.name == take or _has_labels(base, take)):
            return read_clock(path, unit)
    if folder.name == take or _has_labels(base, take):
        ledger.lack("list of time stamps", take)
    else:
        ledger.leave_out("take without labels, in a folder shared with others", take)
    return None


def _has_labels(base: Path, take: str) -> bool:
    return any((base / f"take_timestamp_to_{source}" / f"{take}.json").is_file() for source in _SOURCES.values())


def _split(take: str) -> str:
    return "train" if take in TRAIN else "val" if take in VAL else "test" if take in TEST else "short"


def _cameras(text: str) -> list[str]:
    chosen = [
        camera for name in text.split(",") for camera in CAMERAS if name.strip() in ("all", camera, camera.rstrip("0123456789"))
    ]
    if not chosen:
        raise ConfigError(f"mmor: cameras={text!r} names none of {', '.join(CAMERAS)}, azure, simstation, all.")
    return list(dict.fromkeys(chosen))


def _relations(folder: Path) -> dict[str, dict[int, list[list[str]]]]:
    """{take: {index: triplets}}; names there end in _MMOR or _4DOR."""
    takes: dict[str, dict[int, list[list[str]]]] = {}
    for path in sorted(folder.glob("relationships_*.json")):
        for item in read_json(path):
            if item["take_name"].endswith("_MMOR"):
                takes.setdefault(item["take_name"].removesuffix("_MMOR"), {})[int(item["frame_id"])] = item["relationships"]
    return takes
