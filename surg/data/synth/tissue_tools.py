"""Instruments of the tissue simulator: a shaft, a wrist and two jaws, drawn with cylinder shading and anti-aliased edges."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Lengths and widths in pixels of a 224-pixel picture. `bend` curves the jaws, `taper` sharpens them.
JAWS = {
    "grasper": {"length": 52.0, "width": 6.4, "taper": 0.75, "bend": 0.0},
    "dissector": {"length": 55.0, "width": 5.6, "taper": 0.35, "bend": 0.22},
    "scissors": {"length": 48.0, "width": 7.0, "taper": 0.12, "bend": -0.06},
    "clip applier": {"length": 46.0, "width": 8.0, "taper": 0.95, "bend": 0.0},
}
# Shaft and jaw colours (linear RGB), and how glossy. Family b's tools are of other makes.
FINISHES = {
    "a": {"steel": ((0.22, 0.22, 0.23), 0.9), "black": ((0.035, 0.035, 0.04), 0.45), "grey": ((0.10, 0.105, 0.11), 0.6)},
    "b": {"white": ((0.55, 0.55, 0.52), 0.35), "gold": ((0.42, 0.29, 0.10), 0.8), "blue": ((0.05, 0.12, 0.30), 0.5)},
}
KINDS = {"a": ("grasper", "dissector", "scissors"), "b": ("clip applier", "dissector")}
# An open jaw stands this far from the shaft's axis (radians); a closed one nearly on it.
CLOSED, OPEN = 0.04, 1.0


@dataclass(frozen=True)
class Tool:
    kind: str
    finish: str
    colour: tuple[float, float, float]
    gloss: float
    width: float
    """Half the shaft's width, in pixels of a 224-pixel picture."""
    phase: float
    """Where the highlight runs along the shaft, -1..1 across it."""


def draw_tool(rng: np.random.Generator, family: str) -> Tool:
    finish = str(rng.choice(list(FINISHES[family])))
    colour, gloss = FINISHES[family][finish]
    kind = str(rng.choice(KINDS[family]))
    return Tool(
        kind, finish, colour, gloss * float(rng.uniform(0.8, 1.2)), float(rng.uniform(7.5, 10.5)), float(rng.uniform(-0.6, 0.1))
    )


def paint_tool(
    picture: Floats, ids: npt.NDArray[np.uint8], number: int, tool: Tool, pivot: Doubles, tip: Doubles, jaw: float
) -> None:
    """Draw into `picture` (S, S, 3) and its instance number into `ids` (S, S). `tip` is where closed jaws would end."""
    size = picture.shape[0]
    unit = size / 224
    shape = JAWS[tool.kind]
    axis = (tip - pivot) / max(float(np.hypot(*(tip - pivot))), 1e-6)
    side = np.array([-axis[1], axis[0]])
    neck = tip - axis * shape["length"] * unit
    wrist = neck - axis * 16 * unit
    half = tool.width * unit
    steel = np.array(FINISHES["a"]["steel"][0], np.float32) * 1.5
    body = np.array(tool.colour, np.float32)
    # From far to near: the jaw behind, the shaft, the wrist, the jaw in front.
    angle = CLOSED + (OPEN - CLOSED) * jaw
    _part(picture, ids, number, _jaw(neck, axis, shape, -angle, unit), neck, side, half * 0.6, steel * 0.75, tool)
    shaft = np.stack([pivot - side * half, pivot + side * half, wrist + side * half, wrist - side * half])
    _part(picture, ids, number, shaft, wrist, side, half, body, tool)
    slim = half * 0.72
    joint = np.stack([wrist - side * half, wrist + side * half, neck + side * slim, neck + axis * 4 * unit, neck - side * slim])
    _part(picture, ids, number, joint, wrist, side, half, steel, tool)
    _part(picture, ids, number, _jaw(neck, axis, shape, angle, unit), neck, side, half * 0.6, steel, tool)


def tool_shadow(size: int, ends: list[tuple[Doubles, Doubles, float]]) -> Floats:
    """Soft shadow of all shafts, 1 unshaded.  ends: (from, to, width).  Returns (size, size)."""
    small = size // 4
    canvas: Floats = np.zeros((small, small), np.float32)
    for start, end, width in ends:
        first, last = (start * 4).astype(np.int32), (end * 4).astype(np.int32)
        cv2.line(
            canvas, (int(first[0]), int(first[1])), (int(last[0]), int(last[1])), 1.0, max(1, int(width / 2)), cv2.LINE_AA, 4
        )
    soft = cv2.GaussianBlur(canvas, (0, 0), size / 112)
    return 1 - 0.5 * cv2.resize(soft, (size, size), interpolation=cv2.INTER_LINEAR)


def _jaw(neck: Doubles, axis: Doubles, shape: dict[str, float], angle: float, unit: float) -> Doubles:
    """Outline of one jaw, opened by `angle` to its side."""
    turn = np.sign(angle)
    along = np.linspace(0, 1, 6)
    heading = angle - turn * shape["bend"] * 2 * along
    steps = np.stack(
        [axis[0] * np.cos(heading) - axis[1] * np.sin(heading), axis[0] * np.sin(heading) + axis[1] * np.cos(heading)], 1
    )
    spine = neck + np.cumsum(np.vstack([np.zeros(2), steps[1:]]), 0) * shape["length"] * unit / 5
    out = np.stack([-steps[:, 1], steps[:, 0]], 1) * turn
    width = (shape["width"] * (1 - (1 - shape["taper"]) * along) * unit)[:, None]
    return np.vstack([spine + out * width, (spine - out * 0.15 * unit)[::-1]])


def _part(
    picture: Floats,
    ids: npt.NDArray[np.uint8],
    number: int,
    outline: Doubles,
    origin: Doubles,
    side: Doubles,
    half: float,
    colour: Floats,
    tool: Tool,
) -> None:
    size = picture.shape[0]
    low = np.clip(np.floor(outline.min(0)).astype(int) - 2, 0, size)
    high = np.clip(np.ceil(outline.max(0)).astype(int) + 3, 0, size)
    if (high <= low).any():
        return
    cover = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillPoly(cover, [np.round((outline - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    y, x = np.ogrid[low[1] : high[1], low[0] : high[0]]
    across = ((x - origin[0]) * (side[0] / half)).astype(np.float32) + ((y - origin[1]) * (side[1] / half)).astype(np.float32)
    round_shade = np.sqrt(np.clip(1 - 0.9 * across * across, 0.03, 1))
    light = 0.35 + 0.9 * round_shade
    shine = tool.gloss * np.exp(-(((across - tool.phase) / 0.16) ** 2))
    alpha = (cover.astype(np.float32) / 255)[..., None]
    patch = picture[low[1] : high[1], low[0] : high[0]]
    patch *= 1 - alpha
    patch += alpha * (colour * light[..., None] + 0.55 * shine[..., None])
    ids[low[1] : high[1], low[0] : high[0]][cover > 127] = number
