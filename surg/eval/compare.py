"""The table of arms: results of several runs side by side, and what differs between their settings."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from surg.errors import ConfigError, DataError
from surg.eval import plots
from surg.eval.results import Result, Table, signed
from surg.metrics.comparison import compare_paired, holm


def compare(runs: Sequence[Path], folder: Path) -> Result:
    """All metrics that the runs share, and paired differences where their predictions are on the same clips."""
    if len(runs) < 2:
        raise ConfigError(
            f"compare got {len(runs)} run; it takes two or more, the first is the reference: surg eval compare FROZEN ADAPTED"
        )
    results = {name_of(run): Result.read(run) for run in runs}
    if len(results) < len(runs):
        raise DataError("Two runs have the same folder name; rename one so that the table can tell them apart.")
    kinds = {result.kind for result in results.values()}
    if len(kinds) > 1:
        raise DataError(f"The runs are of different kinds ({', '.join(sorted(kinds))}); compare like with like.")
    out = Result(
        "compare", f"Runs of {kinds.pop()}", protocol=[f"{name}: {result.headline}" for name, result in results.items()]
    )
    names = list(dict.fromkeys(name for result in results.values() for name in result.metrics))
    rows = [
        [name, *(str(result.metrics[name]) if name in result.metrics else "–" for result in results.values())] for name in names
    ]
    out.tables.append(Table("Metrics", ["metric", *results], rows))
    for run, result in results.items():
        out.metrics |= {f"{run}/{name}": metric for name, metric in result.metrics.items()}
    if len({_data_of(result) for result in results.values()}) > 1:
        out.warnings.append("The runs were made on different data; their numbers are not comparable.")
    titles = list(dict.fromkeys(result.title for result in results.values()))
    if len(titles) > 1:
        out.warnings.append(f"The runs judge different things ({'; '.join(titles)}); their numbers are not comparable.")
    paired = _paired(runs) if len(titles) == 1 else None
    if paired:
        out.tables.append(paired)
    shown = [
        (
            name,
            [
                (run, result.metrics[name])
                for run, result in results.items()
                if name in result.metrics and isfinite(result.metrics[name].value)
            ],
        )
        for name in names
        if name.endswith(("top1", "auprc"))
    ]
    for index, (name, bars) in enumerate([(name, bars) for name, bars in shown if bars][:6]):
        out.plots.append(plots.bars(bars, folder / "plots", f"compare_{index}", name, xlabel=name.rsplit("/", 1)[-1]))
    out.headline = f"{len(runs)} runs, {len(names)} metrics."
    return out


def name_of(run: Path) -> str:
    path = Path(run).resolve()
    return path.name if path.is_dir() else path.parent.name


def _data_of(result: Result) -> tuple[str, str]:
    """Fingerprints of what a run was made on; a retrieval's are those of its features."""
    evidence = result.evidence
    own = evidence.get("data_fingerprint") or evidence.get("features", {}).get("data_fingerprint")
    return str(own), str(evidence.get("takes_fingerprint"))


def _paired(runs: Sequence[Path]) -> Table | None:
    tables = {}
    for run in runs:
        path = Path(run) / "predictions.parquet"
        if not path.is_file():
            return None
        tables[name_of(run)] = _right(path)
    (first, base), *others = tables.items()
    rows, p_values = [], []
    for name, table in others:
        for key in base.keys() & table.keys():
            shared = sorted(base[key].keys() & table[key].keys())
            if len(shared) < 2:
                continue
            a, b = ([side[key][clip][0] for clip in shared] for side in (table, base))
            found = compare_paired(a, b, [base[key][clip][1] for clip in shared])
            p_values.append(found.permutation.p)
            rows.append(
                [
                    f"{name} − {first}",
                    " / ".join(key),
                    signed(found.delta),
                    f"{found.permutation.p:.4f}",
                ]
            )
    if not rows:
        return None
    order = np.argsort([" ".join(row[:2]) for row in rows])
    adjusted = holm(p_values)
    ordered = [[*rows[i], f"{adjusted[i]:.4f}"] for i in order]
    return Table(
        "Differences in top-1",
        ["runs", "arm / reader / test", "difference", "p", "p (Holm)"],
        ordered,
        "Paired over the clips that both runs predicted; cases resampled whole.",
    )


def _right(path: Path) -> dict[tuple[str, str, str], dict[str, tuple[float, str]]]:
    """Per (arm, reader, test) and clip: share of seeds that were right, and the case."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    cases: dict[str, str] = {}
    table = pq.read_table(path, columns=["arm", "probe", "test", "clip", "case", "truth", "predicted"])
    for row in table.to_pylist():
        found.setdefault((row["arm"], row["probe"], row["test"]), {}).setdefault(row["clip"], []).append(
            float(row["truth"] == row["predicted"])
        )
        cases[row["clip"]] = row["case"]
    return {key: {clip: (float(np.mean(hits)), cases[clip]) for clip, hits in clips.items()} for key, clips in found.items()}
