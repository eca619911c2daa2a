"""The empty room behind a clip: what each part of the picture shows when nobody stands in front of it.

A median is wrong wherever somebody stands for more than half of the clip, which in eight seconds is the rule. So the picture is cut into
blocks; each block collects what it has shown (its candidates), and the one that continues the settled blocks around it best is taken.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.segment.masks import Frames, Mask

Block = npt.NDArray[np.float32]
BLOCK = 8
SAME = 7.0
"""Mean difference in grey levels up to which two moments of a block show the same thing: noise and soft shadows."""


def backdrop(frames: Frames, most: int = 48) -> Frames:
    """The still picture behind everything that moves.  frames: (T, H, W, 3) from a resting camera."""
    shown = frames[:: max(1, -(-len(frames) // most))]
    height, width = frames.shape[1:3]
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    padded = np.pad(shown, ((0, 0), (0, rows * BLOCK - height), (0, columns * BLOCK - width), (0, 0)), mode="edge")
    tiles = padded.reshape(len(shown), rows, BLOCK, columns, BLOCK, 3).transpose(1, 3, 0, 2, 4, 5)
    # A block whose every pixel keeps to its median is settled; a slow test for the few others only.
    middle = np.median(tiles, axis=2).astype(np.float32)
    apart = np.abs(tiles.astype(np.float32) - middle[:, :, None]).mean(axis=(3, 4, 5)).max(axis=2)
    picture: dict[tuple[int, int], Block] = {}
    open_blocks: dict[tuple[int, int], list[Block]] = {}
    for place in np.ndindex(rows, columns):
        found = [middle[place]] if apart[place] <= SAME else _candidates(tiles[place])
        if len(found) == 1:
            picture[place] = found[0]
        else:
            open_blocks[place] = found
    _settle(picture, open_blocks)
    out = np.stack([np.concatenate([picture[row, column] for column in range(columns)], axis=1) for row in range(rows)])
    whole: Frames = np.clip(np.round(out.reshape(rows * BLOCK, columns * BLOCK, 3)), 0, 255).astype(np.uint8)
    return whole[:height, :width]


def without_ghosts(still: Frames, frames: Frames, parts: Sequence[Sequence[Mask]], ratio: float) -> Frames | None:
    """The background with those taken out who stood still for so long that they got into it; None when there are none.

    parts[t] are the masks of what differs from `still` on frames[t]. Around a thing that is there the frame has the sharper edges, around
    one that has left the background has them.
    """
    of_still = _sharpness(still)
    ghosts: list[tuple[float, int, Mask]] = []
    for index, (frame, found) in enumerate(zip(frames, parts)):
        of_frame = _sharpness(frame) if found else of_still
        for part in found:
            outline = cv2.morphologyEx(part.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
            sharper = (float(of_still[outline].mean()) + 1.0) / (float(of_frame[outline].mean()) + 1.0)
            if sharper > ratio:
                ghosts.append((sharper, index, part))
    if not ghosts:
        return None
    bare, done = still.copy(), np.zeros(still.shape[:2], bool)
    # The clearest first: another frame may show the same ghost with somebody in front of it.
    for _, index, part in sorted(ghosts, key=lambda ghost: (-ghost[0], ghost[1])):
        wide = (cv2.dilate(part.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~done
        bare[wide] = frames[index][wide]
        done |= wide
    return bare


def _sharpness(picture: Frames) -> npt.NDArray[np.float32]:
    """Strength of the edges in grey levels a pixel: (H, W)."""
    grey = cv2.GaussianBlur(picture, (0, 0), 1.0).max(axis=2)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axes, ksize=3) for axes in ((1, 0), (0, 1)))
    return np.asarray(cv2.magnitude(across, down) / 8, np.float32)


def _candidates(moments: Frames) -> list[Block]:
    """What a block has shown, longest first.  moments: (T, BLOCK, BLOCK, 3)."""
    groups: list[list[Block]] = []
    for moment in moments.astype(np.float32):
        near = [float(np.abs(group[0] - moment).mean()) for group in groups]
        if near and min(near) <= SAME:
            groups[int(np.argmin(near))].append(moment)
        else:
            groups.append([moment])
    # What is seen once is on its way through, unless nothing is seen twice.
    kept = [group for group in groups if len(group) > 1] or groups
    return [np.median(group, axis=0) for group in sorted(kept, key=len, reverse=True)]


def _settle(picture: dict[tuple[int, int], Block], waiting: dict[tuple[int, int], list[Block]]) -> None:
    """Settle block after block, the surest first: the one whose best candidate fits so much better than its second."""
    if not picture and waiting:
        place = min(waiting, key=lambda key: len(waiting[key]))
        picture[place] = waiting.pop(place)[0]
    scores = {place: _fits(place, found, picture) for place, found in waiting.items()}
    while waiting:
        place = max(waiting, key=lambda key: _sureness(scores[key]))
        fits, _ = scores[place]
        picture[place] = waiting.pop(place)[int(np.argmin(fits))]
        for row, column in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            beside = (place[0] + row, place[1] + column)
            if beside in waiting:
                scores[beside] = _fits(beside, waiting[beside], picture)


def _fits(place: tuple[int, int], found: list[Block], picture: dict[tuple[int, int], Block]) -> tuple[list[float], int]:
    """How badly each candidate continues the settled blocks around it, and how many of those there are."""
    row, column = place
    sides = []
    if (row - 1, column) in picture:
        sides.append((picture[row - 1, column][-1], slice(0, 1), slice(None)))
    if (row + 1, column) in picture:
        sides.append((picture[row + 1, column][0], slice(-1, None), slice(None)))
    if (row, column - 1) in picture:
        sides.append((picture[row, column - 1][:, -1], slice(None), slice(0, 1)))
    if (row, column + 1) in picture:
        sides.append((picture[row, column + 1][:, 0], slice(None), slice(-1, None)))
    fits = []
    for candidate in found:
        seams = [float(np.abs(candidate[ys, xs].reshape(BLOCK, 3) - edge).mean()) for edge, ys, xs in sides]
        fits.append(float(np.mean(seams)) if seams else 0.0)
    return fits, len(sides)


def _sureness(score: tuple[list[float], int]) -> tuple[float, int]:
    fits, sides = score
    if not sides:
        return -1.0, 0
    best, second = sorted(fits)[:2] if len(fits) > 1 else (fits[0], 255.0)
    return (second - best) * sides / (best + 4.0), sides
