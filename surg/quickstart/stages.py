"""The stages of the quickstart: the same commands that the README shows, on small simulated data."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from surg.advice import quoted
from surg.errors import RunError
from surg.eval.results import Result
from surg.model.saved import SHIPPED
from surg.quickstart.tour import Stage
from surg.runs import check_place

SEED = "5"
MARKER = ".surg-quickstart"
# A short sweep over one vector a clip: the whole one, or tokens, take longer than everything before it.
QUICK = ("--set", "probe.sweep_epochs=3", "--set", "probe.epochs=10", "--set", "features.level=pooled")


def stages(out: Path) -> list[Stage]:
    """What to run, in order: the shipped model meets pictures of a look that it has not seen, as frozen as it came and adapted to them."""
    _claim(out)
    tissue, room = out / "tissue", out / "room"
    data = ("--data", f"tissue={tissue}/manifest.parquet", "--data", f"room={room}/manifest.parquet")
    adapted, repository = out / "adapted", out / "repository"
    arms = ("--checkpoint", f"frozen={SHIPPED}", "--checkpoint", f"adapted={adapted}")
    marks = out / ".done"
    return [
        Stage(
            "Simulate tissue",
            ("data", "synth", "tissue", "--out", str(tissue), "--clips", "160", "--family", "b", "--seed", SEED),
            tissue / "manifest.parquet",
            marks / "tissue",
        ),
        Stage(
            "Simulate a room",
            ("data", "synth", "room", "--out", str(room), "--clips", "24", "--family", "b", "--seed", SEED),
            room / "manifest.parquet",
            marks / "room",
        ),
        Stage(
            "Adapt",
            ("train", "quickstart", *data, "--init", SHIPPED, "--out", str(adapted)),
            adapted / "checkpoints" / "last.safetensors",
            marks / "adapted",
            ("train", "quickstart", "--resume", str(adapted)),
        ),
        Stage(
            "Export",
            ("export", str(adapted), "--out", str(repository)),
            repository / "surg_clip" / "config.pbtxt",
            marks / "export",
        ),
        Stage(
            "Serve and evaluate: motion",
            (
                "eval",
                "probe-action",
                "--data",
                f"{tissue}/manifest.parquet",
                *arms,
                *QUICK,
                "--out",
                str(out / "probe-action"),
                "--overwrite",
            ),
            out / "probe-action" / "report.html",
            marks / "probe-action",
        ),
        Stage(
            "Serve and evaluate: sterility",
            (
                "eval",
                "sterility",
                "--data",
                f"{room}/manifest.parquet",
                "--repository",
                str(repository),
                "--out",
                str(out / "sterility"),
                "--overwrite",
            ),
            out / "sterility" / "report.html",
            marks / "sterility",
        ),
    ]


def clear(out: Path) -> None:
    """Remove an earlier quickstart. Refuses a folder that none of ours has made."""
    if out.exists() and not (out / MARKER).is_file():
        raise RunError(f"{out} was not made by surg quickstart, so --afresh leaves it alone. Choose another --out.")
    shutil.rmtree(out, ignore_errors=True)


def _claim(out: Path) -> None:
    check_place(out / MARKER)
    if out.exists() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise RunError(f"{out} holds other things. Choose an empty folder: surg quickstart --out runs/another")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror}. Choose another folder with --out.") from error


@dataclass(frozen=True)
class Summary:
    out: Path
    rows: list[tuple[str, str]]

    def as_dict(self) -> dict[str, object]:
        return {
            "numbers": dict(self.rows),
            "reports": [str(self.out / name / "report.html") for name in ("probe-action", "sterility")],
        }

    def as_text(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        lines = [f"{name:<{width}}  {value}" for name, value in self.rows]
        lines += [
            "",
            f"motion report     {self.out}/probe-action/report.html",
            f"sterility report  {self.out}/sterility/report.html",
            f"weights           {self.out}/adapted/checkpoints/last.safetensors",
            f"model repository  {self.out}/repository",
            "",
            f"Next: surg demo --repository {quoted(self.out / 'repository')}    look closer: surg doctor --run {quoted(self.out / 'adapted')}",
        ]
        return "\n".join(lines)


def summarise(out: Path) -> Summary:
    """The table at the end: every headline number with its interval, the frozen beside the adapted."""
    rows = []
    for name in ("probe-action", "sterility"):
        result = Result.read(out / name)
        rows.append((name, result.headline))
        rows += [(f"  {key}", str(metric)) for key, metric in result.metrics.items() if key.endswith(("top1", "auprc"))]
    return Summary(out, rows)
