"""Are the segments right, not only the frames? Edit score and segmental F1 as in MS-TCN, and the variant of SAR-RARP50.

Labels are integers per frame; a segment is a longest run of one label. `background` labels form no segments.
"""

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Segment:
    label: int
    start: int
    end: int
    """One past the last frame."""


def segments(labels: npt.ArrayLike, background: Collection[int] = ()) -> list[Segment]:
    values = np.asarray(labels)
    if not len(values):
        return []
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values)]])
    return [Segment(int(values[a]), int(a), int(b)) for a, b in itertools.pairwise(cuts) if int(values[a]) not in background]


def edit_score(truth: npt.ArrayLike, predicted: npt.ArrayLike, background: Collection[int] = ()) -> float:
    """100 x (1 - Levenshtein distance of the segment labels / the longer list): order, not timing (Lea et al. 2016)."""
    a = [segment.label for segment in segments(truth, background)]
    b = [segment.label for segment in segments(predicted, background)]
    if not a and not b:
        return 100.0
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return 100.0 * (1 - row[-1] / max(len(a), len(b)))


def segment_counts(
    truth: npt.ArrayLike, predicted: npt.ArrayLike, overlap: float, background: Collection[int] = ()
) -> tuple[int, int, int]:
    """(hits, false, missed) at an IoU of at least `overlap`.

    Each predicted segment is held against the true segment of its label with the best IoU, which must be unused. Sum the counts
    over videos, then `f1_of_counts`: that is how F1@k is published.
    """
    true, guessed = segments(truth, background), segments(predicted, background)
    used = [False] * len(true)
    hits = 0
    for guess in guessed:
        ious = [_iou(guess, segment) if segment.label == guess.label else -1.0 for segment in true]
        best = int(np.argmax(ious)) if ious else -1
        if best >= 0 and ious[best] >= overlap and not used[best]:
            used[best] = True
            hits += 1
    return hits, len(guessed) - hits, len(true) - hits


def f1_of_counts(hits: int, false: int, missed: int) -> float:
    """In percent, like its papers."""
    return 200.0 * hits / (2 * hits + false + missed) if hits + false + missed else 100.0


def segmental_f1(
    truths: list[npt.NDArray[np.int64]],
    predictions: list[npt.NDArray[np.int64]],
    overlaps: tuple[float, ...] = (0.10, 0.25, 0.50),
    background: Collection[int] = (),
) -> dict[str, float]:
    """F1@{10,25,50} in percent, counts pooled over videos."""
    result = {}
    for overlap in overlaps:
        counts = np.array([segment_counts(t, p, overlap, background) for t, p in zip(truths, predictions)]).reshape(-1, 3)
        result[f"f1@{round(100 * overlap)}"] = f1_of_counts(*(int(total) for total in counts.sum(axis=0)))
    return result


def _iou(a: Segment, b: Segment) -> float:
    return max(0, min(a.end, b.end) - max(a.start, b.start)) / (max(a.end, b.end) - min(a.start, b.start))
