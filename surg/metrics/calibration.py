"""When the model says 0.8, is it right 8 times of 10? Expected calibration error, Brier score, and a temperature fitted on val."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    low: float
    high: float
    count: int
    confidence: float
    """Mean of what was claimed."""
    accuracy: float
    """Share that held."""


def confidence_and_hits(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """What was claimed and whether it held.  probabilities: (N,) of the event, or (N, K) of which the top class is judged."""
    p = np.asarray(probabilities, np.float64)
    y = np.asarray(labels)
    if p.ndim == 1:
        return p, y.astype(np.float64)
    return p.max(axis=1), (p.argmax(axis=1) == y).astype(np.float64)


def reliability(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15, by: Literal["width", "mass"] = "width"
) -> list[Bin]:
    """Bins of equal width over 0..1, or of equal mass; empty ones are left out."""
    claimed, held = confidence_and_hits(probabilities, labels)
    edges = np.linspace(0, 1, bins + 1) if by == "width" else np.unique(np.quantile(claimed, np.linspace(0, 1, bins + 1)))
    # Bins are (low, high], as in Guo et al. 2017; exactly 0 goes into the first.
    place = np.clip(np.searchsorted(edges, claimed, side="left") - 1, 0, max(len(edges) - 2, 0))
    found = []
    for index in range(max(len(edges) - 1, 1)):
        here = place == index
        if here.any():
            low, high = float(edges[index]), float(edges[min(index + 1, len(edges) - 1)])
            found.append(Bin(low, high, int(here.sum()), float(claimed[here].mean()), float(held[here].mean())))
    return found


def expected_calibration_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15, by: Literal["width", "mass"] = "width"
) -> float:
    """Mean gap between claim and truth, weighted by the bins' counts (Naeini et al. 2015; Guo et al. 2017)."""
    table = reliability(probabilities, labels, bins=bins, by=by)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in table) / sum(b.count for b in table)


def brier(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean squared error of the probabilities; with (N, K) the sum over classes as Brier (1950) defined it, so 0..2."""
    p = np.asarray(probabilities, np.float64)
    y = np.asarray(labels)
    if p.ndim == 1:
        return float(np.mean((p - y) ** 2))
    return float(np.mean(np.sum((p - np.eye(p.shape[1])[y]) ** 2, axis=1)))


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature that makes logits / T most likely on val.  logits: (N,) of one event, or (N, K)."""
    scores = np.asarray(logits, np.float64)
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    y = np.asarray(labels, np.int64)
    rows = np.arange(len(y))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(scores / np.exp(log_temperature), axis=1)[rows, y].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))
