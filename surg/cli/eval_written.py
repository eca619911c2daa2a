"""How an evaluation ends: what is written where, what is said of it, and what it is held against."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surg.advice import quoted

if TYPE_CHECKING:
    from surg.eval.results import Result

Out = Annotated[Path, typer.Option(help="Folder for result.json, report.md, report.html and plots/.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the evaluation that --out holds.")]
Json = Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")]


def vacant(out: Path, overwrite: bool) -> None:
    """Before any work: an evaluation that is whole is not replaced unless asked; one that was cut off goes on."""
    from surg.errors import RunError
    from surg.runs import check_place

    check_place(out)
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; an evaluation needs a folder. Choose another --out.")
    if not overwrite and any((out / name).is_file() for name in ("result.json", "report.html")):
        raise RunError(f"{out} holds an evaluation already.\nReplace it: --overwrite    or choose another --out.")


def finish(results: "list[Result]", out: Path, json_: bool, seed: int) -> None:
    """Write what there is to write, say where it lies and what to do next."""
    import json

    from surg.eval.report import write_report
    from surg.runs import describe_environment, write_json

    for result in results:
        result.write(out if len(results) == 1 else out / result.kind)
    write_json(
        out / "environment.json", describe_environment(seed=seed, data_fingerprint=results[0].evidence.get("data_fingerprint"))
    )
    report = write_report(results, out, title=results[0].title if len(results) == 1 else "Evaluation")
    if json_:
        typer.echo(
            json.dumps({result.kind: {name: metric.value for name, metric in result.metrics.items()} for result in results})
        )
        return
    for result in results:
        typer.echo(f"{result.title}: {result.headline}")
        for warning in result.warnings:
            typer.echo(f"  beware: {warning}", err=True)
    typer.echo(f"Wrote {report}")
    typer.echo(f"Next: open it in a browser, or hold it against another run: surg eval compare {quoted(out)} RUN")


def write_card(checkpoint: Path, results: "list[Result]", out: Path) -> None:
    from surg.eval.card import model_card
    from surg.runs import write_text

    write_text(out, model_card(checkpoint, results))
    typer.echo(
        f"Wrote {out}\nNext: read it, and put it beside the model: surg export {quoted(checkpoint)} --out repo", err=True
    )


def hold_against(results: "list[Result]", baseline: Path) -> None:
    from surg.errors import CheckFailed
    from surg.eval.regression import check as check_results

    verdicts = check_results(results, baseline)
    for verdict in verdicts:
        typer.echo(str(verdict))
    worse = [verdict for verdict in verdicts if not verdict.ok]
    if worse:
        raise CheckFailed(
            f"{len(worse)} of {len(verdicts)} numbers are worse than {baseline} allows, or missing:\n"
            + "\n".join(f"  {verdict}" for verdict in worse)
            + f"\nIf that is meant to be, store the new ones: surg eval check RUN --write {quoted(baseline)}"
        )
