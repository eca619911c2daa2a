"""What a run says while it runs: one line every so often, metrics.jsonl, TensorBoard, and curves as PNG at the end."""

import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from surg.runs import RunFolder

logger = logging.getLogger(__name__)


class Reporter:
    """Only the main process has one that speaks."""

    def __init__(
        self, run: RunFolder | None, steps: int, *, every: int, tensorboard: bool, curves: bool = True, start: int = 0
    ) -> None:
        self.run, self.steps, self.every, self._first, self._curves = run, steps, every, start, curves
        self._since, self._clips, self._began = time.perf_counter(), 0, time.perf_counter()
        self._writer: Any = None
        if run is not None and tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=start + 1)
        self._bar: Progress | None = None
        if run is not None and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("training", total=steps, completed=start)
            self._bar.start()

    def step(self, step: int, values: Mapping[str, float], clips: int) -> None:
        """Count a step; every `every` steps log it. `values` are floats."""
        self._clips += clips
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"loss {values.get('loss', math.nan):.4f}")
        if step % self.every and step != self.steps:
            return
        now = time.perf_counter()
        rate = self._clips / max(now - self._since, 1e-9)
        self._since, self._clips = now, 0
        left = (now - self._began) / max(step - self._first, 1) * (self.steps - step)
        parts = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in ("loss", "lr", "step"))
        logger.info(
            "step %d/%d  %.1f %%  loss %.4f  %s  lr %.2e  %.1f clips/s  eta %s",
            step, self.steps, 100 * step / self.steps, values.get("loss", math.nan), parts, values.get("lr", math.nan), rate, duration(left),
        )  # fmt: skip
        self.write("train", step, {**values, "clips_per_s": rate})

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl (and TensorBoard's scalars)."""
        if self.run is None:
            return
        self.run.log({"step": step, "kind": kind, **values})
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, float | int):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The terminal is given back, with its cursor, whatever ends the run."""
        if self._bar is not None:
            self._bar.stop()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self.run is not None and self._curves:
            draw_curves(self.run)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def draw_curves(run: RunFolder) -> Path | None:
    """plots/curves.png: every logged number against the step, training and validation in one picture each."""
    rows = run.metrics()
    found = {name for row in rows for name, value in row.items() if isinstance(value, float)}
    # Drift has a curve for every block; the whole encoder's is enough of a picture.
    names = sorted(name for name in found if name != "clips_per_s" and not (name.startswith("drift_") and name != "drift_all"))
    if not names:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = 3
    figure = Figure(figsize=(12, 2.6 * math.ceil(len(names) / across)))
    FigureCanvasAgg(figure)
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(math.ceil(len(names) / across), across, number)
        for kind in ("train", "val", "watch"):
            points = [(row["step"], row[name]) for row in rows if row.get("kind") == kind and isinstance(row.get(name), float)]
            if points:
                axes.plot(*zip(*points), label=kind, marker="." if len(points) < 30 else None)
        axes.set_title(name if name != "loss" else "loss (no proof of quality: see the probes)", fontsize=9)
        axes.legend(fontsize=7)
    figure.subplots_adjust(0.06, 0.05, 0.98, 0.95, 0.25, 0.45)
    path = run.plots / "curves.png"
    run.plots.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(path), dpi=90)
    return path
