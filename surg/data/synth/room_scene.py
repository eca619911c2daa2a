"""One simulated procedure: its room, staff, light and cameras, the check of a script against its label, and the drawing of frames."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from surg.data.synth.room_camera import Camera, Doubles, draw_cameras
from surg.data.synth.room_mesh import ITEM, METAL, PERSON, Floats, Mesh, merged, tube
from surg.data.synth.room_people import Person
from surg.data.synth.room_script import ASSISTANT, BREACHES, CIRCULATOR, NURSE, SURGEON, Script, Team
from surg.data.synth.room_stage import LOOKS, build_stage
from surg.data.synth.room_truth import Contact, clearance, contacts_of, item_contact
from surg.data.synth.version import generator
from surg.errors import ConfigError

ROLES = {SURGEON: "surgeon", ASSISTANT: "assistant", NURSE: "scrub nurse", CIRCULATOR: "circulator"}
EXPECTED = {
    "breach_tray": "unsterile",
    "breach_field": "unsterile",
    "elbow_contact": "unsterile",
    "gown_contact": "back",
    "dropped_item": "item",
}
ZONE_CENTRES = ((0.05, 0.0, 1.0), (0.83, 0.0, 1.0))
HARMLESS_CLEARANCE = 0.03
"""In clips without a breach nobody unsterile comes nearer to a zone than this (metres)."""


class Renderer(Protocol):
    name: str

    def update(self, index: int, mesh: Mesh) -> None: ...
    def cast_shadows(self) -> None: ...
    def picture(self, camera: Camera) -> npt.NDArray[np.uint8]: ...
    def instances(self, camera: Camera) -> npt.NDArray[np.uint8]: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Frame:
    picture: npt.NDArray[np.uint8]
    """(S, S, 3) RGB."""
    ids: npt.NDArray[np.uint8] | None
    """(S, S), see room_mesh for the numbers."""
    centres: Doubles
    """(n, 2): where the middle of the dish and of everybody's whole body is, whatever hides it; x, y in 0..1 of the picture."""


class RoomCase:
    """What the clips of one simulated procedure share."""

    def __init__(self, seed: int, family: str, case: int) -> None:
        rng = generator(seed, "room case", family, case)
        self.family = family
        self.team = Team.draw(rng)
        self.stage = build_stage(rng, family)
        self.people = [Person(rng, place, family, sterile=place != CIRCULATOR) for place in ROLES]
        self.cameras = draw_cameras(rng, family)
        sun = np.array([rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), 1.0])
        self.sun = sun / np.linalg.norm(sun)
        self.lamp = (float(rng.normal(0.1, 0.1)), float(rng.normal(0, 0.08)), 2.35)
        self.tint = np.array(LOOKS[family].light) * rng.uniform(0.97, 1.03, 3)
        self.exposure = float(rng.uniform(1.0, 1.4))
        self.dish = _dish()

    def open_views(self, script: Script, rng: np.random.Generator) -> list[int]:
        """Cameras in a random order, those first whose sight of the zones nobody's usual place blocks. Blind to the event."""
        usual = [actor.walk.places[0] for place, actor in enumerate(script.cast) if actor is not None and place != CIRCULATOR]
        blocked = [sum(_hidden(camera, np.array(centre), usual) for centre in ZONE_CENTRES) for camera in self.cameras]
        order = rng.permutation(len(self.cameras)).tolist()
        return sorted(order, key=lambda index: blocked[index])

    def bodies(self, script: Script, time: float) -> list[Floats | None]:
        """Pose everybody. Returns the vertices of each body (V, 3)."""
        return [person.pose(actor.pose(time)) if actor is not None else None for person, actor in zip(self.people, script.cast)]

    def contacts(self, script: Script, times: npt.NDArray[np.float64]) -> tuple[list[list[Contact]], float]:
        """Breaches at each moment, and the smallest distance of anybody unsterile from the zones."""
        found, nearest = [], np.inf
        for time in times:
            bodies = self.bodies(script, float(time))
            dropped = item_contact(script.item, float(time))
            found.append(contacts_of(list(self.people), bodies) + ([dropped] if dropped is not None else []))
            circulator = bodies[CIRCULATOR]
            if circulator is not None:
                nearest = min(nearest, clearance(circulator))
        return found, nearest

    def renderer(self, cast: list[bool], size: int, kind: str) -> Renderer:
        """A renderer of this room. Its meshes: the stage, the dish, then the people who are there."""
        meshes = [*self.stage, self.dish, *(person.mesh for person, there in zip(self.people, cast) if there)]
        settings: dict[str, Any] = {"sun": self.sun, "lamp": self.lamp, "tint": self.tint, "exposure": self.exposure}
        if kind == "painter":
            from surg.data.synth.room_painter import Painter

            return Painter(meshes, size, **settings)
        # One thread of Mesa's software renderer for each of our processes.
        os.environ.setdefault("LP_NUM_THREADS", "1")
        from surg.data.synth.room_gl import GlRenderer

        return GlRenderer(meshes, size, **settings)

    def frames(
        self,
        renderer: Renderer,
        script: Script,
        camera: Camera,
        times: npt.NDArray[np.float64],
        noise: np.random.Generator,
        *,
        ids: bool,
    ) -> Iterator[Frame]:
        first = len(self.stage)
        strength = noise.uniform(0.8, 2.6)
        side: int | None = None
        grain: Any = None
        for time in times:
            bodies = [body for body in self.bodies(script, float(time)) if body is not None]
            moved = replace(self.dish, vertices=self.dish.vertices + np.array(script.item.at(float(time)), np.float32))
            centres = camera.project([points.mean(axis=0) for points in (moved.vertices, *bodies)])
            renderer.update(first, moved)
            there = [person for person, actor in zip(self.people, script.cast) if actor is not None]
            for index, person in enumerate(there):
                renderer.update(first + 1 + index, person.mesh)
            renderer.cast_shadows()
            picture = renderer.picture(camera)
            if side is None:
                side = len(picture)
                grain = np.round(noise.normal(0, strength, (side + 32, side + 32, 1))).astype(np.int16)
            y, x = noise.integers(0, 32, 2)
            noisy = np.clip(picture + grain[y : y + side, x : x + side], 0, 255).astype(np.uint8)
            yield Frame(noisy, renderer.instances(camera) if ids else None, centres)

    def instances(self, script: Script) -> dict[str, npt.NDArray[Any]]:
        """Numbers in the masks, what they are, and whether they are sterile."""
        rows = [(ITEM, "dish", True)]
        for place, (person, actor) in enumerate(zip(self.people, script.cast)):
            if actor is not None:
                rows.append((PERSON + place, ROLES[place], person.sterile))
        numbers, roles, sterile = zip(*rows)
        return {"instances": np.array(numbers, np.uint8), "roles": np.array(roles), "sterile": np.array(sterile, bool)}


