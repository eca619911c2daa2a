"""Did a number get worse than the stored baseline? The baseline is a small JSON file under version control.

{"runs": [{"protocol": {"protocol": "small", …}, "metrics": {"sterility/clips/auprc": {"value": 0.83, "tolerance": 0.05, "better": "higher"}}}]}

Numbers of different protocols (more clips, another simulator, another renderer) are no measure of each other: a file may hold several
protocols, and a run is held against its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surg.advice import quoted
from surg.errors import CheckFailed, DataError
from surg.eval.results import Metric, Result
from surg.runs import write_json

TOLERANCE = 0.03
PARITY = 1e-3
HEADLINE = (
    "model/attentive/top1",
    "model/linear/top1",
    "retrieval/map@",
    "sterility/model/auprc",
    "clips/auprc",
    "clips/balanced_auprc",
    "world-model/model/skill@1",
    "/max_abs",
)
"""What `surg eval check --write` stores when nothing else is asked for: what would be missed first, without the noisy rest."""


@dataclass(frozen=True)
class Verdict:
    name: str
    found: float | None
    expected: float
    tolerance: float
    ok: bool

    def __str__(self) -> str:
        found = "missing" if self.found is None else f"{self.found:.4f}"
        return f"{'ok  ' if self.ok else 'WORSE'} {self.name}: {found} (baseline {self.expected:.4f}, tolerance {self.tolerance:g})"


def check(results: Sequence[Result], baseline: Path) -> list[Verdict]:
    """One verdict per metric of the baseline of the same protocol. A metric that is missing now counts as worse."""
    if not results:
        raise DataError("There are no results to check; an evaluation writes them: surg eval all --out RUN")
    found = named_metrics(results)
    return [_judge(name, entry, found.get(name)) for name, entry in _entry(results, baseline).items()]


def write_baseline(
    results: Sequence[Result], path: Path, tolerance: float = TOLERANCE, only: Sequence[str] = ()
) -> dict[str, dict[str, object]]:
    """Store the present numbers in place of those of the same protocol; `only` keeps those whose name contains one of these words.

    Returns what was stored.
    """
    if not results:
        raise DataError("There are no results to store; an evaluation writes them: surg eval all --out RUN")
    chosen: dict[str, dict[str, object]] = {
        # Parity is exact or broken: a tolerance for scores would let anything pass.
        name: {
            "value": round(metric.value, 6),
            "tolerance": PARITY if name.endswith("/max_abs") else tolerance,
            "better": metric.better,
        }
        for name, metric in named_metrics(results).items()
        if metric.value == metric.value and (not only or any(word in name for word in only))
    }
    if not chosen:
        found = [name for name, metric in named_metrics(results).items() if metric.value == metric.value]
        raise DataError(
            f"None of the {len(found)} numbers that these results hold has a name with {', '.join(only)} in it.\n"
            f"Store others by a word of their names: --only {found[0] if found else 'WORD'}"
        )
    mine = protocol_of(results)
    runs = [run for run in read_baseline(path) if run["protocol"] != mine] if Path(path).is_file() else []
    write_json(path, {"runs": [*runs, {"protocol": mine, "metrics": chosen}]})
    return chosen


def protocol_of(results: Sequence[Result]) -> dict[str, object]:
    """What `surg eval all` says it ran; empty for evaluations of their own."""
    return dict(results[0].evidence.get("protocol") or {})


def _entry(results: Sequence[Result], baseline: Path) -> dict[str, Mapping[str, object]]:
    mine, runs = protocol_of(results), read_baseline(baseline)
    for run in runs:
        if run["protocol"] == mine:
            return dict(run["metrics"])
    raise CheckFailed(
        f"{baseline} holds no numbers for this protocol, so nothing can be said.\n"
        f"  this run: {_words(mine)}\n"
        + "".join(f"  baseline: {_words(run['protocol'])}\n" for run in runs)
        + "Run the same protocol "
        f"(a renderer of `gl` needs EGL: make system), or store these numbers beside the others: surg eval check RUN --write {quoted(baseline)}"
    )


def read_baseline(baseline: Path) -> list[dict[str, Any]]:
    """Raises DataError when there is none, or the file is something else."""
    try:
        runs = json.loads(Path(baseline).read_text())["runs"]
        return [{"protocol": dict(run["protocol"]), "metrics": dict(run["metrics"])} for run in runs]
    except FileNotFoundError as error:
        raise DataError(
            f"There is no baseline {baseline}. Make one from good results: surg eval check RUN --write {quoted(baseline)}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{baseline} is no baseline: {error!r}. Make one: surg eval check RUN --write {quoted(baseline)}"
        ) from error


def _words(protocol: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(protocol.items())) or "an evaluation of its own"


def named_metrics(results: Sequence[Result]) -> dict[str, Metric]:
    return {f"{result.kind}/{name}": metric for result in results for name, metric in result.metrics.items()}


def _judge(name: str, entry: Mapping[str, object], metric: Metric | None) -> Verdict:
    expected, tolerance = float(str(entry["value"])), float(str(entry.get("tolerance", TOLERANCE)))
    value = None if metric is None or metric.value != metric.value else metric.value
    if value is None:
        return Verdict(name, None, expected, tolerance, False)
    worse = expected - value if entry.get("better", "higher") == "higher" else value - expected
    return Verdict(name, value, expected, tolerance, worse <= tolerance)
