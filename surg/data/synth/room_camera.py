"""Cameras of a simulated room: matrices, projection, and the viewpoints of each appearance family."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
NEAR, FAR = 0.1, 14.0

# (eye, target, vertical field of view): wall and ceiling mounts.
VIEWS: dict[str, tuple[tuple[tuple[float, float, float], tuple[float, float, float], float], ...]] = {
    "a": (
        ((-2.0, -2.1, 2.55), (0.35, 0.05, 0.92), 48.0),
        ((2.5, -2.1, 2.35), (0.28, 0.05, 0.95), 45.0),
        ((0.35, -1.0, 3.0), (0.28, 0.0, 0.85), 52.0),
        ((2.4, 2.2, 2.5), (0.30, -0.05, 0.95), 45.0),
    ),
    "b": (
        ((-1.2, 2.4, 2.8), (0.35, 0.0, 0.9), 50.0),
        ((0.9, 1.1, 3.0), (0.3, 0.0, 0.85), 55.0),
        ((3.0, 0.2, 2.2), (0.2, 0.0, 0.9), 42.0),
    ),
}


@dataclass(frozen=True)
class Camera:
    eye: tuple[float, float, float]
    matrix: Doubles
    """(4, 4): from the room to clip space."""
    name: str = ""

    @classmethod
    def looking(cls, eye: Any, target: Any, field_of_view: float, name: str = "") -> "Camera":
        focal = 1 / np.tan(np.radians(field_of_view) / 2)
        lens = np.array(
            [
                [focal, 0, 0, 0],
                [0, focal, 0, 0],
                [0, 0, (FAR + NEAR) / (NEAR - FAR), 2 * FAR * NEAR / (NEAR - FAR)],
                [0, 0, -1, 0],
            ]
        )
        x, y, z = (float(value) for value in eye)
        return cls((x, y, z), lens @ view_matrix(eye, target), name)

    def project(self, points: Any) -> Doubles:
        """Points (..., 3) of the room in 0..1 of the picture, x to the right and y down.  Returns (..., 2)."""
        points = np.asarray(points, float)
        seen = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        return np.asarray(np.stack([seen[..., 0] / seen[..., 3] * 0.5 + 0.5, 0.5 - seen[..., 1] / seen[..., 3] * 0.5], -1))


def draw_cameras(rng: np.random.Generator, family: str) -> list[Camera]:
    """The cameras of one room, each a hand's breadth from its mount."""
    cameras = []
    for index, (eye, target, fov) in enumerate(VIEWS[family]):
        moved, aimed = np.add(eye, rng.normal(0, 0.10, 3)), np.add(target, rng.normal(0, 0.05, 3))
        cameras.append(Camera.looking(moved, aimed, fov * rng.uniform(0.93, 1.07), f"{family}{index}"))
    return cameras


def view_matrix(eye: Any, target: Any, up: Any = (0.0, 0.0, 1.0)) -> Doubles:
    eye, forward = np.asarray(eye, float), np.asarray(target, float) - np.asarray(eye, float)
    forward = forward / np.linalg.norm(forward)
    side = np.cross(forward, np.asarray(up, float))
    side = side / np.linalg.norm(side)
    matrix = np.eye(4)
    matrix[0, :3], matrix[1, :3], matrix[2, :3] = side, np.cross(side, forward), -forward
    matrix[:3, 3] = -matrix[:3, :3] @ eye
    return matrix


def light_matrix(direction: Any) -> Doubles:
    """Orthographic view along the light that covers table, tray and staff."""
    centre = np.array([0.15, 0.0, 0.9])
    reach, depth = 2.3, 8.0
    scale = np.diag([1 / reach, 1 / reach, -2 / depth, 1.0])
    scale[2, 3] = -1.0
    return scale @ view_matrix(centre + np.asarray(direction, float) * 4, centre, (0, 1, 0))
