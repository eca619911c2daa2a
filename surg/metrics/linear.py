"""A linear classifier that is asked about cases it did not learn from: how much of a label lies open in features."""

import numpy as np
import numpy.typing as npt


def linear_top1(
    features: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, *, folds: int = 5, strength: float = 0.1
) -> float:
    """Top-1 of ridge classification, cross-validated so that no group (case) is on both sides.  features: (N, D).

    `strength` is the ridge as a share of the features' mean squared length. NaN when there are not two groups.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, truth, group = np.asarray(features, np.float64), np.asarray(labels), np.asarray(groups)
    if (count := len(np.unique(group))) < 2:
        return float("nan")
    # Of scaled features the mean squared length is their number.
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=strength * rows.shape[1]))
    answers = cross_val_predict(model, rows, truth, groups=group, cv=GroupKFold(min(folds, count)))
    return float((answers == truth).mean())
