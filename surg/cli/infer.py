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
        typer.Option(
            help="host:8001, http://host:8000, or local:REPO. Without it the server of `surg serve start`, else the shipped model without one."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write: .json, or .csv with one row per window; of a stream .jsonl or .csv."),
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Sterile field as x,y corners in 0..1 of the frame: 0.3,0.4 0.7,0.4 0.7,0.9 0.3,0.9")
    ] = None,
    stride: Annotated[float, typer.Option(min=0.001, help="Seconds from one window to the next.")] = 1.0,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Breach probability that starts an event; the model's own when not given."),
    ] = None,
    surprise: Annotated[
        bool, typer.Option("--surprise", help="Also ask the world model how unexpected each window is.")
    ] = False,
    on_server: Annotated[
        bool, typer.Option("--on-server", help="Send frames once; the server slides the window (gRPC).")
    ] = False,
    follow: Annotated[
        str | None,
        typer.Option(help="A camera (rtsp://…, http://…, tcp://…): watch it live. A folder: look at every video that arrives."),
    ] = None,
    follow_for: Annotated[
        float | None, typer.Option(min=0, help="End --follow after so many seconds; for ever when not given.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the server may take for one window.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")] = False,
) -> None:
    """Look at VIDEOS and print the events; --out keeps every window."""
    import contextlib
    import json
    import time

    from surg.errors import ConfigError, DataError
    from surg.serving import inference
    from surg.serving.client import connect
    from surg.serving.follow import is_address, is_away

    if not videos and follow is None:
        raise ConfigError("No video was given. Try: surg infer CLIP.mp4    or: surg infer --follow FOLDER")
    if videos and follow is not None:
        raise ConfigError("VIDEOS and --follow were both given; choose one. A folder that is followed may hold videos already.")
    if follow_for is not None and follow is None:
        raise ConfigError("--follow-for ends --follow, which was not given.")
    polygon = _polygon(zone)
    if follow is not None and is_address(follow):
        if on_server:
            raise ConfigError("--on-server sends a video whole; a stream is followed window by window. Leave it out.")
        if out is not None:
            inference.check_out(out, (".jsonl", ".json", ".csv"))
        with connect(server or _running(), timeout_s=timeout) as client:
            _say_what_is_missing(client)
            _live(client, follow, polygon, stride, threshold, surprise, follow_for, out, as_json)
        return
    found = inference.find_videos(videos) if videos else []
    if out is not None:
        inference.check_out(out)
    with connect(server or _running(), timeout_s=timeout) as client:
        _say_what_is_missing(client)
        reports: list[Report] = []
        unread: list[Path] = []
        ended: BaseException | None = None
        last_s = time.monotonic() + follow_for if follow_for is not None else None
        arriving = inference.follow(Path(follow), follow_for) if follow is not None else iter(())
        # A folder is followed until Ctrl-C: its regular end.
        with contextlib.suppress(*([KeyboardInterrupt] if follow is not None else [])):
            for number, video in enumerate([*found] if follow is None else arriving, start=1):
                place = f"{number}/{len(found)}" if found else str(number)
                while True:
                    report = _with_progress(client, video, place, polygon, stride, threshold, surprise, on_server)
                    over = last_s is not None and time.monotonic() > last_s
                    if follow is None or over or not is_away(report.stopped):
                        break
                    typer.echo(f"{report.stopped}\nThe folder is followed on; this video is looked at again.", err=True)
                # Of several videos one that cannot be read is passed over.
                passed_over = isinstance(report.stopped, DataError) and len(found) != 1
                if report.windows or report.stopped is None or passed_over:
                    # A followed video that grew is looked at again.
                    reports = [earlier for earlier in reports if earlier.video != video] + [report]
                    unread = [earlier for earlier in unread if earlier != video]
                    if not as_json and (report.windows or not passed_over):
                        _print(report)
                    if out is not None:
                        inference.write(out, client, reports)  # after each: what is done stays done
                if passed_over:
                    unread.append(video)
                    typer.echo(f"skipped: {report.stopped}", err=True)
                elif report.stopped is not None:
                    if follow is None or not isinstance(report.stopped, KeyboardInterrupt):
                        ended = report.stopped
                    break
        if as_json and (reports or ended is None):
            typer.echo(json.dumps(inference.as_dict(client, reports), ensure_ascii=False))
        elif out is not None and reports:
            typer.echo(f"\nwrote {out}    see it: surg demo")
        elif reports and ended is None:
            typer.echo("\nKeep every window: --out events.json")
    if isinstance(ended, KeyboardInterrupt) and out is not None and reports:
        ended.add_note(
            f"{out} holds {len(reports)} of {len(found)} videos, the last as far as it was seen; the same command begins anew."
        )
    if ended is not None:
        raise ended
    if unread:
        raise DataError(
            f"{len(unread)} of {len(reports)} videos could not be read to their end; the others are done.\n"
            "Repair or remove: " + ", ".join(map(str, unread))
        )


