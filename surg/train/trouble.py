"""Signs of trouble and the knobs that help, said by the run itself."""

import logging
import math
from collections import deque

from surg.errors import RunError

logger = logging.getLogger(__name__)


class Watchdog:
    """Looks at the loss of every step. NaN stops the run; growth and standstill are warned about once per window."""

    def __init__(self, lr: float, clip: float | None, window: int = 50) -> None:
        self.lr, self.clip, self.window = lr, clip, window
        self._recent: deque[float] = deque(maxlen=window)
        self._medians: list[float] = []
        self._warned: set[str] = set()

    def see(self, step: int, loss: float, parts: dict[str, float]) -> None:
        if not math.isfinite(loss):
            bad = [name for name, value in parts.items() if not math.isfinite(value)] or ["loss"]
            raise RunError(
                f"The loss is {loss} at step {step} (from {', '.join(bad)}); the last checkpoint is from before.\n"
                f"Try half the rate: --set optim.lr={self.lr / 2:g}; a longer warm-up: --set schedule.warmup=0.1; "
                "--set precision=fp32; and look for broken clips: surg data check"
            )
        self._recent.append(loss)
        if len(self._recent) < self.window or step % self.window:
            return
        median = sorted(self._recent)[self.window // 2]
        self._medians.append(median)
        lowest = min(self._medians)
        if median > 2 * abs(lowest) + 1e-6 and lowest > 0:
            clipping = "" if self.clip else " and clip: --set optim.clip=1.0"
            self._warn(
                "explodes", f"the loss explodes ({lowest:.3g} -> {median:.3g}). Lower the rate (guide: 1e-4; here {self.lr:g}), "
                f"warm up longer (guide: 3 epochs){clipping}",
            )  # fmt: skip
        elif len(self._medians) >= 4 and median > 0.995 * self._medians[-4]:
            self._warn(
                "stands", f"the loss does not fall ({self._medians[-4]:.4g} -> {median:.4g} over {3 * self.window} steps). If this is early: "
                f"raise the rate (guide: 4e-4; here {self.lr:g}), check the clips (surg data check), use a larger batch",
            )  # fmt: skip

    def see_gradient(self, step: int, norm: float) -> None:
        """Before the weights take the step: a gradient that is not finite would end in the next checkpoint."""
        if not math.isfinite(norm):
            raise RunError(
                f"The gradient is {norm} at step {step}; the weights did not take it, and the last checkpoint is from before.\n"
                f"Try half the rate: --set optim.lr={self.lr / 2:g}; --set optim.clip=1.0; --set precision=fp32"
            )

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(text)
