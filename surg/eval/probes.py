"""Three readers of frozen features: the attentive probe of V-JEPA 2, a linear one, and nearest neighbours.

Every hyper-parameter is chosen on val; test is looked at once, with what val chose.
"""

import logging
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.metrics.knn import knn_probabilities

logger = logging.getLogger(__name__)

ProbeName = Literal["attentive", "linear", "knn"]
Array = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]


class ProbeConfig(Config):
    depth: int = Field(4, ge=1)
    """Blocks of the attentive probe: depth - 1 of self-attention, then one of cross-attention."""
    heads: int | None = None
    """Attention heads; None: as wide as the encoder's (64 channels each)."""
    epochs: int = Field(20, ge=1)
    """Passes over the train clips; cosine to 0, no warm-up."""
    batch_size: int = Field(32, ge=1)
    """Clips a step."""
    lr: tuple[float, ...] = (1e-3, 3e-4, 1e-4)
    """Learning rates tried."""
    weight_decay: tuple[float, ...] = (0.01, 0.1)
    """Weight decays tried."""
    sweep_epochs: int | None = Field(None, ge=1)
    """Passes of each trial; None runs every trial in full, as the official evaluation does."""
    seeds: int = Field(1, ge=1)
    """Probes trained anew with the chosen settings; results are averaged per clip."""
    knn_k: tuple[int, ...] = (5, 10, 20, 50)
    """Neighbours tried."""
    linear_c: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    """Inverse regularisations tried for the linear probe."""


@dataclass(frozen=True)
class Split3:
    """Train, val and test of one task.  x: (N, D) or (N, tokens, D); y: (N,)."""

    train_x: Array
    train_y: Labels
    val_x: Array
    val_y: Labels
    test_x: Array


@dataclass(frozen=True)
class ProbeResult:
    probabilities: npt.NDArray[np.float64]
    """(seeds, N, classes) on test."""
    chosen: dict[str, float]
    curve: tuple[dict[str, float], ...] = ()
    """Loss and val top-1 per epoch of the first seed."""
    trials: tuple[dict[str, float], ...] = ()


def run_probe(name: ProbeName, data: Split3, classes: int, config: ProbeConfig, seed: int = 0) -> ProbeResult:
    if name == "attentive":
        return attentive_probe(data, classes, config, seed)
    if name == "linear":
        return linear_probe(data, classes, config)
    return knn_probe(data, classes, config)


def linear_probe(data: Split3, classes: int, config: ProbeConfig) -> ProbeResult:
    """Logistic regression on standardised mean features; the scale comes from train alone. Deterministic: one seed."""
    from sklearn.linear_model import LogisticRegression

    train, val, test = (_vectors(x) for x in (data.train_x, data.val_x, data.test_x))
    mean, std = train.mean(0), np.maximum(train.std(0), 1e-6)
    train, val, test = ((x - mean) / std for x in (train, val, test))
    best: tuple[float, float, Any] | None = None
    trials = []
    for c in config.linear_c:
        model = LogisticRegression(C=c, max_iter=2000, tol=1e-3).fit(train, data.train_y)
        score = float(np.mean(model.predict(val) == data.val_y))
        trials.append({"c": c, "val_top1": score})
        if best is None or score > best[0]:
            best = (score, c, model)
    assert best is not None
    _, c, model = best

    def spread(x: Array) -> npt.NDArray[np.float64]:
        out = np.zeros((len(x), classes))
        if len(x):
            out[:, model.classes_] = model.predict_proba(x)
        return out

    return ProbeResult(spread(test)[None], {"c": c}, trials=tuple(trials))


def knn_probe(data: Split3, classes: int, config: ProbeConfig) -> ProbeResult:
    """Votes of the nearest train clips by cosine, features centred on train's mean. Deterministic: one seed."""
    train, val, test = (_vectors(x) for x in (data.train_x, data.val_x, data.test_x))
    centre = train.mean(0)
    train, val, test = train - centre, val - centre, test - centre
    trials = []
    for k in config.knn_k:
        votes = knn_probabilities(train, data.train_y, val, classes=classes, k=k)
        trials.append({"k": float(k), "val_top1": float(np.mean(votes.argmax(1) == data.val_y))})
    best = int(max(trials, key=lambda trial: trial["val_top1"])["k"])
    votes = knn_probabilities(train, data.train_y, test, classes=classes, k=best)
    return ProbeResult(votes[None], {"k": float(best)}, trials=tuple(trials))


