"""Draws a room with OpenCV alone, where there is no OpenGL: flat-shaded triangles from far to near. No shadows cast, no weave."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.synth.room_camera import Camera
from surg.data.synth.room_mesh import PERSON, Floats, Mesh

Bytes = npt.NDArray[np.uint8]
NEAREST = 0.12
"""Metres before the lens: nearer triangles are left out instead of cut."""
LONGEST = 0.9
"""Metres: larger triangles are divided, so that sorting by their middles stays right."""


class Painter:
    name = "painter"

    def __init__(self, meshes: list[Mesh], size: int, *, sun: Any, lamp: Any, tint: Any, exposure: float) -> None:
        self.size, self.meshes = size, [_divided(mesh) for mesh in meshes]
        self.sun, self.lamp, self.tint, self.exposure = (np.asarray(value, np.float32) for value in (sun, lamp, tint, exposure))
        self._seen: tuple[Camera, Bytes, Bytes] | None = None

    def update(self, index: int, mesh: Mesh) -> None:
        old = self.meshes[index]
        # What moves is made of small triangles already and was not divided.
        old.vertices, old.normals = mesh.vertices, mesh.normals
        self._seen = None

    def cast_shadows(self) -> None:
        """Nothing casts a shadow here."""

    def picture(self, camera: Camera) -> Bytes:
        return self._paint(camera)[0]

    def instances(self, camera: Camera) -> Bytes:
        return self._paint(camera)[1]

    def release(self) -> None:
        self._seen = None

    def _paint(self, camera: Camera) -> tuple[Bytes, Bytes]:
        if self._seen is not None and self._seen[0] is camera:
            return self._seen[1], self._seen[2]
        corners, colours, depths, numbers = [], [], [], []
        for mesh in self.meshes:
            seen = mesh.vertices @ camera.matrix[:, :3].T.astype(np.float32) + camera.matrix[:, 3].astype(np.float32)
            flat = np.stack([seen[:, 0] / seen[:, 3] * 0.5 + 0.5, 0.5 - seen[:, 1] / seen[:, 3] * 0.5], 1) * self.size
            far, place = seen[mesh.faces, 3], flat[mesh.faces]
            inside = (far.min(1) > NEAREST) & (place.max(1) > 0).all(1) & (place.min(1) < self.size).all(1)
            if mesh.instance >= PERSON:
                # Bodies are closed: triangles that show their back are hidden anyway.
                edge, other = place[:, 1] - place[:, 0], place[:, 2] - place[:, 0]
                inside &= edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0] < 0
            faces = mesh.faces[inside]
            corners.append(place[inside])
            depths.append(far[inside].mean(1))
            colours.append(self._lit(mesh, faces, camera))
            numbers.append(np.full(len(faces), mesh.instance))
        order = np.argsort(-np.concatenate(depths))
        points = np.round(np.concatenate(corners)[order] * 16).astype(np.int32)
        shades, instances = np.concatenate(colours)[order].tolist(), np.concatenate(numbers)[order].tolist()
        picture, ids = np.full((self.size, self.size, 3), 128, np.uint8), np.zeros((self.size, self.size), np.uint8)
        for triangle, shade, instance in zip(points, shades, instances):
            cv2.fillConvexPoly(picture, triangle, shade, cv2.LINE_AA, 4)
            cv2.fillConvexPoly(ids, triangle, instance, cv2.LINE_8, 4)
        self._seen = (camera, picture, ids)
        return picture, ids

    def _lit(self, mesh: Mesh, faces: Any, camera: Camera) -> Floats:
        middle, normal = mesh.vertices[faces].mean(1), mesh.normals[faces].mean(1)
        to_eye = np.asarray(camera.eye, np.float32) - middle
        normal = normal * np.where((normal * to_eye).sum(1) < 0, -1, 1)[:, None]
        to_lamp = self.lamp - middle
        to_lamp = to_lamp / np.linalg.norm(to_lamp, axis=1, keepdims=True)
        cone = np.clip((to_lamp[:, 2] - 0.70) / 0.23, 0, 1)
        sky = 0.34 * (0.81 + 0.19 * normal[:, 2]) * np.clip(0.62 + 0.42 * middle[:, 2], 0, 1)
        light = sky + 0.62 * np.clip(normal @ self.sun, 0, 1) + 0.95 * cone * np.clip((normal * to_lamp).sum(1), 0, 1)
        linear = mesh.colours[faces].mean(1) * light[:, None] * self.tint * self.exposure
        return np.asarray(np.sqrt(linear * (1 + linear * 0.25) / (1 + linear)) * 255, np.float32)


def _divided(mesh: Mesh) -> Mesh:
    vertices, normals, colours, surfaces = mesh.vertices, mesh.normals, mesh.colours, mesh.surfaces
    faces = mesh.faces
    while len(large := np.flatnonzero(_longest(vertices, faces) > LONGEST)):
        a, b, c = faces[large].T
        start = len(vertices)
        ends = [(a, b), (b, c), (c, a)]
        vertices, normals, colours, surfaces = (
            np.concatenate([values, *((values[u] + values[v]) / 2 for u, v in ends)])
            for values in (vertices, normals, colours, surfaces)
        )
        ab, bc, ca = (start + place * len(large) + np.arange(len(large)) for place in range(3))
        small = [np.stack(corner, 1) for corner in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        faces = np.concatenate([np.delete(faces, large, 0), *small]).astype(np.int32)
    return Mesh(vertices, normals, colours, surfaces, faces, mesh.instance)


def _longest(vertices: Floats, faces: Any) -> Any:
    corners = vertices[faces]
    return np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).max(1)
