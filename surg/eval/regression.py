"""Did a number get worse than the stored baseline? The baseline is a small JSON file under version control.

{"metrics": {"probe-action/adapted/attentive/top1": {"value": 0.83, "tolerance": 0.05, "better": "higher"}}}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surg.errors import DataError
from surg.eval.results import Metric, Result
from surg.runs import write_json

TOLERANCE = 0.03


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
    """One verdict per metric of the baseline. A metric that is missing now counts as worse."""
    try:
        wanted = json.loads(Path(baseline).read_text())["metrics"]
    except FileNotFoundError as error:
        raise DataError(
            f"There is no baseline {baseline}. Make one from good results: surg eval check RUN --write {baseline}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{baseline} is no baseline: {error!r}. Make one: surg eval check RUN --write {baseline}") from error
    found = named_metrics(results)
    return [_judge(name, entry, found.get(name)) for name, entry in wanted.items()]


def write_baseline(results: Sequence[Result], path: Path, tolerance: float = TOLERANCE, only: Sequence[str] = ()) -> int:
    """Store the present numbers; `only` keeps those whose name contains one of these words. Returns how many."""
    chosen = {
        name: {"value": round(metric.value, 6), "tolerance": tolerance, "better": metric.better}
        for name, metric in named_metrics(results).items()
        if metric.value == metric.value and (not only or any(word in name for word in only))
    }
    write_json(path, {"metrics": chosen})
    return len(chosen)


def named_metrics(results: Sequence[Result]) -> dict[str, Metric]:
    return {f"{result.kind}/{name}": metric for result in results for name, metric in result.metrics.items()}


def _judge(name: str, entry: Mapping[str, object], metric: Metric | None) -> Verdict:
    expected, tolerance = float(str(entry["value"])), float(str(entry.get("tolerance", TOLERANCE)))
    value = None if metric is None or metric.value != metric.value else metric.value
    if value is None:
        return Verdict(name, None, expected, tolerance, False)
    worse = expected - value if entry.get("better", "higher") == "higher" else value - expected
    return Verdict(name, value, expected, tolerance, worse <= tolerance)
