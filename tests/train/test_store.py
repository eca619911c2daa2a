"""The folder of decoded clips, which runs may share."""

import json
import os
import subprocess
import sys
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
from surg.train.config import DataConfig, SourceConfig
from surg.train.sources import open_source
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
        until = time.monotonic() + 120
        while "another run decodes main" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)  # until another has come while it works
        write(*words)

    monkeypatch.setattr(store, "_write_store", slow)
    with ThreadPoolExecutor(3) as runs:
        opened = list(runs.map(lambda _: open_store(clips(tissue), SPEC, tmp_path / "cache", "main"), range(3)))
    assert len(written) == 1
    assert "another run decodes main" in caplog.text
    pictures = [one.window(2, 3, 4) for one in opened]
    assert pictures[0].std() > 0
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])


def test_arms_that_see_more_or_fewer_frames_share_what_is_decoded(tissue: Path, tmp_path: Path) -> None:
    source = SourceConfig(manifest=tissue, label="action")
    for count in (8, 16):
        data = DataConfig(sources={"main": source}, num_frames=count, size=32)
        open_source("main", source, data, tmp_path, split="train", classes_needed=False)
    assert len(list(tmp_path.glob("*.frames"))) == 1


def test_a_cache_that_cannot_be_written_says_what_to_set(tissue: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"(?s)cannot be written.*data\.cache=DIR"):
        open_store(clips(tissue), SPEC, tmp_path / "file" / "cache", "main")


KILLED = """
import itertools, os, sys, time
from pathlib import Path
from surg.data.manifest import Manifest
from surg.train import store

# Several workers ask: each gets a number of its own, and one alone the fourth.
plain, number = store._decode, itertools.count(1)

def journalled():
    return sum(len(journal.read_text().splitlines()) for journal in Path(sys.argv[2]).glob("*.done"))

def dies(clip, *rest):
    if next(number) == 4:
        while journalled() < 3:  # another worker still has one in hand
            time.sleep(0.01)
        os._exit(9)
    return plain(clip, *rest)

store._decode, store.SAVED_EVERY_S = dies, 0.0
store.open_store(list(Manifest.read(Path(sys.argv[1])).clips())[:4], store.StoreSpec(size=32, fps=4.0), Path(sys.argv[2]), "main")
"""


@pytest.fixture
def cut_off(tissue: Path, tmp_path: Path) -> Path:
    """A folder in which a run was killed at its fourth clip."""
    folder = tmp_path / "cut"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tissue), str(folder)], env=environment, check=False, timeout=240)
    assert done.returncode == 9
    return folder


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Clip]:
    asked, plain = list[Clip](), store._decode
    monkeypatch.setattr(store, "_decode", lambda clip, *rest: asked.append(clip) or plain(clip, *rest))
    return asked


def same(one: store.ClipStore, other: store.ClipStore) -> bool:
    return one.entries == other.entries and np.array_equal(one.frames, other.frames)


def test_a_run_killed_while_decoding_goes_on_where_it_was(
    cut_off: Path, tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_store(clips(tissue), SPEC, tmp_path / "whole", "main")
    asked = counted(monkeypatch)
    assert same(open_store(clips(tissue), SPEC, cut_off, "main"), whole)
    assert len(asked) == 1
    assert sorted(path.suffix for path in cut_off.iterdir() if path.suffix != ".lock") == [".frames", ".json"]


def test_what_was_decoded_for_other_clips_is_not_gone_on_with(
    cut_off: Path, tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = [*clips(tissue)[1:], clips(tissue)[0]]
    whole = open_store(other, SPEC, tmp_path / "whole", "main")
    asked = counted(monkeypatch)
    assert same(open_store(other, SPEC, cut_off, "main"), whole)
    assert len(asked) == 4


@pytest.mark.parametrize("damage", ["cut line", "short file", "no index"])
def test_damage_to_what_was_decoded_costs_time_and_no_pictures(
    damage: str, cut_off: Path, tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_store(clips(tissue), SPEC, tmp_path / "whole", "main")
    partial, journal = (next(cut_off.glob(f"*{suffix}")) for suffix in (".partial", ".done"))
    if damage == "cut line":
        journal.write_text(journal.read_text()[:-9])
    elif damage == "short file":
        partial.write_bytes(partial.read_bytes()[:-9])
    else:
        lines = [json.dumps({"number": number, **entry.__dict__}) for number, entry in enumerate(whole.entries)]
        journal.write_text("".join(f"{line}\n" for line in lines))
        partial.unlink()
        partial.with_suffix(".frames").write_bytes(whole.path.read_bytes())
    asked = counted(monkeypatch)
    assert same(open_store(clips(tissue), SPEC, cut_off, "main"), whole)
    assert len(asked) == {"cut line": 2, "short file": 4, "no index": 0}[damage]
