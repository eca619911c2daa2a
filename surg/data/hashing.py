"""Perceptual hashes: 64 bits that stay nearly the same when a picture is resized, re-encoded or slightly recoloured.

A video's signature is the hashes of FRAMES frames spread evenly over it. Two videos are near-duplicates when their signatures differ
by at most NEAR_BITS of 64 bits on average. Copies that were cut to another length are not found this way.
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

FRAMES = 8
NEAR_BITS = 6.0
# Pictures with less contrast than this (black, out of focus on white) all look alike; they say nothing.
FLAT = 4.0
# Up to so many videos every pair is compared; above, those that agree in 16 bits of one frame.
ALL_PAIRS = 4096

Hashes = npt.NDArray[np.uint64]


def picture_hash(frame: npt.NDArray[np.uint8]) -> int:
    """64 bits: is each of the lowest 8 x 8 frequencies above their median? 0 for a picture without contrast."""
    grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if grey.std() < FLAT:
        return 0
    low = cv2.dct(grey)[:8, :8].flatten()
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


def signature(frames: npt.NDArray[np.uint8]) -> list[int]:
    """Hashes of frames, as signed numbers, which Arrow takes without being told."""
    return [int(value) for value in np.array([picture_hash(frame) for frame in frames], np.uint64).view(np.int64)]


def signature_times(duration_s: float) -> npt.NDArray[np.float64]:
    """Where a video is looked at: the middles of FRAMES equal parts."""
    return (np.arange(FRAMES) + 0.5) / FRAMES * duration_s


def near_duplicates(signatures: npt.ArrayLike) -> list[tuple[int, int, float]]:
    """(i, j, mean bits of difference) of every pair of near-duplicate rows. signatures: (videos, FRAMES) int64."""
    table: Hashes = np.asarray(signatures, np.int64).view(np.uint64).reshape(-1, FRAMES)
    pairs: Iterable[tuple[int, npt.NDArray[np.int64]]]
    if len(table) <= ALL_PAIRS:
        pairs = [(row, np.arange(row + 1, len(table))) for row in range(len(table) - 1)]
    else:
        pairs = _candidates(table)
    found: list[tuple[int, int, float]] = []
    for row, others in pairs:
        told = (table[row] != 0) & (table[others] != 0)
        count = told.sum(1)
        # Half of the frames must say something.
        bits = np.where(told, np.bitwise_count(table[row] ^ table[others]), 0).sum(1) / np.maximum(count, 1)
        near = np.flatnonzero((count >= FRAMES // 2) & (bits <= NEAR_BITS))
        found.extend((row, int(others[place]), float(bits[place])) for place in near)
    return found


def _candidates(table: Hashes) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Pairs that share 16 neighbouring bits of the hash of one frame: near-duplicates do somewhere, others seldom.

    Row by row: where many look alike (one recorder's title, one kind of endoscope) the pairs are as many as there are, and memory stays small.
    """
    groups: list[list[npt.NDArray[np.int64]]] = [[] for _ in table]
    for frame in range(FRAMES):
        told = np.flatnonzero(table[:, frame])
        for shift in (0, 16, 32, 48):
            band = (table[told, frame] >> np.uint64(shift)) & np.uint64(0xFFFF)
            order = np.argsort(band, kind="stable")
            for group in np.split(told[order], np.flatnonzero(np.diff(band[order])) + 1):
                for row in group.tolist() if len(group) > 1 else ():
                    groups[row].append(group)
    for row, alike in enumerate(groups):
        if alike:
            others = np.unique(np.concatenate(alike))
            yield row, others[others > row]
