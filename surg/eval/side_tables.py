"""What is annotated at moments, beside the manifest: MM-OR's breaches, next actions and robot phases, by its official score.

A time point is judged by the newest window at or before it; of several cameras of a case the scores are averaged. Time points before
the first window are left out and counted. Beside the model stand the commonest class of the val takes and, where the timeline holds scene
graphs (`relations`), MM-OR's rule over them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from surg.data.adapters.mmor_rule import BreachSets, breaches
from surg.data.timeline import Timeline, Track
from surg.eval.results import Metric, Result, Table
from surg.eval.takes import Scored

NAMES = ("breach", "next_action", "robot_phase")
SLACK_S = 1e-3
Answers = dict[str, list[str]]
"""One name per time point, by case."""


def add_side_tables(
    timelines: Sequence[Timeline],
    test: Sequence[Scored],
    val: Sequence[Scored],
    classes: Sequence[str],
    threshold: float,
    sets: BreachSets,
    result: Result,
) -> None:
    """Add to `result` a table and `official/…` metrics for every name of NAMES that the timelines hold for the test takes."""
    for timeline in timelines:
        cases = _by_case(test, timeline)
        for name in NAMES:
            tracks = {case: timeline.track(case, name) for case in cases if name in timeline.names(case)}
            if not tracks:
                continue
            known = {case: track.times_s >= _first(cases[case]) - SLACK_S for case, track in tracks.items()}
            truth = {case: list(np.array(_words(name, track))[known[case]]) for case, track in tracks.items()}
            times = {case: track.times_s[known[case]] for case, track in tracks.items()}
            commonest = _commonest(name, timeline, val)
            answers = {"commonest class of val": {case: [commonest] * len(truth[case]) for case in truth}} if commonest else {}
            model = _model(name, {case: cases[case] for case in truth}, times, classes, threshold, set().union(*truth.values()))
            if model:
                answers["model"] = model
            if name == "breach":
                answers |= _rule(timeline, times, sets)
            labels = sorted(set().union(*truth.values(), *(words for answer in answers.values() for words in answer.values())))
            left_out = sum(int((~rows).sum()) for rows in known.values())
            metrics, table = official_scores(truth, answers, labels, f"Official score: {name}", left_out)
            result.tables.append(table)
            result.metrics |= {f"official/{name}/{key}": metric for key, metric in metrics.items()}


def official_scores(
    truth: Answers, answers: Mapping[str, Answers], classes: Sequence[str], title: str, left_out: int = 0
) -> tuple[dict[str, Metric], Table]:
    """MM-OR's protocol: scikit-learn's classification_report with all classes, macro F1, per take and over all time points together.

    truth: by take, one name per time point; answers: the same of each method, which may lack takes.
    """
    from sklearn.metrics import classification_report

    metrics: dict[str, Metric] = {}
    rows = []
    for method, predicted in answers.items():
        pooled: tuple[list[str], list[str]] = ([], [])
        shared = [take for take in truth if take in predicted]
        for take in [*shared, ""]:
            y, p = (truth[take], predicted[take]) if take else pooled
            if take:
                pooled[0].extend(y)
                pooled[1].extend(p)
            if not y:
                continue
            report = classification_report(y, p, labels=list(classes), output_dict=True, zero_division=0)
            macro = float(report["macro avg"]["f1-score"])
            if not take:
                metrics[f"{method.replace(' ', '-')}/macro_f1"] = Metric(macro)
            agreed = float(np.mean(np.array(y) == np.array(p)))
            rows.append([method, take or f"all {len(shared)} takes", str(len(y)), f"{macro:.3f}", f"{agreed:.3f}"])
    note = (
        f"Classes: {', '.join(classes)}; all count in the macro mean, also those a take lacks. "
        f"{left_out} time points before the first window are left out."
    )
    return metrics, Table(title, ["method", "take", "time points", "macro F1", "accuracy"], rows, note)


def rule_answers(track: Track, times_s: npt.NDArray[np.float64], sets: BreachSets) -> list[str]:
    """The rule's answer at each time: by the newest scene graph at or before it; "no" before the first."""
    found = list(breaches([json.loads(text) for text in track.texts or []], sets))
    places = [track.at(float(time_s)) for time_s in times_s]
    return ["yes" if place is not None and found[place] else "no" for place in places]


def _rule(timeline: Timeline, times: Mapping[str, npt.NDArray[np.float64]], sets: BreachSets) -> dict[str, Answers]:
    found = {
        case: rule_answers(timeline.track(case, "relations"), at, sets)
        for case, at in times.items()
        if "relations" in timeline.names(case)
    }
    return {"rule over scene graphs": found} if found else {}


def _model(
    name: str,
    takes: Mapping[str, Sequence[Scored]],
    times: Mapping[str, npt.NDArray[np.float64]],
    classes: Sequence[str],
    threshold: float,
    wanted: set[str],
) -> Answers | None:
    """What the model says at each time; None when it has no head for `name`: an action head speaks for it when it knows all its words."""
    if name == "breach":
        return {
            case: [
                "yes" if score >= threshold else "no"
                for score in np.mean([t.breach[_newest(t, times[case]), 0] for t in own], axis=0)
            ]
            for case, own in takes.items()
        }
    if not wanted <= set(classes) or any(take.action is None for own in takes.values() for take in own):
        return None
    found: Answers = {}
    for case, own in takes.items():
        votes = np.stack([take.action[_newest(take, times[case])] for take in own if take.action is not None])
        found[case] = [classes[Counter(column.tolist()).most_common(1)[0][0]] for column in votes.T]
    return found


def _words(name: str, track: Track) -> list[str]:
    if name == "breach":
        assert track.values is not None
        return ["yes" if value > 0 else "no" for value in track.values[:, 0]]
    return list(track.texts or [])


def _by_case(takes: Sequence[Scored], timeline: Timeline) -> dict[str, list[Scored]]:
    held = set(timeline.cases())
    cases: dict[str, list[Scored]] = {}
    for take in takes:
        if take.truth.case in held:
            cases.setdefault(take.truth.case, []).append(take)
    return cases


def _first(takes: Sequence[Scored]) -> float:
    return max(float(take.times_s[0]) for take in takes)


def _newest(take: Scored, times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.searchsorted(take.times_s, times_s + SLACK_S, side="right") - 1


def _commonest(name: str, timeline: Timeline, val: Sequence[Scored]) -> str:
    words = [
        word
        for case in _by_case(val, timeline)
        if name in timeline.names(case)
        for word in _words(name, timeline.track(case, name))
    ]
    return Counter(words).most_common(1)[0][0] if words else ""
