"""Triangle meshes of the room simulator. Metres, z up."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Faces = npt.NDArray[np.int32]
Vector = tuple[float, float, float]

# Instance numbers in the masks. People are PERSON + their place in the cast.
ROOM, TABLE, TRAY, INSTRUMENTS, ITEM, PERSON = 1, 2, 3, 4, 5, 10


@dataclass(frozen=True)
class Surface:
    """How a surface takes light: 0..1 rough and metallic, `bump` and `grain` of its weave (strength, repeats a metre)."""

    rough: float = 0.85
    metal: float = 0.0
    bump: float = 0.0
    grain: float = 4.0


CLOTH = Surface(0.9, 0.0, 0.35, 5.0)
METAL = Surface(0.25, 1.0)
PAINT = Surface(0.8)


@dataclass
class Mesh:
    """vertices, normals, colours (V, 3), surfaces (V, 4), faces (F, 3)."""

    vertices: Floats
    normals: Floats
    colours: Floats
    surfaces: Floats
    faces: Faces
    instance: int

    @classmethod
    def of(cls, vertices: Any, faces: Any, colour: Any, surface: Surface, instance: int, normals: Any = None) -> "Mesh":
        vertices = np.array(vertices, np.float32)
        faces = np.asarray(faces, np.int32)
        return cls(
            vertices,
            vertex_normals(vertices, faces) if normals is None else np.array(normals, np.float32),
            np.broadcast_to(np.asarray(colour, np.float32), vertices.shape).copy(),
            np.tile(np.array([surface.rough, surface.metal, surface.bump, surface.grain], np.float32), (len(vertices), 1)),
            faces,
            instance,
        )

    def paint(self, where: npt.NDArray[np.bool_], colour: Any, surface: Surface) -> None:
        self.colours[where] = colour
        self.surfaces[where] = [surface.rough, surface.metal, surface.bump, surface.grain]


def vertex_normals(vertices: Floats, faces: Faces) -> Floats:
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    index = faces.reshape(-1)
    total = np.stack([np.bincount(index, np.repeat(across[:, axis], 3), len(vertices)) for axis in range(3)], 1)
    return np.asarray(total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-9), np.float32)


def merged(meshes: list[Mesh]) -> Mesh:
    """One mesh of several with the same instance number: fewer draw calls."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.colours for mesh in meshes]),
        np.concatenate([mesh.surfaces for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts)]).astype(np.int32),
        meshes[0].instance,
    )


def box(centre: Vector, size: Vector, colour: Any, surface: Surface = PAINT, instance: int = ROOM) -> Mesh:
    corners: list[Any] = []
    normals: list[Any] = []
    faces: list[list[int]] = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            first = len(corners)
            u, v = (axis + 1) % 3, (axis + 2) % 3
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                corner, normal = np.zeros(3), np.zeros(3)
                corner[axis], corner[u], corner[v], normal[axis] = sign, a, b * sign, sign
                corners.append(corner)
                normals.append(normal)
            faces += [[first, first + 1, first + 2], [first, first + 2, first + 3]]
    vertices = np.array(corners) * np.array(size) / 2 + np.array(centre)
    return Mesh.of(vertices, faces, colour, surface, instance, normals)


def tube(
    start: Any,
    end: Any,
    radius: float,
    end_radius: float,
    colour: Any,
    surface: Surface = METAL,
    instance: int = ROOM,
    sides: int = 10,
) -> Mesh:
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / np.linalg.norm(end - start)
    u = np.cross(axis, [0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0.0, 0.0])
    u /= np.linalg.norm(u)
    around = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = np.cos(around)[:, None] * u + np.sin(around)[:, None] * np.cross(axis, u)
    vertices = np.concatenate([start + ring * radius, end + ring * end_radius, start[None], end[None]])
    normals = np.concatenate([ring, ring, -axis[None], axis[None]])
    here = np.arange(sides)
    after = (here + 1) % sides
    first, last = np.full(sides, 2 * sides), np.full(sides, 2 * sides + 1)
    faces = np.concatenate(
        [
            np.stack([here, after, here + sides], 1),
            np.stack([after, after + sides, here + sides], 1),
            np.stack([first, after, here], 1),
            np.stack([last, here + sides, after + sides], 1),
        ]
    )
    return Mesh.of(vertices, faces, colour, surface, instance, normals)


def sheet(points: npt.NDArray[np.floating[Any]], colour: Any, surface: Surface, instance: int) -> Mesh:
    """A grid of points (n, m, 3) as a surface that faces up."""
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return Mesh.of(points.reshape(-1, 3), faces, colour, surface, instance)
