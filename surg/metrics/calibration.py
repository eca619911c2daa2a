"""When the model says 0.8, is it right 8 times of 10? Expected calibration error, Brier score, and what is fitted on val:
a temperature, Platt's scale and bias, the threshold of best F1."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
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


def fit_platt(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """Scale and bias that make scale * logit + bias most likely on val.  logits, labels: (N,), both labels among them.

    Targets are Platt's (1999): (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that separable scores get a finite scale. The scale stays above 0:
    calibration may not turn a score round.
    """
    x, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    positives = y.sum()
    target = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2))

    def loss(values: Floats) -> float:
        z = np.exp(values[0]) * x + values[1]
        return float(np.mean(np.logaddexp(0, z) - target * z))

    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-4.0, 4.0), (-20.0, 20.0)])
    return float(np.exp(found.x[0])), float(found.x[1])


def f1_threshold(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The score from which to say yes for the best F1 on val: between the last yes and the next lower score. Of equals the highest.

    Without a yes in the labels: above every score.
    """
    s, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    order = np.argsort(-s, kind="stable")
    s, hits = s[order], np.cumsum(y[order])
    if not y.sum():
        return float(np.nextafter(s[0], np.inf)) if len(s) else 0.5
    f1 = 2 * hits / (np.arange(1, len(s) + 1) + y.sum())
    # Equal scores fall on the same side.
    ends = np.append(s[1:] < s[:-1], True)
    best = int(np.argmax(np.where(ends, f1, -1.0)))
    return float((s[best] + s[best + 1]) / 2) if best + 1 < len(s) else float(s[best])
