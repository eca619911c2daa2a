"""Draws tissue clips: two instruments over a surface that the grasper pulls, seen through a drifting endoscope.

Everything that is not the action (surface, tools, light, smoke, blood, lens, drift, coding) is drawn without looking at the action.
Lengths are pixels of a 224-pixel picture and scale with the size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.synth.tissue_script import Script
from surg.data.synth.tissue_surface import fractal, make_surface
from surg.data.synth.tissue_tools import Tool, draw_tool, paint_tool, tool_shadow
from surg.data.synth.version import generator

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
MARGIN = 1.5
"""The surface is so much wider than the picture."""
REACH = 235.0
"""From the trocar to where the working tool works."""
DEPTH_TRAVEL, SWING_TRAVEL, PULL_TRAVEL = 100.0, 100.0, 56.0
GRASP_WIDTH = 44.0
TREMOR = 0.5
ROLL = 0.9
"""Radians that the endoscope may be turned either way about its axis, per case: which way is up tells little of which way a tool goes."""


@dataclass(frozen=True)
class Frame:
    picture: npt.NDArray[np.uint8]
    """(S, S, 3) RGB."""
    ids: npt.NDArray[np.uint8]
    """(S, S): 0 tissue, 1 grasper, 2 working tool."""
    tips: Doubles
    """(2, 2): x, y of the tip of grasper and working tool, in pixels."""
    camera: Doubles
    """(2, 3): takes a point of the scene to this frame."""


class TissueCase:
    """What the clips of one simulated procedure share: the surface, the endoscope, where the instruments come in."""

    def __init__(self, seed: int, family: str, case: int, size: int) -> None:
        rng = generator(seed, "tissue case", family, case)
        self.family, self.size, self.unit = family, size, size / 224
        self.surface = make_surface(rng, family, int(size * MARGIN), blood=rng.random() < 0.3, incision=rng.random() < 0.35)
        self.mirrored = bool(rng.random() < 0.5)
        self.roll = rng.uniform(-ROLL, ROLL)
        self.lens = Lens.draw(rng, family, size)
        light_x, light_y = (size * (0.5 + rng.uniform(-0.14, 0.14, 2))).tolist()
        self.warmth = np.array((1.0, rng.uniform(0.93, 1.0), rng.uniform(0.84, 1.0)), np.float32)
        self.gloss = float(rng.uniform(0.25, 0.7))
        self.relief = float(rng.uniform(45, 75))
        y, x = np.mgrid[0:size, 0:size].astype(np.float32)
        self.x, self.y = x, y
        # Direction to the light, and halfway between light and viewer: the same in every frame.
        to_x, to_y = (light_x - x) / size, (light_y - y) / size
        far = 1 / np.sqrt(to_x * to_x + to_y * to_y + 0.5)
        self.to_light = (to_x * far, to_y * far, 0.7 * far)
        length = 1 / np.sqrt((to_x * far) ** 2 + (to_y * far) ** 2 + (0.7 * far + 1) ** 2)
        self.halfway = (to_x * far * length, to_y * far * length, (0.7 * far + 1) * length)


@dataclass(frozen=True)
class Lens:
    mask: Floats
    """(S, S, 1): 1 inside the endoscope's round picture."""
    falloff: Floats
    """(S, S): light towards the rim."""

    @classmethod
    def draw(cls, rng: np.random.Generator, family: str, size: int) -> "Lens":
        y, x = np.mgrid[0:size, 0:size].astype(np.float32)
        centre = size * (0.5 + rng.uniform(-0.02, 0.02, 2))
        flat = 1.0 if family == "a" else rng.uniform(1.15, 1.3)
        distance = np.hypot(x - centre[0], (y - centre[1]) * flat)
        radius = size * (rng.uniform(0.5, 0.58) if rng.random() < 0.6 or family == "b" else 0.8)
        mask = np.clip((radius - distance) / (size * 0.015), 0, 1)[..., None]
        falloff = np.exp(-(distance**2) / (2 * (size * rng.uniform(0.42, 0.6)) ** 2))
        return cls(mask.astype(np.float32), falloff.astype(np.float32))