def keeps_its_word(event: str, contacts: list[list[Contact]], nearest: float, fps: float) -> bool:
    """Does what the bodies do fit the event: a breach of the right kind, well inside the clip, or none and none too near?"""
    moments = [index for index, found in enumerate(contacts) if found]
    if event not in BREACHES:
        return not moments and nearest > HARMLESS_CLEARANCE
    kinds = {contact.kind for found in contacts for contact in found}
    zones = {contact.zone for found in contacts for contact in found}
    if kinds != {EXPECTED[event]} or (event in ("breach_tray", "breach_field") and zones != {event.removeprefix("breach_")}):
        return False
    unbroken = moments[-1] - moments[0] + 1 - len(moments) <= 1
    return unbroken and len(moments) >= 2 and moments[0] >= fps and moments[0] <= len(contacts) - 1.5 * fps


def _hidden(camera: Camera, point: npt.NDArray[np.float64], people: list[tuple[float, float]]) -> bool:
    """Does somebody, taken for a column of 25 cm and 1.7 m, stand between camera and point?"""
    eye = np.array(camera.eye)
    way = point - eye
    for person in people:
        share = float(np.clip(((np.array(person) - eye[:2]) @ way[:2]) / (way[:2] @ way[:2]), 0, 1))
        nearest = eye + share * way
        if np.hypot(nearest[0] - person[0], nearest[1] - person[1]) < 0.25 and nearest[2] < 1.7:
            return True
    return False


TRY_GL = "from surg.data.synth.room_gl import make_context; make_context().release()"


def choose_renderer(wanted: str) -> str:
    """`gl` where an OpenGL context can be made, else `painter`, when `auto` is asked for."""
    if wanted not in ("auto", "gl", "painter"):
        raise ConfigError(f"There is no renderer `{wanted}`; expected auto, gl or painter.")
    if wanted == "painter":
        return wanted
    # Tried in a process of its own: a driver that is broken may take its process along.
    tried = subprocess.run([sys.executable, "-c", TRY_GL], capture_output=True, text=True, check=False)
    if tried.returncode:
        if wanted == "gl":
            reason = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]
            raise ConfigError(
                f"OpenGL cannot be used here ({reason}).\n"
                "Install `surg[render]` and Debian's libegl1 and libgl1-mesa-dri, or use --renderer painter."
            )
        return "painter"
    return "gl"


def _dish() -> Mesh:
    colour = (0.78, 0.80, 0.83)
    return merged(
        [
            tube((0, 0, -0.012), (0, 0, 0.018), 0.050, 0.066, colour, METAL, ITEM, sides=14),
            tube((0, 0, 0.016), (0, 0, 0.020), 0.070, 0.066, colour, METAL, ITEM, sides=14),
        ]
    )
