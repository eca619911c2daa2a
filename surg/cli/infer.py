"""`surg infer`: clips, folders and long videos through a server, to events in JSON or CSV."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from surg.serving.client import Client
    from surg.serving.inference import Report

app = typer.Typer(help="Run videos through a served model and write what it saw.")


# A group stops reading options at the first argument unless told otherwise; this one has an argument and no subcommands.
@app.callback(
    invoke_without_command=True, context_settings={"allow_interspersed_args": True, "help_option_names": ["-h", "--help"]}
)
def infer(
    videos: Annotated[list[Path] | None, typer.Argument(help="Video files or folders of them.")] = None,
    server: Annotated[
        str | None,
        typer.Option(help="host:8001, http://host:8000, or local:REPO. Without it the server of `surg serve start`."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write: .json, or .csv with one row per window.")
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Sterile field as x,y corners in 0..1 of the frame: 0.3,0.4 0.7,0.4 0.7,0.9 0.3,0.9")
    ] = None,
    stride: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 1.0,
    threshold: Annotated[
        float | None, typer.Option(help="Breach probability that starts an event; the model's own when not given.")
    ] = None,
    surprise: Annotated[
        bool, typer.Option("--surprise", help="Also ask the world model how unexpected each window is.")
    ] = False,
    on_server: Annotated[
        bool, typer.Option("--on-server", help="Send frames once; the server slides the window (gRPC).")
    ] = False,
    follow: Annotated[Path | None, typer.Option(help="Watch this folder and look at every video that arrives.")] = None,
    follow_for: Annotated[
        float | None, typer.Option(help="End --follow after so many seconds; for ever when not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")] = False,
) -> None:
    """Look at VIDEOS and print the events; --out keeps every window."""
    import json

    from surg.errors import ConfigError
    from surg.serving import inference
    from surg.serving.client import connect

    if not videos and follow is None:
        raise ConfigError("No video was given. Try: surg infer CLIP.mp4    or: surg infer --follow FOLDER")
    polygon = _polygon(zone)
    found = inference.find_videos(videos) if videos else []
    with connect(server or _running()) as client:
        reports = []
        arriving = inference.follow(follow, follow_for) if follow is not None else iter(())
        for number, video in enumerate([*found] if follow is None else arriving, start=1):
            report = _with_progress(
                client,
                video,
                f"{number}/{len(found)}" if found else str(number),
                polygon,
                stride,
                threshold,
                surprise,
                on_server,
            )
            reports.append(report)
            if not as_json:
                _print(report)
            if out is not None:
                inference.write(out, client, reports)  # after each: what is done stays done
        if as_json:
            typer.echo(json.dumps(inference.as_dict(client, reports), ensure_ascii=False))
        elif out is not None:
            typer.echo(f"\nwrote {out}    see it: surg demo")
        else:
            typer.echo("\nKeep every window: --out events.json")


def _with_progress(
    client: "Client",
    video: Path,
    place: str,
    zone: list[list[float]] | None,
    stride: float,
    threshold: float | None,
    surprise: bool,
    on_server: bool,
) -> "Report":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from surg.data.video import probe
    from surg.serving import inference

    duration = probe(video).duration_s
    columns = (
        TextColumn("video {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(place, total=duration)
        return inference.look(
            client, video, zone, stride_s=stride, threshold=threshold, surprise=surprise, on_server=on_server,
            progress=lambda window: bar.update(task, completed=window.end_s),
        )  # fmt: skip


def _print(report: "Report") -> None:
    from collections import Counter

    actions = Counter(window.action for window in report.windows if window.action)
    typer.echo(
        f"{report.video}: {len(report.windows)} windows; "
        + ", ".join(f"{name} {count}" for name, count in actions.most_common(3))
    )
    for event in report.events:
        typer.echo(f"  {event.start_s:8.2f} - {event.end_s:8.2f} s  {event.kind}  (peak {event.peak:.2f})")


def _polygon(text: str | None) -> list[list[float]] | None:
    from surg.errors import ConfigError

    if text is None:
        return None
    try:
        return [[float(number) for number in corner.split(",")] for corner in text.split()]
    except ValueError as error:
        raise ConfigError(f"--zone {text!r} is not a list of x,y corners such as 0.3,0.4 0.7,0.4 0.7,0.9") from error


def _running() -> str:
    from surg.errors import ServerError
    from surg.serving import registry

    try:
        running = registry.find()
    except ServerError as error:
        raise ServerError(
            "No server was named and none was started here.\nStart one: surg serve start REPO    or run without: --server local:REPO"
        ) from error
    if not running.alive:
        raise ServerError(
            "The server started here has stopped.\nStart it again: surg serve start REPO    or run without: --server local:REPO"
        )
    return running.grpc_url
