"""How people of the simulated room move: they walk along paths, work with their hands and reach for things."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from surg.data.synth.room_body import Pose

Point = tuple[float, float, float]
WALKING = 0.9
"""Metres a second."""


@dataclass(frozen=True)
class Reach:
    """A hand goes to `point` from `start` to `full`, stays until `end` and is back at `back` (seconds)."""

    start: float
    full: float
    end: float
    back: float
    right: bool
    point: Point
    lean: float = 0.15
    elbow: float = 0.0

    def amount(self, time: float) -> float:
        going = _smooth((time - self.start) / (self.full - self.start))
        return going * (1 - _smooth((time - self.end) / (self.back - self.end)))


@dataclass
class Walk:
    """Where somebody stands and looks over time: corners with their times, joined by smooth steps."""

    times: list[float]
    places: list[tuple[float, float]]
    yaws: list[float]

    @classmethod
    def standing(cls, x: float, y: float, yaw: float) -> "Walk":
        return cls([0.0], [(x, y)], [yaw])

    def wait_until(self, time: float) -> None:
        if time > self.times[-1]:
            self._add(time, self.places[-1], self.yaws[-1])

    def turn(self, yaw: float, seconds: float = 0.6) -> None:
        self._add(self.times[-1] + seconds, self.places[-1], yaw)

    def go(self, x: float, y: float, speed: float = WALKING, yaw: float | None = None) -> None:
        """Walk there: first a turn towards it, then the way. `yaw` keeps another direction, for steps aside and back."""
        here = self.places[-1]
        length = float(np.hypot(x - here[0], y - here[1]))
        if length < 1e-3:
            return
        heading = facing(here, (x, y)) if yaw is None else yaw
        self.turn(heading, 0.35)
        self._add(self.times[-1] + length / speed, (x, y), heading)

    def at(self, time: float) -> tuple[float, float, float, float]:
        """x, y, yaw and speed."""
        after = bisect_right(self.times, time)
        if after == 0 or after == len(self.times):
            index = min(after, len(self.times) - 1)
            return (*self.places[index], self.yaws[index], 0.0)
        span = self.times[after] - self.times[after - 1]
        share = (time - self.times[after - 1]) / span
        # Turns ease in and out; walks start and stop within a tenth of their time.
        (x0, y0), (x1, y1) = self.places[after - 1], self.places[after]
        way = _smooth(share) * 0.3 + share * 0.7
        speed = float(np.hypot(x1 - x0, y1 - y0)) / span
        yaw0, yaw1 = self.yaws[after - 1], self.yaws[after]
        turned = (yaw1 - yaw0 + np.pi) % (2 * np.pi) - np.pi
        return x0 + (x1 - x0) * way, y0 + (y1 - y0) * way, yaw0 + turned * _smooth(share), speed

    def _add(self, time: float, place: tuple[float, float], yaw: float) -> None:
        self.times.append(time)
        self.places.append(place)
        self.yaws.append(yaw)


@dataclass
class Actor:
    """One person's motion through a clip or take."""

    walk: Walk
    reaches: list[Reach] = field(default_factory=list)
    hands: Callable[[float], tuple[Point | None, Point | None]] | None = None
    """Where left and right hand work when they do not reach for something."""
    lean: float = 0.05
    phase: float = 0.0

    def pose(self, time: float) -> Pose:
        x, y, yaw, speed = self.walk.at(time)
        stride = 0.42 * min(1.0, speed / 0.5) * np.sin(2 * np.pi * 0.9 * time + self.phase)
        left, right = self.hands(time) if self.hands is not None else (None, None)
        lean, elbow = self.lean, 0.0
        for reach in self.reaches:
            amount = reach.amount(time)
            if amount <= 0.0:
                continue
            rest = right if reach.right else left
            rest = rest if rest is not None else _hanging(x, y, yaw, reach.right, stride)
            wobble = 0.012 * np.sin(2 * np.pi * 1.1 * time + np.array([0.0, 1.3, 2.1]) + self.phase)
            place = np.array(rest) + (np.array(reach.point) + wobble - np.array(rest)) * amount
            place[2] += 0.10 * amount * (1 - amount)
            target = (float(place[0]), float(place[1]), float(place[2]))
            left, right = (left, target) if reach.right else (target, right)
            lean, elbow = lean + (reach.lean - lean) * amount, max(elbow, reach.elbow * amount)
        look = 0.25 * np.sin(0.7 * time + self.phase)
        return Pose(x, y, yaw, float(lean), float(stride), left, right, float(look), float(elbow))


def facing(here: tuple[float, float], there: tuple[float, float]) -> float:
    """The yaw that looks from one place to another."""
    return float(np.arctan2(there[0] - here[0], here[1] - there[1]))


def working_hands(rng: np.random.Generator, centre: Point, apart: float) -> Callable[[float], tuple[Point, Point]]:
    """Two hands busy around a place."""
    pace, phase = rng.uniform(0.25, 0.7, (2, 3)), rng.uniform(0, 2 * np.pi, (2, 3))
    sweep = rng.uniform(0.02, 0.05, (2, 3)) * [1, 1, 0.5]
    middle = np.array([np.add(centre, (apart, 0, 0)), np.subtract(centre, (apart, 0, 0))])

    def hands(time: float) -> tuple[Point, Point]:
        places = middle + sweep * np.sin(2 * np.pi * pace * time + phase)
        (lx, ly, lz), (rx, ry, rz) = places.tolist()
        return (lx, ly, lz), (rx, ry, rz)

    return hands


def _hanging(x: float, y: float, yaw: float, right: bool, stride: float) -> Point:
    sign = -1.0 if right else 1.0
    ahead = 0.12 + 0.3 * stride * sign
    c, s = float(np.cos(yaw)), float(np.sin(yaw))
    return x + 0.24 * sign * c + ahead * s, y + 0.24 * sign * s - ahead * c, 0.86


def _smooth(value: float) -> float:
    value = min(1.0, max(0.0, value))
    return value * value * (3 - 2 * value)
