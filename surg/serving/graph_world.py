"""The action-conditioned world model written for a graph: the same numbers as `surg.model.world`, each step computed once.

A step's tokens see their own step and those before it, so what was computed for them stays true when a step is added: a roll-out
extends kept keys and values by one step at a time, where the training code runs the whole past again.

    B clips, T steps seen, K steps ahead, s newest steps, P places of a step, G tokens of a step (action, state, places), D width
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surg.model.layers import Block
from surg.model.rope import RopeTable
from surg.model.world import WorldPredictor
from surg.serving.graph import GraphAttention, GraphTables

Kept = list[tuple[Tensor, Tensor]]
"""Keys and values (B, H, tokens, d) of every block."""


class GraphWorld(nn.Module):
    """Rolls the steps seen on by K steps, and the steps before the newest s on by s."""

    def __init__(self, world: WorldPredictor, plane: tuple[int, int], seen: int, ahead: int, newest: int) -> None:
        super().__init__()
        self.places, self.seen, self.ahead, self.newest = plane[0] * plane[1], seen, ahead, newest
        self.group = 2 + self.places
        self.width, self.out = world.config.width, world.config.embed_dim
        self.embed, self.norm, self.project = world.predictor_embed, world.predictor_norm, world.predictor_proj
        self.actions, self.states = world.action_encoder, world.state_encoder
        # The last step predicted is read and never put back in, so it needs no place of its own.
        cos, sin, mask = world._build(seen + ahead - 1, plane[0], plane[1], 2, torch.float32)
        self.tables = GraphTables(RopeTable(cos, sin), world.config.num_heads)
        first = mask[: seen * self.group, : seen * self.group]
        self.register_buffer("mask", torch.zeros(first.shape).masked_fill(~first, float("-inf")))
        self.blocks = nn.ModuleList(GraphWorldBlock(cast(Block, block)) for block in world.predictor_blocks)

    def forward(self, tokens: Tensor, actions: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (B, T * P, D), layer-normed; actions, states: (B, T + K - 1, numbers), one a step.

        Returns the K steps that follow (B, K, P, D), and the newest s as foreseen from the ones before them (B, s, P, D).
        """
        frames, said = self.embed(tokens), torch.stack((self.actions(actions), self.states(states)), 2)
        x = torch.cat((said[:, : self.seen], frames.view(-1, self.seen, self.places, self.width)), 2)
        after, kept = self._run(x.view(-1, self.seen * self.group, self.width), 0, self.seen, None)
        future = self._roll(after[:, self.seen - 1], kept, said, self.seen, self.ahead)
        known = self.seen - self.newest
        earlier = [(key[:, :, : known * self.group], value[:, :, : known * self.group]) for key, value in kept]
        return future, self._roll(after[:, known - 1], earlier, said, known, self.newest)

    def _roll(self, following: Tensor, kept: Kept, said: Tensor, known: int, steps: int) -> Tensor:
        """following: what comes after the `known` steps (B, P, D). Returns (B, steps, P, D)."""
        found = [F.layer_norm(following, (self.out,))]
        for step in range(known, known + steps - 1):
            x = torch.cat((said[:, step], self.embed(found[-1])), 1)
            after, kept = self._run(x, step, 1, kept)
            found.append(F.layer_norm(after[:, 0], (self.out,)))
        return torch.stack(found, 1)

    def _run(self, x: Tensor, first: int, steps: int, kept: Kept | None) -> tuple[Tensor, Kept]:
        """x: the tokens of `steps` steps from `first` on (B, steps * G, width). Returns what follows each (B, steps, P, D), and
        all keys and values so far."""
        count = steps * self.group
        tables = tuple(table[first * self.group : first * self.group + count] for table in self.tables())
        mask, grown = cast(Tensor, self.mask) if kept is None else None, []
        for index, block in enumerate(self.blocks):
            x, pair = block(x, tables, count, None if kept is None else kept[index], mask)
            grown.append(pair)
        x = x.view(-1, steps, self.group, self.width)[:, :, 2:]
        return self.project(self.norm(x)), grown


class GraphWorldBlock(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attn = GraphAttention(block.attn, 0)

    def forward(
        self, x: Tensor, tables: tuple[Tensor, ...], tokens: int, before: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x: (B, tokens, width). `before`: keys and values of earlier tokens. Returns the new x and all keys and values."""
        query, key, value = self.attn.turned(self.norm1(x), tables, tokens)
        key, value = key.transpose(1, 2), value.view(-1, tokens, self.attn.heads, self.attn.channels).transpose(1, 2)
        if before is not None:
            key, value = torch.cat((before[0], key), 2), torch.cat((before[1], value), 2)
        scores = query.transpose(1, 2) @ key.transpose(2, 3)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        x = x + self.attn.proj((weights @ value).transpose(1, 2).reshape(-1, tokens, self.attn.width))
        return x + self.mlp(self.norm2(x)), (key, value)
