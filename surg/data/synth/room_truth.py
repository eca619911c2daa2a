"""Is sterility broken at this moment, where, and by what? Measured on the bodies, not taken from the script."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surg.data.synth.room_camera import Camera
from surg.data.synth.room_mesh import Floats
from surg.data.synth.room_people import Person
from surg.data.synth.room_script import Item
from surg.data.synth.room_stage import ZONES

Doubles = npt.NDArray[np.float64]
TOUCHING = 4
"""Vertices inside a zone that make a contact: fewer are a wrinkle of the mesh."""
LIES_S = 1.5
"""A dropped item counts until it has lain so long."""
BELOW = {"unsterile": 0.0, "back": 0.16}
"""A gown's back touches the drape below the table's edge, too."""


@dataclass(frozen=True)
class Contact:
    kind: str
    """unsterile (a person who is not scrubbed in), back (of a gown) or item (dropped)."""
    zone: str
    person: int
    """Place in the cast; -1 for the item."""
    points: Floats
    """(n, 3): what touches, in the room."""


def contacts_of(people: list[Person | None], bodies: list[Floats | None]) -> list[Contact]:
    """Contacts of everybody's body (V, 3) with the sterile zones."""
    found = []
    for place, (person, vertices) in enumerate(zip(people, bodies)):
        if person is None or vertices is None:
            continue
        kind = "back" if person.sterile else "unsterile"
        body = vertices[person.back] if person.sterile else vertices
        for zone in ZONES:
            touching = body[inside(body, zone, BELOW[kind])]
            if len(touching) >= TOUCHING:
                found.append(Contact(kind, zone, place, touching))
    return found


def item_contact(item: Item, time: float) -> Contact | None:
    if item.drop_s is None or not item.drop_s < time <= item.drop_s + LIES_S:
        return None
    corners = np.array(item.at(time)) + 0.07 * np.array([[-1, -1, 0], [1, 1, 0], [-1, 1, 0.5], [1, -1, 0.5]])
    return Contact("item", "tray", -1, corners.astype(np.float32))


def inside(points: Floats, zone: str, below: float = 0.0, margin: float = 0.0) -> npt.NDArray[np.bool_]:
    low, high = np.array(ZONES[zone][0]) - margin, np.array(ZONES[zone][1]) + margin
    low[2] -= below
    return np.asarray(((points > low) & (points < high)).all(1))


def clearance(points: Floats) -> float:
    """Metres between the points and the nearest zone; 0 inside."""
    gaps = []
    for low, high in ZONES.values():
        outside = np.maximum(np.maximum(np.array(low) - points, points - np.array(high)), 0)
        gaps.append(float(np.sqrt((outside**2).sum(1)).min()))
    return min(gaps)


def box_of(camera: Camera, points: Floats) -> list[float]:
    """x0, y0, x1, y1 in 0..1 of the picture, cut at its edges."""
    seen = np.clip(camera.project(points), 0, 1)
    return [*seen.min(0).tolist(), *seen.max(0).tolist()]


def zone_polygon(camera: Camera, names: tuple[str, ...] = tuple(ZONES)) -> list[list[float]]:
    """The table-height outlines of zones as one convex polygon, x, y in 0..1 of the picture."""
    corners = []
    for name in names:
        (x0, y0, z0), (x1, y1, _) = ZONES[name]
        corners += [(x, y, z0 + 0.04) for x in (x0, x1) for y in (y0, y1)]
    return convex_hull(np.clip(camera.project(np.array(corners)), 0, 1))


def convex_hull(points: Doubles) -> list[list[float]]:
    """Corners in order around. Points (n, 2)."""
    ordered = sorted({(round(float(x), 5), round(float(y), 5)) for x, y in points})

    def half(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for point in points:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        return chain[:-1]

    return [list(point) for point in half(ordered) + half(ordered[::-1])]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
