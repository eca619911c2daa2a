"""Bodies: twelve baked people on fifteen bones, posed by where they stand, look and reach.

The arrays of `rig.npz` come from making/bake_rig.py (body assets CC0). A body faces -y at yaw 0, its soles at z = 0.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from surg.data.synth.room_mesh import Faces, Floats, vertex_normals

Doubles = npt.NDArray[np.float64]
RIG = Path(__file__).parent / "rig.npz"


@dataclass(frozen=True)
class Pose:
    x: float
    y: float
    yaw: float = 0.0
    lean: float = 0.04
    """Forward bend of the trunk, radians."""
    stride: float = 0.0
    """Where in a step: angle of the left thigh, radians."""
    left: tuple[float, float, float] | None = None
    """Where the wrist goes, in the room; None lets the arm hang."""
    right: tuple[float, float, float] | None = None
    look: float = 0.0
    """Turn of the head, radians."""
    elbow: float = 0.0
    """0..1: elbows point outwards instead of down."""


@dataclass(frozen=True)
class Rig:
    rest: Floats
    """(bodies, V, 3)"""
    heads: Floats
    """(bodies, bones, 3): where each bone starts."""
    faces: Faces
    bones: npt.NDArray[np.int64]
    """(V, 3): the bones each vertex follows."""
    weights: Floats
    names: tuple[str, ...]
    parents: tuple[int, ...]

    def bone(self, name: str) -> int:
        return self.names.index(name)

    @property
    def bodies(self) -> int:
        return len(self.rest)


@cache
def load_rig() -> Rig:
    with np.load(RIG) as arrays:
        return Rig(
            arrays["rest"].astype(np.float32),
            arrays["heads"],
            arrays["faces"].astype(np.int32),
            arrays["bones"].astype(np.int64),
            arrays["weights"].astype(np.float32),
            tuple(str(name) for name in arrays["names"]),
            tuple(int(parent) for parent in arrays["parents"]),
        )


class Body:
    """One of the baked people."""

    def __init__(self, number: int) -> None:
        self.rig = load_rig()
        self.rest = self.rig.rest[number]
        self.heads = self.rig.heads[number].astype(np.float64)
        self.normals = vertex_normals(self.rest, self.rig.faces)

    def bones(self, pose: Pose) -> tuple[Doubles, Doubles]:
        """Turn (bones, 3, 3) and start (bones, 3) of every bone in the room."""
        names = self.rig.names
        turns = {name: np.eye(3) for name in names}
        lean, yaw = _about_x(pose.lean), _about_z(pose.yaw)
        turns["spine"], turns["chest"] = _about_x(pose.lean * 0.6), lean
        turns["head"] = lean @ _about_z(pose.look) @ _about_x(pose.lean * 0.3)
        for side, sign in (("L", 1.0), ("R", -1.0)):
            thigh = pose.stride * sign
            turns[f"thigh.{side}"] = _about_x(-thigh)
            turns[f"shin.{side}"] = _about_x(-thigh + abs(pose.stride) * 0.5 + max(0.0, -thigh) * 0.9)
        starts = self._chain(turns)
        here = np.array([pose.x, pose.y, 0.0])
        for side, sign, target in (("L", 1.0, pose.left), ("R", -1.0, pose.right)):
            shoulder = starts[self.rig.bone(f"upperarm.{side}")]
            if target is None:
                goal = shoulder + lean @ np.array([0.07 * sign, -0.10 - 0.35 * pose.stride * sign, -0.50])
            else:
                goal = yaw.T @ (np.asarray(target) - here)
            turns[f"upperarm.{side}"], turns[f"forearm.{side}"] = self._reach(side, sign, shoulder, goal, pose.elbow)
            turns[f"hand.{side}"] = turns[f"forearm.{side}"]
        starts = self._chain(turns)
        return np.stack([yaw @ turns[name] for name in names]), starts @ yaw.T + here

    def pose(self, pose: Pose) -> tuple[Floats, Floats]:
        """Vertices and normals (V, 3) in the room."""
        turns, starts = self.bones(pose)
        shift = starts - np.einsum("bij,bj->bi", turns, self.heads)
        moves = np.concatenate([turns, shift[:, :, None]], 2).astype(np.float32).reshape(-1, 12)
        blended = np.einsum("vk,vkm->vm", self.rig.weights, moves[self.rig.bones]).reshape(-1, 3, 4)
        vertices = np.einsum("vij,vj->vi", blended[:, :, :3], self.rest) + blended[:, :, 3]
        return vertices, np.einsum("vij,vj->vi", blended[:, :, :3], self.normals)

    def _chain(self, turns: dict[str, Doubles]) -> Doubles:
        starts: Doubles = self.heads.copy()
        for index, parent in enumerate(self.rig.parents):
            if parent >= 0:
                starts[index] = starts[parent] + turns[self.rig.names[parent]] @ (self.heads[index] - self.heads[parent])
        return starts

    def _reach(self, side: str, sign: float, shoulder: Doubles, goal: Doubles, elbow: float) -> tuple[Doubles, Doubles]:
        """Two-bone inverse kinematics: turns of upper arm and forearm that bring the wrist to `goal`, or as near as it gets."""
        joints = [self.heads[self.rig.bone(f"{name}.{side}")] for name in ("upperarm", "forearm", "hand")]
        upper, lower = joints[1] - joints[0], joints[2] - joints[1]
        a, b = float(np.linalg.norm(upper)), float(np.linalg.norm(lower))
        way = goal - shoulder
        distance = float(np.clip(np.linalg.norm(way), abs(a - b) + 0.02, (a + b) * 0.995))
        way = way / np.linalg.norm(way)
        down, out = np.array([0.5 * sign, 0.35, -1.0]), np.array([1.6 * sign, 0.5, 0.1])
        pole = (1 - elbow) * down + elbow * out
        pole = pole - pole @ way * way
        pole = pole / np.linalg.norm(pole)
        cosine = float(np.clip((a * a + distance * distance - b * b) / (2 * a * distance), -1, 1))
        bent = a * (cosine * way + np.sqrt(1 - cosine * cosine) * pole)
        return _between(upper, bent), _between(lower, distance * way - bent)


def _about_x(angle: float) -> Doubles:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _about_z(angle: float) -> Doubles:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _between(start: Doubles, end: Doubles) -> Doubles:
    """The smallest turn that takes one direction to another."""
    u, v = start / np.linalg.norm(start), end / np.linalg.norm(end)
    x, y, z = np.cross(u, v)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1 + u @ v + 1e-9))
