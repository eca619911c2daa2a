"""Draws a room with OpenGL on EGL: shadows, a surgical lamp, woven cloth, metal; and the instance masks. Needs `moderngl`."""

import importlib
from contextlib import suppress
from typing import Any

import moderngl
import numpy as np
import numpy.typing as npt

from surg.data.synth.room_camera import Camera, light_matrix
from surg.data.synth.room_mesh import PERSON, Mesh
from surg.data.synth.tissue_surface import fractal

Bytes = npt.NDArray[np.uint8]
SHADOW_SIDE, SAMPLES = 768, 4

VERTEX = """#version 330
uniform mat4 view;
in vec3 at; in vec3 normal; in vec3 colour; in vec4 surface;
out vec3 place; out vec3 facing; out vec3 paint; out vec4 feel;
void main() {
  place = at; facing = normal; paint = colour; feel = surface;
  gl_Position = view * vec4(at, 1);
}"""

FRAGMENT = """#version 330
in vec3 place; in vec3 facing; in vec3 paint; in vec4 feel;
layout(location=0) out vec4 pixel;
uniform mat4 light; uniform vec3 eye; uniform vec3 sun; uniform vec3 tint; uniform vec3 lamp; uniform float exposure;
uniform sampler2DShadow shadow; uniform sampler2D weave;
void main() {
  vec3 to_eye = normalize(eye - place);
  vec3 n = normalize(facing);
  if (dot(n, to_eye) < 0.) n = -n;
  vec3 a = abs(n);
  vec2 flat_place = a.z > a.x && a.z > a.y ? place.xy : (a.x > a.y ? place.yz : place.xz);
  vec3 cloth = texture(weave, flat_place * feel.w * .2).xyz;
  if (feel.z > 0.) {
    vec2 tilt = (cloth.xy - .5) * feel.z * 2.;
    n = normalize(n + (a.z > a.x && a.z > a.y ? vec3(tilt, 0) : (a.x > a.y ? vec3(0, tilt) : vec3(tilt.x, 0, tilt.y))));
  }
  vec3 shade = (light * vec4(place, 1)).xyz * .5 + .5;
  float lit = .5 * (texture(shadow, vec3(shade.xy + .0008, shade.z - .004)) + texture(shadow, vec3(shade.xy - .0008, shade.z - .004)));
  vec3 to_lamp = normalize(lamp - place);
  float cone = smoothstep(.70, .93, to_lamp.z);
  vec3 albedo = paint * (.92 + .16 * cloth.z);
  float sky = .5 + .5 * n.z;
  float corner = .62 + .38 * smoothstep(0., .9, place.z);
  vec3 light = albedo * (.34 * mix(.62, 1., sky) * corner);
  float rough = feel.x, metal = feel.y, power = mix(70., 3., rough);
  vec3 gloss = mix(vec3(.04), paint, metal) * (1. - .75 * rough);
  for (int k = 0; k < 2; k++) {
    vec3 to_light = k == 0 ? sun : to_lamp;
    float strength = k == 0 ? .62 * lit : .95 * cone * lit;
    float wrap = clamp((dot(n, to_light) + .12) / 1.12, 0., 1.);
    // A rational stand-in for pow(x, power): a third of its cost on a software renderer.
    float near = max(dot(n, normalize(to_light + to_eye)), 0.);
    float shine = near / (power - power * near + near);
    shine *= shine;
    light += strength * (albedo * (1. - .8 * metal) * wrap + gloss * shine * 2.2) * tint;
  }
  if (metal > .5) light += paint * (.10 + .35 * smoothstep(-.2, 1., reflect(-to_eye, n).z)) * metal;
  light *= exposure;
  pixel = vec4(sqrt(light * (1. + light * .25) / (1. + light)), 1.);
}"""

FLAT_VERTEX = """#version 330
uniform mat4 view; in vec3 at; void main() { gl_Position = view * vec4(at, 1); }"""
DEPTH_FRAGMENT = "#version 330\nvoid main() {}"
IDS_FRAGMENT = """#version 330
uniform int instance; layout(location=0) out vec4 pixel; void main() { pixel = vec4(float(instance) / 255., 0, 0, 1); }"""


def make_context() -> Any:
    """An OpenGL context without a window. Raises whatever the driver raises where there is none."""
    # Mesa and Triton, which torch compiles with, each bring an LLVM: loaded after Mesa's, Triton's ends the process; before it, both work.
    with suppress(ImportError):
        importlib.import_module("triton._C.libtriton")
    make: Any = moderngl.create_standalone_context
    return make(backend="egl")


