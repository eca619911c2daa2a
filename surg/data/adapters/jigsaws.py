"""JIGSAWS: suturing, knot tying and needle passing on the bench with a da Vinci: gestures, skill, kinematics.

    <Task>/video/<Task>_B001_capture{1,2}.avi        30 fps, two cameras of one trial
    <Task>/transcriptions/<Task>_B001.txt            "start end Gk", frames counted from 1, both ends included
    <Task>/kinematics/AllGestures/<Task>_B001.txt    76 numbers a frame; 39-76 are the patient-side arms
    <Task>/meta_file_<Task>.txt                      skill and scores
    Experimental_setup/<Task>/<balance>/<experiment>/<scheme>/<k>_Out/itr_<n>/{Train,Test}.txt

Trial H002 has no usable video or labels. The letter is the surgeon: by default the case, so that no surgeon is on two sides.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from surg.data.adapters.files import read_fields
from surg.data.adapters.ledger import Ledger
from surg.data.kinematics import actions_between, states_of
from surg.data.manifest import Clip, Label
from surg.data.timeline import Sample
from surg.errors import ConfigError, DataError

LICENCE = "JIGSAWS, non-commercial research"
FPS = 30.0
TASKS = ("Suturing", "Knot_Tying", "Needle_Passing")
GESTURES = {
    "G1": "reaching for needle with right hand",
    "G2": "positioning needle",
    "G3": "pushing needle through tissue",
    "G4": "transferring needle from left to right",
    "G5": "moving to center with needle in grip",
    "G6": "pulling suture with left hand",
    "G7": "pulling suture with right hand",
    "G8": "orienting needle",
    "G9": "using right hand to help tighten suture",
    "G10": "loosening more suture",
    "G11": "dropping suture at end and moving to end points",
    "G12": "reaching for needle with left hand",
    "G13": "making C loop around right hand",
    "G14": "reaching for suture with right hand",
    "G15": "pulling suture with both hands",
}
NO_USABLE = frozenset({"H002"})
COLUMNS = 76
ARMS = {"left": 38, "right": 57}
"""First column, from 0, of a patient-side arm: position 3, rotation matrix 9, velocities 6, gripper 1."""
SKILLS = {"N": "novice", "I": "intermediate", "E": "expert"}
_TRIAL = re.compile(r"([A-Z])(\d{3})$")
Scheme = Literal["", "OneTrialOut", "SuperTrialOut", "UserOut"]
Experiment = Literal["GestureClassification", "SkillDetection", "GestureRecognition"]


def read(
    root: Path,
    ledger: Ledger,
    *,
    case: Literal["user", "trial"] = "user",
    scheme: Scheme = "",
    experiment: Experiment = "GestureClassification",
    balance: Literal["unBalanced", "Balanced"] = "unBalanced",
    fold: int = 1,
    iteration: int = 1,
) -> Iterator[Clip]:
    """case: what a split keeps together. scheme, experiment, balance, fold, iteration: an official list of train and test."""
    for task, path in _trials(root):
        trial = path.stem.removeprefix(f"{task}_")
        if trial in NO_USABLE:
            ledger.leave_out("trial without usable video and labels", path.stem)
            continue
        videos = sorted((root / task / "video").glob(f"{path.stem}_capture*.avi"))
        if not videos:
            ledger.lack("video", path.stem)
            continue
        official = _official(root, task, scheme, experiment, balance, fold, iteration) if scheme else {}
        scores = _scores(root / task / f"meta_file_{task}.txt").get(path.stem, {})
        for line, fields in read_fields(path):
            if len(fields) != 3 or fields[2] not in GESTURES:
                ledger.lack("readable gesture", f"{path.name} line {line}")
                continue
            first, last = int(fields[0]), int(fields[1])
            segment = f"{path.stem}_{first:06d}_{last:06d}"
            labels: dict[str, Label] = {"gesture": fields[2], "gesture_name": GESTURES[fields[2]], "task": task, **scores}
            for video in videos:
                ledger.find()
                yield Clip(
                    video=str(video),
                    start_s=(first - 1) / FPS,
                    end_s=last / FPS,
                    case=_case(task, trial, case),
                    split=official.get(segment, official.get(path.stem, "")),
                    labels=labels,
                    meta={"trial": path.stem, "camera": video.stem.rsplit("_", 1)[1]},
                )


def timeline(
    root: Path, ledger: Ledger, *, case: Literal["user", "trial"] = "user", arm: Literal["left", "right", "both"] = "right"
) -> Iterator[Sample]:
    """`state` and `action`, 7 numbers an arm, 30 times a second; both cameras of a trial share them.

    An action is the step to the next frame. At a lower rate take the states at the moments seen and
    `surg.data.kinematics.actions_between`: rotations do not add up.
    """
    for task, path in _trials(root):
        trial = path.stem.removeprefix(f"{task}_")
        if trial in NO_USABLE:
            continue
        table = root / task / "kinematics" / "AllGestures" / path.name
        if not table.is_file():
            ledger.lack("kinematics", path.stem)
            continue
        states = _states(table, ("left", "right") if arm == "both" else (arm,))
        actions = [actions_between(states[:, 7 * index : 7 * index + 7]) for index in range(states.shape[1] // 7)]
        steps = np.concatenate(actions, axis=1)
        for video in sorted((root / task / "video").glob(f"{path.stem}_capture*.avi")):
            for index, state in enumerate(states):
                yield Sample(_case(task, trial, case), index / FPS, "state", value=tuple(state.tolist()), video=video.name)
            for index, step in enumerate(steps):
                yield Sample(_case(task, trial, case), index / FPS, "action", value=tuple(step.tolist()), video=video.name)


def _trials(root: Path) -> Iterator[tuple[str, Path]]:
    for task in TASKS:
        for path in sorted((root / task / "transcriptions").glob(f"{task}_*.txt")):
            yield task, path


def _case(task: str, trial: str, case: str) -> str:
    found = _TRIAL.match(trial)
    if found is None:
        raise DataError(f"{task}_{trial} is not named <Task>_<surgeon letter><three digits>.")
    # The same eight surgeons did all three tasks.
    return f"surgeon_{found[1]}" if case == "user" else f"{task}_{trial}"


def _scores(path: Path) -> dict[str, dict[str, Label]]:
    """{trial: {skill, grs}}; the six elements of the score are left out."""
    if not path.is_file():
        return {}
    rows = (fields for _, fields in read_fields(path, r"\s+") if len(fields) >= 3)
    return {fields[0]: {"skill": SKILLS.get(fields[1], fields[1]), "grs": int(fields[2])} for fields in rows}


def _official(root: Path, task: str, scheme: str, experiment: str, balance: str, fold: int, iteration: int) -> dict[str, str]:
    """{segment or trial: split} of one official list. A segment's own entry counts before its trial's."""
    if experiment == "GestureRecognition" and (balance, scheme) != ("unBalanced", "UserOut"):
        raise ConfigError("JIGSAWS has GestureRecognition only as balance=unBalanced scheme=UserOut.")
    folder = root / "Experimental_setup" / task / balance / experiment / scheme / f"{fold}_Out" / f"itr_{iteration}"
    splits: dict[str, str] = {}
    for name, split in (("Train.txt", "train"), ("Test.txt", "test")):
        if not (folder / name).is_file():
            raise DataError(
                f"There is no {folder / name}. Is Experimental_setup unpacked, and fold={fold} iteration={iteration} in it?"
            )
        for _, fields in read_fields(folder / name, r"\s+"):
            for field in fields:
                splits[field.removesuffix(".txt")] = split
    return splits


def _states(table: Path, arms: tuple[str, ...]) -> np.ndarray:
    values = np.array([[float(field) for field in fields] for _, fields in read_fields(table, r"\s+")])
    if values.ndim != 2 or values.shape[1] != COLUMNS:
        raise DataError(f"{table} has {values.shape[-1]} columns, expected {COLUMNS}.")
    blocks = [values[:, ARMS[arm] : ARMS[arm] + 19] for arm in arms]
    return np.concatenate([states_of(block[:, :3], block[:, 3:12].reshape(-1, 3, 3), block[:, 18]) for block in blocks], axis=1)
