"""`surg quickstart`: the whole way once, with the public commands, on simulated video."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="From nothing to a served, evaluated model in minutes: simulate, adapt, export, serve, evaluate.")


@app.callback(invoke_without_command=True)
def quickstart(
    out: Annotated[
        Path, typer.Option(help="Folder for everything that is made. A stage that is done there is not done again.")
    ] = Path("runs/quickstart"),
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Begin anew: remove what an earlier quickstart left in that folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    from surg.quickstart.stages import clear, stages, summarise
    from surg.quickstart.tour import run_tour

    if afresh:
        clear(out)
    run_tour(stages(out))
    result = summarise(out)
    typer.echo(json.dumps(result.as_dict(), indent=2) if as_json else result.as_text())
