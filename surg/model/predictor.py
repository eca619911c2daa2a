"""The predictor: from the tokens the encoder saw to those it did not, in the encoder's own space."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from surg.config import validate
from surg.errors import ConfigError
from surg.model.config import PredictorConfig
from surg.model.layers import Block, drop_path_rates, initialise, rescale, run_block
from surg.model.rope import Grid, RotaryTables, compute_dtype

# B clips, K tokens seen, M tokens to predict, D width of the encoder, P width inside


class Prediction(NamedTuple):
    """Tokens from a predictor with a context head: what was asked for, and the seen tokens predicted again."""

    target: Tensor
    context: Tensor


class Predictor(nn.Module):
    """A narrow transformer over seen tokens and mask tokens. Parameters carry the names of Meta's checkpoints."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width, into = config.width, config.levels * config.embed_dim
        self.predictor_embed: nn.Module
        if config.levels == 1:
            self.predictor_embed = nn.Linear(into, width)
        else:
            self.predictor_embed = nn.Sequential(
                nn.Linear(into, config.embed_dim), nn.GELU(), nn.Linear(config.embed_dim, width)
            )
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, width)) for _ in range(config.num_mask_tokens))
        if config.modality_embedding:
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.predictor_blocks = nn.ModuleList(
            Block(width, config.num_heads, round(width * config.mlp_ratio), drop_path=rate)
            for rate in drop_path_rates(config.drop_path, config.depth)
        )
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, config.target_dim)
        if config.context_head:
            self.predictor_proj_context = nn.Linear(width, config.target_dim)
        self.rotary = RotaryTables(
            width // config.num_heads, config.rope, stretch_to=config.rope_grid if config.interpolate_rope else None
        )
        initialise(self)
        rescale(self.predictor_blocks)
        for token in self.mask_tokens:
            nn.init.trunc_normal_(token, std=0.02)
        if config.modality_embedding:
            nn.init.normal_(self.img_mod_embed, std=1e-6)
            nn.init.normal_(self.video_mod_embed, std=1e-6)

    def forward(
        self, tokens: Tensor, context_ids: Tensor, target_ids: Tensor, grid: Grid, mask_token: int = 1, *, image: bool = False
    ) -> Tensor | Prediction:
        """Predict the tokens at `target_ids` (B, M) of a grid from `tokens` (B, K, levels * D) at `context_ids` (B, K).

        `mask_token` picks the learned stand-in: Meta's evaluations use 1, pre-training with one clip length 0.
        Ids may lie beyond the clip that was encoded, as long as they lie on `grid`: that is how the future is asked for.
        Returns (B, M, target_dim), or a `Prediction` of targets and context when the config has a context head.
        """
        return self.several([tokens], [context_ids], [target_ids], grid, mask_token, image=image)[0]

    def several(
        self, tokens: Sequence[Tensor], context_ids: Sequence[Tensor], target_ids: Sequence[Tensor], grid: Grid, mask_token: int = 1,
        *, image: bool = False,
    ) -> list[Tensor] | list[Prediction]:  # fmt: skip
        """`predictor(...)` for several masks in one pass; each attends to its own tokens."""
        if not 0 <= mask_token < self.config.num_mask_tokens:
            raise ConfigError(
                f"Mask token {mask_token} was asked for; this predictor has {self.config.num_mask_tokens}, from 0."
            )
        counts = [(context.shape[1], target.shape[1]) for context, target in zip(context_ids, target_ids)]
        seen = self.predictor_embed(torch.cat(list(tokens), 1) if len(tokens) > 1 else tokens[0])
        mask = self.mask_tokens[mask_token].to(seen.dtype)
        # Upstream sorts the two by id. Attention with rotary positions does not depend on the order, so we need not.
        x = torch.cat(
            [
                part
                for own, (_, asked) in zip(seen.split([known for known, _ in counts], 1), counts)
                for part in (own, mask.expand(own.shape[0], asked, -1))
            ],
            1,
        )
        if self.config.modality_embedding:
            x = x + (self.img_mod_embed if image else self.video_mod_embed)
        ids = torch.cat([part for pair in zip(context_ids, target_ids) for part in pair], 1)
        lengths = tuple(known + asked for known, asked in counts) if len(counts) > 1 else None
        rope = replace(self.rotary.at(grid, ids, x.device, compute_dtype(x)), lengths=lengths)
        for block in self.predictor_blocks:
            x = run_block(block, x, rope, recompute=self.gradient_checkpointing and self.training)
        parts = self.predictor_norm(x).split([count for pair in counts for count in pair], 1)
        targets = self.predictor_proj(torch.cat(parts[1::2], 1) if len(counts) > 1 else parts[1])
        predicted = list(targets.split([asked for _, asked in counts], 1))
        if not self.config.context_head:
            return predicted
        return [Prediction(own, self.predictor_proj_context(context)) for own, context in zip(predicted, parts[::2])]


def build_predictor(config: PredictorConfig | Mapping[str, Any]) -> Predictor:
    """The predictor that a config asks for, with fresh weights. A mapping is validated first."""
    return Predictor(config if isinstance(config, PredictorConfig) else validate(PredictorConfig, dict(config)))
