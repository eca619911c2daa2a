"""Tables of features in Arrow, the one place that knows their form: written by `surg embed` and by training on a frozen encoder.

Columns: key · case · video · split · source · labels (JSON) · start_s · end_s · segment · features (flat) ;
the shape of one row's features and what they were made with stand in the table's metadata.
`.parquet` is compressed and read whole; `.arrow` (Arrow IPC) is mapped, so that a batch reads its own rows and no others.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from surg.advice import quoted
from surg.data.executor import item_key
from surg.data.manifest import Clip
from surg.data.overlap import patient
from surg.errors import DataError
from surg.runs import atomic_file

METADATA = b"surg.features"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Features:
    """A feature table in memory. Rows are windows; `clip` tells which belong together."""

    values: Array
    """(N, …): (D,) pooled, (tokens, D) otherwise."""
    clips: npt.NDArray[np.str_]
    cases: npt.NDArray[np.str_]
    patients: npt.NDArray[np.str_]
    """One name for one patient, also where two data sets have the same under two."""
    videos: npt.NDArray[np.str_]
    """Of which video of its case a row is, without its name; the case itself in tables that do not tell."""
    splits: npt.NDArray[np.str_]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    labels: list[dict[str, Any]]
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.clips)

    def column(self, label: str) -> npt.NDArray[np.str_]:
        """A label as text, "" where a row has none."""
        return np.array([str(row.get(label, "")) for row in self.labels], dtype=np.str_)

    def require(self, label: str) -> None:
        """Raises DataError that names the labels there are when no row carries `label`."""
        if not any(row.get(label, "") != "" for row in self.labels):
            known = sorted({name for row in self.labels for name, value in row.items() if value != ""})
            raise DataError(f"No row of the table carries the label `{label}`; they carry {', '.join(known) or 'no label'}.")

    def vectors(self) -> Array:
        """One float32 vector a row: tokens are averaged."""
        values = self.values.astype(np.float32)
        return values if values.ndim == 2 else np.asarray(values.reshape(len(values), -1, values.shape[-1]).mean(1))

    def pick(self, rows: npt.NDArray[Any]) -> "Features":
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return Features(
            self.values[index], self.clips[index], self.cases[index], self.patients[index], self.videos[index], self.splits[index], self.start_s[index], self.end_s[index],
            [self.labels[i] for i in index], self.meta,
        )  # fmt: skip


class MappedFeatures:
    """Rows of an `.arrow` table, read from the map when touched."""

    def __init__(self, path: Path) -> None:
        table = _opened(path)
        self.meta = metadata_of(table.schema, path)
        column = table.column("features")
        self._chunks = [
            np.asarray(chunk.flatten().to_numpy(zero_copy_only=True)).reshape(len(chunk), *self.meta["shape"])
            for chunk in column.chunks
        ]
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def row(self, number: int) -> Array:
        """The features of one row, a view of the map."""
        chunk = int(np.searchsorted(self._ends, number, side="right"))
        return np.asarray(self._chunks[chunk][number - self._ends[chunk] + len(self._chunks[chunk])])


def read_features(path: Path) -> Features:
    """Open a table written by `surg embed`, or the cache of a training run."""
    table = _opened(path)
    metadata = metadata_of(table.schema, path)
    flat = table.column("features").combine_chunks()
    values = np.asarray(flat.flatten()).reshape(len(table), *metadata["shape"])
    text = {name: np.array(table.column(name).to_pylist(), dtype=np.str_) for name in ("key", "case", "split")}
    told = table.column("video").to_pylist() if "video" in table.column_names else [None] * len(table)
    videos = np.array([video or case for video, case in zip(told, text["case"].tolist())], dtype=np.str_)
    sources = table.column("source").to_pylist() if "source" in table.column_names else [""] * len(table)
    patients = np.array([patient(source, case) for source, case in zip(sources, text["case"].tolist())], dtype=np.str_)
    return Features(
        values, text["key"], text["case"], patients, videos, text["split"],
        table.column("start_s").to_numpy(), table.column("end_s").to_numpy(),
        [json.loads(row) for row in table.column("labels").to_pylist()], metadata,
    )  # fmt: skip


def metadata_of(schema: pa.Schema, path: Path) -> dict[str, Any]:
    """What a table says about its features. Raises DataError when it is a table of something else."""
    metadata: dict[str, Any] = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
    if "shape" not in metadata:
        raise DataError(f"{path} is a table, but not one of features. Make one: surg embed MANIFEST --out {quoted(path)}")
    return metadata


def stamp_of(path: Path) -> str:
    """The stamp of a finished Parquet table, "" where there is none; a table of something else is nobody's."""
    if not path.is_file():
        return ""
    return str(json.loads((pq.read_schema(path).metadata or {}).get(METADATA, b'{"stamp": "other"}')).get("stamp", ""))


