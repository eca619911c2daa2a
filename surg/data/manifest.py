"""The manifest: a Parquet table of clips that every command reads and writes.

One row is one clip. Text columns `labels` and `meta` hold JSON objects and `zone` a JSON polygon, so that any data set's labels
fit one schema. Rows stream through Arrow in batches: ten million of them never stand in memory as Python objects.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from surg.advice import quoted
from surg.errors import ConfigError, DataError
from surg.runs import atomic_file

SCHEMA_VERSION = 1
WRITE_ROWS = 65_536
READ_ROWS = 8_192
Label = str | float | int

# Numbers are doubles, everything else text: one way to hash, filter and stream all columns.
SCHEMA = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("case", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("labels", pa.string(), nullable=False),
        pa.field("zone", pa.string()),
        pa.field("masks", pa.string()),
        pa.field("meta", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Clip:
    """A stretch of one video. Times are seconds from the start of the video."""

    video: str
    """A video file, a folder of images, a pattern such as `frames/%06d.png`, or a .txt list of images (see surg.data.video)."""
    start_s: float
    end_s: float
    case: str
    """The patient or procedure: what a split must keep together."""
    split: str = ""
    source: str = ""
    """The data set it comes from, for example `surgvu`."""
    licence: str = ""
    labels: dict[str, Label] = field(default_factory=dict)
    zone: list[list[float]] | None = None
    """A polygon of [x, y] corners in 0..1 of the upright frame; None is the whole picture."""
    masks: str | None = None
    """Instance masks: an .npz, a folder of pictures, one a frame of the clip, or a .txt list of pictures with times of the video."""
    meta: dict[str, str] = field(default_factory=dict)
    """Anything else. `fps` is the rate of an image folder, `crop` is `x0,y0,x1,y1` in 0..1 of the frame to keep."""


class Manifest:
    """A manifest on disk, or a selection of its rows. Cheap to open; rows are read when asked for."""

    def __init__(self, path: Path, *, split: str | None = None, where: Callable[[Clip], bool] | None = None) -> None:
        self.path = Path(path)
        self.folder = settled(self.path.parent)
        self._split = split
        self._where = where
        self._length: int | None = None
        self._fingerprint: str | None = None
        self.notes: dict[str, str] = {}
        """What was recorded when it was written, for example how it was split."""

    @classmethod
    def read(cls, path: Path | str) -> "Manifest":
        """Open a manifest. Raises DataError when it is missing, not a manifest, or of a newer schema version."""
        manifest = cls(Path(path))
        with manifest._open() as file:
            _check_schema(manifest.path, file)
            metadata = file.metadata.metadata or {}
            manifest._length = file.metadata.num_rows
            fingerprint = metadata.get(b"surg.fingerprint")
            # A table that another tool wrote again lost our note: then it is worked out from the rows.
            manifest._fingerprint = fingerprint.decode() if fingerprint else None
            manifest.notes = json.loads(metadata.get(b"surg.notes", b"{}"))
        return manifest

    def select(self, split: str | None = None, where: Callable[[Clip], bool] | None = None) -> "Manifest":
        """The rows of one split, and of those the ones that `where` accepts. Nothing is read yet."""
        if split is not None and self._split not in (None, split):
            where = _nothing
        chosen = Manifest(self.path, split=split if split is not None else self._split, where=_both(self._where, where))
        chosen.notes = self.notes
        return chosen

    def batches(self, columns: list[str] | None = None, rows: int = READ_ROWS) -> Iterator[pa.RecordBatch]:
        """Rows as Arrow, paths as stored. A `where` filter makes Python objects on the way; a split does not."""
        wanted = columns
        if columns is not None and (self._split is not None or self._where is not None):
            wanted = None if self._where is not None else list(dict.fromkeys([*columns, "split"]))
        with self._open() as file:
            for batch in file.iter_batches(batch_size=rows, columns=wanted):
                if wanted is None:
                    batch = batch.select(SCHEMA.names)
                if self._split is not None:
                    batch = batch.filter(pc.equal(batch.column("split"), self._split))
                if self._where is not None:
                    keep = [self._where(clip) for clip in self.clips_of(batch)]
                    batch = batch.filter(pa.array(keep, pa.bool_()))
                if batch.num_rows:
                    yield batch.select(columns) if columns is not None else batch

    def clips(self) -> Iterator[Clip]:
        """Every clip, with `video` and `masks` as absolute paths."""
        for batch in self.batches():
            yield from self.clips_of(batch)

    def __iter__(self) -> Iterator[Clip]:
        return self.clips()

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(batch.num_rows for batch in self.batches(["split"]))
        return self._length

    @property
    def fingerprint(self) -> str:
        """Hash of the rows as stored (so moving the folder does not change it), in their order."""
        if self._fingerprint is None:
            hasher = RowHasher()
            for batch in self.batches():
                hasher.update(batch)
            self._fingerprint = hasher.hexdigest()
        return self._fingerprint

    def counts(self, column: str) -> dict[str, int]:
        """How often each value of a text column stands there, most frequent first."""
        totals: dict[str, int] = {}
        for batch in self.batches([column]):
            for entry in pc.value_counts(batch.column(column)).to_pylist():
                totals[entry["values"]] = totals.get(entry["values"], 0) + entry["counts"]
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def clips_of(self, batch: pa.RecordBatch) -> Iterator[Clip]:
        columns = [batch.column(name).to_pylist() for name in SCHEMA.names]
        for video, start_s, end_s, case, split, source, licence, labels, zone, masks, meta in zip(*columns):
            yield Clip(
                video=self.absolute(video),
                start_s=start_s,
                end_s=end_s,
                case=case,
                split=split,
                source=source,
                licence=licence,
                labels=json.loads(labels) if labels != "{}" else {},
                zone=json.loads(zone) if zone else None,
                masks=self.absolute(masks) if masks else None,
                meta=json.loads(meta) if meta != "{}" else {},
            )

    def absolute(self, stored: str) -> str:
        """The path of a stored one."""
        return stored if stored.startswith("/") else str(self.folder / stored)

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except FileNotFoundError as error:
            raise DataError(
                f"There is no manifest {self.path}.\nMake one: surg data index --format folder VIDEOS --out {quoted(self.path)}"
            ) from error
        except (OSError, pa.ArrowException) as error:
            if self.path.is_dir():
                inside = self.path / "manifest.parquet"
                make = f"Make one: surg data index {quoted(self.path)} --out {quoted(f'{self.path.name}.parquet')}"
                raise DataError(
                    f"{self.path} is a folder; expected a manifest.\n{f'It holds one: {inside}' if inside.is_file() else make}"
                ) from error
            raise DataError(
                f"{self.path} is not a Parquet file ({type(error).__name__}).\n"
                f"A manifest is made by `surg data index`; a CSV becomes one with `surg data import`."
            ) from error


def write_manifest(path: Path | str, clips: Iterable[Clip], notes: Mapping[str, str] | None = None) -> Manifest:
    """Write clips as they come, atomically. Paths under the manifest's folder are stored relative to it.

    Raises DataError that names the row when a clip makes no sense (no case, end before start, a number that is none).
    """
    path = Path(path)
    folder = str(settled(path.parent))
    rows = iter(clips)

    def batches() -> Iterator[pa.RecordBatch]:
        number = 0
        while chunk := list(islice(rows, WRITE_ROWS)):
            for offset, clip in enumerate(chunk):
                _check_clip(clip, number + offset)
            number += len(chunk)
            yield _batch_of(chunk, folder)

    return write_batches(path, batches(), notes)


def write_batches(path: Path | str, batches: Iterable[pa.RecordBatch], notes: Mapping[str, str] | None = None) -> Manifest:
    """Write rows that are Arrow already, for changes to a column of a large manifest. Paths are taken as stored."""
    path = Path(path)
    check_manifest_name(path)
    hasher = RowHasher()
    # The writer closes before the file does, on an error too: left open it would complain while it is collected.
    with atomic_file(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for batch in batches:
            hasher.update(batch)
            writer.write_batch(batch.cast(SCHEMA))
        metadata = {"surg.schema": str(SCHEMA_VERSION), "surg.fingerprint": hasher.hexdigest()}
        writer.add_key_value_metadata({**metadata, "surg.notes": json.dumps(dict(notes or {}))})
    return Manifest.read(path)


def check_manifest_name(path: Path) -> None:
    """Raise ConfigError for a name that says another kind of file, such as m.csv."""
    if path.suffix.lower() != ".parquet":
        raise ConfigError(
            f"{path} would be a manifest, a Parquet table: its name should end in .parquet.\n"
            "For a CSV table of a manifest: surg data export"
        )


class RowHasher:
    """SHA-256 over rows in order, whatever the batches they come in: one running hash a column."""

    def __init__(self) -> None:
        self._columns = {name: (hashlib.sha256(), hashlib.sha256()) for name in SCHEMA.names}

    def update(self, batch: pa.RecordBatch) -> None:
        for name, (values, lengths) in self._columns.items():
            column = batch.column(name)
            if pa.types.is_float64(column.type):
                values.update(column.to_numpy(zero_copy_only=False).tobytes())
                continue
            column = pc.fill_null(column, "\0")
            lengths.update(pc.binary_length(column).to_numpy(zero_copy_only=False).tobytes())
            if len(column):
                # Straight from Arrow's memory: all texts of the column lie there in one piece.
                _, offsets, text = column.buffers()
                ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
                if ends[-1] > ends[0]:
                    values.update(text[int(ends[0]) : int(ends[-1])])

    def hexdigest(self) -> str:
        total = hashlib.sha256(f"surg manifest {SCHEMA_VERSION}".encode())
        for name, (values, lengths) in self._columns.items():
            total.update(name.encode() + values.digest() + lengths.digest())
        return total.hexdigest()


def _batch_of(clips: list[Clip], folder: str) -> pa.RecordBatch:
    columns = [
        [_stored(clip.video, folder) for clip in clips],
        [float(clip.start_s) for clip in clips],
        [float(clip.end_s) for clip in clips],
        [clip.case for clip in clips],
        [clip.split for clip in clips],
        [clip.source for clip in clips],
        [clip.licence for clip in clips],
        [_json(clip.labels) for clip in clips],
        [_json(clip.zone) if clip.zone else None for clip in clips],
        [_stored(clip.masks, folder) if clip.masks else None for clip in clips],
        [_json(clip.meta) for clip in clips],
    ]
    return pa.record_batch([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types)], schema=SCHEMA)


def settled(path: Path) -> Path:
    """Absolute and without `..`: a file reached as `../set/a.mp4` is the one reached as `set/a.mp4` from the folder above, and what was
    measured on one is found for the other. Links keep their names."""
    whole = path.absolute()
    if ".." not in whole.parts:
        return whole
    plain, real = Path(os.path.normpath(whole)), whole.resolve()
    # Behind a link to a folder, `..` is the parent of where it leads, not of the link.
    return plain if plain.resolve() == real else real


def _stored(path: str, folder: str) -> str:
    if "/../" in path:
        path = str(settled(Path(path)))
    return path[len(folder) + 1 :] if path.startswith(folder + "/") else path


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain) if value else "{}"


def _plain(value: Any) -> Any:
    """numpy scalars and arrays as plain numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not fit a manifest; labels are text or numbers")


