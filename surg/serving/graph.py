"""Encoder and predictor written for a graph: the same numbers as `surg.model`, in the operations that runtimes do well.

What differs from the training code, and why:
- A fixed grid: rotary tables are constants, ids are gone.
- Queries and keys come together, in halves: all even channels from one projection, all odd ones from another. Rotating is then
  four multiplications and two additions with constant tables; no Neg, Slice or Gather is left.
- The softmax scale is folded into the query weights, pixel normalisation into the patch projection.
- Attention is one fused operator of onnxruntime where the graph is for onnxruntime alone (`fused`): it never holds the N x N
  weights, which at 64 frames of 384 pixels would be 21 GB. Standard operators otherwise: TensorRT knows no other. In int8, scores that
  fit in memory come from a product of whole numbers instead.
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


SCORES_BELOW_BYTES = 32 * 2**20
"""Whole-number scores lie in memory as fp32, N x N for each head; where a clip's would be larger than this, attention stays fused."""


class WholeNumberScores(torch.autograd.Function):
    """q k' of (B, N, H, d) tensors as (B, H, N, N), exported as a product of whole numbers: half the time of fp32's.

    Queries become uint8 with one scale. Keys become int8, since onnxruntime multiplies two uint8 tensors at half the speed, each
    with the scale of its token and head: one for all would raise the softmax's error by a third and save a fortieth of the time.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG004
        return query.transpose(1, 2) @ key.permute(0, 2, 3, 1)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any) -> Any:
        query8, query_scale, query_zero = g.op("DynamicQuantizeLinear", query, outputs=3)
        last, least, steps = (torch.tensor(value) for value in ([-1], 1e-30, 1 / 127))
        largest = g.op("ReduceMax", g.op("Abs", key), g.op("Constant", value_t=last), keepdims_i=1)
        largest = g.op("Max", largest, g.op("Constant", value_t=least))  # a key of zeros
        key_scale = g.op("Mul", largest, g.op("Constant", value_t=steps))
        key8 = g.op("Cast", g.op("Round", g.op("Div", key, key_scale)), to_i=3)  # 3: int8
        # Turned round as bytes, which are a quarter of the floats.
        query8, key8 = g.op("Transpose", query8, perm_i=[0, 2, 1, 3]), g.op("Transpose", key8, perm_i=[0, 2, 3, 1])
        product = g.op("Cast", g.op("MatMulInteger", query8, key8, query_zero), to_i=1)  # 1: float
        scale = g.op("Mul", g.op("Transpose", key_scale, perm_i=[0, 2, 3, 1]), query_scale)
        return g.op("Mul", product, scale)


class GraphAttention(nn.Module):
    """Self-attention of N tokens at fixed positions."""

    fused = False
    whole_numbers = False

    def __init__(self, attention: Attention, tokens: int) -> None:
        super().__init__()
        width, self.heads = attention.proj.in_features, attention.num_heads
        self.channels = width // self.heads
        self.width, self.tokens = width, tokens
        # (q or k, head, even or odd, channel of the half): rows of qkv in that order
        rows = attention.order[: 2 * width].reshape(2, self.heads, 2, self.channels // 2)
        weight, bias = attention.qkv.weight.detach(), attention.qkv.bias.detach()
        scale = torch.ones(2, self.heads, self.channels // 2)
        scale[0] = self.channels**-0.5
        self.even, self.odd = (_linear(weight, bias, rows[:, :, half].flatten(), scale.flatten()) for half in (0, 1))
        self.v = _linear(weight, bias, torch.arange(2 * width, 3 * width), torch.ones(width))
        self.proj = attention.proj

    def forward(self, x: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        """x: (B*N, D) or (B, N, D). Returns the same shape."""
        query, key, value = self.turned(x, tables, self.tokens)
        if self.fused:
            # Not flatten: with a free batch axis its export is Shape, Slice and Concat; this is one Reshape.
            flat = (part.reshape(-1, self.tokens, self.width) for part in (query, key))
            mixed = cast(Tensor, FusedAttention.apply(*flat, value, self.heads))
            return cast(Tensor, self.proj(mixed if x.dim() == 3 else mixed.view(-1, self.width)))
        value = value.view(-1, self.tokens, self.heads, self.channels)
        if self.whole_numbers:
            scores = cast(Tensor, WholeNumberScores.apply(query, key))
        else:
            scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)
        weights = torch.softmax(scores, -1)
        mixed = (weights @ value.transpose(1, 2)).transpose(1, 2)
        return cast(
            Tensor, self.proj(mixed.reshape(-1, self.tokens, self.width) if x.dim() == 3 else mixed.reshape(-1, self.width))
        )

    def turned(self, x: Tensor, tables: tuple[Tensor, ...], tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys at their positions, (B, N, H, d) each, and values (B, N, D), of `tokens` tokens a clip."""
        cos_even, sin_even, cos_odd, sin_odd = tables
        even, odd, value = (
            part(x) if x.dim() == 3 else part(x).view(-1, tokens, self.width) for part in (self.even, self.odd, self.v)
        )
        halves = (even * cos_even + odd * sin_even, odd * cos_odd + even * sin_odd)
        turned = torch.cat([half.view(-1, tokens, 2 * self.heads, self.channels // 2) for half in halves], -1)
        query, key = torch.split(turned, self.heads, 2)
        return query, key, value


class GraphTables(nn.Module):
    """Rotary tables of all heads side by side, of queries and then of keys: (N, D) each, once for all blocks."""

    def __init__(self, rope: RopeTable, heads: int) -> None:
        super().__init__()
        cos, sin = (table[0, :, 0].float().reshape(table.shape[1], 2, -1) for table in (rope.cos, rope.sin))
        for half, name in enumerate(("even", "odd")):
            self.register_buffer(f"cos_{name}", cos[:, half].repeat(1, 2 * heads))
            self.register_buffer(f"sin_{name}", sin[:, half].repeat(1, 2 * heads))

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


class WholeNumberProduct(torch.autograd.Function):
    """uint8 (M, K) times int8 (K, D), each column of which has its scale, exported as the whole-number product that it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG004
        return x.to(scale.dtype) @ weight.to(scale.dtype) * scale + bias

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, scale: Any, bias: Any) -> Any:
        product = g.op("Cast", g.op("MatMulInteger", x, weight), to_i=1)  # 1: float
        return g.op("Add", g.op("Mul", product, scale), bias)


class GraphPatches(nn.Module):
    """uint8 frames (B, T, S, S, 3) to patch tokens (B*N, D), normalisation included.

    still: each frame stands for a tubelet of itself repeated, so the weights of the tubelet's frames are added up.
    """

    whole_numbers = False

    def __init__(self, encoder: Encoder, mean: Sequence[float], std: Sequence[float], *, still: bool = False) -> None:
        super().__init__()
        weight = encoder.patch_embed.proj.weight.detach().double()  # D, C, u, p, p
        assert encoder.patch_embed.proj.bias is not None
        bias = encoder.patch_embed.proj.bias.detach().double()
        self.tubelet, self.patch = 1 if still else encoder.config.tubelet_size, encoder.config.patch_size
        mean64, std64 = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        folded = weight / std64.view(1, -1, 1, 1, 1)
        if encoder.config.modality_embedding:
            bias = bias + encoder.video_mod_embed.detach().double().flatten()
        if still:
            folded = folded.sum(2, keepdim=True)
        # Columns in the order in which a patch lies in (u, p, p, C): pixels are moved in runs of p * C.
        flat = folded.permute(0, 2, 3, 4, 1).reshape(weight.shape[0], -1)
        self.project = nn.Linear(flat.shape[1], flat.shape[0])
        grey = mean64.repeat(flat.shape[1] // len(mean64))
        self.project.weight = nn.Parameter(flat.float(), requires_grad=False)
        self.project.bias = nn.Parameter((bias - flat @ grey).float(), requires_grad=False)
        # The mean is taken off by the weights as they are rounded: their errors then count for what differs from grey alone.
        scale = (flat.abs().amax(1) / 127).clamp(min=1e-12)
        whole = torch.round(flat / scale[:, None])
        self.register_buffer("whole", whole.to(torch.int8).T.contiguous())
        self.register_buffer("scale", (scale / 255).float())
        self.register_buffer("whole_bias", (bias - scale * (whole @ grey)).float())

    def forward(self, frames: Tensor) -> Tensor:
        if self.whole_numbers:
            # Pixels are whole numbers already: nothing to quantise, and a quarter of the bytes to move.
            return cast(Tensor, WholeNumberProduct.apply(self._patches(frames), self.whole, self.scale, self.whole_bias))
        # Cast before Transpose: TensorRT's parser refuses to transpose uint8.
        x, weight = frames.to(self.project.weight.dtype), self.project.weight
        # 1/255 belongs into the weights, but there fp16 would lose it.
        if weight.dtype == torch.float16:
            x = x * (1.0 / 255.0)
        else:
            weight = weight * (1.0 / 255.0)
        return F.linear(self._patches(x), weight, self.project.bias)

    def _patches(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B*N, u*p*p*C)."""
        _, t, height, width, channels = x.shape
        u, p = self.tubelet, self.patch
        x = x.view(-1, t // u, u, height // p, p, width // p, p, channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return x.reshape(-1, u * p * p * channels)


class GraphEncoder(nn.Module):
    """Frames to the normed tokens of some blocks, for one clip size; `still` sees each clip as one frame."""

    flat = True

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
        if not self.flat:
            x = x.view(-1, self.tokens, self.width)
        for index, block in enumerate(self.blocks):
            x = block(x, tables)
            if index in wanted:
                # Flat in any case: onnxruntime would join this norm to the sum before it, in an operator six times as slow as both.
                kept[index] = self.norms[str(index)](x.view(-1, self.width)).view(-1, self.tokens, self.width)
        return [kept[index] for index in wanted]


class GraphPredictor(nn.Module):
    """Predicts the tokens of later tubelets of a grid from all tokens of its earlier ones."""

    flat = True

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
        x, tables = torch.cat((seen, unseen), 1), self.tables()
        if self.flat:
            x = x.view(-1, self.width)
        for block in self.blocks:
            x = block(x, tables)
        target = x.view(-1, self.context + self.targets, self.width)[:, self.context :]
        return cast(Tensor, self.project(self.norm(target.reshape(-1, self.width))).view(-1, self.targets, self.out))


def lay_out(module: nn.Module, *, fused: bool = False, whole_numbers: bool = False) -> None:
    """Choose what every part of `module` is exported as.

    fused: attention as onnxruntime's operator. whole_numbers: for a graph whose products will be int8; pixels stay uint8 then, and
    tokens three-dimensional, for there is no Gemm.
    """
    for part in module.modules():
        if isinstance(part, GraphAttention):
            part.whole_numbers = whole_numbers and 4 * part.heads * part.tokens**2 <= SCORES_BELOW_BYTES
            part.fused = fused and not part.whole_numbers
        elif isinstance(part, GraphEncoder | GraphPredictor):
            part.flat = not whole_numbers
        elif hasattr(part, "whole_numbers"):
            part.whole_numbers = whole_numbers  # type: ignore[assignment]


def _linear(weight: Tensor, bias: Tensor, rows: Tensor, scale: Tensor) -> nn.Linear:
    """Some rows of a projection, each times its scale."""
    layer = nn.Linear(weight.shape[1], len(rows))
    layer.weight = nn.Parameter((weight[rows] * scale[:, None]).contiguous(), requires_grad=False)
    layer.bias = nn.Parameter((bias[rows] * scale).contiguous(), requires_grad=False)
    return layer
