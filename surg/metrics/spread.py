"""Do features still use their space? Rank and spread fall before a collapse shows in the loss."""

import numpy as np
import numpy.typing as npt

from surg.metrics.knn import normalise


def effective_rank(features: npt.ArrayLike, *, centre: bool = True) -> float:
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007): 1 is collapse, D the most.  features: (N, D).

    With `centre=False` it is RankMe (Garrido et al. 2023), in which a common offset counts as one direction.
    """
    rows = np.asarray(features, np.float64)
    if centre:
        rows = rows - rows.mean(axis=0)
    values = np.linalg.svd(rows, compute_uv=False)
    total = values.sum()
    if total <= 1e-12 * max(1.0, float(np.abs(rows).max(initial=0.0))):
        return 1.0
    shares = values / total
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def feature_std(features: npt.ArrayLike) -> float:
    """Mean over dimensions of the standard deviation of unit-length features; 1/sqrt(D) is an even spread, 0 is collapse."""
    return float(normalise(features).std(axis=0).mean())


def mean_cosine(features: npt.ArrayLike) -> float:
    """Mean cosine between different rows; near 1 all features point the same way."""
    rows = normalise(features).astype(np.float64)
    count = len(rows)
    if count < 2:
        return float("nan")
    return float((np.square(rows.sum(axis=0)).sum() - np.square(rows).sum()) / (count * (count - 1)))
