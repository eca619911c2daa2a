"""The V-JEPA 2 and 2.1 video encoder: patches to tokens, with attention over the whole clip or over the visible tokens only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from surg.errors import ConfigError
from surg.model.config import AnyEncoderConfig, EncoderConfig, FactorizedConfig
from surg.model.layers import Block, drop_path_rates, initialise, rescale, run_block
from surg.model.rope import Grid, RotaryTables, compute_dtype

if TYPE_CHECKING:
    from surg.model.factorized import FactorizedEncoder

# B clips, C channels, T frames, H W pixels, (t, h, w) grid of tokens, N = t*h*w tokens, K of them kept, D width


class PatchEmbed(nn.Module):
    """Cut a clip into tubes of patches and project each to a token."""

    # A batch of fewer tubes is no matter of speed, and the convolution sums in the official order: Adam's first step turns on
    # the sign of gradients near zero, where another order flips one weight in 278,000 (golden test of the training step).
    FEW = 64

    def __init__(self, in_channels: int, width: int, tubelet: int, patch: int) -> None:
        super().__init__()
        size = (tubelet, patch, patch)
        self.proj = nn.Conv3d(in_channels, width, kernel_size=size, stride=size)

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """clip: (B, C, T, H, W). Returns tokens (B, N, D), time-major, or (B, K, D) of the tubes `keep` alone.

        Projecting only what is kept costs 2.3 times less at a quarter of the tubes, and 3.8 times less with its backward pass.
        """
        if keep is None and clip.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # oneDNN's convolution in bf16 takes three times as long as one product, and with its backward pass a sixth of a step of `tiny`.
            tubelet, patch, _ = self.proj.kernel_size
            tubes = rearrange(clip, "b c (t p) (h q) (w r) -> b (t h w) (c p q r)", p=tubelet, q=patch, r=patch)
            return F.linear(tubes, self.proj.weight.flatten(1), self.proj.bias)
        if keep is None:
            # Contiguous: a transposed layout would be handed on by every residual addition, and cost 5 % of a forward of ViT-L.
            return self.proj(clip).flatten(2).transpose(1, 2).contiguous()  # type: ignore[no-any-return]
        if self.tubes(clip) < self.FEW:
            return gather_tokens(self.proj(clip).flatten(2).transpose(1, 2), keep)
        tubelet, patch, _ = self.proj.kernel_size
        tubes = rearrange(clip, "b c (t p) (h q) (w r) -> b t h w c p q r", p=tubelet, q=patch, r=patch)
        _, _, h, w = tubes.shape[:4]
        clips = torch.arange(len(clip), device=keep.device)[:, None]
        kept = tubes[clips, keep // (h * w), keep // w % h, keep % w]
        return F.linear(kept.flatten(2), self.proj.weight.flatten(1), self.proj.bias)

    def tubes(self, clip: Tensor) -> int:
        """Tubes in a batch of clips."""
        tubelet, patch, _ = self.proj.kernel_size
        return len(clip) * (clip.shape[2] // tubelet) * (clip.shape[3] // patch) * (clip.shape[4] // patch)


class Encoder(nn.Module):
    """A video transformer whose parameters carry the names of Meta's checkpoints.

    `encoder(clip)` gives all tokens (B, N, D); `encoder(clip, keep=ids)` sees only the tokens `ids` (B, K) and gives those
    (B, K, D): what the student of masked training needs, at a fraction of the cost. Any size divisible by the patch and
    any frame count divisible by the tubelet will do.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width, hidden = config.embed_dim, round(config.embed_dim * config.mlp_ratio)
        self.patch_embed = PatchEmbed(config.in_channels, width, config.tubelet_size, config.patch_size)
        if config.image_path:
            self.patch_embed_img = PatchEmbed(config.in_channels, width, 1, config.patch_size)
        if config.modality_embedding:
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, hidden, mlp=config.mlp, drop_path=rate)
            for rate in drop_path_rates(config.drop_path, config.depth)
        )
        if config.levels:
            self.norms_block = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in config.levels)
        else:
            self.norm = nn.LayerNorm(width, eps=1e-6)
        self.rotary = RotaryTables(
            width // config.num_heads, config.rope, stretch_to=config.rope_grid if config.interpolate_rope else None
        )
        initialise(self)
        rescale(self.blocks)
        if config.modality_embedding:
            nn.init.normal_(self.img_mod_embed, std=1e-6)
            nn.init.normal_(self.video_mod_embed, std=1e-6)

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode normalised clips (B, C, T, H, W). Returns all tokens (B, N, D), or (B, K, D) in the order of `keep`."""
        return self.layers(clip, (self.config.depth - 1,), keep)[0]

    def levels(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens of several depths side by side, (B, N, levels * D): 2.1's levels, or four spread evenly over the blocks."""
        return torch.cat(self.layers(clip, self.level_blocks, keep), -1)

    def several(self, clip: Tensor, keeps: Sequence[Tensor], *, levels: bool = False) -> list[Tensor]:
        """`encoder(clip, keep)` (or `levels`) for several sets of visible tokens at once: each attends to its own, the rest is one pass.

        One pass over two sets costs fewer and larger operations than two, and adds each weight's gradient up once.
        """
        blocks = self.level_blocks if levels else (self.config.depth - 1,)
        if len(keeps) == 1 or self.patch_embed.tubes(clip) < PatchEmbed.FEW:
            return [torch.cat(self.layers(clip, blocks, keep), -1) for keep in keeps]
        lengths = tuple(keep.shape[1] for keep in keeps)
        together = torch.cat(self.layers(clip, blocks, torch.cat(list(keeps), 1), lengths), -1)
        return list(torch.split(together, list(lengths), 1))

    @property
    def level_blocks(self) -> tuple[int, ...]:
        """Blocks that `levels` reads."""
        depth = self.config.depth
        return self.config.levels or tuple(sorted({max(depth * part // 4 - 1, 0) for part in (1, 2, 3, 4)}))

    def layers(
        self, clip: Tensor, blocks: Sequence[int], keep: Tensor | None = None, lengths: tuple[int, ...] | None = None
    ) -> list[Tensor]:
        """Normed outputs of the named blocks, counted from 0, in the order asked for. Blocks after the last one do not run.

        `lengths`: `keep` holds several sets of tokens of such lengths side by side, which do not see each other.
        """
        if not blocks or not all(0 <= index < self.config.depth for index in blocks):
            raise ConfigError(f"Blocks {list(blocks)} were asked for; this encoder has blocks 0 to {self.config.depth - 1}.")
        grid = self.grid(clip)
        x = self.embed(clip, keep)
        rope = replace(self.rotary.at(grid, keep, x.device, compute_dtype(x)), lengths=lengths)
        wanted: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks[: max(blocks) + 1]):
            x = run_block(block, x, rope, recompute=self.gradient_checkpointing and self.training)
            if index in blocks:
                wanted[index] = self._norm_after(index)(x)
        return [wanted[index] for index in blocks]

    def embed(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patch tokens before the first block: all (B, N, D), or the kept ones (B, K, D)."""
        image = clip.shape[2] == 1
        if image and not self.config.image_path:
            clip, image = clip.expand(-1, -1, self.config.tubelet_size, -1, -1), False
        tokens = self.patch_embed_img(clip, keep) if image else self.patch_embed(clip, keep)
        if self.config.modality_embedding:
            tokens = tokens + (self.img_mod_embed if image else self.video_mod_embed)
        return tokens  # type: ignore[no-any-return]

    def grid(self, clip: Tensor) -> Grid:
        """Tokens along time, height and width for a clip of this shape."""
        return token_grid(clip, self.config)

    def _norm_after(self, index: int) -> nn.Module:
        if not self.config.levels:
            return self.norm
        place = self.config.levels.index(index) if index in self.config.levels else -1
        return self.norms_block[place]


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens (B, N, D) by their ids (B, K): (B, K, D)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def token_grid(clip: Tensor, config: EncoderConfig | FactorizedConfig) -> Grid:
    """The grid of tokens of a clip (B, C, T, H, W); a single frame counts as one time step."""
    frames, height, width = clip.shape[2:]
    tubelet, patch = config.tubelet_size, config.patch_size
    if (frames > 1 and frames % tubelet) or height % patch or width % patch:
        raise ConfigError(
            f"A clip of {frames} frames of {height} x {width} cannot be cut into tubes of {tubelet} x {patch} x {patch}.\n"
            f"Use a frame count divisible by {tubelet} and sides divisible by {patch}."
        )
    return (max(frames // tubelet, 1), height // patch, width // patch)


def build_encoder(config: EncoderConfig | FactorizedConfig | Mapping[str, Any]) -> "Encoder | FactorizedEncoder":
    """The encoder that a config asks for, with fresh weights. A mapping is validated first."""
    if isinstance(config, Mapping):
        config = encoder_config_from(config)
    if isinstance(config, FactorizedConfig):
        from surg.model.factorized import FactorizedEncoder

        return FactorizedEncoder(config)
    return Encoder(config)


def encoder_config_from(values: Mapping[str, Any]) -> EncoderConfig | FactorizedConfig:
    """Validate plain values; those without a `kind` describe the joint encoder."""
    adapter: TypeAdapter[EncoderConfig | FactorizedConfig] = TypeAdapter(AnyEncoderConfig)
    try:
        return adapter.validate_python({"kind": "joint", **values})
    except ValidationError as error:
        raise ConfigError(f"This does not describe an encoder: {error}") from error
