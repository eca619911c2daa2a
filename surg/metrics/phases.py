"""Surgical phase recognition, with every choice said aloud: published tables differ in these, not only in their models.

Per video, then mean and standard deviation over videos (Funke et al. 2023, "Metrics Matter in Surgical Phase Recognition"):
- accuracy: share of frames.
- precision, recall, jaccard: mean over phases. A phase in neither truth nor prediction of a video is left out; a phase predicted
  but not there has precision 0 and jaccard 0, and no recall; a phase there but never predicted has recall 0, jaccard 0, no precision.
- f1 (`f1_phase`): mean over phases of the phase's F1.   `f1_of_means`: F1 of the mean precision and mean recall, which is never lower
  in practice and is what some papers call F1.   `f1_pooled`: macro F1 of all videos' frames together (scikit-learn's).
Strict counts frames as they are. Relaxed forgives, for `tolerance` frames on either side of a true boundary, the label from the
other side of the boundary. (The Cholec80 script relaxes by phase number, by up to two phases for some, with 10 s, and has a known
indexing fault; its figures are up to a few points higher than these and not comparable.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PhaseScores:
    accuracy: float
    precision: float
    recall: float
    jaccard: float
    f1_phase: float
    f1_of_means: float


def relax(truth: Labels, predicted: Labels, tolerance: int) -> Labels:
    """The prediction with forgiven frames set to the truth."""
    forgiven = predicted.copy()
    cuts = [0, *(np.flatnonzero(np.diff(truth)) + 1).tolist(), len(truth)]
    for left, cut, right in zip(cuts, cuts[1:-1], cuts[2:]):
        before, after = truth[cut - 1], truth[cut]
        # Not further than the segment itself goes: the next boundary has its own neighbours.
        early = slice(max(left, cut - tolerance), cut)
        late = slice(cut, min(right, cut + tolerance))
        forgiven[early] = np.where(predicted[early] == after, before, forgiven[early])
        forgiven[late] = np.where(predicted[late] == before, after, forgiven[late])
    return forgiven


def score_video(truth: npt.ArrayLike, predicted: npt.ArrayLike, *, tolerance: int = 0) -> PhaseScores:
    """Scores of one video; `tolerance` 0 is strict.  truth, predicted: (T,) integers."""
    y, p = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    p = relax(y, p, tolerance) if tolerance else p
    precision, recall, jaccard, f1 = [], [], [], []
    for phase in np.union1d(y, p):
        true, guessed = y == phase, p == phase
        hits = int(np.sum(true & guessed))
        if guessed.any():
            precision.append(hits / int(guessed.sum()))
        if true.any():
            recall.append(hits / int(true.sum()))
        jaccard.append(hits / int(np.sum(true | guessed)))
        f1.append(2 * hits / (int(true.sum()) + int(guessed.sum())))
    p_mean, r_mean = float(np.mean(precision)), float(np.mean(recall))
    of_means = 2 * p_mean * r_mean / (p_mean + r_mean) if p_mean + r_mean else 0.0
    return PhaseScores(float(np.mean(y == p)), p_mean, r_mean, float(np.mean(jaccard)), float(np.mean(f1)), of_means)


def score_videos(truths: list[Labels], predictions: list[Labels], *, tolerance: int = 0) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation (n - 1) over videos of every score; `f1_pooled` has no deviation (nan)."""
    rows = [score_video(t, p, tolerance=tolerance) for t, p in zip(truths, predictions)]
    result = {}
    for name in PhaseScores.__dataclass_fields__:
        values = np.array([getattr(row, name) for row in rows])
        result[name] = (float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan"))
    y = np.concatenate(truths)
    p = np.concatenate([relax(t, q, tolerance) if tolerance else q for t, q in zip(truths, predictions)])
    f1 = [2 * np.sum((y == k) & (p == k)) / (np.sum(y == k) + np.sum(p == k)) for k in np.union1d(y, p)]
    result["f1_pooled"] = (float(np.mean(f1)), float("nan"))
    return result
