"""MM-OR's breach rule over scene graphs, as a baseline, and its official score over time points.

The official downstream script derives breaches from predicted triplets (subject, object, predicate) with a state per take:
- the patient is sterile from the first time a surgeon drills, cuts, saws or hammers the patient;
- after suturing the operation is done, and nothing is a breach any more;
- a predicate of contact between exactly one sterile and one unsterile entity is a breach.
Its three sets of names are not in the public repository, so they are settings here and the result depends on them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from surg.config import Config
from surg.eval.results import Metric, Table

Triplet = tuple[str, str, str]


class BreachRule(Config):
    contact: tuple[str, ...] = ("touching", "holding", "closeto")
    """Predicates that carry germs from one to the other."""
    sterile: tuple[str, ...] = (
        "head_surgeon",
        "assistant_surgeon",
        "instrument_table",
        "instrument",
        "drape",
        "drill",
        "saw",
        "hammer",
        "mps_station",
    )
    """Sterile entities; the patient joins them when the operation begins."""
    unsterile: tuple[str, ...] = (
        "circulator",
        "anaest",
        "anesthesia_equipment",
        "student",
        "unrelated_person",
        "c_arm",
        "secondary_table",
    )
    """Unsterile entities."""
    surgeons: tuple[str, ...] = ("head_surgeon", "assistant_surgeon")
    """Whose work on the patient begins the operation."""
    begins: tuple[str, ...] = ("drilling", "cutting", "sawing", "hammering")
    """What begins it."""
    ends: tuple[str, ...] = ("suturing",)
    """What ends it."""


def breaches_of_take(frames: Mapping[str, Sequence[Triplet]], rule: BreachRule) -> dict[str, bool]:
    """Breach or not per frame of one take, frames in the order of their ids.  frames: id -> triplets (subject, object, predicate)."""
    patient_sterile = done = False
    found = {}
    for frame in sorted(frames):
        breach = False
        for subject, target, predicate in frames[frame]:
            if subject in rule.surgeons and target == "patient" and predicate in rule.begins:
                patient_sterile = True
            if predicate in rule.ends:
                done = True
            pair = {_state(name, rule, patient_sterile) for name in (subject, target)}
            breach |= predicate in rule.contact and pair == {"sterile", "unsterile"}
        found[frame] = breach and not done
    return found


def _state(name: str, rule: BreachRule, patient_sterile: bool) -> str:
    if name == "patient":
        return "sterile" if patient_sterile else "unsterile"
    return "sterile" if name in rule.sterile else "unsterile" if name in rule.unsterile else "neither"


def read_relationships(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[Triplet]]]:
    """MM-OR's relationships_*.json by take and frame: rows of take_name, frame_id, relationships [[subject, object, predicate]]."""
    takes: dict[str, dict[str, list[Triplet]]] = {}
    for row in rows:
        triplets = [(str(s), str(o), str(p)) for s, o, p in row["relationships"]]
        takes.setdefault(str(row["take_name"]), {})[str(row["frame_id"]).zfill(6)] = triplets
    return takes


def official_scores(
    truth: Mapping[str, Sequence[str]], predicted: Mapping[str, Sequence[str]], classes: Sequence[str], title: str
) -> tuple[dict[str, Metric], Table]:
    """MM-OR's protocol for breaches, next actions and robot phases: scikit-learn's classification_report with all classes, macro F1,
    per take and over all time points of the test takes together.  truth, predicted: take -> one name per time point."""
    from sklearn.metrics import classification_report

    metrics: dict[str, Metric] = {}
    rows = []
    pooled: tuple[list[str], list[str]] = ([], [])
    for take in [*truth, ""]:
        y, p = (list(truth[take]), list(predicted[take])) if take else pooled
        if take:
            pooled[0].extend(y)
            pooled[1].extend(p)
        if not y:
            continue
        report = classification_report(y, p, labels=list(classes), output_dict=True, zero_division=0)
        macro = float(report["macro avg"]["f1-score"])
        metrics[f"{take or 'all takes'}/macro_f1"] = Metric(macro)
        rows.append([take or "all takes", str(len(y)), f"{macro:.3f}", f"{np.mean(np.array(y) == np.array(p)):.3f}"])
    return metrics, Table(
        title,
        ["take", "time points", "macro F1", "accuracy"],
        rows,
        "All classes count in the macro mean, also those a take lacks.",
    )
