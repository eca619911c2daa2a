"""Which tokens the student sees and which it must predict, for the whole batch of a step.

Drawn on the CPU from (seed, step), for the batch over all processes: each process takes its rows, so that two processes mask as
one would.
"""

import torch
from torch import Tensor

from surg.errors import ConfigError
from surg.model.masking import MultiBlock, forecast, future_biased, multiblock
from surg.train.config import MaskConfig
from surg.train.flow import motion_guided_visible

Grid = tuple[int, int, int]
Masks = list[tuple[Tensor, Tensor]]
# What the system drawing gives for its ViT-g at 384 px, where our counts may be laid beside its own.
DRAWN = {(8, 24, 24): "the system drawing has 500-1,100 and 3,500-4,100"}


def draw_masks(config: MaskConfig, grid: Grid, batch: int, seed: int, step: int, flow: Tensor | None = None) -> Masks:
    """(visible (B, K), masked (B, M)) ids of each mask; K and M are the same for all clips of the batch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    if config.kind == "multiblock":
        groups = (MultiBlock(blocks=blocks, scale=scale, ratio=config.ratio) for blocks, scale in config.groups)
        return [multiblock(grid, batch, group, generator) for group in groups]
    if config.kind == "forecast":
        return [forecast(grid, batch, config.temporal_ratio, generator)]
    ratio = 0.7 if config.ratio is None else config.ratio
    if config.kind == "future":
        return [future_biased(grid, batch, ratio, config.temporal_ratio, generator)]
    if flow is None:
        raise ConfigError("MGMAE's masks need the flow of the clips; this is a bug of the loop.")
    per_step = grid[1] * grid[2]
    # At least one patch of a step is seen and one hidden, however small the picture.
    visible = max(1, min(round(per_step * (1 - ratio)), per_step - 1))
    seen = motion_guided_visible(flow.float().cpu(), visible, generator).flatten(1)
    return [ids_of(seen)]


def ids_of(seen: Tensor) -> tuple[Tensor, Tensor]:
    """bool (B, N) with equal counts in all rows -> ids seen (B, K) and not seen (B, M), ascending."""
    order = torch.argsort(seen.to(torch.int8), dim=1, descending=True, stable=True)
    count = int(seen[0].sum())
    return order[:, :count].sort(dim=1).values, order[:, count:].sort(dim=1).values


def describe(masks: Masks, grid: Grid) -> str:
    """`4608 tokens (8 x 24 x 24): mask 1 sees 1120, predicts 2210; …`"""
    t, h, w = grid
    parts = [f"mask {n} sees {seen.shape[1]}, predicts {hidden.shape[1]}" for n, (seen, hidden) in enumerate(masks, start=1)]
    return f"{t * h * w} tokens ({t} x {h} x {w}): " + "; ".join([*parts, *([DRAWN[grid]] if grid in DRAWN else [])])
