"""Made-up masks that move along known paths."""

from collections.abc import Callable, Mapping

import numpy as np

from surg.data.segment.masks import Segmentation

Path = Callable[[int], tuple[float, float] | None]


def scene(
    paths: Mapping[int, Path], frames: int = 16, shape: tuple[int, int] = (120, 160), side: int = 24, linked: bool = True
) -> Segmentation:
    """Squares of `side` pixels whose centres follow `paths`; None is a frame that does not show it. Unlinked: ids anew on every frame."""
    ids = np.zeros((frames, *shape), np.uint16)
    names: dict[int, str] = {}
    for index in range(frames):
        for number, path in paths.items():
            centre = path(index)
            if centre is None:
                continue
            x, y = round(centre[0]), round(centre[1])
            own = number if linked else index * 10 + number
            ids[index, max(0, y - side // 2) : max(0, y + side // 2), max(0, x - side // 2) : max(0, x + side // 2)] = own
            names[own] = "tool"
    return Segmentation(ids, np.arange(frames) / 8.0, names, dict.fromkeys(names, 0.9), linked)


def rests(x: float, y: float) -> Path:
    return lambda index: (x, y)


def moves(x: float, y: float, dx: float, dy: float, since: int = 0) -> Path:
    return lambda index: (x + dx * max(0, index - since), y + dy * max(0, index - since))
