"""Retrieval among clips: do neighbours mean the same? A clip of the same case is no neighbour, an unknown label never matches.

Each query's list is ranked by cosine; `relevant` of a list is (Q, k) booleans, best first.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def relevant_neighbours(
    indices: npt.NDArray[np.int64], query_labels: Array, bank_labels: Array, known: Array | None = None
) -> Bools:
    """Which neighbours carry the query's label: (Q, k).  Index -1 (no neighbour) and unknown labels never match."""
    match = bank_labels[np.maximum(indices, 0)] == query_labels[:, None]
    match &= indices >= 0
    if known is not None:
        match &= known[:, None]
    return np.asarray(match, np.bool_)


def precision_at_k(relevant: Bools) -> Floats:
    """Share of the k places that match, per query."""
    return np.asarray(relevant.mean(axis=1), np.float64)


def average_precision_at_k(relevant: Bools, pool: npt.NDArray[np.int64]) -> Floats:
    """Mean of the precisions at each hit, over min(k, all that the pool holds).  relevant: (Q, k); pool: (Q,) relevant in the whole pool.

    A query with nothing to find is nan: it must be left out and counted, not scored as a miss.
    """
    ranks = np.arange(1, relevant.shape[1] + 1)
    gained = (np.cumsum(relevant, axis=1) / ranks * relevant).sum(axis=1)
    best = np.minimum(relevant.shape[1], pool)
    shares: Floats = np.divide(gained, best, out=np.full(len(gained), np.nan), where=best > 0)
    return shares


def ndcg_at_k(relevant: Bools, pool: npt.NDArray[np.int64]) -> Floats:
    """Discounted gain over the ideal of the whole pool, not of the k retrieved: a list that missed all but one cannot score 1."""
    discount = 1 / np.log2(np.arange(2, relevant.shape[1] + 2))
    gained = (relevant * discount).sum(axis=1)
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(pool, relevant.shape[1])]
    shares: Floats = np.divide(gained, ideal, out=np.full(len(gained), np.nan), where=ideal > 0)
    return shares


def cycle_at_k(indices: npt.NDArray[np.int64]) -> Floats:
    """1 where a clip is among the k nearest of its own nearest neighbour. Needs queries = bank.  indices: (N, k)."""
    first = indices[:, 0]
    back = (indices[np.maximum(first, 0)] == np.arange(len(indices))[:, None]).any(axis=1)
    return np.where(first >= 0, back.astype(np.float64), np.nan)


def overlap_at_k(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> Floats:
    """Share of neighbours that two rankings of the same queries have in common, |A and B| / k per query.  (Q, k) each."""
    shared = (first[:, :, None] == second[:, None, :]) & (first >= 0)[:, :, None]
    filled = np.maximum((first >= 0).sum(axis=1), (second >= 0).sum(axis=1))
    shares: Floats = np.divide(shared.any(axis=2).sum(axis=1), filled, out=np.full(len(first), np.nan), where=filled > 0)
    return shares


def pool_sizes(
    query_labels: Array, bank_labels: Array, query_groups: Array | None = None, bank_groups: Array | None = None
) -> npt.NDArray[np.int64]:
    """How many clips of the bank a query could find: its label, of another case.  (Q,)"""
    names, codes = np.unique(np.concatenate([query_labels, bank_labels]), return_inverse=True)
    query, bank = codes[: len(query_labels)], codes[len(query_labels) :]
    totals = np.bincount(bank, minlength=len(names))[query]
    if query_groups is None or bank_groups is None:
        return totals.astype(np.int64)
    groups, where = np.unique(np.concatenate([query_groups, bank_groups]), return_inverse=True)
    both = np.zeros((len(names), len(groups)), np.int64)
    np.add.at(both, (bank, where[len(query_groups) :]), 1)
    return np.asarray(totals - both[query, where[: len(query_groups)]], np.int64)
