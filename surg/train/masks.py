"""Which tokens the student sees and which it must predict, for the whole batch of a step.

Drawn on the CPU from (seed, step), for the batch over all processes: each process takes its rows, so that two processes mask as
one would.
"""

import torch
from torch import Tensor

from surg.errors import ConfigError
from surg.train.config import MaskConfig
from surg.train.flow import motion_guided_visible

Grid = tuple[int, int, int]
Masks = list[tuple[Tensor, Tensor]]


def draw_masks(config: MaskConfig, grid: Grid, batch: int, seed: int, step: int, flow: Tensor | None = None) -> Masks:
    """(visible (B, K), masked (B, M)) ids of each mask; K and M are the same for all clips of the batch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    if config.kind == "multiblock":
        return [multiblock_masks(batch, grid, blocks, scale, generator, ratio=config.ratio) for blocks, scale in config.groups]
    ratio = 0.7 if config.ratio is None else config.ratio
    if config.kind == "future":
        return [future_masks(batch, grid, ratio, generator, temporal_ratio=config.temporal_ratio)]
    if flow is None:
        raise ConfigError("MGMAE's masks need the flow of the clips; this is a bug of the loop.")
    per_step = grid[1] * grid[2]
    seen = motion_guided_visible(flow.float().cpu(), max(1, round(per_step * (1 - ratio))), generator).flatten(1)
    return [ids_of(seen)]


def multiblock_masks(
    batch: int, grid: Grid, blocks: int, scale: float, generator: torch.Generator, ratio: float | None
) -> tuple[Tensor, Tensor]:
    """Tubes over all time: `blocks` rectangles of `scale` of the picture, aspect 0.75 to 1.5, one size a batch, places per clip.

    All clips are cut to the batch's smallest counts, as upstream does; but which tokens go is drawn by lot, where upstream drops
    the end of the clip. With `ratio` exactly that share is masked, grown or trimmed by lot.
    """
    t, h, w = grid
    aspect = 0.75 + 0.75 * float(torch.rand((), generator=generator))
    area = int(h * w * scale)
    high, wide = min(max(round((area * aspect) ** 0.5), 1), h), min(max(round((area / aspect) ** 0.5), 1), w)
    hidden = torch.zeros(batch, h, w, dtype=torch.bool)
    tops = torch.randint(0, h - high + 1, (batch, blocks), generator=generator)
    lefts = torch.randint(0, w - wide + 1, (batch, blocks), generator=generator)
    rows, columns = torch.arange(h).view(1, 1, h, 1), torch.arange(w).view(1, 1, 1, w)
    top, left = tops.view(batch, blocks, 1, 1), lefts.view(batch, blocks, 1, 1)
    hidden = ((rows >= top) & (rows < top + high) & (columns >= left) & (columns < left + wide)).any(dim=1)
    everywhere = hidden.unsqueeze(1).expand(batch, t, h, w).reshape(batch, t * h * w)
    # By score: hidden tokens first, each group in random order.
    score = everywhere.float() + 0.5 * torch.rand(everywhere.shape, generator=generator)
    order = score.argsort(dim=1, descending=True)
    counts = everywhere.sum(dim=1)
    masked = int(counts.min()) if ratio is None else round(t * h * w * ratio)
    masked = min(max(masked, 1), t * h * w - 1)
    seen = t * h * w - (int(counts.max()) if ratio is None else masked)
    seen = max(seen, 1)
    return order[:, t * h * w - seen :].sort(dim=1).values, order[:, :masked].sort(dim=1).values


def future_masks(
    batch: int, grid: Grid, ratio: float, generator: torch.Generator, temporal_ratio: float
) -> tuple[Tensor, Tensor]:
    """Late time steps are masked four times as often as early ones (80 : 20), scaled so that the whole equals `ratio`."""
    t, h, w = grid
    late = min(max(round(t * temporal_ratio), 1), t)
    total = round(t * h * w * ratio)
    in_late = min(late * h * w, round(total * 0.8 * late / (0.8 * late + 0.2 * (t - late))))
    in_early = min((t - late) * h * w, total - in_late)
    in_late = min(late * h * w, total - in_early)
    noise = torch.rand(batch, t * h * w, generator=generator)
    edge = (t - late) * h * w
    seen = torch.ones(batch, t * h * w, dtype=torch.bool)
    seen.scatter_(1, noise[:, :edge].argsort(dim=1)[:, :in_early], False)
    seen.scatter_(1, edge + noise[:, edge:].argsort(dim=1)[:, :in_late], False)
    return ids_of(seen)


def ids_of(seen: Tensor) -> tuple[Tensor, Tensor]:
    """bool (B, N) with equal counts in all rows -> ids seen (B, K) and not seen (B, M), ascending."""
    order = torch.argsort(seen.to(torch.int8), dim=1, descending=True, stable=True)
    count = int(seen[0].sum())
    return order[:, :count].sort(dim=1).values, order[:, count:].sort(dim=1).values


def describe(masks: Masks, grid: Grid) -> str:
    """`4608 tokens (8 x 24 x 24): mask 1 sees 1120, predicts 2210; …`"""
    t, h, w = grid
    parts = [f"mask {n} sees {seen.shape[1]}, predicts {hidden.shape[1]}" for n, (seen, hidden) in enumerate(masks, start=1)]
    return f"{t * h * w} tokens ({t} x {h} x {w}): " + "; ".join(parts)
