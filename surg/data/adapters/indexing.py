"""From a data set on disk to a manifest, its timeline, its frame lists and the list of what was missing."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surg.data.adapters.ledger import Ledger
from surg.data.adapters.registry import MAX_MISSING, adapter
from surg.data.manifest import Manifest, write_manifest
from surg.data.timeline import timeline_path, write_timeline
from surg.runs import atomic_file, check_place


@dataclass(frozen=True)
class Indexed:
    """What indexing wrote. `timeline` and `problems` are None where there was nothing to write."""

    manifest: Manifest
    ledger: Ledger
    timeline: Path | None
    samples: int
    problems: Path | None


def index(
    name: str, root: Path, out: Path, *, whole: bool = False, max_missing: float = MAX_MISSING, **options: Any
) -> Indexed:
    """Read the data set `name` under `root` and write `out`, with these beside it as far as the set has them:
    NAME.timeline.parquet, NAME.frames/ (lists of pictures) and NAME.problems.csv (what was missing or left out).

    The list of problems is written before a share of missing items above `max_missing` raises DataError.
    """
    check_place(out)
    reader = adapter(name)
    ledger = Ledger()
    stem = out.with_name(out.name.removesuffix(".parquet"))
    lists = stem.with_name(stem.name + ".frames")
    problems = stem.with_name(stem.name + ".problems.csv")
    try:
        manifest = write_manifest(
            out, reader.read(root, whole=whole, max_missing=max_missing, lists=lists, ledger=ledger, **options)
        )
        beside = timeline_path(out)
        samples = write_timeline(beside, reader.timeline(root, ledger=ledger, **options))
    finally:
        _write_problems(problems, ledger)
    return Indexed(
        manifest, ledger, beside if samples else None, samples, problems if ledger.lacks or ledger.left_out else None
    )


def _write_problems(path: Path, ledger: Ledger) -> None:
    if not ledger.lacks and not ledger.left_out:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("missing", "kind", "what"))
        writer.writerows(("yes", kind, what) for kind, what in ledger.lacks)
        writer.writerows(("left out on purpose", kind, what) for kind, what in ledger.left_out)
