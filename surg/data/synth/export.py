"""From cases to a folder of videos, truths and a manifest: shared by the two simulators.

The work is cut by case, every random number belongs to a clip, and rows are put in order, so the output does not depend on the
number of workers.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from surg.data import executor
from surg.data.manifest import Clip, write_manifest
from surg.data.synth.version import generator
from surg.errors import ConfigError, DataError
from surg.runs import atomic_file

logger = logging.getLogger(__name__)

Item = dict[str, Any]
SPLIT_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def write_clips(render: Callable[[Item], list[dict[str, str]]], items: Sequence[Item], out: Path, workers: int | None) -> Path:
    """Render all cases and write `out/manifest.parquet`. `render` returns one `row(clip)` per clip. Returns the manifest's path."""
    out = Path(out)
    table = out / "rendered.parquet"
    report = executor.run(render, items, table, workers=workers)
    if report.failed:
        raise DataError(f"{len(report.failed)} of {len(items)} cases could not be rendered. The first: {report.failed[0][1]}")
    rows = pq.read_table(table, columns=["clip"]).column("clip").to_pylist()
    manifest = write_manifest(out / "manifest.parquet", (Clip(**json.loads(text)) for text in rows))
    table.unlink()
    return manifest.path


def row(clip: Clip) -> dict[str, str]:
    return {"clip": json.dumps(asdict(clip))}


def split_cases(seed: int, cases: int, split: str | None) -> list[str]:
    """A split for each case, 70/10/20 by lot, or the one wanted for all."""
    if split is not None:
        return [split] * cases
    order = generator(seed, "split").permutation(cases)
    names = list(SPLIT_SHARES)
    bounds = np.round(np.cumsum([SPLIT_SHARES[name] for name in names]) * cases)
    return [names[int(np.searchsorted(bounds, place, side="right"))] for place in np.argsort(order)]


def check_request(clips: int, family: str, families: Sequence[str], size: int) -> None:
    if family not in families:
        raise ConfigError(f"There is no appearance family `{family}`; expected one of {', '.join(families)}.")
    if clips < 1:
        raise ConfigError(f"{clips} clips asked for; expected 1 or more.")
    if not 64 <= size <= 1024 or size % 16:
        raise ConfigError(f"A side of {size} px cannot be drawn; expected 64 to 1024, a multiple of 16.")


def save_truth(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Compressed .npz without time stamps: the same bytes every time."""
    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
