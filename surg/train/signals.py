"""Ctrl-C and SIGTERM end a run after the step at hand, with everything saved. A second Ctrl-C ends it at once."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)


class Interrupts:
    """While it lasts, `asked` is the signal of somebody who wants the run to end; 0 when nobody does."""

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        # Only the main thread may set handlers; elsewhere (a notebook's worker) the default stays.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
        logger.warning("%s: finishing this step, then saving. Once more to stop at once.", signal.Signals(number).name)
