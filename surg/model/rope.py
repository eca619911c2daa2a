"""Rotary position embedding over time, height and width, in the two layouts of V-JEPA 2 and 2.1.

Channels of a head: t | h | w | rest, each axis `2 * (head_dim // 3 // 2)` wide; the rest keeps its values.

Our attention keeps the channels of queries and keys in *halves*: first the even ones, then the odd ones. Attention does not
notice (the same permutation on both sides of a dot product), and the rotated companion of a head becomes a swap of two
blocks: two copies, where adjacent pairs need strided ones. On CPUs that halves the cost (benchmarks/model_speed).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surg.model.config import Rope

Grid = tuple[int, int, int]

# B clips, N tokens, d channels of a head


@dataclass(frozen=True)
class RopeTable:
    """Multipliers for one forward pass: (1 or B, N, 1, d), channels in halves. `sin` carries the companion's signs."""

    cos: Tensor
    sin: Tensor
    lengths: tuple[int, ...] | None = None
    """Several sets of tokens lie one after the other, so many tokens each, and attend among themselves only; None: all to all."""


@dataclass
class RotaryTables:
    """Tables for every grid that was asked for, computed once in float64 and kept per device and dtype."""

    head_dim: int
    layout: Rope = "tiled"
    stretch_to: int | None = None
    """Side in patches that h and w positions are stretched onto; None counts patches."""
    scale_to: int | None = None
    """As `stretch_to`, but by the ratio of the sides (V-JEPA 2-AC) instead of from first to last patch."""
    _kept: dict[tuple[Grid, torch.device, torch.dtype, bool], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def at(self, grid: Grid, ids: Tensor | None, device: torch.device, dtype: torch.dtype) -> RopeTable:
        """Tables for the tokens `ids` (B, N) of a grid, or for all of them in order."""
        cos, sin = self._full(grid, device, dtype)
        if ids is None:
            return RopeTable(cos[None, :, None], sin[None, :, None])
        return RopeTable(cos[ids][:, :, None], sin[ids][:, :, None])

    def _full(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # What inference mode makes cannot be kept for a backward pass.
        key = (grid, device, dtype, torch.is_inference_mode_enabled())
        if key not in self._kept:
            cos, sin = (torch.from_numpy(table).to(device, dtype) for table in self._compute(grid))
            if torch.compiler.is_compiling() or type(cos) is not Tensor:
                return cos, sin  # tracing: a traced tensor must not outlive its trace
            if len(self._kept) >= 32:  # variable clip sizes must not pile up
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = (cos, sin)
        return self._kept[key]

    def _compute(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        return head_tables(axis_positions(grid, self.stretch_to, self.scale_to), self.head_dim, self.layout)

    def __deepcopy__(self, memo: object) -> "RotaryTables":
        return RotaryTables(self.head_dim, self.layout, self.stretch_to, self.scale_to)


def axis_positions(grid: Grid, stretch_to: int | None = None, scale_to: int | None = None) -> np.ndarray:
    """Position of every token along t, h and w: (N, 3), tokens in time-major order."""
    t, h, w = grid
    positions = (
        np.stack(np.meshgrid(np.arange(t), np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 3).astype(np.float64)
    )
    for axis, side in ((1, h), (2, w)):
        if stretch_to is not None:
            # A side of one patch has nothing to stretch (upstream divides by zero).
            positions[:, axis] *= (stretch_to - 1) / (side - 1) if side > 1 else 1.0
        elif scale_to is not None:
            positions[:, axis] *= scale_to / side
    return positions


def head_tables(positions: np.ndarray, head_dim: int, layout: Rope) -> tuple[np.ndarray, np.ndarray]:
    """cos and signed sin for a head, (N, head_dim) each, channels in halves."""
    width = 2 * (head_dim // 3 // 2)
    omega = 10000.0 ** (-np.arange(width // 2) / (width / 2))
    angles = np.zeros((len(positions), head_dim))
    for axis in range(3):
        angle = positions[:, axis, None] * omega
        # Tiled tables look wrong beside adjacent pairs, and are: released V-JEPA 2 weights were trained so (vjepa2 PR 15).
        wide = np.tile(angle, 2) if layout == "tiled" else np.repeat(angle, 2, axis=1)
        angles[:, axis * width : (axis + 1) * width] = wide
    halves = halves_order(head_dim)
    sign = np.repeat([-1.0, 1.0], head_dim // 2)
    return np.cos(angles)[:, halves].astype(np.float32), (np.sin(angles)[:, halves] * sign).astype(np.float32)


def halves_order(head_dim: int) -> np.ndarray:
    """Channels of a head in halves: the even ones, then the odd ones."""
    return np.arange(head_dim).reshape(-1, 2).T.reshape(-1)


def rotate(heads: Tensor, table: RopeTable) -> Tensor:
    """Turn queries and keys to their positions. heads: (B, N, H, d), channels in halves."""
    # A trace loses what is written into slices. And not addcmul: ONNX gets it in fp32 whatever the rest is in.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        even, odd = heads.chunk(2, -1)
        return heads * table.cos + torch.cat((odd, even), -1) * table.sin
    turned: Tensor = _Rotate.apply(heads, table.cos, table.sin)
    return turned


class _Rotate(torch.autograd.Function):
    """The same in half the passes over memory, forward and backward, and nothing kept but the tables."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        half = heads.shape[-1] // 2
        out = torch.empty_like(heads, memory_format=torch.contiguous_format)
        for mine, other in ((slice(None, half), slice(half, None)), (slice(half, None), slice(None, half))):
            torch.mul(heads[..., mine], cos[..., mine], out=out[..., mine])
            out[..., mine].addcmul_(heads[..., other], sin[..., mine])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        half = grad.shape[-1] // 2
        out = torch.empty_like(grad, memory_format=torch.contiguous_format)
        for mine, other in ((slice(None, half), slice(half, None)), (slice(half, None), slice(None, half))):
            torch.mul(grad[..., mine], cos[..., mine], out=out[..., mine])
            out[..., mine].addcmul_(grad[..., other], sin[..., other])
        return out, None, None


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a linear layer applied to `x` gives: that of autocast where it is on."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
