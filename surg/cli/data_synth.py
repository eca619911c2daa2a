"""`surg data synth`: simulated clips with exact labels, to try everything before the first real video."""

from pathlib import Path
from typing import Annotated

import typer

from surg.advice import quoted

app = typer.Typer(
    help="Simulated videos with exact labels: tool motions on tissue, sterility in an operating room.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path, typer.Option("--out", help="Folder for videos, truths and manifest.parquet.")]
Clips = Annotated[int, typer.Option("--clips", min=1, help="How many clips.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed draws the same clips.")]
Family = Annotated[str, typer.Option("--family", help="Appearance: a to train on, b held out (other colours, cameras, tools).")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes; one per core when not given. The output does not depend on it."),
]
Size = Annotated[int, typer.Option("--size", help="Side of the picture in pixels, a multiple of 16.")]
Split = Annotated[str | None, typer.Option("--split", help="Put all cases here instead of 70/10/20 train/val/test.")]


@app.command()
def tissue(
    out: Out,
    clips: Clips = 800,
    seed: Seed = 0,
    family: Family = "a",
    workers: Workers = None,
    size: Size = 224,
    split: Split = None,
) -> None:
    """Endoscopic clips of eight tool motions that only motion separates."""
    from surg.data.synth.tissue import generate

    _report(generate(out, clips, seed, family, workers, size=size, split=split), clips, "action")


@app.command()
def room(
    context: typer.Context,
    out: Out,
    clips: Clips = 400,
    seed: Seed = 0,
    family: Family = "a",
    workers: Workers = None,
    size: Size = 224,
    split: Split = None,
    cameras: Annotated[int, typer.Option("--cameras", min=1, max=4, help="Cameras that see each clip or take.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", help="Length of a clip.")] = 8.0,
    takes: Annotated[int, typer.Option("--takes", min=0, help="Instead of clips, so many long videos.")] = 0,
    minutes: Annotated[float, typer.Option("--minutes", help="Length of a take.")] = 10.0,
    breaches_per_hour: Annotated[
        float, typer.Option("--breaches-per-hour", min=0, help="How many are staged in takes; a few of them fail to touch.")
    ] = 6.0,
    renderer: Annotated[
        str, typer.Option("--renderer", help="gl, painter (OpenCV, plainer), or auto: gl where it works.")
    ] = "auto",
) -> None:
    """An operating room: breaches of sterility and the movements that only look like one. Half of the clips hold a breach."""
    from surg.data.synth.room import generate, generate_takes
    from surg.errors import ConfigError

    given = {name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    if takes and given & {"clips", "seconds"}:
        raise ConfigError(f"--clips and --seconds are for clips, and {takes} takes were asked for: their length is --minutes.")
    if not takes and given & {"minutes", "breaches_per_hour"}:
        raise ConfigError("--minutes and --breaches-per-hour are for takes, and clips were asked for. Long videos: --takes N")
    if takes:
        manifest = generate_takes(
            out,
            takes,
            minutes,
            seed,
            family,
            workers,
            size=size,
            split=split,
            breaches_per_hour=breaches_per_hour,
            cameras=cameras,
            renderer=renderer,
        )
        _report(manifest, takes * cameras, "breaches")
        return
    manifest = generate(
        out, clips, seed, family, workers, size=size, split=split, seconds=seconds, cameras=cameras, renderer=renderer
    )
    _report(manifest, clips * cameras, "event")


def _report(manifest: Path, clips: int, label: str) -> None:
    typer.echo(f"Wrote {clips} clips and {manifest}")
    typer.echo(f"Next: surg data show {quoted(manifest)} --label {label}")


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="synth")
