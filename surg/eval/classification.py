"""Scores of a classifier on clips that belong to cases: top-1 with its interval, balanced accuracy, F1, calibration, per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from surg.eval.results import Metric, Table
from surg.metrics.bootstrap import case_sums, interval, ratio_of_sums
from surg.metrics.calibration import expected_calibration_error

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """One reader of one arm on one test set."""

    arm: str
    probe: str
    test: str
    probabilities: npt.NDArray[np.float64]
    """(seeds, N, classes)"""
    truth: npt.NDArray[np.int64]
    cases: Array
    clips: Array
    chosen: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.arm}/{self.probe}"

    @property
    def right(self) -> npt.NDArray[np.float64]:
        """(seeds, N)"""
        return np.asarray(self.probabilities.argmax(-1) == self.truth, np.float64)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """(N, classes): averaged over seeds."""
        return np.asarray(self.probabilities.mean(0), np.float64)


def score(p: Predictions, classes: Sequence[str]) -> dict[str, Metric]:
    """Metrics by name. Top-1 is the mean over seeds of each seed's; its interval is over cases."""
    from sklearn.metrics import f1_score, recall_score

    sums, counts = case_sums(p.right, p.cases)
    top1 = Metric.of(interval(ratio_of_sums(sums, counts), len(sums), bounds=(0, 1)))
    guesses = p.probabilities.argmax(-1)
    present = np.unique(p.truth)
    # Not balanced_accuracy_score: it warns of an answer that this test set lacks, which is ordinary.
    recalls = [recall_score(p.truth, guess, labels=present, average="macro", zero_division=0) for guess in guesses]
    balanced = float(np.mean(recalls)) if len(present) > 1 else float("nan")
    found = {
        "top1": top1,
        "balanced_accuracy": Metric(balanced),
        # All classes, also those that this test set lacks: as scikit-learn's classification_report with labels=all.
        "macro_f1": Metric(
            float(
                np.mean([f1_score(p.truth, g, labels=range(len(classes)), average="macro", zero_division=0) for g in guesses])
            )
        ),
        "ece": Metric(expected_calibration_error(p.mean, p.truth), better="lower"),
    }
    if len(classes) > 5:
        order = np.argsort(-p.probabilities, axis=-1)[..., :5]
        found["top5"] = Metric(float(np.mean((order == p.truth[None, :, None]).any(-1))))
    if len(p.probabilities) > 1:
        found["seed_std"] = Metric(float(p.right.mean(1).std(ddof=1)), better="lower")
    return found


def confusion(p: Predictions, classes: int) -> npt.NDArray[np.int64]:
    """Rows are truth. Of the seeds' mean probabilities."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (p.truth, p.mean.argmax(1)), 1)
    return table


def per_class(p: Predictions, classes: Sequence[str]) -> Table:
    counts = confusion(p, len(classes))
    rows = []
    for index, name in enumerate(classes):
        support, guessed, hit = int(counts[index].sum()), int(counts[:, index].sum()), int(counts[index, index])
        recall = hit / support if support else float("nan")
        precision = hit / guessed if guessed else float("nan")
        f1 = 2 * hit / (support + guessed) if support + guessed else float("nan")
        others = counts[index].copy()
        others[index] = 0
        mixed = f"{classes[int(others.argmax())]} ({int(others.max())})" if others.any() else "–"
        rows.append([name, str(support), _percent(recall), _percent(precision), _percent(f1), mixed])
    return Table(
        f"Per class: {p.name} on {p.test}", ["class", "clips", "recall", "precision", "F1", "most often taken for"], rows
    )


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f} %"
