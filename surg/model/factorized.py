"""The factorised variant: attention within each frame, then across time; and its one-call training step."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from surg.config import Config, validate
from surg.errors import ConfigError
from surg.model.config import EncoderConfig, FactorizedConfig, PredictorConfig
from surg.model.encoder import PatchEmbed, build_encoder, gather_tokens, token_grid
from surg.model.layers import Block, initialise, rescale, run_block
from surg.model.masking import future_biased
from surg.model.predictor import Predictor
from surg.model.rope import Grid, RopeTable, RotaryTables, compute_dtype

# B clips, (t, h, w) grid, N = t*h*w tokens, K of them kept, D width


class FactorizedEncoder(nn.Module):
    """Spatial blocks see one time step, temporal blocks one place: cheaper than joint attention, behind the same seam."""

    def __init__(self, config: FactorizedConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width, hidden = config.embed_dim, round(config.embed_dim * config.mlp_ratio)
        self.patch_embed = PatchEmbed(config.in_channels, width, config.tubelet_size, config.patch_size)
        self.spatial_blocks = nn.ModuleList(Block(width, config.num_heads, hidden) for _ in range(config.spatial_depth))
        self.temporal_blocks = nn.ModuleList(Block(width, config.num_heads, hidden) for _ in range(config.temporal_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.rotary = RotaryTables(width // config.num_heads, "interleaved")
        initialise(self)
        rescale([*self.spatial_blocks, *self.temporal_blocks])

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode normalised clips (B, C, T, H, W). Returns all tokens (B, N, D), or (B, K, D) in the order of `keep`.

        Frames may keep different numbers of tokens: a token attends to the kept ones of its frame, then of its place.
        """
        grid = self.grid(clip)
        x = self.patch_embed(clip, keep)
        if keep is None:
            return self._whole(x, grid)
        rope = self.rotary.at(grid, keep, x.device, compute_dtype(x))
        plane = grid[1] * grid[2]
        for group, blocks in ((keep // plane, self.spatial_blocks), (keep % plane, self.temporal_blocks)):
            together = (group[:, :, None] == group[:, None, :]).unsqueeze(1)
            for block in blocks:
                x = run_block(block, x, rope, together, recompute=self.gradient_checkpointing and self.training)
        return self.norm(x)  # type: ignore[no-any-return]

    def levels(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """The factorised variant has one level: its output."""
        return self.forward(clip, keep)

    def grid(self, clip: Tensor) -> Grid:
        """Tokens along time, height and width for a clip of this shape."""
        return token_grid(clip, self.config)

    def _whole(self, x: Tensor, grid: Grid) -> Tensor:
        t = grid[0]
        table = self.rotary.at(grid, None, x.device, compute_dtype(x))
        recompute = self.gradient_checkpointing and self.training
        for forth, back, blocks in (
            ("b (t s) d -> (b t) s d", "(b t) s d -> b (t s) d", self.spatial_blocks),
            ("b (t s) d -> (b s) t d", "(b s) t d -> b (t s) d", self.temporal_blocks),
        ):
            batch = x.shape[0]
            cos, sin = (
                rearrange(_per_clip(part, batch), forth.replace(" d", " one d"), t=t) for part in (table.cos, table.sin)
            )
            rope = RopeTable(cos, sin)
            x = rearrange(x, forth, t=t)
            for block in blocks:
                x = run_block(block, x, rope, recompute=recompute)
            x = rearrange(x, back, b=batch, t=t)
        return self.norm(x)  # type: ignore[no-any-return]


def _per_clip(table: Tensor, batch: int) -> Tensor:
    return table.expand(batch, -1, -1, -1)


class VJEPAConfig(Config):
    """Settings of the one-call model, under the names its users know."""

    encoder_dim: int = Field(768, gt=0)
    """Width of the encoder."""
    predictor_dim: int = Field(384, gt=0)
    """Width of the predictor."""
    num_frames: int = Field(16, gt=0)
    """Frames per clip; clips of another length are refused."""
    patch_size: int = Field(16, gt=0)
    """Side of a patch in pixels."""
    tubelet_size: int = Field(2, gt=0)
    """Frames per token."""
    mask_ratio: float = Field(0.7, gt=0, lt=1)
    """Share of the tokens that the student does not see."""
    temporal_mask_ratio: float = Field(0.5, ge=0, le=1)
    """Share of the clip, from its end, that is masked four times as densely."""
    factorized: bool = True
    """Attention within frames, then across time; False attends over the whole clip."""
    spatial_depth: int = Field(8, gt=0)
    """Blocks within frames; without factorisation, added to the temporal ones."""
    temporal_depth: int = Field(4, gt=0)
    """Blocks across time."""
    num_heads: int | None = Field(None, gt=0)
    """Heads of the encoder; left out, one per 64 channels."""
    predictor_depth: int = Field(6, gt=0)
    """Blocks of the predictor."""
    predictor_heads: int | None = Field(None, gt=0)
    """Heads of the predictor; left out, one per 32 channels."""
    ema: float = Field(0.99925, ge=0, le=1)
    """Share of the old target that `update_target` keeps."""


class VJEPAModel(nn.Module):
    """Student, slow target and predictor in one module: `loss, metrics = VJEPAModel(config)(video)`.

    After each optimiser step, call `update_target()`.
    """

    def __init__(self, config: VJEPAConfig | Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config if isinstance(config, VJEPAConfig) else validate(VJEPAConfig, dict(config or {}))
        self.encoder = build_encoder(_encoder_config(self.config))
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        width = self.config.predictor_dim
        heads = self.config.predictor_heads or max(width // 32, 1)
        self.predictor = Predictor(
            PredictorConfig(
                embed_dim=self.config.encoder_dim,
                width=width,
                depth=self.config.predictor_depth,
                num_heads=heads,
                num_mask_tokens=1,
            )
        )

    def forward(self, video: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, float]]:
        """video: (B, 3, T, H, W), normalised. Returns the L1 loss on the hidden tokens, and numbers worth logging."""
        grid = token_grid(video, self._encoder_settings)
        frames = video.shape[2]
        if frames != self.config.num_frames:
            raise ConfigError(f"The clip has {frames} frames, the model was set up for num_frames {self.config.num_frames}.")
        context, hidden = future_biased(
            grid, video.shape[0], self.config.mask_ratio, self.config.temporal_mask_ratio, generator
        )
        context, hidden = context.to(video.device), hidden.to(video.device)
        with torch.no_grad():
            full = self.target_encoder(video)
            target = gather_tokens(F.layer_norm(full, full.shape[-1:]), hidden)
        predicted = self.predictor(self.encoder(video, keep=context), context, hidden, grid, mask_token=0)
        loss = F.l1_loss(predicted, target)
        metrics = {
            "loss": loss.item(),
            "mask_ratio": hidden.shape[1] / (hidden.shape[1] + context.shape[1]),
            "target_std": full.flatten(0, 1).std(0).mean().item(),
            "predicted_std": predicted.detach().flatten(0, 1).std(0).mean().item(),
        }
        return loss, metrics

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target a little towards the student."""
        for slow, fast in zip(self.target_encoder.parameters(), self.encoder.parameters()):
            slow.lerp_(fast, 1 - self.config.ema)

    @property
    def _encoder_settings(self) -> EncoderConfig | FactorizedConfig:
        return _encoder_config(self.config)


def _encoder_config(config: VJEPAConfig) -> EncoderConfig | FactorizedConfig:
    heads = config.num_heads or max(config.encoder_dim // 64, 1)
    size = {
        "embed_dim": config.encoder_dim,
        "num_heads": heads,
        "patch_size": config.patch_size,
        "tubelet_size": config.tubelet_size,
    }
    if not config.factorized:
        return validate(EncoderConfig, {**size, "depth": config.spatial_depth + config.temporal_depth, "rope": "interleaved"})
    return validate(FactorizedConfig, {**size, "spatial_depth": config.spatial_depth, "temporal_depth": config.temporal_depth})
