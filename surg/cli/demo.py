"""`surg demo`: a page that takes a clip and shows what the model sees."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Open a page that takes a clip and shows what the model sees.")


@app.callback(invoke_without_command=True)
def demo(
    server: Annotated[
        str | None, typer.Option(help="A running server, such as localhost:8001. Without it the embedded one is started.")
    ] = None,
    compare: Annotated[str | None, typer.Option(help="A second server whose model is shown beside the first.")] = None,
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository for the embedded server; the shipped model when not given."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Manifest of clips among which nearest moments are sought; the examples when not given.")
    ] = None,
    reference_clips: Annotated[int, typer.Option(min=1, help="At most this many of its clips.")] = 200,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others on the network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 picks a free one.")] = 7860,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Also answer Prometheus at this port of the host: counts and times.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    from surg.demo.launch import launch

    launch(
        server=server,
        compare=compare,
        repository=repository,
        reference=reference,
        reference_clips=reference_clips,
        host=host,
        port=port,
        metrics_port=metrics_port,
        open_browser=open_browser,
    )
