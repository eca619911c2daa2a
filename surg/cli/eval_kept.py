"""`surg eval card|compare|probe-plot|check`: what is made of evaluations and runs that there are already."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surg.advice import quoted
from surg.cli.eval_written import Json, Out, Overwrite, finish, hold_against, vacant, write_card

if TYPE_CHECKING:
    from surg.eval.results import Result

app = typer.Typer()


class ProjectionChoice(StrEnum):
    auto = "auto"
    umap = "umap"
    pca = "pca"


@app.command()
def card(
    checkpoint: Annotated[Path, typer.Argument(help="Run folder or .safetensors.")],
    results: Annotated[list[Path] | None, typer.Option(help="Folders of evaluations, such as that of surg eval all.")] = None,
    out: Annotated[Path, typer.Option(help="Markdown file to write.")] = Path("card.md"),
) -> None:
    """The model card that goes with an export: data, seeds, fingerprints, numbers with intervals, failures, limits."""
    write_card(checkpoint, _results(results or []), out)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluations of one kind; the first is the reference.")],
    out: Out = Path("runs/compare"),
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """The table of arms, with paired differences where the runs predicted the same clips."""
    vacant(out, overwrite)
    from surg.eval.compare import compare as compare_runs

    finish([compare_runs(runs, out)], out, json_, 0)


@app.command("probe-plot")
def probe_plot(
    paths: Annotated[list[Path], typer.Argument(help="Run folders of surg train or surg eval, tables of surg embed.")],
    out: Out = Path("runs/probe-plot"),
    label: Annotated[str, typer.Option(help="Label that colours the features.")] = "action",
    method: Annotated[ProjectionChoice, typer.Option(help="How features come into a plane.")] = ProjectionChoice.auto,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Pictures of runs side by side: drift per block, trajectory over training, arms compared, features in a plane."""
    vacant(out, overwrite)
    from surg.eval.probe_plot import draw

    finish([draw(paths, out, label, method.value)], out, json_, 0)


@app.command()
def check(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluations.")],
    baseline: Annotated[Path | None, typer.Option(help="Stored numbers to hold them against.")] = None,
    write: Annotated[Path | None, typer.Option(help="Store these runs' numbers as the baseline instead.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="How much worse a number may be, for --write; 0.03 when not given.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="For --write: metrics whose name holds this word; the leading ones when not given."),
    ] = None,
) -> None:
    """Exit 1 when a number got worse than the stored baseline."""
    from surg.errors import ConfigError
    from surg.eval.regression import HEADLINE, TOLERANCE, write_baseline

    if write and baseline:
        raise ConfigError("--baseline checks against stored numbers, --write stores these in their place. Give one of them.")
    if not write and (tolerance is not None or only):
        raise ConfigError(
            "--tolerance and --only go with --write: a baseline holds the numbers it checks, each with its own tolerance.\n"
            "Store them anew: surg eval check GOOD_RUN --write FILE --tolerance 0.05"
        )
    results = _results(runs)
    if write:
        count = len(write_baseline(results, write, TOLERANCE if tolerance is None else tolerance, only or HEADLINE))
        typer.echo(f"Wrote {write}: {count} numbers\nNext: surg eval check RUN --baseline {quoted(write)}")
        return
    if baseline is None:
        raise ConfigError("Give --baseline FILE to check against, or --write FILE to make one.")
    hold_against(results, baseline)


def _results(folders: list[Path]) -> "list[Result]":
    """Every evaluation under the folders; one that holds none was mistyped, or its evaluation did not end."""
    from surg.errors import DataError
    from surg.eval.results import Result

    found = []
    for folder in folders:
        paths = sorted(folder.glob("**/result.json"))
        if not paths:
            raise DataError(
                f"{folder} holds no evaluation (no result.json){'' if folder.is_dir() else ': there is no such folder'}.\n"
                f"Make one: surg eval all --checkpoint RUN --out {quoted(folder)}"
            )
        found += [Result.read(path) for path in paths]
    return found
