"""What stands on the encoder's tokens: classifiers, the motion head, and the sterility head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from surg.errors import ConfigError
from surg.model.layers import Block, Mlp, initialise, rescale
from surg.model.rope import Grid

# B clips, N = t*h*w tokens, D width, Q queries, H horizons

PROBE_EPS = 1e-5  # official probes use nn.LayerNorm's default, unlike the backbone's 1e-6; the difference shows at 2e-5


class CrossAttention(nn.Module):
    """Queries look at tokens. No output projection, as in the official probe."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)

    def forward(self, queries: Tensor, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        q = rearrange(self.q(queries), "b q (h d) -> b h q d", h=self.num_heads)
        k, v = rearrange(self.kv(tokens), "b n (s h d) -> s b h n d", s=2, h=self.num_heads).unbind(0)
        return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=bias), "b h q d -> b q (h d)")


class CrossAttentionBlock(nn.Module):
    """Cross-attention and a hidden layer; the query is not normed before it asks."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=PROBE_EPS)
        self.xattn = CrossAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=PROBE_EPS)
        self.mlp = Mlp(width, hidden)

    def forward(self, queries: Tensor, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        queries = queries + self.xattn(queries, self.norm1(tokens), bias)
        return queries + self.mlp(self.norm2(queries))  # type: ignore[no-any-return]


class AttentivePooler(nn.Module):
    """`depth - 1` self-attention blocks without positions, then learned queries that gather the clip into Q vectors."""

    def __init__(self, embed_dim: int, num_heads: int, depth: int, num_queries: int = 1) -> None:
        super().__init__()
        hidden = 4 * embed_dim
        self.query_tokens = nn.Parameter(torch.zeros(1, num_queries, embed_dim))
        self.cross_attention_block = CrossAttentionBlock(embed_dim, num_heads, hidden)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, hidden, eps=PROBE_EPS) for _ in range(depth - 1))
        nn.init.trunc_normal_(self.query_tokens, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, D). Returns (B, Q, D)."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.cross_attention_block(self.query_tokens.expand(tokens.shape[0], -1, -1), tokens)  # type: ignore[no-any-return]


class AttentiveClassifier(nn.Module):
    """The probe of V-JEPA 2's evaluations, with the parameter names of Meta's probe files."""

    def __init__(self, embed_dim: int, num_heads: int = 16, depth: int = 4, num_classes: int = 8) -> None:
        super().__init__()
        self.config = {
            "kind": "attentive",
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "depth": depth,
            "num_classes": num_classes,
        }
        self.pooler = AttentivePooler(embed_dim, num_heads, depth)
        self.linear = nn.Linear(embed_dim, num_classes)
        initialise(self)
        rescale(self.pooler.blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, D). Returns logits (B, classes)."""
        return self.linear(self.pooler(tokens)[:, 0])  # type: ignore[no-any-return]


class LinearHead(nn.Module):
    """One linear layer on the normed mean of the tokens."""

    def __init__(self, embed_dim: int, num_classes: int = 8) -> None:
        super().__init__()
        self.config = {"kind": "linear", "embed_dim": embed_dim, "num_classes": num_classes}
        self.norm = nn.LayerNorm(embed_dim)
        self.linear = nn.Linear(embed_dim, num_classes)
        initialise(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, D) or already pooled (B, D). Returns logits (B, classes)."""
        return self.linear(self.norm(pooled(tokens)))  # type: ignore[no-any-return]


class MotionAuxHead(nn.Module):
    """Keeps motion in the features: from the pooled clip to its motion class and its motion descriptor."""

    def __init__(
        self, embed_dim: int, num_classes: int = 8, num_motion: int = 23, hidden: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.config = {
            "kind": "motion_aux", "embed_dim": embed_dim, "num_classes": num_classes,
            "num_motion": num_motion, "hidden": hidden, "dropout": dropout,
        }  # fmt: skip
        self.trunk = nn.Sequential(nn.Linear(embed_dim, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Dropout(dropout))
        self.classes = nn.Linear(hidden, num_classes)
        self.motion = nn.Linear(hidden, num_motion)
        initialise(self)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (B, N, D) or pooled (B, D). Returns class logits (B, classes) and z-normed motion (B, dims)."""
        x = self.trunk(pooled(tokens))
        return self.classes(x), self.motion(x)


