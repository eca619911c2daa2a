"""probe_plot: pictures of runs side by side: drift per block, trajectory over training, arms compared, features in a plane.

What is drawn follows from what is given: a run folder of `surg train` (its metrics.jsonl), a folder of an evaluation (its
result.json), or a table of features (`surg embed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from surg.data.feature_table import Features, read_features
from surg.errors import DataError
from surg.eval import plots
from surg.eval.compare import name_of
from surg.eval.results import Metric, Result, Table
from surg.runs import RunFolder

WATCHED = ("probe_top1", "knn_top1", "val_top1", "breach_ap", "effective_rank", "feature_std", "drift_all", "loss")
"""What a trajectory shows first of what a run logged about itself."""
MOMENTS = 4
"""Steps at which one run's drift is drawn."""


@dataclass
class Given:
    trained: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Lines of metrics.jsonl by run."""
    judged: dict[str, Result] = field(default_factory=dict)
    features: dict[str, Features] = field(default_factory=dict)


def draw(paths: Sequence[Path], folder: Path, label: str = "action", method: plots.Projection = "auto") -> Result:
    """All pictures that `paths` have the numbers for. Raises DataError when there are none."""
    given = read(paths)
    result = Result("probe-plot", "Pictures of runs")
    _drift(given, folder, result)
    _trajectories(given, folder, result)
    _arms(given, folder, result)
    for number, (name, features) in enumerate(given.features.items()):
        _plane(name, features, f"embedding_{number}", folder, label, method, result)
    if not result.plots:
        raise DataError(
            "Nothing to draw: the runs logged no drift and no validation (they need a few steps), and no evaluation has a top-1."
        )
    result.headline = f"{len(result.plots)} pictures of {len(given.trained)} training runs, {len(given.judged)} evaluations and {len(given.features)} tables of features."
    result.protocol = [
        "Drift is |w - w0| / |w0| of each block's weights against those the run began with.",
        "Trajectories are what each run logged on its own held-out clips; they choose nothing here.",
    ]
    return result


def read(paths: Sequence[Path]) -> Given:
    given = Given()
    for path in map(Path, paths):
        name = path.stem if path.is_file() and path.suffix == ".parquet" else name_of(path)
        if name in given.trained or name in given.judged or name in given.features:
            raise DataError(f"Two of the runs are called {name}; rename one so that the pictures can tell them apart.")
        if path.is_file() and path.suffix == ".parquet":
            given.features[name] = read_features(path)
        elif (path / "metrics.jsonl").is_file():
            given.trained[name] = RunFolder(path).metrics()
        elif path.is_dir() and sorted(path.glob("*/result.json")):
            for inner in sorted(path.glob("*/result.json")):
                given.judged[f"{name} {inner.parent.name}"] = Result.read(inner)
        elif path.exists():
            given.judged[name] = Result.read(path)
        else:
            raise DataError(f"There is no {path}. Name run folders of surg train or surg eval, or tables of surg embed.")
    return given


def _drift(given: Given, folder: Path, result: Result) -> None:
    found: dict[str, list[dict[str, Any]]] = {
        name: [row for row in rows if any(key.startswith("drift_block") for key in row)] for name, rows in given.trained.items()
    }
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        return
    parts = list(
        dict.fromkeys(key for rows in found.values() for key in rows[-1] if key.startswith("drift_") and key != "drift_all")
    )
    # As a clip goes through them: the patches' embedding, the blocks, the norm that ends them.
    parts.sort(key=lambda key: (key == "drift_norm", key.startswith("drift_block"), key))
    lines: dict[str, list[float]] = {}
    if len(found) == 1:
        (rows,) = found.values()
        for place in sorted({round(at) for at in np.linspace(0, len(rows) - 1, min(MOMENTS, len(rows)))}):
            lines[f"step {rows[place]['step']}"] = [float(rows[place].get(part, np.nan)) for part in parts]
    else:
        lines = {name: [float(rows[-1].get(part, np.nan)) for part in parts] for name, rows in found.items()}
    names = [part.removeprefix("drift_").replace("block_", "") for part in parts]
    title = f"Drift per block of {next(iter(found))}" if len(found) == 1 else "Drift per block, last step"
    result.plots.append(plots.blocks(lines, names, folder / "plots", "drift", title, "relative change of weights"))
    cells = [[line, *(f"{value:.4f}" for value in values)] for line, values in lines.items()]
    result.tables.append(Table("Drift per block", ["", *names], cells))
    for name, rows in found.items():
        if "drift_all" in rows[-1]:
            result.metrics[f"{name}/drift"] = Metric(float(rows[-1]["drift_all"]), better="lower")


def _trajectories(given: Given, folder: Path, result: Result) -> None:
    lines: dict[str, dict[str, tuple[Any, Any]]] = {}
    for run, rows in given.trained.items():
        held_out = [row for row in rows if row.get("kind") in ("val", "watch")]
        names = {
            key
            for row in held_out
            for key, value in row.items()
            if isinstance(value, float) and not key.startswith("drift_block")
        }
        for name in names:
            points = [(row["step"], row[name]) for row in held_out if isinstance(row.get(name), float)]
            if len(points) > 1:
                x, y = (np.array(column, float) for column in zip(*points))
                lines.setdefault(name, {})[run] = (x, y)
    ordered = sorted(lines, key=lambda name: (WATCHED.index(name) if name in WATCHED else len(WATCHED), name))
    for number, name in enumerate(ordered[:8]):
        result.plots.append(
            plots.curves(lines[name], folder / "plots", f"trajectory_{number}", f"{name} over training", "step", name)
        )


def _arms(given: Given, folder: Path, result: Result) -> None:
    """Top-1 (or average precision) of every arm of every evaluation, one picture a test set."""
    groups: dict[str, list[tuple[str, Metric]]] = {}
    chances: dict[str, float] = {}
    for run, judged in given.judged.items():
        for name, metric in judged.metrics.items():
            what = name.rsplit("/", 1)[-1]
            if what not in ("top1", "auprc", "balanced_auprc") or name.startswith("chance/"):
                continue
            arm = name.rsplit("/", 1)[0]
            where = arm.rsplit("@", 1)[1] if "@" in arm and what == "top1" else "test"
            group = f"{judged.title}: {what} on {where}"
            row = arm.rsplit("@", 1)[0] if what == "top1" else arm
            groups.setdefault(group, []).append((row if len(given.judged) == 1 else f"{run} · {row}", metric))
            if "chance/top1" in judged.metrics and what == "top1":
                chances[group] = judged.metrics["chance/top1"].value
    for number, (group, rows) in enumerate(groups.items()):
        shown = [row for row in rows if row[1].value == row[1].value]
        if shown:
            xlabel = group.split(": ")[-1].split(" on ")[0]
            result.plots.append(
                plots.bars(shown, folder / "plots", f"arms_{number}", group, chance=chances.get(group), xlabel=xlabel)
            )


def _plane(
    name: str, features: Features, stem: str, folder: Path, label: str, method: plots.Projection, result: Result
) -> None:
    labels = features.column(label)
    known = labels != ""
    if known.sum() < 3:
        raise DataError(f"Fewer than three rows of {name} carry the label `{label}`. Name another: --label NAME")
    vectors = features.vectors()[known][:3000]
    place, caption = plots.project(vectors - vectors.mean(0), method=method)
    result.plots.append(
        plots.embedding(place, labels[known][:3000].tolist(), folder / "plots", stem, f"Features of {name} by {label}", caption)
    )
