"""Phases of whole operations, scored per video: strict and relaxed, with every F1 said by name, and whether the segments are right.

Reads a table of moments (`video`, `time_s`, `truth`, `predicted`; CSV or Parquet) from whatever made it, or a table of features
(`surg embed --stride-s 1`), on which a linear probe is fitted on train, chosen on val and read on test.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import Field

from surg.config import Config
from surg.data.feature_table import Features, read_features
from surg.errors import DataError
from surg.eval import plots
from surg.eval.probes import ProbeConfig, Split3, linear_probe
from surg.eval.results import Metric, Result, Table
from surg.metrics.bootstrap import case_sums, how_far_to_trust, interval, ratio_of_sums
from surg.metrics.phases import PhaseScores, score_video, score_videos
from surg.metrics.sequence import edit_score, segmental_f1

COLUMNS = ("video", "time_s", "truth", "predicted")
OVERLAPS = (0.10, 0.25, 0.50)
_WHOLE = re.compile(r"-?\d+\.0+")
MEANING = {
    "accuracy": "share of moments",
    "precision": "mean over phases",
    "recall": "mean over phases",
    "jaccard": "mean over phases",
    "f1_phase": "mean over phases of each phase's F1",
    "f1_of_means": "F1 of the mean precision and the mean recall",
    "f1_pooled": "macro F1 of all videos' moments together",
}


class PhasesConfig(Config):
    label: str = "phase"
    """Label of the features that is the phase."""
    tolerance_s: float = Field(10.0, ge=0)
    """Relaxed: so long on either side of a true boundary the label from its other side is forgiven."""
    background: tuple[str, ...] = ()
    """Phases that form no segments in the edit score and the segmental F1."""
    probe: ProbeConfig = ProbeConfig()
    """Of the linear probe on features."""


@dataclass(frozen=True)
class Moments:
    """Test videos in order of time."""

    names: list[str]
    """Phases."""
    truths: list[npt.NDArray[np.int64]]
    predictions: list[npt.NDArray[np.int64]]
    cases: list[str]
    """Of each video; intervals are over these."""
    step_s: float
    commonest: int
    """Of train where there is one, else of the truths themselves."""
    source: str
    """Where the predictions came from, in words."""


def evaluate(table: Path, config: PhasesConfig, folder: Path) -> Result:
    moments = read_moments(table, config)
    tolerance = round(config.tolerance_s / moments.step_s)
    constant = [np.full_like(truth, moments.commonest) for truth in moments.truths]
    result = Result("phases", "Phases")
    rows = []
    for method, predictions in (("model", moments.predictions), ("commonest phase", constant)):
        for name, frames in (("strict", 0), ("relaxed", tolerance)):
            rows += _frame_rows(method, name, moments, predictions, frames, result)
    note = (
        "Mean and standard deviation over videos, intervals over cases (in a table of moments each video is one). A phase in "
        "neither truth nor prediction of a video is left out of its means; one that is predicted but not there counts with precision 0 and Jaccard 0. "
        f"Relaxed forgives {config.tolerance_s:g} s ({tolerance} moments) around each true boundary."
    )
    result.tables.append(Table("Moments", ["method", "counting", "score", "means", "value", "± over videos"], rows, note))
    result.tables.append(_segments(moments, constant, config, result))
    result.tables.append(_per_phase(moments))
    counts = np.zeros((len(moments.names),) * 2, np.int64)
    np.add.at(counts, (np.concatenate(moments.truths), np.concatenate(moments.predictions)), 1)
    result.plots.append(plots.confusion(counts, moments.names, folder / "plots", "confusion_phases", "Confusion of phases"))
    best = result.metrics["model/strict/f1_phase"]
    cases = len(set(moments.cases))
    videos = f"{len(moments.cases)} videos" + (f" of {cases} cases" if cases < len(moments.cases) else "")
    result.headline = (
        f"Accuracy {result.metrics['model/strict/accuracy']}, F1 (mean over phases) {best}, strict, over {videos}."
    )
    result.protocol = [
        f"{videos}, a moment every {moments.step_s:g} s, {len(moments.names)} phases: {', '.join(moments.names)}.",
        moments.source,
    ]
    result.evidence = {"table": Path(table).name}
    trust = how_far_to_trust(len(set(moments.cases)))
    if trust:
        result.warnings.append(trust)
    return result


def read_moments(table: Path, config: PhasesConfig) -> Moments:
    """Predictions as they are, or of a linear probe when `table` holds features."""
    table = Path(table)
    if table.suffix != ".csv" and _is_features(table):
        return _probe(read_features(table), config)
    read = _read_table(table)
    if missing := [name for name in COLUMNS if name not in read.column_names]:
        raise DataError(
            f"{table} lacks the columns {', '.join(missing)}; it has {', '.join(read.column_names)}.\n"
            "Expected video, time_s, truth and predicted, or features: surg embed MANIFEST --stride-s 1 --out FILE"
        )
    words = {name: [_word(value) for value in read.column(name).to_pylist()] for name in ("video", "truth", "predicted")}
    known = np.flatnonzero([word != "" for word in words["truth"]])
    if any(words["predicted"][place] == "" for place in known):
        raise DataError(f"{table} has moments with a truth and no prediction; every annotated moment needs one.")
    videos, truth, predicted = (np.array([words[name][place] for place in known], np.str_) for name in words)
    times_s = _seconds(read.column("time_s"), table)[known]
    if not np.isfinite(times_s).all() or (videos == "").any():
        raise DataError(f"{table} has moments without a video or a time; every annotated moment needs both.")
    commonest = Counter(truth.tolist()).most_common(1)[0][0] if len(truth) else ""
    source = "Predictions were given as a table; the commonest phase is that of these very videos."
    return _moments(videos, videos, times_s, truth, predicted, commonest, source)


def _read_table(table: Path) -> pa.Table:
    # As text: a column of numbers would take 001 and 1 for one video, and write a phase 1 as 1.0 where some rows have no truth.
    texts = dict.fromkeys(("video", "truth", "predicted"), pa.string())
    options = pa.csv.ConvertOptions(column_types=texts, strings_can_be_null=True, quoted_strings_can_be_null=False)
    try:
        return pa.csv.read_csv(table, convert_options=options) if table.suffix == ".csv" else pq.read_table(table)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{table} cannot be read as a table ({type(error).__name__}); expected CSV or Parquet.") from error


def _word(value: object) -> str:
    """The name of a phase or video, "" for none. A whole number is one name, however it is written: pandas makes 1.0 of 1 beside gaps."""
    if value is None or value != value:
        return ""
    text = str(value).strip()
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def _seconds(column: pa.ChunkedArray, table: Path) -> npt.NDArray[np.float64]:
    """Times as numbers, nan for none."""
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    except pa.ArrowException as error:
        first = next((value for value in column.to_pylist() if value is not None), None)
        raise DataError(f"{table} has the time {str(first)!r}; expected time_s in seconds, a number.") from error


def _probe(features: Features, config: PhasesConfig) -> Moments:
    features.require(config.label)
    labels = features.column(config.label)
    rows = {split: np.flatnonzero((features.splits == split) & (labels != "")) for split in ("train", "val", "test")}
    if empty := [split for split, found in rows.items() if not len(found)]:
        raise DataError(
            f"No row of split {', '.join(empty)} carries the label `{config.label}`. Split by case first: surg data split MANIFEST"
        )
    shared = set(features.patients[rows["test"]]) & set(features.patients[np.concatenate([rows["train"], rows["val"]])])
    if shared:
        raise DataError(f"{len(shared)} patients stand in test and in train or val. Split by case: surg data split MANIFEST")
    names = sorted(set(labels[rows["train"]].tolist()))
    index = {name: number for number, name in enumerate(names)}
    if strange := sorted(set(labels[np.concatenate([rows["val"], rows["test"]])].tolist()) - set(names)):
        raise DataError(f"Val or test hold phases that train has not: {', '.join(strange)}.")
    vectors = features.vectors()
    y = {split: np.array([index[name] for name in labels[found]], np.int64) for split, found in rows.items()}
    data = Split3(vectors[rows["train"]], y["train"], vectors[rows["val"]], y["val"], vectors[rows["test"]])
    fitted = linear_probe(data, len(names), config.probe)
    predicted = np.array(names)[fitted.probabilities[0].argmax(1)]
    commonest = names[int(np.bincount(y["train"]).argmax())]
    source = (
        f"Linear probe on frozen features of single windows, C {fitted.chosen['c']:g} chosen on val; no smoothing over time."
    )
    test = rows["test"]
    # A case may have several videos, each of which begins at 0 s.
    videos = np.array([f"{case}/{video}" for case, video in zip(features.cases[test], features.videos[test])])
    return _moments(videos, features.patients[test], features.end_s[test], labels[test], predicted, commonest, source)


def _moments(
    videos: npt.NDArray[Any],
    cases: npt.NDArray[Any],
    times_s: npt.NDArray[np.float64],
    truth: npt.NDArray[np.str_],
    predicted: npt.NDArray[np.str_],
    commonest: str,
    source: str,
) -> Moments:
    if not len(truth):
        raise DataError("No moment has a truth; there is nothing to score.")
    names = sorted(set(truth.tolist()) | set(predicted.tolist()) | {commonest})
    index = {name: number for number, name in enumerate(names)}
    truths, predictions, owners, steps = [], [], [], []
    for video in sorted(set(videos.tolist())):
        rows = np.flatnonzero(videos == video)
        rows = rows[np.argsort(times_s[rows], kind="stable")]
        gaps = np.diff(times_s[rows])
        if (gaps <= 0).any():
            raise DataError(
                f"A video has two rows for one moment (at {times_s[rows][:-1][gaps <= 0][0]:g} s); expected one each."
            )
        steps += gaps.tolist()
        truths.append(np.array([index[word] for word in truth[rows]], np.int64))
        predictions.append(np.array([index[word] for word in predicted[rows]], np.int64))
        owners.append(str(cases[rows[0]]))
    step = float(np.median(steps)) if steps else 1.0
    return Moments(names, truths, predictions, owners, step, index[commonest], source)


def _frame_rows(
    method: str,
    counting: str,
    moments: Moments,
    predictions: list[npt.NDArray[np.int64]],
    tolerance: int,
    result: Result,
) -> list[list[str]]:
    truths = moments.truths
    per_video = [score_video(t, p, tolerance=tolerance) for t, p in zip(truths, predictions)]
    rows = []
    for name, (mean, spread) in score_videos(truths, predictions, tolerance=tolerance).items():
        metric = Metric(mean)
        if name in PhaseScores.__dataclass_fields__:
            values = np.array([getattr(scores, name) for scores in per_video])
            sums, counts = case_sums(values, moments.cases)
            metric = Metric.of(interval(ratio_of_sums(sums, counts), len(sums), bounds=(0, 1)))
        result.metrics[f"{method.replace(' ', '-')}/{counting}/{name}"] = metric
        rows.append([method, counting, name, MEANING[name], str(metric), "–" if np.isnan(spread) else f"{spread:.3f}"])
    return rows


def _segments(moments: Moments, constant: list[npt.NDArray[np.int64]], config: PhasesConfig, result: Result) -> Table:
    unknown = [name for name in config.background if name not in moments.names]
    if unknown:
        raise DataError(f"There is no phase {', '.join(unknown)}; there are {', '.join(moments.names)}.")
    background = [moments.names.index(name) for name in config.background]
    rows = []
    for method, predictions in (("model", moments.predictions), ("commonest phase", constant)):
        edits = [edit_score(t, p, background) for t, p in zip(moments.truths, predictions)]
        scores = {"edit": float(np.mean(edits)), **segmental_f1(moments.truths, predictions, OVERLAPS, background)}
        result.metrics |= {f"{method.replace(' ', '-')}/{name}": Metric(value) for name, value in scores.items()}
        rows.append([method, *(f"{value:.1f}" for value in scores.values())])
    note = (
        "In percent. Edit: the order of segments, mean over videos. F1@k: segments that overlap a true one of their phase by an IoU of at least k %, "
        "counts pooled over videos."
    )
    return Table("Segments", ["method", "edit", "F1@10", "F1@25", "F1@50"], rows, note)


def _per_phase(moments: Moments) -> Table:
    truth, predicted = np.concatenate(moments.truths), np.concatenate(moments.predictions)
    rows = []
    for number, name in enumerate(moments.names):
        true, guessed = truth == number, predicted == number
        hits = int((true & guessed).sum())
        shares = (
            f"{hits / total:.3f}" if total else "–"
            for total in (int(true.sum()), int(guessed.sum()), int((true | guessed).sum()))
        )
        rows.append([name, str(int(true.sum())), *shares])
    return Table(
        "Per phase", ["phase", "moments", "recall", "precision", "Jaccard"], rows, "All videos' moments together, strict."
    )


def _is_features(table: Path) -> bool:
    try:
        return b"surg.features" in (pq.read_schema(table).metadata or {})
    except (OSError, pa.ArrowException):
        return False
