"""`surg doctor`: what this machine can do, what is missing, and what to do about it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from surg.doctor.findings import Finding

app = typer.Typer(help="Check this machine, a data set and a run: what is there, what is missing, what to do.")


@app.callback(invoke_without_command=True)
def doctor(
    data: Annotated[
        Path | None, typer.Option(help="A data set's folder or manifest: also walk the list for before training.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A run folder: also walk the list for after training.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights that training will start from.")] = None,
    server: Annotated[
        str | None, typer.Option(help="HTTP address of a Triton to check, such as http://localhost:8000.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Exits 1 when something required is missing."""
    from surg.doctor.guide import check_after_training, check_before_training, check_weights
    from surg.doctor.machine import check_machine
    from surg.doctor.sizes import fitting_sizes, weights_found

    sections = {
        "Machine": [*check_machine(server_url=server, ray_address=ray_address)],
        "Models": [*fitting_sizes(), *weights_found()],
    }
    if data is not None:
        sections["Before training"] = [*check_before_training(data, weights)]
    elif weights is not None:
        sections["Before training"] = [check_weights(weights)]
    if run is not None:
        sections["After training"] = [*check_after_training(run)]
    findings = [finding for section in sections.values() for finding in section]
    failed = [finding for finding in findings if finding.fails]
    if as_json:
        typer.echo(
            json.dumps({name: [finding.as_dict() for finding in section] for name, section in sections.items()}, indent=2)
        )
    else:
        _print(sections)
        verdict = f"{len(failed)} required missing" if failed else "everything required is here"
        typer.echo(f"\n{len(findings)} checks: {verdict}. Next: surg --help, or make quickstart.", err=True)
    raise typer.Exit(1 if failed else 0)


def _print(sections: "dict[str, list[Finding]]") -> None:
    marks = {
        "ok": typer.style("ok     ", fg="green"),
        "missing": typer.style("missing", fg="red"),
        "warning": typer.style("look   ", fg="yellow"),
    }
    for title, findings in sections.items():
        typer.echo(typer.style(title, bold=True))
        for finding in findings:
            typer.echo(f"  {marks[finding.status]}  {finding.name:<18} {finding.found}")
            if finding.advice and finding.status != "ok":
                typer.echo(f"  {'':<27} -> {finding.advice}")