class TissueClip:
    """One clip of a case: its own instruments, place and nuisances, and a script that says how the factors move."""

    def __init__(self, case: TissueCase, seed: int, number: int, script: Script) -> None:
        rng = generator(seed, "tissue clip", case.family, number)
        self.case, self.script, self.frames = case, script, len(script.depth)
        unit, size = case.unit, case.size
        self.grasper: Tool = draw_tool(rng, case.family)
        self.worker: Tool = draw_tool(rng, case.family)
        out = -1.0 if case.mirrored else 1.0
        self.work = size * np.array([0.5 + out * rng.uniform(-0.05, 0.07), rng.uniform(0.34, 0.46)])
        self.hold = size * np.array([0.5 - out * rng.uniform(0.08, 0.17), rng.uniform(0.44, 0.56)])
        angle, far = rng.uniform(0.15, 1.05), rng.uniform(0.4, 1.25)
        work_pivot = self.work + REACH * unit * np.array([out * np.sin(angle), np.cos(angle)])
        hold_pivot = self.hold + REACH * unit * np.array([-out * np.sin(far), np.cos(far)])
        middle = np.array([size / 2, size / 2])
        self.work, self.hold, self.work_pivot, self.hold_pivot = (
            middle + _turned(point - middle, case.roll) for point in (self.work, self.hold, work_pivot, hold_pivot)
        )
        self.drag = _turned(_heading(self.hold, self.hold_pivot), rng.normal(0, 0.2)) * PULL_TRAVEL * unit
        self.offset = rng.uniform(0.05, MARGIN - 1.05, 2) * size
        self.cameras = _drift(rng, self.frames, size)
        self.smoke = _Smoke.draw(rng, size) if rng.random() < 0.3 else None
        self.flap = _Flap.draw(rng, case.surface, size) if rng.random() < 0.25 else None
        self.flicker = rng.normal(0, 0.012, self.frames)
        self.defocus = rng.uniform(0.4, 1.0) * unit if rng.random() < 0.25 else 0.0
        self.grain = rng.normal(0, rng.uniform(0.004, 0.012), (size + 64, size + 64, 1)).astype(np.float32)
        self.shifts = rng.integers(0, 64, (self.frames, 2))
        self.tremors = rng.normal(0, TREMOR * unit, (self.frames, 2, 2))
        self.brightness = rng.uniform(1.0, 1.35)

    def render(self) -> Iterator[Frame]:
        for index in range(self.frames):
            yield self._frame(index)

    def _frame(self, index: int) -> Frame:
        case, script, camera = self.case, self.script, self.cameras[index]
        size, unit = case.size, case.unit
        pull, depth = float(script.pull[index]), float(script.depth[index])
        hold_tip = self.hold + pull * self.drag + self.tremors[index, 0] * 0.5
        work_tip = self._work_tip(depth, script.swing[index]) + self.tremors[index, 1]
        hold_seen, work_seen = _through(camera, hold_tip), _through(camera, work_tip)
        hold_pivot, work_pivot = _through(camera, self.hold_pivot), _through(camera, self.work_pivot)

        picture = self._tissue(camera, hold_tip, pull, work_tip, depth)
        above = (1 - depth) * 26 * unit
        shade = tool_shadow(
            size,
            [
                (hold_pivot + 6 * unit, hold_seen + 4 * unit, self.grasper.width * unit),
                (work_pivot + 6 * unit + above, work_seen + 5 * unit + above, self.worker.width * unit),
            ],
        )
        picture *= shade[..., None]
        ids = np.zeros((size, size), np.uint8)
        paint_tool(picture, ids, 1, self.grasper, hold_pivot, hold_seen, 0.0)
        paint_tool(picture, ids, 2, self.worker, work_pivot, work_seen, script.jaw[index])
        if self.flap is not None:
            self.flap.cover(picture, ids, camera)
        picture *= case.lens.falloff[..., None] * (float(self.brightness * (1 + self.flicker[index]))) * case.warmth
        if self.smoke is not None:
            self.smoke.veil(picture, index)
        return Frame(self._developed(picture, index), ids, np.stack([hold_seen, work_seen]), camera)

    def _work_tip(self, depth: float, swing: float) -> Doubles:
        unit = self.case.unit
        axis = _heading(self.work_pivot, self.work)
        away = np.array([-axis[1], axis[0]])
        if away @ (self.work - self.hold) < 0:
            away = -away
        reach = (REACH + 12 - (1 - depth) * DEPTH_TRAVEL) * unit
        angle = (swing - 0.42) * SWING_TRAVEL / REACH
        return np.asarray(self.work_pivot + reach * (axis * np.cos(angle) + away * np.sin(angle)))

    def _tissue(self, camera: Doubles, hold_tip: Doubles, pull: float, work_tip: Doubles, depth: float) -> Floats:
        # Plain floats: numpy's own would turn every picture to float64.
        case, unit = self.case, self.case.unit
        back = cv2.invertAffineTransform(camera).tolist()
        x = back[0][0] * case.x + back[0][1] * case.y + back[0][2]
        y = back[1][0] * case.x + back[1][1] * case.y + back[1][2]
        (moved_x, moved_y), (offset_x, offset_y) = (pull * self.drag).tolist(), self.offset.tolist()
        grasp = _bump(x, y, hold_tip, GRASP_WIDTH * unit)
        source_x = x - grasp * moved_x + offset_x
        source_y = y - grasp * moved_y + offset_y
        warped = cv2.remap(case.surface, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        seen: Floats = np.asarray(warped, np.float32)
        height = seen[..., 3] + (0.1 + 0.35 * pull) * grasp
        if depth > 0.6:
            height -= 0.25 * (depth - 0.6) * _bump(x, y, work_tip, 20 * unit)
        return self._shaded(seen[..., :3], height)

    def _shaded(self, colour: Floats, height: Floats) -> Floats:
        case = self.case
        relief = case.relief * case.unit
        slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=relief / 8)
        slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=relief / 8)
        steep = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
        (to_x, to_y, to_z), (half_x, half_y, half_z) = case.to_light, case.halfway
        facing = np.maximum((to_z - slope_x * to_x - slope_y * to_y) * steep, 0)
        shine = (half_z - slope_x * half_x - slope_y * half_y) * steep
        for _ in range(6):
            shine *= shine
        lit = colour * (0.1 + 1.15 * facing)[..., None]
        lit += (case.gloss * shine)[..., None]
        return np.asarray(lit, np.float32)

    def _developed(self, picture: Floats, index: int) -> npt.NDArray[np.uint8]:
        if self.defocus:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), self.defocus), np.float32)
        dy, dx = self.shifts[index]
        size = self.case.size
        picture = np.sqrt(np.maximum(picture * self.case.lens.mask, 0))
        picture += self.grain[dy : dy + size, dx : dx + size]
        # A soft shoulder, as cameras have: highlights do not clip at once.
        picture = np.minimum(picture, 0.75 + 0.25 * picture / (picture + 0.25))
        return np.asarray(cv2.convertScaleAbs(picture, alpha=255), np.uint8)


