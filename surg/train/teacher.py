"""The teacher: a slowly following copy of the student's encoder, or (SALT) one that never moves. It never has a gradient."""

import copy

import torch
from torch import Tensor, nn

from surg.train import losses


class Teacher(nn.Module):
    """Says what the predictor should have said. Costs weights, no activations: it runs under no_grad, in eval mode."""

    def __init__(self, encoder: nn.Module, levels: int = 1, *, frozen: bool = False) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.levels, self.frozen = levels, frozen

    @torch.no_grad()
    def forward(self, clip: Tensor) -> Tensor:
        """Layer-normed latents of all tokens: (B, N, L * D)."""
        tokens = self.encoder(clip) if self.levels == 1 else self.encoder.levels(clip)  # type: ignore[operator]
        return losses.normalised(tokens, self.levels)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter."""
        if self.frozen:
            return
        mine: list[Tensor] = list(self.encoder.parameters())
        theirs = [parameter.detach() for parameter in student.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)
