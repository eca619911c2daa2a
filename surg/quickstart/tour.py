"""Runs the stages one after the other, each a public command in its own process, and shows where it is."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from surg.child import interrupt
from surg.errors import RunError
from surg.runs import write_text

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True)
class Stage:
    """One step of the tour."""

    title: str
    command: tuple[str, ...]
    """Arguments of `surg`: what a user would type to do this step alone."""
    makes: Path
    """A file that the step leaves behind."""
    done: Path
    """Written after the step ended well, with the command that did it: a step half done, or done otherwise, is done again."""
    resume: tuple[str, ...] = ()
    """What goes on with a run that was broken off, where the command alone would refuse to overwrite it."""

    @property
    def typed(self) -> str:
        return "surg " + shlex.join(self.command)

    @property
    def is_done(self) -> bool:
        return self.makes.exists() and self.done.is_file() and self.done.read_text() == self.typed

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command, or the one that goes on with what it began."""
        return self.resume if self.resume and self.makes.exists() else self.command


def run_tour(stages: Sequence[Stage], console: Console | None = None) -> None:
    """Run what is not done yet. Raises RunError with the end of the failing command's output."""
    console = console or Console(stderr=True)
    shown = [_Row(stage) for stage in stages]
    live = Live(_table(shown), console=console, refresh_per_second=4) if console.is_terminal else nullcontext()

    def refresh() -> None:
        if isinstance(live, Live):
            live.update(_table(shown))

    with live:
        for row in shown:
            if row.stage.is_done:
                row.state = "done before"
            else:
                if not console.is_terminal:
                    console.print(f"{row.stage.title}: {row.stage.typed}", markup=False, highlight=False, soft_wrap=True)
                _run(row, refresh)
            refresh()
            if not isinstance(live, Live):
                console.print(f"  {row.state}", markup=False, highlight=False)


class _Row:
    def __init__(self, stage: Stage) -> None:
        self.stage, self.state, self.line = stage, "", ""


def _run(row: "_Row", refresh: Callable[[], None]) -> None:
    started = time.monotonic()
    last: deque[str] = deque(maxlen=30)
    command = [sys.executable, "-m", "surg", *row.stage.arguments]
    environment = {**os.environ, "COLUMNS": "100"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, process_group=0
    ) as process:
        if process.stdout is None:
            raise AssertionError("Popen was asked for a pipe")
        try:
            for line in process.stdout:
                row.line = CONTROL.sub("", line).strip()
                last.append(row.line)
                row.state = f"{time.monotonic() - started:4.0f} s"
                refresh()
        except KeyboardInterrupt as stopped:
            interrupt(process)
            stopped.add_note("What is done is kept; the same command goes on from there.")
            raise
    if process.returncode != 0:
        raise RunError(
            f"The stage {row.stage.title!r} failed with exit status {process.returncode}:\n  {row.stage.typed}\n"
            + "\n".join(f"  | {line}" for line in last)
            + "\nWhat earlier stages made is kept; run the same command again to go on from here."
        )
    if not row.stage.makes.exists():
        raise RunError(
            f"The stage {row.stage.title!r} ended without {row.stage.makes}. Run it alone to see why:\n  {row.stage.typed}"
        )
    write_text(row.stage.done, row.stage.typed)
    row.state, row.line = f"done in {time.monotonic() - started:.0f} s", ""


def _table(rows: "Sequence[_Row]") -> Table:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        mark = "✓" if row.state.startswith("done") else ("▸" if row.state or row.line else " ")
        table.add_row(mark, row.stage.title, row.state, row.line[:80] or row.stage.typed[:80])
    return table