@dataclass(frozen=True)
class _Smoke:
    cloud: Floats
    velocity: Doubles
    density: float

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> "_Smoke":
        cloud = fractal(rng, size * 2, 4, 4, 0.5)
        return cls(cloud, rng.normal(0, 2.0, 2) * size / 224, float(rng.uniform(0.2, 0.55)))

    def veil(self, picture: Floats, index: int) -> None:
        size = picture.shape[0]
        start = size / 2 + self.velocity * index
        shifted = cv2.getRectSubPix(self.cloud, (size, size), (float(start[0] + size / 2), float(start[1] + size / 2)))
        veil = (self.density * np.clip(shifted * 1.6 - 0.35, 0, 1))[..., None]
        picture *= 1 - veil
        picture += veil * np.float32(0.42)


@dataclass(frozen=True)
class _Flap:
    """A fold of tissue near the lens, out of focus, that hides a corner of the picture."""

    colour: Floats
    alpha: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator, surface: Floats, size: int) -> "_Flap":
        y, x = np.mgrid[0:size, 0:size].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        edge = (x / size - 0.5) * np.cos(angle) + (y / size - 0.5) * np.sin(angle)
        edge = edge + 0.12 * (fractal(rng, size, 2, 2) - 0.5)
        alpha = np.clip((edge - rng.uniform(0.3, 0.4)) / 0.05, 0, 1)
        blurred = cv2.GaussianBlur(surface[:size, :size, :3], (0, 0), size / 40)
        return cls(blurred * float(rng.uniform(0.5, 0.9)), alpha.astype(np.float32))

    def cover(self, picture: Floats, ids: npt.NDArray[np.uint8], camera: Doubles) -> None:
        size = picture.shape[0]
        alpha = cv2.warpAffine(self.alpha, camera, (size, size), borderMode=cv2.BORDER_REPLICATE)
        picture *= 1 - alpha[..., None]
        picture += alpha[..., None] * self.colour
        ids[alpha > 0.5] = 0


def _bump(x: Floats, y: Floats, centre: Doubles, width: float) -> Floats:
    centre_x, centre_y = centre.tolist()
    return np.asarray(cv2.exp(((x - centre_x) ** 2 + (y - centre_y) ** 2) * (-0.5 / width**2)), np.float32)


def _drift(rng: np.random.Generator, frames: int, size: int) -> Doubles:
    """A hand-held endoscope: a few pixels of slow pan, a little zoom and roll.  Returns (T, 2, 3)."""
    time = np.linspace(0, 1, frames)

    def slow(scale: float) -> Doubles:
        waves = [rng.normal(0, scale / k) * np.sin(np.pi * k * time + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)]
        return np.asarray(sum(waves))

    pan_x, pan_y, zoom, roll = slow(size * 0.012), slow(size * 0.012), 1 + slow(0.010), slow(0.012)
    centre = size / 2
    cameras = np.zeros((frames, 2, 3))
    cameras[:, 0, 0] = cameras[:, 1, 1] = zoom * np.cos(roll)
    cameras[:, 0, 1], cameras[:, 1, 0] = -zoom * np.sin(roll), zoom * np.sin(roll)
    cameras[:, :, 2] = centre - cameras[:, :, :2] @ np.array([centre, centre]) + np.stack([pan_x, pan_y], 1)
    return cameras


def _through(camera: Doubles, point: Doubles) -> Doubles:
    return np.asarray(camera[:, :2] @ point + camera[:, 2])


def _heading(start: Doubles, end: Doubles) -> Doubles:
    return np.asarray((end - start) / np.hypot(*(end - start)))


def _turned(vector: Doubles, angle: float) -> Doubles:
    return np.array(
        [vector[0] * np.cos(angle) - vector[1] * np.sin(angle), vector[0] * np.sin(angle) + vector[1] * np.cos(angle)]
    )
