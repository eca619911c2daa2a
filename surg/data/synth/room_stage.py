"""What does not move in a simulated operating room, its two sterile zones, and the colours of the appearance families."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from surg.data.synth.room_mesh import CLOTH, INSTRUMENTS, METAL, PAINT, TABLE, TRAY, Mesh, Surface, box, merged, sheet, tube

Colour = tuple[float, float, float]
# Sterile space in metres: (x, y, z) low and high. An unsterile hand in it is a breach.
ZONES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "field": ((-0.42, -0.27, 0.84), (0.44, 0.27, 1.26)),
    "tray": ((0.62, -0.25, 0.93), (1.04, 0.25, 1.26)),
}
TRAY_TOP = 0.93


@dataclass(frozen=True)
class Look:
    walls: tuple[Colour, ...]
    floors: tuple[Colour, ...]
    drapes: tuple[Colour, ...]
    gowns: tuple[Colour, ...]
    scrubs: tuple[Colour, ...]
    gloves: tuple[Colour, ...]
    light: Colour


LOOKS = {
    "a": Look(
        walls=((0.62, 0.68, 0.66), (0.70, 0.70, 0.66), (0.60, 0.66, 0.72)),
        floors=((0.30, 0.38, 0.36), (0.42, 0.44, 0.47), (0.40, 0.37, 0.32)),
        drapes=((0.05, 0.16, 0.34), (0.04, 0.23, 0.26), (0.08, 0.26, 0.20)),
        gowns=((0.06, 0.19, 0.40), (0.05, 0.27, 0.22), (0.10, 0.28, 0.46)),
        scrubs=((0.22, 0.08, 0.18), (0.16, 0.17, 0.21), (0.05, 0.07, 0.22)),
        gloves=((0.80, 0.77, 0.68), (0.74, 0.76, 0.80)),
        light=(1.0, 0.97, 0.92),
    ),
    "b": Look(
        walls=((0.72, 0.58, 0.42), (0.45, 0.50, 0.58), (0.50, 0.60, 0.42)),
        floors=((0.16, 0.20, 0.28), (0.52, 0.46, 0.36)),
        drapes=((0.30, 0.36, 0.42), (0.16, 0.30, 0.10)),
        gowns=((0.36, 0.44, 0.50), (0.12, 0.34, 0.12)),
        scrubs=((0.32, 0.04, 0.05), (0.30, 0.24, 0.08), (0.02, 0.14, 0.16)),
        gloves=((0.28, 0.22, 0.50), (0.66, 0.52, 0.30)),
        light=(0.86, 0.94, 1.0),
    ),
}


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> npt.NDArray[np.float64]:
    """One of the colours, a little off."""
    return np.clip(
        np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.88, 1.12) + rng.normal(0, 0.012, 3), 0.01, 0.95
    )


def build_stage(rng: np.random.Generator, family: str) -> list[Mesh]:
    look = LOOKS[family]
    wall, floor, drape = pick(rng, look.walls), pick(rng, look.floors), pick(rng, look.drapes)
    return [merged(_room(rng, wall, floor)), merged(_table(rng, drape)), _tray(drape), merged(_instruments(rng))]


def _room(rng: np.random.Generator, wall: Any, floor: Any) -> list[Mesh]:
    tiles = Surface(0.35, 0.0, 0.05, 2.0)
    parts = [
        box((0, 0, -0.05), (9, 9, 0.1), floor, tiles),
        box((0, 3.0, 1.6), (9, 0.1, 3.2), wall),
        box((0, -3.0, 1.6), (9, 0.1, 3.2), wall * 0.98),
        box((-3.3, 0, 1.6), (0.1, 9, 3.2), wall * 0.96),
        box((3.3, 0, 1.6), (0.1, 9, 3.2), wall * 0.94),
        # A coloured band and a skirting board give the eye a horizon.
        box((0, 2.94, 1.05), (9, 0.02, 0.12), wall * 0.55),
        box((-3.24, 0, 1.05), (0.02, 9, 0.12), wall * 0.55),
        box((3.24, 0, 1.05), (0.02, 9, 0.12), wall * 0.55),
    ]
    side = float(rng.choice([-1, 1]))
    parts += [
        box((1.3 * side, 2.93, 1.05), (1.1, 0.08, 2.1), (0.42, 0.48, 0.54)),
        box((1.3 * side + 0.35, 2.88, 1.35), (0.22, 0.04, 0.5), (0.10, 0.13, 0.16), Surface(0.1)),
        # The anaesthetic machine with its screen, at the patient's head.
        box((-1.75, 0.95 * side, 0.6), (0.55, 0.5, 1.2), (0.70, 0.72, 0.74)),
        box((-1.70, 0.9 * side, 1.42), (0.06, 0.5, 0.36), (0.04, 0.045, 0.05), Surface(0.3)),
        box((-1.665, 0.9 * side, 1.42), (0.01, 0.44, 0.30), (0.03, 0.30, 0.20), Surface(0.2)),
        box((-1.66, 0.9 * side, 1.48), (0.01, 0.36, 0.03), (0.75, 0.65, 0.10), Surface(0.2)),
        # A trolley, a cabinet and a bin by the walls.
        box((2.5, 1.9 * side, 0.5), (0.7, 0.5, 1.0), (0.52, 0.55, 0.58), Surface(0.4, 0.4)),
        box((2.5, 1.9 * side, 1.03), (0.74, 0.54, 0.04), (0.75, 0.77, 0.79), METAL),
        box((-2.6, -1.8 * side, 0.9), (0.6, 1.2, 1.8), (0.62, 0.64, 0.63)),
        tube((1.9, -2.2 * side, 0.0), (1.9, -2.2 * side, 0.6), 0.2, 0.24, (0.65, 0.58, 0.10), PAINT, sides=16),
    ]
    lamp = (0.1 + rng.normal(0, 0.1), rng.normal(0, 0.08), 2.35 + rng.uniform(0, 0.15))
    parts += [
        tube(lamp, (lamp[0], lamp[1], lamp[2] + 0.09), 0.32, 0.22, (0.88, 0.89, 0.91), PAINT, sides=24),
        tube((lamp[0], lamp[1], lamp[2] - 0.004), lamp, 0.26, 0.27, (1.0, 0.98, 0.9), PAINT, sides=24),
        tube((lamp[0], lamp[1], lamp[2] + 0.09), (lamp[0] + 0.5, lamp[1], 3.1), 0.03, 0.03, (0.6, 0.6, 0.62)),
    ]
    return parts


def _table(rng: np.random.Generator, drape: Any) -> list[Mesh]:
    cloth = sheet(_drape((-0.98, 0.52), (-0.34, 0.34), 0.80, 0.46, 0.13, 30), drape, CLOTH, TABLE)
    x, y = cloth.vertices[:, 0], cloth.vertices[:, 1]
    top = cloth.vertices[:, 2] > 0.78
    skin = np.array([0.62, 0.36, 0.20]) * rng.uniform(0.75, 1.1)
    cloth.paint(top & (np.abs(x) < 0.21) & (np.abs(y) < 0.14), skin, Surface(0.4, 0, 0.1, 8.0))
    cloth.paint(top & (np.abs(x) < 0.12) & (np.abs(y) < 0.05), (0.34, 0.02, 0.025), Surface(0.2, 0, 0.5, 14.0))
    return [
        cloth,
        box((-0.25, 0, 0.38), (0.9, 0.36, 0.72), (0.22, 0.23, 0.26), PAINT, TABLE),
        box((-0.25, 0, 0.03), (1.1, 0.5, 0.06), (0.30, 0.31, 0.33), METAL, TABLE),
        # The screen between the anaesthetist and the field.
        sheet(_screen(), drape * 0.92, CLOTH, TABLE),
    ]


def _tray(drape: Any) -> Mesh:
    return sheet(_drape((0.62, 1.04), (-0.25, 0.25), TRAY_TOP, 0.30, 0.0, 20), drape * 1.08, CLOTH, TRAY)


def _instruments(rng: np.random.Generator) -> list[Mesh]:
    parts = []
    for index in range(9):
        x, y, turn = 0.70 + 0.26 * rng.random(), -0.20 + 0.05 * index, rng.normal(0, 0.12)
        along = np.array([np.cos(turn), np.sin(turn), 0]) * rng.uniform(0.06, 0.09)
        middle = np.array([x, y, TRAY_TOP + 0.014])
        parts.append(tube(middle - along, middle + along, 0.006, 0.003, (0.82, 0.84, 0.87), METAL, INSTRUMENTS, sides=6))
    parts.append(
        tube(
            (0.97, 0.19, TRAY_TOP), (0.97, 0.19, TRAY_TOP + 0.05), 0.035, 0.05, (0.75, 0.78, 0.8), METAL, INSTRUMENTS, sides=14
        )
    )
    parts.append(box((0.69, -0.2, TRAY_TOP + 0.012), (0.1, 0.07, 0.02), (0.9, 0.9, 0.88), CLOTH, INSTRUMENTS))
    return parts


def _drape(along: tuple[float, float], across: tuple[float, float], top: float, fall: float, patient: float, cells: int) -> Any:
    """A cloth over a table: flat on top, hanging in folds around it, with the shape of a patient below."""
    u, v = np.meshgrid(np.linspace(-1.3, 1.3, cells), np.linspace(-1.3, 1.3, cells), indexing="ij")
    over_u, over_v = np.clip(np.abs(u) - 1, 0, None), np.clip(np.abs(v) - 1, 0, None)
    hang = np.maximum(over_u, over_v) / 0.3
    half_x, half_y = (along[1] - along[0]) / 2, (across[1] - across[0]) / 2
    x = sum(along) / 2 + np.clip(u, -1, 1) * half_x + np.sign(u) * over_u * 0.14
    y = sum(across) / 2 + np.clip(v, -1, 1) * half_y + np.sign(v) * over_v * 0.14
    fold = 0.022 * hang
    x, y = x + fold * np.sin(26 * y) * (over_u > 0) * np.sign(u), y + fold * np.sin(24 * x + 1) * (over_v > 0) * np.sign(v)
    z = (
        top
        + patient * np.exp(-((np.clip(v, -1, 1) / 0.62) ** 4)) * np.exp(-((np.clip(u, -1, 1) / 0.98) ** 8))
        - fall * hang**0.8
    )
    return np.stack([x, y, z], -1)


def _screen() -> Any:
    y, z = np.meshgrid(np.linspace(-0.5, 0.5, 16), np.linspace(0.75, 1.3, 10), indexing="ij")
    return np.stack([-0.72 + 0.025 * np.sin(18 * y), y, z], -1)
