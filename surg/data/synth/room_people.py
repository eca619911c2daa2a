"""People of a simulated room: a body with gown, gloves, cap and mask (sterile), or scrubs and bare arms (not)."""

from typing import Any

import numpy as np
import numpy.typing as npt

from surg.data.synth.room_body import Body, Pose
from surg.data.synth.room_mesh import CLOTH, PERSON, Floats, Mesh, Surface, merged
from surg.data.synth.room_stage import LOOKS, pick

SKIRT_SIDES, SKIRT_RINGS = 26, 7


class Person:
    """`vertices` of the mesh: first the body's, then (sterile people) the gown's skirt."""

    def __init__(self, rng: np.random.Generator, place: int, family: str, *, sterile: bool) -> None:
        look = LOOKS[family]
        self.sterile = sterile
        self.body = Body(int(rng.integers(12)))
        rig = self.body.rig
        bone = rig.bones[:, 0]
        part = np.array([name.split(".")[0] for name in rig.names])[bone]
        self.side = np.array([name[-1] if "." in name else "" for name in rig.names])[bone]
        self.hand, self.forearm, self.head = part == "hand", part == "forearm", part == "head"
        rest = self.body.rest
        self._gown = pick(rng, look.gowns if sterile else look.scrubs)
        skin = np.array([0.56, 0.31, 0.20]) * rng.uniform(0.35, 1.25)
        self.mesh = Mesh.of(rest, rig.faces, self._gown, CLOTH, PERSON + place, self.body.normals)
        self.puff = np.full(len(rest), 0.016, np.float32)
        self._dress(rng, look, part, skin)
        top = float(self.body.heads[rig.bone("chest"), 2])
        # The back of the trunk at table height: never sterile, gown or not.
        self.back = np.isin(part, ("chest", "spine", "pelvis")) & (rest[:, 1] > self.body.heads[rig.bone("spine"), 1] + 0.06)
        self._skirt = (
            _Skirt(rng, top, self._gown, PERSON + place, float(self.body.heads[rig.bone("spine"), 1])) if sterile else None
        )
        if self._skirt is not None:
            self.mesh = merged([self.mesh, self._skirt.mesh])

    @property
    def bare(self) -> npt.NDArray[np.bool_]:
        """Vertices that may never be in a sterile zone: hands and forearms of people who are not scrubbed in."""
        return self.hand | self.forearm if not self.sterile else np.zeros(len(self.hand), bool)

    def pose(self, pose: Pose) -> Floats:
        """Move the mesh. Returns the body's vertices (V, 3), clothes included, without the skirt."""
        vertices, normals = self.body.pose(pose)
        vertices = vertices + normals * self.puff[:, None]
        count = len(vertices)
        self.mesh.vertices[:count], self.mesh.normals[:count] = vertices, normals
        if self._skirt is not None:
            self.mesh.vertices[count:], self.mesh.normals[count:] = self._skirt.placed(pose)
        return vertices

    def _dress(self, rng: np.random.Generator, look: Any, part: npt.NDArray[Any], skin: Any) -> None:
        rest, mesh, head = self.body.rest, self.mesh, self.head
        skin_surface = Surface(0.55, 0.0, 0.04, 12.0)
        bare = self.hand | head | (self.forearm if not self.sterile else np.zeros_like(head))
        mesh.paint(bare, skin, skin_surface)
        self.puff[bare] = 0.0
        if self.sterile:
            mesh.paint(self.hand, pick(rng, look.gloves), Surface(0.45))
            self.puff[self.hand] = 0.002
        crown = rest[:, 2].max()
        face_front = float(np.median(rest[head, 1])) - 0.02
        cap = head & (rest[:, 2] > crown - 0.105)
        mesh.paint(cap, np.clip(self._gown * 0.9 + 0.05, 0, 1), CLOTH)
        self.puff[cap] = 0.014
        mask = head & (rest[:, 1] < face_front) & (rest[:, 2] < crown - 0.125) & (rest[:, 2] > crown - 0.235)
        mesh.paint(mask, (0.42, 0.62, 0.70), CLOTH)
        self.puff[mask] = 0.010
        mesh.paint(part == "foot", (0.12, 0.12, 0.14), Surface(0.6))
        self.puff[part == "foot"] = 0.004


class _Skirt:
    """The lower half of a surgical gown: a cone in folds around the legs."""

    def __init__(self, rng: np.random.Generator, top: float, colour: Any, instance: int, behind: float) -> None:
        down, around = np.meshgrid(
            np.linspace(0, 1, SKIRT_RINGS), np.linspace(0, 2 * np.pi, SKIRT_SIDES, endpoint=False), indexing="ij"
        )
        phases = rng.uniform(0, 2 * np.pi, 2)
        folds = 1 + down * (0.05 * np.sin(7 * around + phases[0] + 1.5 * down) + 0.03 * np.sin(12 * around + phases[1]))
        radius = (0.165 + 0.115 * down) * folds
        z = top - 0.02 - (top - 0.36) * down
        points = np.stack([radius * np.cos(around) * 1.08, radius * np.sin(around) * 0.86 + behind * 0.6, z], -1).reshape(-1, 3)
        ring, spoke = np.meshgrid(np.arange(SKIRT_RINGS - 1), np.arange(SKIRT_SIDES), indexing="ij")
        a, b = ring * SKIRT_SIDES + spoke, ring * SKIRT_SIDES + (spoke + 1) % SKIRT_SIDES
        faces = np.concatenate([np.stack([a, a + SKIRT_SIDES, b], -1), np.stack([b, a + SKIRT_SIDES, b + SKIRT_SIDES], -1)])
        self.mesh = Mesh.of(points, faces.reshape(-1, 3), colour, CLOTH, instance)

    def placed(self, pose: Pose) -> tuple[Floats, Floats]:
        c, s = np.cos(pose.yaw), np.sin(pose.yaw)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
        vertices = self.mesh.vertices @ turn.T
        # Hips give way a little when the trunk bends.
        place = [pose.x + 0.08 * pose.lean * -np.sin(pose.yaw), pose.y + 0.08 * pose.lean * c, 0]
        vertices = vertices + np.array(place, np.float32)
        return vertices, self.mesh.normals @ turn.T
