"""The losses, each a function of tensors.

B clips, N tokens, K kept or masked tokens, D width, C classes, H horizons.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from surg.errors import ConfigError


def normalised(targets: Tensor, levels: int = 1) -> Tensor:
    """LayerNorm over each level's features, without weights: what the predictor is asked for.  (B, N, levels * D)."""
    parts = targets.float().reshape(*targets.shape[:-1], levels, targets.shape[-1] // levels)
    return F.layer_norm(parts, parts.shape[-1:]).flatten(-2)


def latent(predicted: Tensor, target: Tensor, exponent: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Mean of |predicted - target|^p / p; p = 1 is L1, p = 2 half the MSE.  `weight`: (B, K), scaled to mean 1 in each clip."""
    error = (predicted.float() - target.float()).abs()
    error = error if exponent == 1.0 else error**exponent
    if weight is not None:
        error = error * (weight / weight.mean(dim=1, keepdim=True).clamp_min(1e-12)).unsqueeze(-1)
    return error.mean() / exponent


def distance_to_masked(context: Tensor, masked: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Distance from each context token to the nearest masked one, in tokens.  (B, K), (B, M) ids -> (B, K)."""
    _, height, width = grid

    def place(ids: Tensor) -> Tensor:
        return torch.stack([ids // (height * width), ids // width % height, ids % width], dim=-1).float()

    return torch.cdist(place(context), place(masked)).amin(dim=-1)


def context(predicted: Tensor, target: Tensor, distance: Tensor, exponent: float = 1.0) -> Tensor:
    """V-JEPA 2.1's loss on visible tokens: each error divided by the root of its distance to the nearest masked token."""
    error = (predicted.float() - target.float()).abs() ** exponent
    return (error / distance.clamp_min(1.0).sqrt().unsqueeze(-1)).mean() / exponent


def context_weight(step: int, lambda_: float, start: int = 15_000, end: int = 30_000) -> float:
    """0 until `start`, then a straight ramp to `lambda_` at `end` (2.1's values are the defaults)."""
    return lambda_ * min(1.0, max(0.0, (step - start) / max(1, end - start)))


def info_nce(
    first: Tensor, second: Tensor, queue: Tensor | None = None, temperature: float = 0.07, same: Tensor | None = None
) -> Tensor:
    """Two views of each clip attract, everything else repels.  (B, D), (B, D), queue (Q, D) of earlier views.

    Without the queue a batch of 4 gives each clip 3 negatives. `same`, bool (B, B + Q): the candidate is of the very clip that asks; but
    for the other view it is asked about, it is left out.
    """
    first, second = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    where = torch.arange(len(first), device=first.device)
    out = None if same is None else same & ~F.one_hot(where, same.shape[1]).bool()

    def one_way(a: Tensor, b: Tensor) -> Tensor:
        candidates = b if queue is None else torch.cat([b, F.normalize(queue.float(), dim=-1)])
        logits = a @ candidates.T / temperature
        return F.cross_entropy(logits if out is None else logits.masked_fill(out, -torch.inf), where)

    return (one_way(first, second) + one_way(second, first)) / 2


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Binary focal loss, mean over elements; `alpha` weighs positives, 1 - alpha negatives."""
    target = target.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = torch.sigmoid(logits) * (1 - target) + (1 - torch.sigmoid(logits)) * target
    loss = wrong**gamma * cross_entropy
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss.mean()


def dense(logits: Tensor, target: Tensor, positive_weight: float = 4.0, gamma: float = 2.0) -> Tensor:
    """Where it happens, per token.  (B, N) logits against (B, N) shares of the token covered; NaN targets do not count.

    Focal, and counted in tenths of a clip's tokens: of a breach only a few of 800 tokens show anything, and in a plain mean the
    others, long since learnt, would leave them no weight.
    """
    known = torch.isfinite(target)
    filled = torch.where(known, target, torch.zeros_like(target)).to(logits.dtype)
    per_token = F.binary_cross_entropy_with_logits(logits, filled, reduction="none")
    wrong = (torch.sigmoid(logits) - filled).abs()
    weight = known.to(logits.dtype) * (1 + (positive_weight - 1) * filled) * wrong**gamma
    return 10 * (per_token * weight).mean()


def covered(logits: Tensor, share: Tensor) -> Tensor:
    """Binary cross-entropy of every token, (B, K) logits against the share of it that is covered; what is NaN does not count."""
    known = torch.isfinite(share)
    filled = torch.where(known, share, torch.zeros_like(share)).to(logits.dtype)
    return (F.binary_cross_entropy_with_logits(logits, filled, reduction="none") * known).mean()


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Total of all losses, each times its weight; a loss without a weight is our mistake."""
    total: Tensor | None = None
    for name, value in losses.items():
        if name not in weights:
            raise ConfigError(f"The loss {name!r} has no weight. Known weights: {', '.join(sorted(weights))}.")
        term = value * weights[name]
        total = term if total is None else total + term
    if total is None:
        raise ConfigError("No loss is switched on: every weight is 0. Set one, for example --set loss.weights.jepa=1")
    return total


def acting(logits: Tensor, share: Tensor, action: Tensor, least: float = 0.15, still: float = 0.15) -> Tensor:
    """Cross-entropy of every token: the clip's action where at least `least` of it shows who acts, else "nothing", weighted `still`.

    logits: (B, K, C + 1), share: (B, K), NaN where it is not known, action: (B,). A mean over tokens, known or not, and not over weights:
    so that the parts of a split batch add up to the whole. Four: about one in ten tokens shows who acts.
    """
    wanted = torch.where(share >= least, action[:, None], logits.shape[-1] - 1)
    weight = torch.where(share >= least, 1.0, still) * torch.isfinite(share)
    per_token = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(share)
    return 4 * (per_token * weight).mean()
