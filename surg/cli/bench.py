"""`surg bench`: how fast this machine serves, against the same model called directly."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


@app.callback()
def about() -> None:
    """Measure on this machine."""


@app.command()
def serve(
    repo: Annotated[
        Path | None, typer.Argument(help="Model repository made by surg export; the shipped model's when not given.")
    ] = None,
    clients: Annotated[str, typer.Option(help="Numbers of simultaneous clients, by commas.")] = "1,4",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of one window; every kind gets `rounds` of them, in turns.")
    ] = 1.5,
    rounds: Annotated[int, typer.Option(min=1, help="Windows per kind.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Threads of onnxruntime, direct and served; 0 is one per core.")] = 0,
    starts: Annotated[int, typer.Option(min=1, help="Times the embedded server is started and stopped.")] = 3,
    server: Annotated[str | None, typer.Option(help="A running server instead of an embedded one (its gRPC address).")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the figures as JSON; a .md table goes beside it.")
    ] = None,
) -> None:
    """surg_clip over gRPC, HTTP and shared memory against onnxruntime in this process, interleaved; starts, stops and the bars."""
    from surg.runs import write_json, write_text
    from surg.serving.inference import check_out
    from surg.serving.load import markdown, measure
    from surg.serving.shipped import shipped_repository

    callers = _numbers(clients)
    if out is not None:
        check_out(out, (".json",))
    result = measure(repo or shipped_repository(), callers, seconds, rounds, threads, server, starts)
    text = markdown(result)
    typer.echo(text)
    if out is not None:
        write_json(out, result)
        write_text(out.with_suffix(".md"), text)
        typer.echo(f"wrote {out} and {out.with_suffix('.md')}")
    typer.echo("Read: x is throughput against one caller of onnxruntime in this process, from the same rounds.")


def _numbers(text: str) -> list[int]:
    from surg.errors import ConfigError

    try:
        found = [int(count) for count in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"--clients {text!r} is no list of numbers of 1 or more, such as 1,4.")
    return found
