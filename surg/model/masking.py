"""Which tokens the student sees and which it must predict: blocks through all of time, and masks that favour the future.

Every function returns ids (context (B, K), targets (B, M)), sorted, int64, with one K and one M for the whole batch.
"""

import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from surg.config import Config
from surg.errors import ConfigError
from surg.model.rope import Grid

Masks = tuple[Tensor, Tensor]


class MultiBlock(Config):
    """Spatial blocks, hidden in every frame; what no block covers is seen."""

    blocks: int = Field(8, gt=0)
    """Blocks per clip; they may overlap."""
    scale: float = Field(0.15, gt=0, le=1)
    """Area of one block as a share of the frame."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Range of height over width of a block."""
    ratio: float | None = Field(None, gt=0, lt=1)
    """Share of the tokens to hide, exactly (to one column of tokens through time). Left out, the blocks decide."""


PRETRAIN = (MultiBlock(blocks=8, scale=0.15), MultiBlock(blocks=2, scale=0.7))
"""V-JEPA 2's pre-training draws both for every batch: on 16 x 16 patches they hide about 74 % and 93 %."""


def multiblock(grid: Grid, batch: int, config: MultiBlock, generator: torch.Generator | None = None) -> Masks:
    """Draw block masks. The block's size is drawn once per batch, its places once per block and clip.

    Without a `ratio`, clips differ in how much the blocks cover, and all are cut to the smallest count of the batch. Upstream
    keeps the first ids and so drops the end of the clip; we drop at random.
    """
    t, h, w = grid
    if h * w < 2:
        raise ConfigError(f"A grid of {h} x {w} patches cannot be masked in space; use larger frames.")
    height, width = _block_size(h, w, config, generator)
    places = _places(h - height, w - width, batch, config.blocks, generator)
    hidden = np.zeros((batch, h, w), dtype=bool)
    for plane, corners in zip(hidden, places):
        for top, left in corners:
            plane[top : top + height, left : left + width] = True
    seen = torch.from_numpy(~hidden).flatten(1)
    for row in seen:
        if config.ratio is not None:
            _reach(row, h * w - round(config.ratio * h * w), generator)
        _keep_both(row, generator)
    everywhere = seen.repeat(1, t)
    return _rows(everywhere, generator), _rows(~everywhere, generator)


def future_biased(
    grid: Grid, batch: int, mask_ratio: float, late_share: float = 0.5, generator: torch.Generator | None = None
) -> Masks:
    """Hide `mask_ratio` of all tokens, four times as densely in the late `late_share` of the clip as in the early rest.

    At a ratio of 0.5 that is 80 % of the late half and 20 % of the early one. Where four to one would hide more of the late
    part than there is, all of it is hidden and the early part makes up the rest: the whole is always `mask_ratio`.
    """
    if not 0 < mask_ratio < 1 or not 0 <= late_share <= 1:
        raise ConfigError(f"mask_ratio {mask_ratio} must lie between 0 and 1, and late_share {late_share} from 0 to 1.")
    t, h, w = grid
    tokens = t * h * w
    late = round(late_share * t) * h * w
    early = tokens - late
    total = min(max(round(mask_ratio * tokens), 1), tokens - 1)
    share = total / (4 * late + early)  # what a fair split of "4 parts late, 1 part early" gives one early token
    hide_late = min(round(4 * share * late), late, total)
    hide_late = max(hide_late, total - early)
    hidden = torch.zeros(batch, tokens, dtype=torch.bool)
    for row in hidden:
        row[torch.randperm(early, generator=generator)[: total - hide_late]] = True
        row[early + torch.randperm(late, generator=generator)[:hide_late]] = True
    return _rows(~hidden, generator), _rows(hidden, generator)


def forecast(grid: Grid, batch: int, late_share: float = 0.5, generator: torch.Generator | None = None) -> Masks:
    """Hide the last steps whole and nothing before them: from one step up to `late_share` of all, as many in every clip.

    What is asked of a predictor that serves: the newest steps, or those to come, from all that was seen before.
    """
    t, h, w = grid
    if t < 2 or not 0 < late_share < 1:
        raise ConfigError(f"A forecast needs two steps (found {t}) and a late_share between 0 and 1 (found {late_share}).")
    most = min(max(round(late_share * t), 1), t - 1)
    hidden = int(torch.randint(1, most + 1, (), generator=generator)) * h * w
    ids = torch.arange(t * h * w).expand(batch, -1)
    return ids[:, :-hidden], ids[:, -hidden:]


def _block_size(h: int, w: int, config: MultiBlock, generator: torch.Generator | None) -> tuple[int, int]:
    low, high = config.aspect
    aspect = low + (high - low) * torch.rand((), generator=generator).item()
    area = int(h * w * config.scale)
    return _clip(round(math.sqrt(area * aspect)), h), _clip(round(math.sqrt(area / aspect)), w)


def _clip(side: int, limit: int) -> int:
    return min(max(side, 1), limit)


def _places(rows: int, columns: int, batch: int, blocks: int, generator: torch.Generator | None) -> list[list[list[int]]]:
    """Top left corners of all blocks of all clips."""
    tops, lefts = (torch.randint(side + 1, (batch, blocks), generator=generator) for side in (rows, columns))
    return torch.stack((tops, lefts), -1).tolist()


def _reach(seen: Tensor, wanted: int, generator: torch.Generator | None) -> None:
    """Hide or show single patches at random until exactly `wanted` are seen; the blocks keep their shape but for these."""
    surplus = int(seen.sum()) - wanted
    candidates = (seen if surplus > 0 else ~seen).nonzero().squeeze(1)
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[: abs(surplus)]]
    seen[chosen] = surplus < 0


def _keep_both(seen: Tensor, generator: torch.Generator | None) -> None:
    """Never hide all or nothing: there would be nothing to see, or nothing to predict."""
    if bool(seen.all()) or not bool(seen.any()):
        place = int(torch.randint(seen.numel(), (), generator=generator))
        seen[place] = ~seen[place]


def _rows(chosen: Tensor, generator: torch.Generator | None) -> Tensor:
    """Ids of the chosen tokens of each clip, cut at random to the smallest count of the batch, in order."""
    rows = [row.nonzero().squeeze(1) for row in chosen]
    least = min(len(row) for row in rows)
    cut = (
        row if len(row) == least else row[torch.randperm(len(row), generator=generator)[:least].sort().values] for row in rows
    )
    return torch.stack(list(cut))
