"""AdamW over named groups, Selective Projection Decay, and what to do with the optimiser's state when layers wake up."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from surg.config import Config
from surg.train.whole import whole


class OptimConfig(Config):
    lr: float = Field(2e-4, ge=0)
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's averages."""
    eps: float = Field(1e-8, ge=0)
    """AdamW's denominator."""
    weight_decay: float = Field(0.04, ge=0)
    """Decay at the start; biases and every 1-D parameter have none."""
    final_weight_decay: float | None = Field(None, ge=0)
    """Decay at the end (cosine between them); the same as `weight_decay` when not set."""
    clip: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient; null switches clipping off (as upstream)."""
    encoder_lr: float = Field(1.0, ge=0)
    """Multiplier for the encoder."""
    predictor_lr: float = Field(1.0, ge=0)
    """Multiplier for the predictor."""
    head_lr: float = Field(1.0, ge=0)
    """Multiplier for the heads; motion_aux has its own."""
    motion_aux_lr: float = Field(10.0, ge=0)
    """Multiplier for the motion_aux head."""
    layer_decay: float = Field(1.0, ge=0, le=1)
    """Encoder block k of n learns at layer_decay ** (n - k); 1 switches it off."""
    spd: float = Field(0.0, ge=0)
    """Selective Projection Decay's strength (0: off). Replaces weight decay by a pull to the start, only when it drifts."""


def multiplier(name: str, config: OptimConfig, depth: int, blocks: Sequence[str] = ()) -> float:
    """How much faster or slower than `lr` a parameter learns, from its name in the trainee; `blocks` names the encoder's, in order."""
    if name.startswith("encoder."):
        rate = config.encoder_lr
        if config.layer_decay != 1.0:
            rate *= config.layer_decay ** (depth - _layer(name, depth, blocks))
        return rate
    if name.startswith("predictor."):
        return config.predictor_lr
    if name.startswith("heads.motion_aux."):
        return config.motion_aux_lr
    return config.head_lr


def _layer(name: str, depth: int, blocks: Sequence[str]) -> int:
    """0 for the patch embedding, k for block k-1, depth for what follows the blocks."""
    if (block := _block(name)) is not None:
        return blocks.index(block) + 1
    return 0 if "patch_embed" in name else depth


def _block(name: str) -> str | None:
    """`encoder.spatial_blocks.3` of what is in it."""
    parts = name.split(".")[:3]
    return ".".join(parts) if parts[0] == "encoder" and parts[1].endswith("blocks") else None


def build_optimizer(named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig, depth: int) -> torch.optim.AdamW:
    """AdamW with one group per (rate, decay or not). Frozen parameters are in it too: without a gradient AdamW skips
    them and keeps no state, so that a layer that wakes up later starts with fresh moments and its own step count."""
    named = list(named)
    # A factorised encoder's spatial blocks come before its temporal ones, in its parameters as in its forward.
    blocks = list(dict.fromkeys(block for name, _ in named if (block := _block(name)) is not None))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    names: dict[tuple[float, bool], list[str]] = {}
    for name, parameter in named:
        # Upstream decays mask tokens ([1, 1, D]) and nothing that is 1-D; so do we. What SPD holds back it holds back alone.
        decays = parameter.ndim > 1 and not name.endswith(".bias") and not (config.spd and name.startswith("encoder."))
        key = (multiplier(name, config, depth, blocks), decays)
        groups.setdefault(key, []).append(parameter)
        names.setdefault(key, []).append(name)
    listed = [
        {"params": params, "names": names[rate, decays], "multiplier": rate, "decays": decays, "lr": config.lr * rate}
        for (rate, decays), params in groups.items()
    ]
    # One kernel over all of a parameter's state instead of ten.
    fused = all(parameter.device.type in ("cpu", "cuda") for params in groups.values() for parameter in params)
    kind = SelectiveProjection if config.spd else torch.optim.AdamW
    extra: dict[str, Any] = {"strength": config.spd} if config.spd else {}
    return kind(
        listed, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=fused, **extra
    )


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["multiplier"]
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def forget(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Drop the moments of parameters that go back to sleep: stale ones must not push when they wake again."""
    for parameter in parameters:
        optimizer.state.pop(parameter, None)


class SelectiveProjection(torch.optim.AdamW):
    """AdamW with Selective Projection Decay (Tian, Huang, Kira: "Rethinking Weight Decay for Robust Fine-Tuning", 2024).

    Adam's unregularised step takes a layer from w to w'. With w0 where it started, g the gradient:
        c = -g . (w - w0);  if c < 0:  r = clamp((|w' - w0| - |w - w0|) / |w' - w0|, 0, 1),  w' <- w' - strength * r * (w' - w0)
    so that a layer is held back only where its progress is inconsistent: the gradient points home while the step leads on.
    strength 1 puts it back on the sphere it came from.
    """

    def __init__(self, params: Any, *, strength: float, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.strength = strength
        self.start: dict[nn.Parameter, Tensor] = {}

    def anchor(self, start: dict[nn.Parameter, Tensor]) -> None:
        """Set w0, what each parameter is pulled back to."""
        self.start = start

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        before = {
            parameter: parameter.detach().clone()
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter in self.start
        }
        loss = super().step(closure)
        for parameter, previous in before.items():
            project(parameter, previous, self.start[parameter], parameter.grad, self.strength)
        return loss


@torch.no_grad()
def project(weight: Tensor, previous: Tensor, start: Tensor, gradient: Tensor | None, strength: float) -> None:
    """Selective Projection Decay of one layer, in place. `weight` is the value after Adam's step."""
    if gradient is None:
        return
    drift_before, drift = previous - start, weight - start
    if whole(torch.sum(-gradient * drift_before)) >= 0:
        return
    length = whole(drift.norm())
    ratio = ((length - whole(drift_before.norm())) / length.clamp_min(1e-12)).clamp(0, 1)
    weight.sub_(drift * (strength * float(ratio)))
