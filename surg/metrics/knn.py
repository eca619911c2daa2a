"""Exact nearest neighbours by cosine, in blocks, so that memory stays bounded whatever the size of the bank."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def normalise(features: npt.ArrayLike) -> Floats:
    """Rows scaled to length 1; a row of zeros stays zero.  features: (N, D)."""
    rows = np.asarray(features, np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit


def nearest(
    queries: npt.ArrayLike,
    bank: npt.ArrayLike,
    k: int,
    *,
    query_groups: Array | None = None,
    bank_groups: Array | None = None,
    block: int = 1024,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Indices and cosines of the k nearest, best first: (Q, k) each.  queries: (Q, D); bank: (N, D).

    Neighbours of the query's own group (its case) are left out when groups are given; the places that then stay empty
    have index -1 and cosine -inf. Equal cosines keep the order of the bank.
    """
    left, right = normalise(queries), normalise(bank)
    k = min(k, len(right))
    indices = np.full((len(left), k), -1, np.int64)
    cosines = np.full((len(left), k), -np.inf, np.float32)
    for start in range(0, len(left), block):
        rows = slice(start, min(start + block, len(left)))
        for offset in range(0, len(right), 8 * block):
            columns = slice(offset, min(offset + 8 * block, len(right)))
            scores = left[rows] @ right[columns].T
            if query_groups is not None and bank_groups is not None:
                scores[query_groups[rows][:, None] == bank_groups[columns][None, :]] = -np.inf
            found = np.broadcast_to(np.arange(columns.start, columns.stop), scores.shape)
            every = np.concatenate([cosines[rows], scores], axis=1)
            names = np.concatenate([indices[rows], found], axis=1)
            best = np.argsort(-every, axis=1, kind="stable")[:, :k]
            cosines[rows] = np.take_along_axis(every, best, 1)
            indices[rows] = np.take_along_axis(names, best, 1)
    indices[~np.isfinite(cosines)] = -1
    return indices, cosines


def knn_probabilities(
    bank: npt.ArrayLike,
    labels: npt.ArrayLike,
    queries: npt.ArrayLike,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    query_groups: Array | None = None,
    bank_groups: Array | None = None,
) -> npt.NDArray[np.float64]:
    """Class shares among the k nearest, each weighted by exp(cosine / temperature) as DINO does: (Q, classes).

    labels: (N,) integers. A query without any neighbour gets the uniform distribution.
    """
    indices, cosines = nearest(queries, bank, k, query_groups=query_groups, bank_groups=bank_groups)
    weights = np.where(indices >= 0, np.exp((cosines - cosines.max(axis=1, keepdims=True, initial=-1.0)) / temperature), 0.0)
    voted = np.asarray(labels, np.int64)[np.maximum(indices, 0)]
    votes = np.zeros((len(indices), classes))
    np.add.at(votes, (np.arange(len(indices))[:, None], voted), weights)
    total = votes.sum(axis=1, keepdims=True)
    shares: npt.NDArray[np.float64] = np.divide(votes, total, out=np.full_like(votes, 1 / classes), where=total > 0)
    return shares


def knn_top1(bank: npt.ArrayLike, labels: npt.ArrayLike, queries: npt.ArrayLike, truth: npt.ArrayLike, *, k: int = 20) -> float:
    """Share of queries whose k nearest vote for their true label."""
    names, codes = np.unique(np.concatenate([np.asarray(labels), np.asarray(truth)]), return_inverse=True)
    count = len(np.asarray(labels))
    votes = knn_probabilities(bank, codes[:count], queries, classes=len(names), k=k)
    return float(np.mean(votes.argmax(axis=1) == codes[count:]))
