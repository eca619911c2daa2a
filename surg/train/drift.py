"""Staying near the start: L2 anchor, EWC, LP-FT's timing, WiSE-FT's average, and how far each block has moved."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from surg.train.whole import whole


class Anchor:
    """The encoder's starting weights, and the pull back to them."""

    def __init__(self, encoder: nn.Module) -> None:
        self.start = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
        self.fisher: dict[str, Tensor] = {}

    @torch.no_grad()
    def pull(self, encoder: nn.Module, l2: float, ewc: float) -> dict[str, Tensor]:
        """Add the gradients of l2 * |w - w0|^2 and ewc / 2 * sum F (w - w0)^2 to those that are there. Returns both penalties."""
        penalties: dict[str, Tensor] = {}
        if not l2 and not ewc:
            return penalties
        named = {name: parameter for name, parameter in encoder.named_parameters() if parameter.grad is not None}
        if not named:
            return penalties
        gradients = [parameter.grad for parameter in named.values() if parameter.grad is not None]
        moved = torch._foreach_sub([parameter.detach() for parameter in named.values()], [self.start[name] for name in named])
        if l2:
            torch._foreach_add_(gradients, moved, alpha=2 * l2)
            penalties["anchor"] = l2 * torch.stack(torch._foreach_norm(moved)).square().sum()
        for name, gradient, change in zip(named, gradients, moved):
            if ewc and name in self.fisher:
                weighted = self.fisher[name] * change
                gradient.add_(weighted, alpha=ewc)
                penalties["ewc"] = penalties.get("ewc", 0.0) + ewc / 2 * (weighted * change).sum()
        return {name: whole(penalty) for name, penalty in penalties.items()}

    @contextmanager
    def at_start(self, *encoders: nn.Module) -> Iterator[None]:
        """Encoders of this shape with the starting weights, for a while."""
        learnt = [(parameter, parameter.detach().clone()) for encoder in encoders for parameter in encoder.parameters()]
        with torch.no_grad():
            for encoder in encoders:
                for name, parameter in encoder.named_parameters():
                    parameter.copy_(self.start[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in learnt:
                    parameter.copy_(value)

    @torch.no_grad()
    def add_fisher(self, encoder: nn.Module, share: float) -> None:
        """Add `share` times the squared gradients of one clip (the empirical Fisher information's diagonal)."""
        for name, parameter in encoder.named_parameters():
            if parameter.grad is not None:
                square = parameter.grad.square() * share
                self.fisher[name] = self.fisher[name] + square if name in self.fisher else square

    @torch.no_grad()
    def drift(self, encoder: nn.Module) -> dict[str, float]:
        """|w - w0| / |w0| of each block and of the whole."""
        moved: dict[str, Tensor] = {}
        length: dict[str, Tensor] = {}
        for name, parameter in encoder.named_parameters():
            block = block_of(name)
            for key in (block, "all"):
                change = whole((parameter - self.start[name]).float().square().sum())
                moved[key] = moved.get(key, torch.zeros(())) + change.cpu()
                length[key] = length.get(key, torch.zeros(())) + whole(self.start[name].float().square().sum()).cpu()
        return {key: float((moved[key] / length[key].clamp_min(1e-24)).sqrt()) for key in moved}

    @torch.no_grad()
    def average(self, encoder: nn.Module, share: float) -> None:
        """WiSE-FT, in place: (1 - share) * start + share * trained."""
        for name, parameter in encoder.named_parameters():
            if "lora_A" in name or name not in self.start:
                continue  # the weight's change is B times A, and B starts at nothing: B alone scales it
            parameter.copy_(torch.lerp(self.start[name], parameter, share))


def block_of(name: str) -> str:
    """`blocks.3.attn.qkv.weight` -> `block_03`, `temporal_blocks.3...` -> `temporal_block_03`; what is outside the blocks goes by its first word."""
    kind, _, rest = name.partition(".")
    return f"{kind[:-1]}_{int(rest.split('.')[0]):02d}" if kind.endswith("blocks") else kind
