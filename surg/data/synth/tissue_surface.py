"""The tissue of one simulated patient: colour and height of a patch of surface, larger than the picture so that the lens can drift."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Palette:
    """Linear RGB. Ranges are drawn from once per case."""

    flesh: tuple[Colour, Colour]
    fat: tuple[Colour, Colour]
    vessel: Colour
    fat_share: tuple[float, float]
    grain: tuple[int, int]
    """Lumps across the surface: the base frequency of its height."""


# Family a trains; b is another organ under another light. Nothing of b's colours or grain occurs in a.
PALETTES = {
    "a": Palette(
        flesh=((0.52, 0.13, 0.11), (0.72, 0.26, 0.22)),
        fat=((0.80, 0.52, 0.22), (0.92, 0.68, 0.40)),
        vessel=(0.34, 0.03, 0.05),
        fat_share=(0.15, 0.5),
        grain=(3, 5),
    ),
    "b": Palette(
        flesh=((0.30, 0.08, 0.13), (0.44, 0.16, 0.24)),
        fat=((0.72, 0.62, 0.50), (0.82, 0.74, 0.64)),
        vessel=(0.10, 0.05, 0.22),
        fat_share=(0.45, 0.7),
        grain=(7, 9),
    ),
}


def fractal(rng: np.random.Generator, size: int, octaves: int, base: int, persistence: float = 0.5) -> Floats:
    """Fractal noise, scaled to 0..1.  Returns (size, size)."""
    total: Floats = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = base * 2**octave
        if cells > size:
            break
        coarse = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
        total += persistence**octave * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def make_surface(rng: np.random.Generator, family: str, size: int, *, blood: bool, incision: bool) -> Floats:
    """Returns (size, size, 4): linear RGB and height, ready for one remap a frame."""
    palette = PALETTES[family]
    grain = int(rng.integers(palette.grain[0], palette.grain[1] + 1))
    height = 0.8 * fractal(rng, size, 4, grain, 0.42) + 0.2 * fractal(rng, size, 3, grain * 4)
    share = rng.uniform(*palette.fat_share)
    lobes = fractal(rng, size, 4, grain, 0.5)
    fat = _smoothstep((lobes - np.quantile(lobes, 1 - share)) * 6)[..., None]
    colour = _between(rng, palette.flesh) * (1 - fat) + _between(rng, palette.fat) * fat
    colour = colour * (0.72 + 0.5 * fractal(rng, size, 5, grain * 3, 0.65)[..., None])
    vessels = _vessels(rng, size)
    veil = cv2.GaussianBlur(vessels, (0, 0), size / 260)[..., None] * rng.uniform(0.45, 0.75)
    colour = colour * (1 - veil) + veil * np.array(palette.vessel, np.float32)
    height = height + 0.05 * cv2.GaussianBlur(vessels, (0, 0), size / 160)
    if incision:
        cut = _incision(rng, size)
        colour = colour * (1 - cut[..., None]) + cut[..., None] * np.array((0.22, 0.01, 0.015), np.float32)
        height = height - 0.12 * cv2.GaussianBlur(cut, (0, 0), size / 130)
    if blood:
        pools = fractal(rng, size, 4, 3, 0.45)
        pool = _smoothstep((pools - np.quantile(pools, 1 - rng.uniform(0.08, 0.25))) * 14)
        colour = colour * (1 - 0.85 * pool[..., None]) + 0.85 * pool[..., None] * np.array((0.30, 0.012, 0.015), np.float32)
        height = height * (1 - 0.75 * pool) + 0.75 * pool * height.mean()
    height = cv2.GaussianBlur(height, (0, 0), size / 240)
    return np.ascontiguousarray(np.dstack([colour, height]), np.float32)


def _vessels(rng: np.random.Generator, size: int) -> Floats:
    canvas: Floats = np.zeros((size, size), np.float32)
    step = size / 54
    for _ in range(int(rng.integers(5, 10))):
        branches = [(rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.006, 0.016) * size)]
        while branches:
            point, heading, width = branches.pop()
            for _ in range(int(rng.integers(12, 36))):
                further = point + step * np.array([np.cos(heading), np.sin(heading)])
                thick = max(1, round(width))
                cv2.line(canvas, _fixed(point), _fixed(further), 1.0, thick, cv2.LINE_AA, 4)
                point, heading, width = further, heading + rng.normal(0, 0.2), width * 0.98
                if width > size / 250 and rng.random() < 0.07:
                    branches.append((point.copy(), heading + rng.choice([-1, 1]) * rng.uniform(0.4, 0.9), width * 0.62))
    return np.clip(canvas, 0, 1)


def _incision(rng: np.random.Generator, size: int) -> Floats:
    canvas: Floats = np.zeros((size, size), np.float32)
    middle, heading, half = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0, np.pi), rng.uniform(0.08, 0.2) * size
    along = np.linspace(-half, half, 24)
    bow = rng.normal(0, 0.15) * half * (1 - (along / half) ** 2)
    x = middle[0] + along * np.cos(heading) - bow * np.sin(heading)
    y = middle[1] + along * np.sin(heading) + bow * np.cos(heading)
    cv2.polylines(canvas, [(np.stack([x, y], 1) * 16).astype(np.int32)], False, 1.0, max(2, size // 90), cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(np.clip(canvas, 0, 1), (0, 0), size / 320), np.float32)


def _between(rng: np.random.Generator, ends: tuple[Colour, Colour]) -> Floats:
    low, high = np.array(ends, np.float32)
    return np.asarray(low + (high - low) * rng.random(3).astype(np.float32))


def _smoothstep(value: Floats) -> Floats:
    clipped = np.clip(value, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)


def _fixed(point: npt.NDArray[np.float64]) -> tuple[int, int]:
    return int(point[0] * 16), int(point[1] * 16)
