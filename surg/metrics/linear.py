"""A linear classifier in closed form, asked about cases that it did not learn from: how much of a label lies open in features."""

import numpy as np
import numpy.typing as npt


def linear_top1(
    features: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, *, folds: int = 5, strength: float = 0.1
) -> float:
    """Top-1 of ridge regression onto one-hot labels, cross-validated so that no group (case) is on both sides.  features: (N, D).

    `strength` is the ridge as a share of the features' mean squared length. NaN when there are not two groups.
    """
    rows, (_, truth) = np.asarray(features, np.float64), np.unique(np.asarray(labels), return_inverse=True)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return float("nan")
    fold, right = group % min(folds, len(names)), np.zeros(len(rows), bool)
    for number in np.unique(fold):
        asked, learnt = fold == number, fold != number
        mean, spread = rows[learnt].mean(axis=0), rows[learnt].std(axis=0)
        scaled = (rows - mean) / np.maximum(spread, 1e-6 * max(float(spread.max()), 1e-12))
        wanted = np.eye(int(truth.max()) + 1)[truth[learnt]]
        # The dual form: clips are fewer than features.
        alike = scaled[learnt] @ scaled[learnt].T
        ridge = max(strength * float(np.trace(alike)) / len(alike), 1e-9) * np.eye(len(alike))
        answers = scaled[asked] @ scaled[learnt].T @ np.linalg.solve(alike + ridge, wanted - wanted.mean(axis=0)) + wanted.mean(
            axis=0
        )
        right[asked] = answers.argmax(axis=1) == truth[asked]
    return float(right.mean())
