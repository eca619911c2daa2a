"""Fixtures that every folder of tests may use."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis  # noqa: F401 - its plugin imports it in the summary otherwise, where CPython 3.11 may fail over what tests loaded
import pytest

# One thread a worker, whatever the shell says: tests run side by side, and more threads than cores make a test of seconds last minutes.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_log_of_an_earlier_test() -> None:
    """A command run inside the tests' process turns the log to a stream that ends with its test."""
    logger = logging.getLogger("surg")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_any_order() -> None:
    """Which worker runs which test, and what it ran before, is chance: what a test draws must not be."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def surg(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `surg …` as a user would, in an empty folder; returns the finished process with its output as text."""

    def call(*arguments: object, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb", **environment}
        command = [sys.executable, "-m", "surg", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=timeout)

    return call
