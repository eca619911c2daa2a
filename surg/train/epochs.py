"""What each epoch prints: every loss with its trend, as the integration guide shows it."""

import logging
from typing import Any

logger = logging.getLogger(__name__)
NAMES = {
    "order": "Temporal Loss",
    "contrast": "Contrastive Loss",
    "mask_aux": "Mask Loss",
    "jepa": "Latent Loss",
    "loss": "Total Loss",
}


class EpochBook:
    """Means over the steps of an epoch that had each loss, beside the epoch before. `kept` is the book of a run that was stopped."""

    def __init__(self, kept: dict[str, Any] | None = None) -> None:
        kept = kept or {}
        self._sums: dict[str, float] = dict(kept.get("sums", {}))
        self._steps: dict[str, int] = dict(kept.get("steps", {}))
        self._before: dict[str, float] = dict(kept.get("before", {}))

    def kept(self) -> dict[str, Any]:
        return {"sums": self._sums, "steps": self._steps, "before": self._before}

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._steps[name] = self._steps.get(name, 0) + 1

    def close(self, epoch: int) -> dict[str, float]:
        """Log the epoch's means and begin the next; returns them."""
        means = {name: total / self._steps[name] for name, total in self._sums.items()}
        shown = {name: means[name] for name in (*NAMES, *means) if name in means and name not in ("lr", "grad_norm")}
        parts = "  ".join(f"{NAMES.get(name, name)}: {value:.3f}{self._trend(name, value)}" for name, value in shown.items())
        logger.info("Epoch %02d: %s", epoch, parts)
        self._before, self._sums, self._steps = means, {}, {}
        return means

    def _trend(self, name: str, value: float) -> str:
        if name not in self._before:
            return ""
        change = value - self._before[name]
        if abs(change) < 1e-3 * max(abs(self._before[name]), 1e-9):
            return " → level"
        return " → decreasing" if change < 0 else " → increasing"
