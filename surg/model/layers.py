"""The transformer block that encoder, predictor, world model and heads share."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from surg.model.rope import RopeTable, halves_order, rotate

# B clips, N tokens, D width, H heads, d channels of a head

EXPLICIT_UP_TO = 1 << 25
"""Attention weights (B * H * N * N) that may be kept for the backward pass: 64 MB of bf16 a block."""


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values, and rotary positions if a table is given."""

    order: Tensor

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        heads = np.arange(2 * num_heads)[:, None] * (width // num_heads) + halves_order(width // num_heads)
        # Rows of `qkv` that give queries and keys in halves (see rope.py); the values stay as they are. From numpy, so that
        # a model built on the meta device still has them.
        order = torch.from_numpy(np.concatenate((heads.reshape(-1), np.arange(2 * width, 3 * width))))
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor, rope: RopeTable | None = None, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x, rope)
        if rope is None or rope.lengths is None:
            x = rearrange(attend(q, k, v, mask), "b h n d -> b n (h d)")
        else:
            sets = zip(*(torch.split(part, list(rope.lengths), 2) for part in (q, k, v)))
            x = torch.cat([rearrange(attend(*own), "b h n d -> b n (h d)") for own in sets], 1)
        return self.proj(x)  # type: ignore[no-any-return]

    def _project(self, x: Tensor, rope: RopeTable | None) -> tuple[Tensor, Tensor, Tensor]:
        if rope is None:
            qkv = rearrange(self.qkv(x), "b n (s h d) -> s b h n d", s=3, h=self.num_heads)
            return qkv[0], qkv[1], qkv[2]
        # Halves come from reordering the weight's rows or the result's channels, whichever is smaller. A wrapped projection
        # (LoRA, for example) leaves only the second way.
        reorder_rows = type(self.qkv) is nn.Linear and x.shape[0] * x.shape[1] >= x.shape[2]
        qkv = (
            F.linear(x, self.qkv.weight.index_select(0, self.order), self.qkv.bias.index_select(0, self.order))
            if reorder_rows
            else self.qkv(x)
        )
        qkv = rearrange(qkv, "b n (g d) -> b n g d", g=3 * self.num_heads)
        queries_keys, v = qkv.split((2 * self.num_heads, self.num_heads), 2)
        if not reorder_rows:
            queries_keys = rearrange(queries_keys, "b n g (j two) -> b n g (two j)", two=2)
        q, k = rotate(queries_keys, rope).chunk(2, 2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, (B, H, N, d) each, by the way that is quick here."""
    # Backward through torch's fused attention in bf16 on a CPU takes 2 to 4 times as long as three products (20 % of a training
    # step of `tiny`; Xeon with AMX, torch 2.14). Forward alone, fp32 and GPUs are left to it.
    in_bf16 = q.dtype == torch.bfloat16 and q.device.type == "cpu" and mask is None
    if in_bf16 and q.requires_grad and torch.is_grad_enabled() and q.shape[:3].numel() * k.shape[2] <= EXPLICIT_UP_TO:
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), -1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and hidden layer, each added to its input."""

    def __init__(
        self, width: int, num_heads: int, hidden: int, *, eps: float = 1e-6, mlp: str = "gelu", drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp: nn.Module = Mlp(width, hidden) if mlp == "gelu" else _swiglu(width, hidden)
        self.drop_path: nn.Module = _drop_path(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, rope: RopeTable | None = None, mask: Tensor | None = None) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), rope, mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def run_block(block: nn.Module, x: Tensor, rope: RopeTable | None, mask: Tensor | None = None, *, recompute: bool) -> Tensor:
    """One block; with `recompute` its activations are dropped and computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, x, rope, mask, use_reentrant=False)  # type: ignore[no-any-return]
    return block(x, rope, mask)  # type: ignore[no-any-return]


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates that grow linearly from 0 at the first block to `last` at the last one."""
    return [last * index / max(depth - 1, 1) for index in range(depth)]


def initialise(module: nn.Module) -> None:
    """Truncated normal (std 0.02) weights and zero biases for every linear and convolution; norms start at identity."""
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Conv3d):
            nn.init.trunc_normal_(child.weight, std=0.02)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def rescale(blocks: Sequence[nn.Module] | nn.ModuleList) -> None:
    """Divide each block's output projections by sqrt(2 * layer), layers counted from 1, so that depth does not add variance."""
    with torch.no_grad():
        for layer, block in enumerate(blocks, start=1):
            assert isinstance(block, Block)
            block.attn.proj.weight.div_(math.sqrt(2.0 * layer))
            if isinstance(block.mlp, Mlp):
                block.mlp.fc2.weight.div_(math.sqrt(2.0 * layer))


def _drop_path(rate: float) -> nn.Module:
    from timm.layers.drop import DropPath  # timm imports all its models, seconds that most uses need not pay

    return DropPath(rate)


def _swiglu(width: int, hidden: int) -> nn.Module:
    from timm.layers.mlp import SwiGLU

    return SwiGLU(width, hidden, align_to=8)