def _live(
    client: "Client",
    address: str,
    zone: list[list[float]] | None,
    stride: float,
    threshold: float | None,
    surprise: bool,
    for_s: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print events as they begin and end (one JSON object a line with --json), until `for_s` is over or Ctrl-C."""
    import contextlib
    import json
    from urllib.parse import urlsplit

    from surg.serving import inference
    from surg.serving.follow import follow_stream

    alarms = inference.Alarms(lambda horizon: client.contract.threshold(horizon) if threshold is None else threshold, stride)
    seen, dropped, slowest = 0, 0, 0.0
    name = urlsplit(address).hostname or "stream"  # the address may hold a password

    def tell(what: str, event: inference.Event, at_s: float) -> None:
        if as_json:
            typer.echo(json.dumps({"event": what, **event.__dict__}))
        else:
            typer.echo(f"{at_s:8.2f} s  {event.kind} {what}  (peak {event.peak:.2f})")

    def end() -> None:
        for what, event in alarms.close():
            tell(what, event, event.end_s)

    with contextlib.ExitStack() as stack:
        stack.callback(end)
        keep = stack.enter_context(inference.recorder(out, client, name)) if out is not None else None
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        for sight in follow_stream(client, address, zone, stride_s=stride, surprise=surprise, for_s=for_s):
            seen, dropped, slowest = seen + 1, dropped + sight.dropped, max(slowest, sight.latency_s)
            if keep:
                keep(sight.window)
            for what, event in alarms.see(sight.window):
                tell(what, event, sight.window.end_s)
    typer.echo(f"{seen} windows; {dropped} dropped to stay with the camera; slowest answer after {slowest:.2f} s", err=True)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)


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
    from surg.errors import DataError
    from surg.serving import inference

    try:
        duration = probe(video).duration_s
    except DataError as error:
        return inference.Report(video, [], [], error)
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

    from surg.serving.inference import name_of

    actions = Counter(window.action for window in report.windows if window.action)
    typer.echo(
        f"{name_of(report.video)}: {len(report.windows)} windows; "
        + ", ".join(f"{name} {count}" for name, count in actions.most_common(3))
    )
    for event in report.events:
        typer.echo(f"  {event.start_s:8.2f} - {event.end_s:8.2f} s  {event.kind}  (peak {event.peak:.2f})")


def _polygon(text: str | None) -> list[list[float]] | None:
    from surg.data.preprocess import zone_bounds
    from surg.errors import ConfigError, DataError

    if text is None:
        return None
    # The demo's page shows corners as `x y; x y`.
    corners = (
        [corner.replace(",", " ").split() for corner in text.split(";")]
        if ";" in text
        else [c.split(",") for c in text.split()]
    )
    try:
        polygon = [[float(x), float(y)] for x, y in filter(None, corners)]
        zone_bounds(polygon)
    except ValueError as error:
        raise ConfigError(f"--zone {text!r} is not a list of x,y corners such as 0.3,0.4 0.7,0.4 0.7,0.9") from error
    except DataError as error:
        raise ConfigError(f"--zone {text!r}: {error}") from error
    if outside := [f"{x:g},{y:g}" for x, y in polygon if not (0 <= x <= 1 and 0 <= y <= 1)]:
        raise ConfigError(
            f"--zone has corners outside the picture: {' '.join(outside)}. They are x,y in 0..1 of the frame, not pixels."
        )
    return polygon


def _say_what_is_missing(client: "Client") -> None:
    """Silence about breaches must not pass for their absence."""
    if not client.contract.horizons_s:
        typer.echo(
            "This model has no sterility head: breaches are not looked for, whatever --threshold says. Train one: surg train multitask",
            err=True,
        )


def _running() -> str:
    """The server started here; where none was, the shipped model without a server."""
    from surg.errors import ServerError
    from surg.serving import registry
    from surg.serving.shipped import shipped_repository

    if not registry.names():
        typer.echo("No server was named and none was started here: asking the shipped model in this process.", err=True)
        return f"local:{shipped_repository()}"
    running = registry.find()
    if not running.alive:
        raise ServerError(
            "The server started here has stopped.\nStart it again: surg serve start REPO    or run without: --server local:REPO"
        )
    return running.grpc_url
