"""The folder of decoded clips, which runs may share."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surg.data.manifest import Clip, Manifest
from surg.errors import RunError
from surg.train import store
from surg.train.store import StoreSpec, open_store

SPEC = StoreSpec(size=32, fps=4.0)


def clips(tissue: Path) -> Sequence[Clip]:
    return list(Manifest.read(tissue).clips())[:4]


def test_runs_that_start_together_decode_once(
    tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "surg")
    written, write = [], store._write_store

    def slow(*words: Any) -> None:
        written.append(words)
        time.sleep(0.3)  # so that the others come while it works
        write(*words)

    monkeypatch.setattr(store, "_write_store", slow)
    with ThreadPoolExecutor(3) as runs:
        opened = list(runs.map(lambda _: open_store(clips(tissue), SPEC, tmp_path / "cache", "main"), range(3)))
    assert len(written) == 1
    assert "another run decodes main" in caplog.text
    pictures = [one.window(2, 3, 4) for one in opened]
    assert pictures[0].std() > 0
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])


def test_a_cache_that_cannot_be_written_says_what_to_set(tissue: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"(?s)cannot be written.*data\.cache=DIR"):
        open_store(clips(tissue), SPEC, tmp_path / "file" / "cache", "main")
