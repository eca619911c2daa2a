"""A start for small encoders that sees motion before it has learnt anything.

Patch filters that prefer a direction of motion, as pairs in quadrature (Adelson & Bergen 1985), and a first hidden layer that
subtracts the energies of opposite directions. A linear layer then reads 0.7 of the flow's variance off the tokens of an encoder that
has learnt nothing; off those of random weights it reads none (benchmarks/motion_start.py). No data is needed: filters are scaled to
answer pink noise, whose spectrum is that of natural pictures, with unit variance.

F filters, P patch side, D width. The residual stream's first channels hold the motion filters, then what stands still, then the energies.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from surg.errors import ConfigError
from surg.model.layers import Mlp

Doubles = npt.NDArray[np.float64]

# (wave length, width of the window, windows along a side) in pixels of a 16-pixel patch: four small windows and the patch as a whole.
SCALES = ((8.0, 3.8, 2), (16.0, 6.5, 1))
AXES = 4
# How far a filter's wave runs between the two frames of a tube, in wave lengths either way of its middle.
SHIFT = 0.25
LUMINANCE = np.array([0.3, 0.59, 0.11])
COLOURS = np.array([[0.7, -0.7, 0.0], [0.4, 0.4, -0.8]])
COLOUR_SHARE = 0.3
"""Share of the still filters that look at colour, half each of red-green and blue-yellow."""
GAIN = 2.0


@dataclass(frozen=True)
class MotionFilters:
    weights: Doubles
    """(F, 2, P, P) over the luminance of two frames."""
    places: list[tuple[int, int, int]]
    """Scale, window and axis of each: filters that share them are opponents."""
    signs: npt.NDArray[np.int64]
    """Direction along the axis."""


def motion_filters(patch: int) -> MotionFilters:
    """Two phases for two directions along four axes, in five windows: 80 filters without a mean."""
    y, x = np.mgrid[0:patch, 0:patch] + 0.5
    weights, places, signs = [], [], []
    for scale, (wave, spread, windows) in enumerate(SCALES):
        middles = (np.arange(windows) + 0.5) * patch / windows
        for window, (middle_y, middle_x) in enumerate((a, b) for a in middles for b in middles):
            envelope = np.exp(-((y - middle_y) ** 2 + (x - middle_x) ** 2) / (2 * (spread * patch / 16) ** 2))
            for axis in range(AXES):
                angle = np.pi * axis / AXES
                along = ((x - middle_x) * np.cos(angle) + (y - middle_y) * np.sin(angle)) * 2 * np.pi / (wave * patch / 16)
                for sign in (1, -1):
                    for phase in (0.0, np.pi / 2):
                        turn = sign * 2 * np.pi * SHIFT / 2
                        frames = np.stack([np.cos(along + phase + turn), np.cos(along + phase - turn)]) * envelope
                        frames -= envelope * (frames.sum((1, 2)) / envelope.sum())[:, None, None]
                        weights.append(frames)
                        places.append((scale, window, axis))
                        signs.append(sign)
    return MotionFilters(np.array(weights), places, np.array(signs))


def still_filters(patch: int, count: int) -> Doubles:
    """The lowest waves of a patch (cosine transform) in luminance and two colour axes: (count, 3, P, P)."""
    n = np.arange(patch)
    waves = np.cos(np.pi * (n[None] + 0.5) * n[:, None] / patch)
    order = sorted(((u, v) for u in range(patch) for v in range(patch)), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))
    coloured = int(count * COLOUR_SHARE / 2)
    planes = [(LUMINANCE, count - 2 * coloured), (COLOURS[0], coloured), (COLOURS[1], coloured)]
    return np.array([axis[:, None, None] * np.outer(waves[u], waves[v]) for axis, many in planes for u, v in order[:many]])


def start_with_motion(encoder: nn.Module, seed: int = 0) -> None:
    """Overwrite patch filters and the first hidden layer of a fresh encoder, in place.

    Raises ConfigError for encoders that it does not fit: patches of other depth than 2 frames, or too narrow.
    """
    shape: Any = encoder
    projection: nn.Conv3d = shape.patch_embed.proj
    mlp = shape.blocks[0].mlp
    width, channels, tubelet, patch, _ = projection.weight.shape
    motion = motion_filters(patch)
    pairs = sorted(set(motion.places))
    moving = len(motion.weights)
    still = width - moving - len(pairs)
    if tubelet != 2 or channels != 3 or still < 1 or not isinstance(mlp, Mlp) or mlp.fc1.out_features < 2 * moving:
        raise ConfigError(
            f"model.start=motion-energy needs colour tubes of 2 frames, a width above {moving + len(pairs)} and GELU layers of at least "
            f"{2 * moving}; this encoder has {channels} channels, tubes of {tubelet}, width {width}. Use model.start=random."
        )
    filters = np.zeros((width, 3, 2, patch, patch))
    filters[:moving] = LUMINANCE[:, None, None, None] * motion.weights[:, None]
    filters[moving : moving + still] = still_filters(patch, still)[:, :, None] / 2
    noise = pink_noise(np.random.default_rng(seed), 4096, patch)
    heard = np.einsum("bcpq,fcpq->bf", noise, filters.sum(2))
    spread = heard.std(0)
    # Two frames of noise that moves a pixel or so: what motion filters answer to.
    spread[:moving] = np.einsum("bcpq,fctpq->btf", noise, filters[:moving]).std((0, 1)) * np.sqrt(2)
    filters[: moving + still] /= np.maximum(spread[: moving + still], 1e-6)[:, None, None, None, None]
    with torch.no_grad():
        projection.weight.copy_(torch.from_numpy(filters))
        assert projection.bias is not None
        projection.bias.zero_()
        # gelu(x) + gelu(-x) is |x| but for small x: a wave's energy, whatever its phase.
        mlp.fc1.weight[: 2 * moving] = 0
        mlp.fc1.bias[: 2 * moving] = 0
        mlp.fc2.weight[:, : 2 * moving] = 0
        for number, place in enumerate(motion.places):
            mlp.fc1.weight[number, number] = GAIN
            mlp.fc1.weight[moving + number, number] = -GAIN
            channel = moving + still + pairs.index(place)
            mlp.fc2.weight[channel, [number, moving + number]] = float(motion.signs[number]) / GAIN
        _attend_to_likeness(shape, seed)


def pink_noise(rng: np.random.Generator, count: int, side: int) -> Doubles:
    """Patches (count, 3, side, side) cut from noise whose amplitude falls with frequency, unit variance; colours vary a third as much."""
    large = 4 * side
    fy, fx = np.fft.fftfreq(large)[:, None], np.fft.fftfreq(large)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / large)
    pictures = -(-count // 16)
    white = np.fft.fft2(rng.normal(size=(pictures, 3, large, large)))
    planes = np.fft.ifft2(white * amplitude).real
    planes /= planes.std((2, 3), keepdims=True)
    mixed = planes[:, :1] + 0.33 * planes
    mixed /= mixed.std()
    tiles = mixed.reshape(pictures, 3, 4, side, 4, side).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3, side, side)
    return np.asarray(tiles[:count])


def _attend_to_likeness(encoder: Any, seed: int) -> None:
    """Queries equal keys: a token first looks at tokens like itself, here and in the other frames."""
    generator = torch.Generator().manual_seed(seed)
    for block in encoder.blocks:
        width = block.attn.qkv.in_features
        alike = torch.randn(width, width, generator=generator) * (0.7 / width**0.5)
        block.attn.qkv.weight[:width] = alike
        block.attn.qkv.weight[width : 2 * width] = alike
