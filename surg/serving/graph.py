"""Encoder and predictor written for a graph: the same numbers as `surg.model`, in the operations that runtimes do well.

What differs from the training code, and why:
- A fixed grid: rotary tables are constants, ids are gone.
- Queries and keys come in halves (even channels, odd channels), each from a projection of its own. Rotating is then four
  multiplications and two additions with constant tables; no Split, Neg, Slice or Gather is left.
- The softmax scale is folded into the query weights, pixel normalisation into the patch projection.
- Attention is one fused operator of onnxruntime where the graph is for onnxruntime alone (`fused`): it never holds the N x N
  weights, which at 64 frames of 384 pixels would be 21 GB. Standard operators otherwise: TensorRT knows no other.
- Tokens stay two-dimensional (B*N, D), so that every projection is one Gemm with its bias.

    B clips, T frames, S side, p patch, u tubelet, N tokens, D width, H heads, d channels of a head
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surg.model.encoder import Encoder
from surg.model.layers import Attention, Block
from surg.model.predictor import Predictor
from surg.model.rope import Grid, RopeTable


class FusedAttention(torch.autograd.Function):
    """softmax(q k') v of (B, N, H*d) tensors, exported as onnxruntime's MultiHeadAttention."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:  # noqa: ARG004
        query, key, value = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        found = g.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads, scale_f=1.0)
        found.setType(query.type())
        return found