class GlRenderer:
    """One room in one OpenGL context. `release` it: contexts are few."""

    def __init__(self, meshes: list[Mesh], size: int, *, sun: Any, lamp: Any, tint: Any, exposure: float) -> None:
        self.context = context = make_context()
        self.name = str(context.info["GL_RENDERER"]).split(" ")[0]
        self.size = size
        self.light = light_matrix(sun)
        context.enable(moderngl.DEPTH_TEST)
        self.paint = context.program(VERTEX, FRAGMENT)
        self.depth = context.program(FLAT_VERTEX, DEPTH_FRAGMENT)
        self.ids = context.program(FLAT_VERTEX, IDS_FRAGMENT)
        self.smooth = context.framebuffer(
            [context.renderbuffer((size, size), 4, samples=SAMPLES)], context.depth_renderbuffer((size, size), samples=SAMPLES)
        )
        self.plain = context.framebuffer([context.texture((size, size), 4)], context.depth_renderbuffer((size, size)))
        self.shadow = context.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self.shadow.compare_func = "<="
        self.shadow.repeat_x = self.shadow.repeat_y = False
        self.shadow_frame = context.framebuffer([], self.shadow)
        self.weave = context.texture((256, 256), 3, _weave().tobytes())
        self.weave.build_mipmaps()
        self.weave.filter = (moderngl.LINEAR_MIPMAP_NEAREST, moderngl.LINEAR)
        self.parts = [_Part(self, mesh) for mesh in meshes]
        self.paint["sun"].value, self.paint["lamp"].value = tuple(sun), tuple(lamp)
        self.paint["tint"].value, self.paint["exposure"].value = tuple(tint), exposure
        self.paint["shadow"].value, self.paint["weave"].value = 0, 1

    def update(self, index: int, mesh: Mesh) -> None:
        """The mesh at this place of the list has moved."""
        self.parts[index].move(mesh)

    def cast_shadows(self) -> None:
        """Once a frame, before its cameras: shadows do not depend on who looks."""
        light = _columns(self.light)
        self.shadow_frame.use()
        self.shadow_frame.clear(depth=1.0)
        self.depth["view"].write(light)
        for part in self.parts:
            part.draw(part.shadowed)
        self.paint["light"].write(light)

    def picture(self, camera: Camera) -> Bytes:
        """(S, S, 3) RGB."""
        self.paint["view"].write(_columns(camera.matrix))
        self.paint["eye"].value = camera.eye
        self.shadow.use(0)
        self.weave.use(1)
        self.smooth.use()
        self.smooth.clear(0.5, 0.5, 0.5, 1.0, depth=1.0)
        # The last meshes are people, the first the walls: drawn from front to back, few pixels are shaded twice.
        for part in reversed(self.parts):
            part.draw(part.painted)
        self.context.copy_framebuffer(self.plain, self.smooth)
        return self._read(3)

    def instances(self, camera: Camera) -> Bytes:
        """(S, S): the instance number of every pixel."""
        self.plain.use()
        self.plain.clear(0, 0, 0, 1, depth=1.0)
        self.ids["view"].write(_columns(camera.matrix))
        for part in self.parts:
            self.ids["instance"].value = part.instance
            part.draw(part.numbered)
        return np.ascontiguousarray(self._read(3)[..., 0])

    def release(self) -> None:
        self.context.release()

    def _read(self, components: int) -> Bytes:
        data = np.frombuffer(self.plain.read(components=components), np.uint8)
        return data.reshape(self.size, self.size, components)[::-1]


class _Part:
    def __init__(self, renderer: GlRenderer, mesh: Mesh) -> None:
        self.context = context = renderer.context
        self.instance = mesh.instance
        self.moving = context.buffer(_moving(mesh), dynamic=True)
        look = context.buffer(np.hstack([mesh.colours, mesh.surfaces]).astype("f4").tobytes())
        index = context.buffer(mesh.faces.astype("i4").tobytes())
        self.painted = context.vertex_array(
            renderer.paint, [(self.moving, "3f 3f", "at", "normal"), (look, "3f 4f", "colour", "surface")], index
        )
        self.shadowed = context.vertex_array(renderer.depth, [(self.moving, "3f 12x", "at")], index)
        self.numbered = context.vertex_array(renderer.ids, [(self.moving, "3f 12x", "at")], index)

    def draw(self, array: Any) -> None:
        # Bodies are closed: half of their triangles need not be set up, which is where a software renderer's time goes.
        if self.instance >= PERSON:
            self.context.enable(moderngl.CULL_FACE)
        else:
            self.context.disable(moderngl.CULL_FACE)
        array.render()

    def move(self, mesh: Mesh) -> None:
        self.moving.write(_moving(mesh))


def _moving(mesh: Mesh) -> bytes:
    return np.hstack([mesh.vertices, mesh.normals]).astype("f4").tobytes()


def _columns(matrix: npt.NDArray[np.float64]) -> bytes:
    return matrix.T.astype("f4").tobytes()


def _weave() -> Bytes:
    """Folds and fibres: slope in x, slope in y, value; tiles without a seam. The same in every room."""
    rng = np.random.default_rng(7)
    quarter = fractal(rng, 128, 5, 4, 0.6)
    height = np.block([[quarter, quarter[:, ::-1]], [quarter[::-1], quarter[::-1, ::-1]]])
    slope_y, slope_x = np.gradient(height * 14)
    channels = np.stack([slope_x + 0.5, slope_y + 0.5, height], -1)
    return np.asarray(np.clip(channels * 255, 0, 255), np.uint8)