def _check_clip(clip: Clip, row: int) -> None:
    if not clip.video or not clip.case:
        raise DataError(f"Row {row} has no {'video' if not clip.video else 'case'}; a clip needs both.")
    if not (math.isfinite(clip.start_s) and math.isfinite(clip.end_s) and 0 <= clip.start_s <= clip.end_s):
        raise DataError(f"Row {row} lasts from {clip.start_s} to {clip.end_s} s; expected 0 <= start_s <= end_s, in seconds.")
    if clip.zone is not None and (len(clip.zone) < 3 or not all(len(corner) == 2 for corner in clip.zone)):
        raise DataError(
            f"Row {row} has a zone of {len(clip.zone)} corners; expected three or more [x, y] in 0..1 of the frame."
        )


def _check_schema(path: Path, file: pq.ParquetFile) -> None:
    metadata = file.metadata.metadata or {}
    version = int(metadata.get(b"surg.schema", b"1"))
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{path} has manifest schema {version}; this surg reads up to {SCHEMA_VERSION}. Update surg, or index again."
        )
    missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
    if missing:
        raise DataError(
            f"{path} is a Parquet table but no manifest: it lacks {', '.join(missing)}.\n"
            f"Make one: surg data index --format csv TABLE.csv --out {quoted(path)}"
        )


def _nothing(_: Clip) -> bool:
    return False


def _both(first: Callable[[Clip], bool] | None, second: Callable[[Clip], bool] | None) -> Callable[[Clip], bool] | None:
    if first is None or second is None:
        return first or second
    return lambda clip: first(clip) and second(clip)