class GraphAttention(nn.Module):
    """Self-attention of N tokens at fixed positions."""

    fused = False

    def __init__(self, attention: Attention, tokens: int) -> None:
        super().__init__()
        width, self.heads = attention.proj.in_features, attention.num_heads
        self.channels = width // self.heads
        self.width, self.tokens = width, tokens
        # (q or k, head, even or odd, channel of the half): rows of qkv in that order
        rows = attention.order[: 2 * width].reshape(2, self.heads, 2, self.channels // 2)
        weight, bias = attention.qkv.weight.detach(), attention.qkv.bias.detach()
        scale = self.channels**-0.5
        self.q_even, self.q_odd = (_linear(weight, bias, rows[0, :, half].flatten(), scale) for half in (0, 1))
        self.k_even, self.k_odd = (_linear(weight, bias, rows[1, :, half].flatten(), 1.0) for half in (0, 1))
        self.v = _linear(weight, bias, torch.arange(2 * width, 3 * width), 1.0)
        self.proj = attention.proj

    def forward(self, x: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        """x: (B*N, D). Returns the same shape."""
        query, key, value = self.turned(x, tables, self.tokens)
        if self.fused:
            # Not flatten: with a free batch axis its export is Shape, Slice and Concat; this is one Reshape.
            flat = (part.view(-1, self.tokens, self.width) for part in (query, key, value))
            mixed = cast(Tensor, FusedAttention.apply(*flat, self.heads))
            return cast(Tensor, self.proj(mixed.view(-1, self.width)))
        weights = torch.softmax(query.transpose(1, 2) @ key.permute(0, 2, 3, 1), -1)
        return cast(Tensor, self.proj((weights @ value.transpose(1, 2)).transpose(1, 2).reshape(-1, self.width)))

    def turned(self, x: Tensor, tables: tuple[Tensor, ...], tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys at their positions, and values: (B, N, H, d) each, of `tokens` tokens a clip."""
        query = self._turn(self.q_even(x), self.q_odd(x), tables, tokens)
        key = self._turn(self.k_even(x), self.k_odd(x), tables, tokens)
        return query, key, self.v(x).view(-1, tokens, self.heads, self.channels)

    def _turn(self, even: Tensor, odd: Tensor, tables: tuple[Tensor, ...], tokens: int) -> Tensor:
        """Two halves (B*N, D/2) to their positions: (B, N, H, d)."""
        cos_even, sin_even, cos_odd, sin_odd = tables
        even, odd = even.view(-1, tokens, self.width // 2), odd.view(-1, tokens, self.width // 2)
        turned = (even * cos_even + odd * sin_even, odd * cos_odd + even * sin_odd)
        return torch.cat([half.view(-1, tokens, self.heads, self.channels // 2) for half in turned], -1)


class GraphTables(nn.Module):
    """Rotary tables of all heads side by side, (N, D/2) each, once for all blocks."""

    def __init__(self, rope: RopeTable, heads: int) -> None:
        super().__init__()
        cos, sin = (table[0, :, 0].float().reshape(table.shape[1], 2, -1) for table in (rope.cos, rope.sin))
        for half, name in enumerate(("even", "odd")):
            self.register_buffer(f"cos_{name}", cos[:, half].repeat(1, heads))
            self.register_buffer(f"sin_{name}", sin[:, half].repeat(1, heads))

    def forward(self) -> tuple[Tensor, ...]:
        return cast(tuple[Tensor, ...], (self.cos_even, self.sin_even, self.cos_odd, self.sin_odd))


class GraphBlock(nn.Module):
    def __init__(self, block: Block, tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attn = GraphAttention(block.attn, tokens)

    def forward(self, x: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        x = x + self.attn(self.norm1(x), tables)
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class GraphPatches(nn.Module):
    """uint8 frames (B, T, S, S, 3) to patch tokens (B*N, D), normalisation included.

    still: each frame stands for a tubelet of itself repeated, so the weights of the tubelet's frames are added up.
    """

    def __init__(self, encoder: Encoder, mean: Sequence[float], std: Sequence[float], *, still: bool = False) -> None:
        super().__init__()
        weight = encoder.patch_embed.proj.weight.detach().double()  # D, C, u, p, p
        assert encoder.patch_embed.proj.bias is not None
        bias = encoder.patch_embed.proj.bias.detach().double()
        self.tubelet, self.patch = 1 if still else encoder.config.tubelet_size, encoder.config.patch_size
        mean64, std64 = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        folded = weight / std64.view(1, -1, 1, 1, 1)
        bias = bias - (folded * mean64.view(1, -1, 1, 1, 1)).sum((1, 2, 3, 4))
        if encoder.config.modality_embedding:
            bias = bias + encoder.video_mod_embed.detach().double().flatten()
        if still:
            folded = folded.sum(2, keepdim=True)
        # Columns in the order in which a patch lies in (u, p, p, C): pixels are moved in runs of p * C.
        flat = folded.permute(0, 2, 3, 4, 1).reshape(weight.shape[0], -1)
        self.project = nn.Linear(flat.shape[1], flat.shape[0])
        self.project.weight = nn.Parameter(flat.float(), requires_grad=False)
        self.project.bias = nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, frames: Tensor) -> Tensor:
        _, t, height, width, channels = frames.shape
        u, p = self.tubelet, self.patch
        # Cast before Transpose: TensorRT's parser refuses to transpose uint8.
        x, weight = frames.to(self.project.weight.dtype), self.project.weight
        # 1/255 belongs into the weights, but there fp16 would lose it.
        if weight.dtype == torch.float16:
            x = x * (1.0 / 255.0)
        else:
            weight = weight * (1.0 / 255.0)
        x = x.view(-1, t // u, u, height // p, p, width // p, p, channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return F.linear(x.reshape(-1, u * p * p * channels), weight, self.project.bias)


class GraphEncoder(nn.Module):
    """Frames to the normed tokens of some blocks, for one clip size; `still` sees each clip as one frame."""

    def __init__(
        self, encoder: Encoder, frames: int, size: int, mean: Sequence[float], std: Sequence[float], *, still: bool = False
    ) -> None:
        super().__init__()
        config = encoder.config
        steps = 1 if still else frames // config.tubelet_size
        self.grid: Grid = (steps, size // config.patch_size, size // config.patch_size)
        self.tokens, self.width, self.depth = self.grid[0] * self.grid[1] * self.grid[2], config.embed_dim, config.depth
        self.level_blocks = encoder.level_blocks
        self.patches = GraphPatches(encoder, mean, std, still=still)
        self.tables = GraphTables(encoder.rotary.at(self.grid, None, torch.device("cpu"), torch.float32), config.num_heads)
        self.blocks = nn.ModuleList(GraphBlock(cast(Block, block), self.tokens) for block in encoder.blocks)
        self.norms = nn.ModuleDict({str(index): encoder._norm_after(index) for index in {*self.level_blocks, config.depth - 1}})

    def forward(self, frames: Tensor, levels: Sequence[int] | None = None) -> list[Tensor]:
        """Normed tokens (B, N, D) after each of `levels` (default: the last block)."""
        wanted = tuple(levels) if levels is not None else (self.depth - 1,)
        x, tables, kept = self.patches(frames), self.tables(), {}
        for index, block in enumerate(self.blocks):
            x = block(x, tables)
            if index in wanted:
                kept[index] = self.norms[str(index)](x).view(-1, self.tokens, self.width)
        return [kept[index] for index in wanted]


class GraphPredictor(nn.Module):
    """Predicts the tokens of later tubelets of a grid from all tokens of its earlier ones."""

    def __init__(self, predictor: Predictor, grid: Grid, seen: int, mask_token: int = 1) -> None:
        super().__init__()
        per_step = grid[1] * grid[2]
        self.context, self.targets = seen * per_step, (grid[0] - seen) * per_step
        self.width, self.into = predictor.config.width, predictor.config.levels * predictor.config.embed_dim
        self.out = predictor.config.target_dim
        self.embed, self.norm, self.project = predictor.predictor_embed, predictor.predictor_norm, predictor.predictor_proj
        unseen = predictor.mask_tokens[mask_token].detach().expand(1, self.targets, -1).clone()
        modality = predictor.video_mod_embed.detach() if predictor.config.modality_embedding else torch.zeros(1, 1, self.width)
        self.register_buffer("unseen", unseen + modality)
        self.register_buffer("modality", modality)
        self.has_modality = predictor.config.modality_embedding
        ids = torch.arange(grid[0] * per_step)[None]
        self.tables = GraphTables(
            predictor.rotary.at(grid, ids, torch.device("cpu"), torch.float32), predictor.config.num_heads
        )
        self.blocks = nn.ModuleList(GraphBlock(cast(Block, block), ids.shape[1]) for block in predictor.predictor_blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, context, levels * D). Returns (B, targets, out)."""
        seen = self.embed(tokens.reshape(-1, self.into)).view(-1, self.context, self.width)
        if self.has_modality:
            seen = seen + self.modality
        # Zeros that carry the batch: `expand` of a constant along a dynamic axis would need Shape and Expand.
        unseen = seen[:, :1, :1] * 0 + self.unseen
        x = torch.cat((seen, unseen), 1).view(-1, self.width)
        tables = self.tables()
        for block in self.blocks:
            x = block(x, tables)
        target = x.view(-1, self.context + self.targets, self.width)[:, self.context :]
        return cast(Tensor, self.project(self.norm(target.reshape(-1, self.width))).view(-1, self.targets, self.out))


def fuse_attention(module: nn.Module, *, fused: bool = True) -> None:
    """Choose the fused operator, or standard ones, for every attention of `module`."""
    for part in module.modules():
        if isinstance(part, GraphAttention):
            part.fused = fused


def _linear(weight: Tensor, bias: Tensor, rows: Tensor, scale: float) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(rows))
    layer.weight = nn.Parameter((weight[rows] * scale).contiguous(), requires_grad=False)
    layer.bias = nn.Parameter((bias[rows] * scale).contiguous(), requires_grad=False)
    return layer