class SterilityHead(nn.Module):
    """Is something unsterile in the sterile field, now and in the seconds to come, and where?

    The user's zone enters as an occupancy of patches: each token learns how much of it, and of its neighbourhood at two
    ranges, the zone covers. Attention joins the tokens; every token says whether it shows a breach (the map), and one query
    per horizon reads the clip. The strongest evidence of the map inside the zone counts towards every horizon, so that
    where and whether agree, and the dense loss on the map teaches the clip's answer.
    """

    def __init__(
        self, embed_dim: int, num_heads: int = 3, depth: int = 2, horizons_s: Sequence[float] = (0, 1, 2, 5), width: int = 192
    ) -> None:
        super().__init__()
        self.horizons_s = tuple(float(second) for second in horizons_s)
        self.config = {
            "kind": "sterility", "embed_dim": embed_dim, "num_heads": num_heads, "depth": depth,
            "horizons_s": list(self.horizons_s), "width": width,
        }  # fmt: skip
        self.embed = nn.Linear(embed_dim, width)
        self.zone_embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, 4 * width, eps=PROBE_EPS) for _ in range(depth - 1))
        self.norm = nn.LayerNorm(width, eps=PROBE_EPS)
        self.place = nn.Linear(width, 1)
        self.queries = nn.Parameter(torch.zeros(1, len(self.horizons_s), width))
        self.read = CrossAttentionBlock(width, num_heads, 4 * width)
        self.answer = nn.Linear(width, 1)
        self.evidence = nn.Parameter(torch.ones(len(self.horizons_s)))
        initialise(self)
        nn.init.trunc_normal_(self.queries, std=0.02)
        # Breaches are rare: start from "no" (odds of 1 in 20 for a token) instead of unlearning a thousand alarms.
        nn.init.constant_(self.place.bias, -3.0)

    def forward(
        self, tokens: Tensor, grid: Grid, zone: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """tokens: (B, N, D) on `grid`; zone: (B, h, w) share of each patch inside the sterile field, 0..1; None is everywhere.

        Returns logits (B, H), one per horizon, and the map (B, t, h, w) of logits. With `keep` (B, K) the tokens are only those
        of these ids, and so is the map (B, K): training on a part of the tokens.
        """
        t, h, w = grid
        if zone is None:
            zone = tokens.new_ones(tokens.shape[0], h, w)
        zone = zone.to(tokens.dtype)
        near = self.zone_embed(zone_features(zone)).repeat(1, t, 1)
        inside = zone.flatten(1).repeat(1, t)
        if keep is not None:
            near, inside = gather_rows(near, keep), inside.gather(1, keep)
        x = self.embed(tokens) + near
        for block in self.blocks:
            x = block(x)
        places: Tensor = self.place(self.norm(x)).squeeze(-1)
        answers = self.answer(self.read(self.queries.expand(x.shape[0], -1, -1), x)).squeeze(-1)
        # Outside the zone the map is pushed down by 8 logits, not cut off: an empty zone must stay finite.
        strongest = torch.amax(places - 8.0 * (1.0 - inside), 1, keepdim=True)
        return answers + self.evidence * strongest, places if keep is not None else places.reshape(-1, t, h, w)


def gather_rows(values: Tensor, ids: Tensor) -> Tensor:
    """Rows of (B, N, D) by their ids (B, K): (B, K, D)."""
    return values.gather(1, ids.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def zone_features(zone: Tensor) -> Tensor:
    """Occupancy of each patch, and of the 3 x 3 and 7 x 7 around it, where what is about to reach the zone is: (B, h*w, 3)."""
    plane = zone.unsqueeze(1)
    near, wide = (F.avg_pool2d(plane, size, stride=1, padding=size // 2, count_include_pad=False) for size in (3, 7))
    return torch.cat((plane, near, wide), 1).flatten(2).transpose(1, 2)


def pooled(tokens: Tensor) -> Tensor:
    """The mean over tokens of (B, N, D); what is pooled already stays."""
    return tokens.mean(1) if tokens.ndim == 3 else tokens


HEADS: dict[str, type[nn.Module]] = {
    "attentive": AttentiveClassifier,
    "linear": LinearHead,
    "motion_aux": MotionAuxHead,
    "sterility": SterilityHead,
}


def build_head(config: Mapping[str, Any]) -> nn.Module:
    """A head from its stored settings: `kind` and the arguments of that kind."""
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    if kind not in HEADS:
        raise ConfigError(f"There is no head of kind {kind!r}; known kinds: {', '.join(HEADS)}.")
    try:
        return HEADS[kind](**arguments)
    except TypeError as error:
        raise ConfigError(f"A head of kind {kind!r} cannot be built from {arguments}: {error}.") from error