def describe_table(out: Path, meta: Mapping[str, Any]) -> None:
    """Put `meta` and the rows' shape into the metadata of a Parquet table just written."""
    table = pq.read_table(out)
    if not len(table):
        raise DataError("No clip gave any features: the manifest, or the split asked for, is empty.")
    shapes = {str(shape) for shape in table.column("shape").unique().to_pylist()}
    if len(shapes) > 1:
        raise DataError(f"Clips gave features of different shapes: {', '.join(sorted(shapes))}.")
    metadata = {**(table.schema.metadata or {}), METADATA: json.dumps({**meta, "shape": json.loads(shapes.pop())}).encode()}
    with atomic_file(out) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")


def write_mapped(
    out: Path,
    batches: Iterable[tuple[Sequence[dict[str, Any]], Array]],
    meta: Mapping[str, Any],
    shape: Sequence[int],
    dtype: Any,
) -> None:
    """Write an `.arrow` table batch by batch, atomically. A batch: rows without their features, and features (rows, *shape)."""
    width = int(np.prod(shape))
    fields = [pa.field(name, pa.string()) for name in ("key", "case", "video", "split", "source", "labels")]
    fields += [pa.field("start_s", pa.float64()), pa.field("end_s", pa.float64()), pa.field("segment", pa.int64())]
    fields.append(pa.field("features", pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), width)))
    schema = pa.schema(fields, metadata={METADATA: json.dumps({**meta, "shape": list(shape)}).encode()})
    with atomic_file(out) as file, pa.ipc.new_file(file, schema) as writer:
        for rows, features in batches:
            plain = [pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names[:-1]]
            flat = pa.array(np.ascontiguousarray(features, dtype).reshape(-1))
            writer.write_batch(pa.record_batch([*plain, pa.FixedSizeListArray.from_arrays(flat, width)], schema=schema))


class VideoNames:
    """What videos are called in keys: by their file's name, so that a moved manifest resumes. Where a case has several of one name
    (a recorder's 00000.MTS in the folder of each day or camera), by as much of the path as tells them apart.
    """

    def __init__(self, videos: Iterable[tuple[str, str]]) -> None:
        """videos: (path, case) of every clip that is to be told from the others."""
        groups: dict[tuple[str, str], set[Path]] = {}
        for video, case in set(videos):
            groups.setdefault((Path(video).name, case), set()).add(Path(video))
        self._longer: dict[tuple[str, str], str] = {}
        for (_, case), paths in groups.items():
            if len(paths) > 1:
                common = os.path.commonpath([path.parent for path in paths])
                self._longer |= {(str(path), case): path.relative_to(common).as_posix() for path in paths}

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> "VideoNames":
        return cls((clip.video, clip.case) for clip in clips)

    def __call__(self, video: str, case: str) -> str:
        return self._longer.get((str(Path(video)), case), Path(video).name)


def clip_columns(clip: Clip, names: VideoNames) -> dict[str, str]:
    """What every row of a clip says about it."""
    # As in clip_key: the name and not the folder, and only as a hash.
    video = item_key(["video", names(clip.video, clip.case), clip.case])
    labels = json.dumps(clip.labels, sort_keys=True)
    return {"case": clip.case, "video": video, "split": clip.split, "source": clip.source, "labels": labels}


def clip_key(clip: Clip, names: VideoNames) -> str:
    """Stable, and tells no file name. The folder of the video does not matter, so that a moved manifest resumes."""
    return item_key([names(clip.video, clip.case), clip.start_s, clip.end_s, clip.case, json.dumps(clip.zone)])


def keyed(clips: Iterable[Clip], names: VideoNames) -> Iterator[tuple[str, Clip]]:
    """Each row with a key: the clip's own, and for a further row of the same clip (under another label) that with its number."""
    seen: dict[str, int] = {}
    for clip in clips:
        key = clip_key(clip, names)
        seen[key] = seen.get(key, 0) + 1
        yield (key if seen[key] == 1 else f"{key}-{seen[key]}"), clip


def _opened(path: Path) -> pa.Table:
    try:
        if Path(path).suffix == ".arrow":
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is no table of features ({type(error).__name__}). Make one: surg embed MANIFEST --out {quoted(path)}"
        ) from error
