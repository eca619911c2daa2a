"""Timelines: what is known along a case between the clips' labels. The side table of a manifest.

A manifest says "this clip is suturing". A timeline holds what changes many times within a clip or does not belong to
one camera: the robot's state and action 30 times a second, the next action and its distance, the robot's phase, breaches.
It lies beside the manifest as NAME.timeline.parquet:

    case      string   the case of the manifest; times of all its videos run on this clock unless `video` is given
    time_s    float64  seconds from the start of the video
    name      string   what is told: state, action, next_action, robot_phase, breach, tools …
    value     list<float32>   numbers, a scalar being a list of one; null where there are none
    text      string   words or JSON; null where there are none
    video     string   the one video these times belong to; "" for all videos of the case

A moment that is not annotated has no row: "nothing happened" is a row that says so, never a missing one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from surg.errors import DataError
from surg.runs import atomic_file

VERSION = "1"
SCHEMA = pa.schema(
    [
        ("case", pa.string()),
        ("time_s", pa.float64()),
        ("name", pa.string()),
        ("value", pa.list_(pa.float32())),
        ("text", pa.string()),
        ("video", pa.string()),
    ],
    metadata={"surg.timeline": VERSION},
)


@dataclass(frozen=True)
class Sample:
    """One thing known at one moment of a case."""

    case: str
    time_s: float
    name: str
    value: tuple[float, ...] | None = None
    text: str | None = None
    video: str = ""


@dataclass(frozen=True)
class Track:
    """One name of one case along time. times_s (N,) float64; values (N, D) float32 or None; texts of length N or None."""

    times_s: np.ndarray
    values: np.ndarray | None
    texts: list[str] | None

    def at(self, time_s: float, max_age_s: float = float("inf")) -> int | None:
        """Index of the last sample at or before `time_s`, never a later one; None when there is none that fresh."""
        index = int(np.searchsorted(self.times_s, time_s + 1e-9, side="right")) - 1
        if index < 0 or time_s - self.times_s[index] > max_age_s:
            return None
        return index

    def between(self, start_s: float, end_s: float) -> slice:
        """The samples with start_s <= time < end_s."""
        low, high = np.searchsorted(self.times_s, [start_s - 1e-9, end_s - 1e-9], side="left")
        return slice(int(low), int(high))


class Timeline:
    """A timeline on disk, read one track at a time."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._data = ds.dataset(self.path, format="parquet")
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"There is no readable timeline at {path}: {error}") from error
        found = (self._data.schema.metadata or {}).get(b"surg.timeline")
        if found != VERSION.encode():
            raise DataError(f"{path} is no timeline of version {VERSION} (found {found!r}). Index the data set again.")

    def names(self, case: str | None = None) -> list[str]:
        where = None if case is None else pc.field("case") == case
        return sorted(set(self._data.to_table(columns=["name"], filter=where)["name"].to_pylist()))

    def cases(self) -> list[str]:
        return sorted(set(self._data.to_table(columns=["case"])["case"].to_pylist()))

    def told(self) -> set[tuple[str, str, str]]:
        """(case, name, video) of everything that is told."""
        columns = ["case", "name", "video"]
        batches = self._data.to_batches(columns=columns)
        return {row for batch in batches for row in zip(*(batch.column(name).to_pylist() for name in columns))}

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._data.to_batches()

    def track(self, case: str, name: str, video: str | None = None) -> Track:
        """All samples of one name in one case, in order of time. Raises DataError when there are none.

        Times of several videos cannot be put in one order: where the samples tell videos apart, say which is meant.
        """
        where = (pc.field("case") == case) & (pc.field("name") == name)
        if video is not None:
            where &= (pc.field("video") == video) | (pc.field("video") == "")
        table = self._data.to_table(filter=where).sort_by("time_s")
        if not table.num_rows:
            known = ", ".join(self.names(case)) or "nothing: the case is not in it"
            raise DataError(f"{self.path.name} has no {name!r} for case {case!r}; it has {known}.")
        if len(set(table["video"].to_pylist()) - {""}) > 1:
            raise DataError(f"{name!r} of case {case!r} runs on several videos' clocks; ask for one: track(case, name, video).")
        values, texts = table["value"], table["text"]
        return Track(
            times_s=table["time_s"].to_numpy(),
            values=None if values.null_count else np.asarray(values.to_pylist(), dtype=np.float32),
            texts=None if texts.null_count else texts.to_pylist(),
        )


def timeline_path(manifest: Path) -> Path:
    """Where the timeline of a manifest lies: set.parquet -> set.timeline.parquet."""
    return manifest.with_name(manifest.name.removesuffix(".parquet") + ".timeline.parquet")


def write_timeline(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples as they come, a group of rows at a time. Returns how many; leaves no file when there are none."""
    rows = 0
    stream = iter(samples)
    first = list(islice(stream, _GROUP))
    if not first:
        path.unlink(missing_ok=True)
        return 0
    with atomic_file(path, "wb") as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for group in _groups(first, stream):
            writer.write_table(_table(group))
            rows += len(group)
    return rows


def check_apart(parts: Sequence[Timeline]) -> None:
    """Raise DataError when two timelines tell the same of one case: together they would tell it twice."""
    teller: dict[tuple[str, str, str], Path] = {}
    for part in parts:
        for case, name, video in part.told():
            first = teller.setdefault((case, name, video), part.path)
            if first != part.path:
                raise DataError(
                    f"Both {first} and {part.path} tell {name!r} of case {case!r}; together they would tell it twice.\n"
                    "Merge only one of the two manifests, or give the cases of one of them names of their own."
                )


def join_timelines(path: Path, parts: Sequence[Timeline]) -> None:
    """Write all rows of the parts, in order; leaves no file when there are no parts."""
    if not parts:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path, "wb") as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for part in parts:
            for batch in part.batches():
                writer.write_batch(batch.cast(SCHEMA))


_GROUP = 100_000


def _groups(first: list[Sample], rest: Iterator[Sample]) -> Iterator[list[Sample]]:
    group = first
    while group:
        yield group
        group = list(islice(rest, _GROUP))


def _table(samples: list[Sample]) -> pa.Table:
    columns = {name: [getattr(sample, name) for sample in samples] for name in SCHEMA.names}
    return pa.Table.from_pydict(columns, schema=SCHEMA)
