"""A manifest made from another one: what that one says beside its rows comes along.

Notes do (a leak stays a leak), and the timeline of its cases; paths go on naming the same files, wherever the new manifest lies.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from surg.data.manifest import Clip, Manifest, settled, write_batches, write_manifest
from surg.data.timeline import Timeline, join_timelines, timeline_path

PATHS = ("video", "masks")


def derive(
    source: Manifest, out: Path, clips: Iterable[Clip], notes: Mapping[str, str] | None = None, *, same_times: bool = True
) -> Manifest:
    """Write clips that come from those of `source`; `notes` are added to its own.

    same_times: a moment of a clip is still that moment of its case. Of clips cut out into videos of their own it is not, and the
    timeline stays behind.
    """
    timelines = _timelines(source) if same_times else []
    made = write_manifest(out, clips, {**source.notes, **(notes or {})})
    _carry(timelines, out)
    return made


def derive_batches(
    source: Manifest, out: Path, batches: Iterable[pa.RecordBatch], notes: Mapping[str, str] | None = None
) -> Manifest:
    """The same for rows that are Arrow already, with paths as `source` stores them."""
    timelines = _timelines(source)
    made = write_batches(out, _moved(batches, source.folder, settled(out.parent)), {**source.notes, **(notes or {})})
    _carry(timelines, out)
    return made


def _timelines(source: Manifest) -> list[Timeline]:
    path = timeline_path(source.path)
    return [Timeline(path)] if path.is_file() else []


def _carry(timelines: list[Timeline], out: Path) -> None:
    """After the manifest is there: one that could not be written keeps the timeline that it had."""
    there = timeline_path(out)
    if not any(timeline.path.resolve() == there.resolve() for timeline in timelines):
        join_timelines(there, timelines)


def _moved(batches: Iterable[pa.RecordBatch], before: Path, after: Path) -> Iterator[pa.RecordBatch]:
    """Paths that were relative to one folder, relative to the other where they lie under it."""
    prefix = f"{after}/"
    for batch in batches:
        for name in PATHS if after != before else ():
            stored = batch.column(name)
            whole = pc.if_else(pc.starts_with(stored, "/"), stored, pc.binary_join_element_wise(str(before), stored, "/"))
            inner = pc.starts_with(whole, prefix)
            where = batch.schema.get_field_index(name)
            batch = batch.set_column(
                where, batch.schema.field(name), pc.if_else(inner, pc.utf8_slice_codeunits(whole, len(prefix)), whole)
            )
        yield batch
