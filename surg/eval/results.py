"""One shape for every result: what was run, in words; numbers with intervals; tables; pictures; what to beware of.

RUN/result.json     this, for machines: `surg eval compare` and `surg eval check` read it
RUN/report.md  RUN/report.html  RUN/plots/*.png *.svg    for people
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from surg.errors import DataError
from surg.metrics.bootstrap import Interval
from surg.runs import write_json

FORMAT = 1


@dataclass(frozen=True)
class Metric:
    """One number. low and high are its interval over cases, None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None
    cases: int | None = None
    method: str = ""
    better: str = "higher"

    @classmethod
    def of(cls, found: Interval, better: str = "higher") -> "Metric":
        ends = (found.low, found.high)
        low, high = (None if math.isnan(end) else end for end in ends)
        return cls(found.estimate, low, high, found.cases, found.method, better)

    def __str__(self) -> str:
        if self.value is None or math.isnan(self.value):
            return "–"
        text = f"{self.value:.3f}"
        return text if self.low is None or self.high is None else f"{text} [{self.low:.3f}, {self.high:.3f}]"


def signed(found: Interval) -> str:
    """A difference with its sign, and its interval where there is one (over a single case there is none)."""
    text = f"{found.estimate:+.3f}"
    return text if math.isnan(found.low) or math.isnan(found.high) else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    title: str
    stem: str
    """plots/STEM.png and plots/STEM.svg."""
    caption: str = ""


@dataclass
class Result:
    kind: str
    """probe-action, sterility, world-model, retrieval, classify, parity, compare."""
    title: str
    headline: str = ""
    """One sentence: the answer."""
    protocol: list[str] = field(default_factory=list)
    """What was run on what, sentence by sentence."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Backend, server version and counts, checkpoint, data fingerprint, seeds."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        path = Path(folder) / "result.json"
        write_json(path, {"format": FORMAT, **_plain(asdict(self))})
        return path

    @classmethod
    def read(cls, path: Path) -> "Result":
        """A run folder or its result.json."""
        path = Path(path) / "result.json" if Path(path).is_dir() else Path(path)
        try:
            body = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise DataError(f"There is no {path}; an evaluation writes it: surg eval probe-action … --out RUN") from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not the result of an evaluation ({error}).") from error
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise DataError(f"{path} is not a result of this version of surg (format {FORMAT}). Run the evaluation again.")
        body.pop("format")
        body["metrics"] = {
            name: Metric(**{**value, "value": float("nan") if value["value"] is None else value["value"]})
            for name, value in body["metrics"].items()
        }
        body["tables"] = [Table(**table) for table in body["tables"]]
        body["plots"] = [Plot(**plot) for plot in body["plots"]]
        return cls(**body)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no numpy."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
