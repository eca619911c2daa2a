"""What happens in a tissue clip: four factors over time, of which the action moves exactly one.

Pictures are the same in all eight actions, only their order differs. The factors that stand still stand where a moving one might be,
so a single frame cannot tell which of them moves, let alone which way; played backwards, a clip of one action is one of its partner.
All actions survive a mirrored picture, so flips may be used in training.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

# action: (factor that moves, direction). Partners in time stand beside each other.
ACTIONS: dict[str, tuple[str, int]] = {
    "approach": ("depth", 1),
    "withdraw": ("depth", -1),
    "open": ("jaw", 1),
    "close": ("jaw", -1),
    "retract": ("pull", 1),
    "release": ("pull", -1),
    "spread": ("swing", 1),
    "gather": ("swing", -1),
}
FACTORS = ("depth", "jaw", "pull", "swing")
# Share of a factor's range that an action runs through, and how far a still factor may wander (a share of that range).
TRAVEL = 0.72
WANDER = 0.10


@dataclass(frozen=True)
class Script:
    """Factors in 0..1 per frame, (T,) each. depth: working tool along its shaft; jaw: its opening; swing: its angle away from the
    grasper; pull: how far the grasper drags the tissue it holds."""

    action: str
    depth: Doubles
    jaw: Doubles
    pull: Doubles
    swing: Doubles


def write_script(rng: np.random.Generator, action: str, frames: int) -> Script:
    moving, direction = ACTIONS[action]
    tracks = {}
    for factor in FACTORS:
        path = _stroke(rng, frames)
        path = path if rng.random() < 0.5 else path[::-1]
        if factor == moving:
            rising = path[-1] > path[0]
            tracks[factor] = path if rising == (direction > 0) else path[::-1]
        else:
            tracks[factor] = np.clip(path[rng.integers(frames)] + WANDER * _wander(rng, frames), 0, 1)
    return Script(action, **tracks)


def _stroke(rng: np.random.Generator, frames: int) -> Doubles:
    """One monotone movement with its own start, pace and pauses."""
    start = rng.uniform(0, 1 - TRAVEL)
    begin, end = rng.uniform(0, 0.2), rng.uniform(0.8, 1)
    time = np.clip((np.linspace(0, 1, frames) - begin) / (end - begin), 0, 1)
    time = time ** np.exp(rng.normal(0, 0.35))
    ease = rng.uniform(0, 1)
    return np.asarray(start + TRAVEL * ((1 - ease) * time + ease * time * time * (3 - 2 * time)))


def _wander(rng: np.random.Generator, frames: int) -> Doubles:
    """A slow drift within -1..1, as likely forth as back."""
    time = np.linspace(0, 1, frames)
    return np.sin(2 * np.pi * (rng.uniform(0.3, 1.0) * time + rng.random())) * rng.uniform(0, 1)
