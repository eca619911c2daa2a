"""Do a clip's neighbours show the same? Retrieval among clips of other cases, exact, in blocks of bounded memory.

Neighbours of the query's own patient never count, under whatever case; a clip without the label is in the pool, but matches nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.feature_table import Features
from surg.errors import DataError
from surg.eval import plots
from surg.eval.results import Metric, Result, Table
from surg.metrics import retrieval as metric
from surg.metrics.bootstrap import case_sums, how_far_to_trust, interval, ratio_of_sums
from surg.metrics.knn import nearest
from surg.metrics.spread import effective_rank, feature_std, mean_cosine

Array = npt.NDArray[Any]


class RetrievalConfig(Config):
    label: str = "action"
    """Column that says what is relevant."""
    k: int = Field(10, ge=1)
    """Length of the lists."""
    centre: bool = True
    """Take the mean of all features away first: they share a large common part that hides the rest."""
    own_case: bool = False
    """Let neighbours of the same case count, as some papers do: then it measures recognising the patient as well."""
    faiss: bool = True
    """Use FAISS (exact inner products) when it is installed."""


def evaluate(features: Features, config: RetrievalConfig, folder: Path, second: Features | None = None) -> Result:
    """Metrics of one table of features; with a `second` table of the same clips also how far the two rankings agree."""
    features.require(config.label)
    labels = features.column(config.label)
    known = labels != ""
    if known.sum() < 2 or len(set(labels[known].tolist())) < 2:
        raise DataError(
            f"Retrieval needs two clips and two values of `{config.label}`; the table has {len(set(labels[known].tolist()))}."
        )
    vectors = _vectors(features, config)
    groups = None if config.own_case else features.patients
    indices = neighbours(vectors, config.k, groups, use_faiss=config.faiss)
    relevant = metric.relevant_neighbours(indices, labels, labels, known)
    pool = (
        metric.pool_sizes(labels, labels, features.patients, features.patients)
        if groups is not None
        else metric.pool_sizes(labels, labels) - 1
    )
    pool = np.where(known, pool, 0)
    scores = {
        "top1": relevant[:, 0].astype(float),
        f"precision@{config.k}": metric.precision_at_k(relevant),
        f"map@{config.k}": metric.average_precision_at_k(relevant, pool),
        f"ndcg@{config.k}": metric.ndcg_at_k(relevant, pool),
        f"cycle@{config.k}": metric.cycle_at_k(indices),
    }
    if second is not None:
        other = neighbours(_vectors(_aligned(second, features), config), config.k, groups, use_faiss=config.faiss)
        scores[f"overlap@{config.k}"] = metric.overlap_at_k(indices, other)
    result = Result("retrieval", f"Retrieval by {config.label}")
    usable = known & (pool > 0)
    chance = float(np.mean(pool[usable] / _candidates(features, groups)[usable]))
    for name, values in scores.items():
        rows = usable & np.isfinite(values) if not name.startswith(("cycle", "overlap")) else np.isfinite(values)
        sums, counts = case_sums(values[rows], features.patients[rows])
        result.metrics[name] = Metric.of(interval(ratio_of_sums(sums, counts), len(sums), bounds=(0, 1)))
    result.metrics |= {
        "effective_rank": Metric(effective_rank(vectors[:4096])),
        "feature_std": Metric(feature_std(vectors[:4096])),
        "mean_cosine": Metric(mean_cosine(features.vectors()[:4096]), better="lower"),
    }
    cases = len(set(features.patients.tolist()))
    result.headline = (
        f"Nearest clip of another case shows the same {config.label}: {result.metrics['top1']}; chance {chance:.3f}."
    )
    result.protocol = [
        f"{len(features)} windows of {cases} cases; {int(usable.sum())} are queries, {int((~usable).sum())} have no label or nothing to find and only stand in the pool.",
        "Cosine"
        + (" after taking the common mean away" if config.centre else "")
        + (", own case left out." if groups is not None else ", own case included."),
        "nDCG and mAP are over the ideal of the whole pool, not of the list retrieved.",
    ]
    rows = [
        [name, str(value), f"{chance:.3f}" if name in ("top1", f"precision@{config.k}") else "–"]
        for name, value in result.metrics.items()
    ]
    result.tables.append(
        Table(
            "Scores",
            ["metric", "value", "chance"],
            rows,
            "Intervals over cases. Cycle: a clip is among the k nearest of its own nearest neighbour.",
        )
    )
    place, method = plots.project(vectors[:3000])
    result.plots.append(
        plots.embedding(place, labels[:3000].tolist(), folder / "plots", "embedding_retrieval", "Features", method)
    )
    result.evidence = {"features": {key: value for key, value in features.meta.items() if key != "config"}, "search": "exact"}
    trust = how_far_to_trust(cases)
    if trust:
        result.warnings.append(trust)
    return result


def neighbours(vectors: Array, k: int, groups: Array | None, *, use_faiss: bool = True) -> npt.NDArray[np.int64]:
    """The k nearest of every row among the others, best first; own group left out.  (N, k), -1 where there is none."""
    own = groups if groups is not None else np.arange(len(vectors))
    if use_faiss:
        try:
            return _faiss(vectors, k, own)
        except ImportError:
            pass
    return nearest(vectors, vectors, min(k, len(vectors)), query_groups=own, bank_groups=own)[0]


def _faiss(vectors: Array, k: int, groups: Array) -> npt.NDArray[np.int64]:
    import faiss

    from surg.metrics.knn import normalise

    unit = normalise(vectors)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    largest = int(np.unique(groups, return_counts=True)[1].max())
    found = index.search(unit, min(k + largest, len(unit)))[1]
    return _without_own(found, groups, k)


def _without_own(found: npt.NDArray[np.int64], groups: Array, k: int) -> npt.NDArray[np.int64]:
    out = np.full((len(found), min(k, len(found))), -1, np.int64)
    for row, candidates in enumerate(found):
        kept = candidates[groups[candidates] != groups[row]][: out.shape[1]]
        out[row, : len(kept)] = kept
    return out


def _candidates(features: Features, groups: Array | None) -> npt.NDArray[np.int64]:
    total = len(features)
    if groups is None:
        return np.full(total, total - 1)
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(np.maximum(total - counts[index], 1), np.int64)


def _vectors(features: Features, config: RetrievalConfig) -> Array:
    vectors = features.vectors()
    return vectors - vectors.mean(axis=0) if config.centre else vectors


def _aligned(second: Features, first: Features) -> Features:
    place = {(clip, end): row for row, (clip, end) in enumerate(zip(second.clips.tolist(), second.end_s.tolist()))}
    wanted: Sequence[tuple[str, float]] = list(zip(first.clips.tolist(), first.end_s.tolist()))
    if any(key not in place for key in wanted):
        raise DataError("The second table lacks clips of the first; make both from the same manifest with the same windows.")
    return second.pick(np.array([place[key] for key in wanted]))