def attentive_probe(data: Split3, classes: int, config: ProbeConfig, seed: int = 0) -> ProbeResult:
    """V-JEPA 2's probe (AdamW, cosine to 0); lr and weight decay by val top-1, then one probe per seed."""
    grid = list(product(config.lr, config.weight_decay))
    trials = []
    if len(grid) > 1:
        for lr, decay in grid:
            fit = _fit(data, classes, config, lr, decay, config.sweep_epochs or config.epochs, seed)
            trials.append(
                {"lr": lr, "weight_decay": decay, "val_top1": fit.curve[-1]["val_top1"], "val_loss": fit.curve[-1]["val_loss"]}
            )
            logger.info("probe lr %.0e wd %g: val top-1 %.3f", lr, decay, trials[-1]["val_top1"])
        # Equal top-1 is common on a small val; the loss tells them apart.
        best = max(trials, key=lambda trial: (trial["val_top1"], -trial["val_loss"]))
        lr, decay = best["lr"], best["weight_decay"]
    else:
        lr, decay = grid[0]
    fits = [_fit(data, classes, config, lr, decay, config.epochs, seed + number) for number in range(config.seeds)]
    return ProbeResult(
        np.stack([fit.test for fit in fits]),
        {"lr": lr, "weight_decay": decay},
        tuple(fits[0].curve),
        tuple(trials),
    )


@dataclass(frozen=True)
class _Fit:
    test: npt.NDArray[np.float64]
    curve: list[dict[str, float]]


def _fit(data: Split3, classes: int, config: ProbeConfig, lr: float, decay: float, epochs: int, seed: int) -> _Fit:
    import torch
    import torch.nn.functional as F

    from surg.model.heads import AttentiveClassifier

    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_x, val_x, test_x = (_tokens(x) for x in (data.train_x, data.val_x, data.test_x))
    width = train_x.shape[-1]
    # Probes see features of any scale; train's mean and deviation bring them to one, so that one sweep serves all arms.
    sample = train_x[: min(len(train_x), 512)].astype(np.float32).reshape(-1, width)
    mean, scale = (torch.from_numpy(v).to(device) for v in (sample.mean(0), 1 / np.maximum(sample.std(0), 1e-6)))
    torch.manual_seed(seed)
    probe = AttentiveClassifier(width, config.heads or _heads(width), config.depth, classes).to(device)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=decay)
    steps = max(1, -(-len(train_x) // config.batch_size)) * epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(seed)

    def ready(rows: Array) -> Any:
        return (torch.from_numpy(rows.astype(np.float32)).to(device) - mean) * scale

    @torch.inference_mode()
    def predict(x: Array) -> npt.NDArray[np.float64]:
        probe.eval()
        out = [F.softmax(probe(ready(x[i : i + 64])).double(), -1).cpu().numpy() for i in range(0, len(x), 64)]
        probe.train()
        return np.concatenate(out) if out else np.zeros((0, classes))

    curve = []
    for epoch in range(epochs):
        losses = []
        order = rng.permutation(len(train_x))
        for start in range(0, len(order), config.batch_size):
            rows = np.sort(order[start : start + config.batch_size])
            loss = F.cross_entropy(probe(ready(train_x[rows])), torch.from_numpy(data.train_y[rows]).to(device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        if epoch == epochs - 1 or epochs <= 40 or epoch % 5 == 0:
            val = predict(val_x)
            curve.append({"epoch": epoch + 1, "train_loss": float(np.mean(losses)), **_val_scores(val, data.val_y)})
    return _Fit(predict(test_x), curve)


def _val_scores(probabilities: npt.NDArray[np.float64], truth: Labels) -> dict[str, float]:
    chosen = np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, 1)
    return {"val_top1": float(np.mean(probabilities.argmax(1) == truth)), "val_loss": float(-np.log(chosen).mean())}


def _heads(width: int) -> int:
    return next(
        heads
        for heads in (width // 64, width // 32, width // 48, 2, 1)
        if heads and width % heads == 0 and (width // heads) % 2 == 0
    )


def _vectors(x: Array) -> npt.NDArray[np.float32]:
    return np.asarray(x.astype(np.float32) if x.ndim == 2 else x.mean(axis=1, dtype=np.float32), np.float32)


def _tokens(x: Array) -> Array:
    return x[:, None] if x.ndim == 2 else x
