"""`surg data import` and `surg data export`: manifests in and out of the formats that others use."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from surg.advice import quoted

Format = Annotated[
    Literal["csv", "vjepa", "surgmotion"],
    typer.Option(help="csv: all columns; vjepa: `path label`; surgmotion: its metadata tables."),
]


def register(app: typer.Typer) -> None:
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    source: Annotated[Path, typer.Argument(help="File, or a folder of them named after the splits.", exists=True)],
    out: Annotated[Path, typer.Option(help="Manifest to write.")] = Path("manifest.parquet"),
    format: Format = "csv",
    label: Annotated[str, typer.Option(help="Name that the label gets; csv brings its own.")] = "label",
    fps: Annotated[float, typer.Option(min=0.001, help="Rate of surgmotion's frames, which no file says.")] = 1.0,
) -> None:
    """Turn a table of another tool into a manifest."""
    from surg.data import interchange

    if format == "csv":
        manifest = interchange.import_csv(source, out)
    elif format == "vjepa":
        manifest = interchange.import_vjepa(source, out, label)
    else:
        manifest = interchange.import_surgmotion(source, out, fps, label)
    typer.echo(f"Wrote {out} with {len(manifest)} clips. Next: surg data check {quoted(out)}")


def export(
    manifest: Annotated[Path, typer.Argument(help="Manifest to export.")],
    out: Annotated[Path, typer.Option(help="File (csv) or folder (the others) to write.")],
    format: Format = "csv",
    label: Annotated[str | None, typer.Option(help="Label that becomes the class; vjepa and surgmotion need one.")] = None,
    fps: Annotated[float, typer.Option(min=0.001, help="Rate of surgmotion's frames.")] = 1.0,
    split: Annotated[str | None, typer.Option(help="Only clips of this split.")] = None,
) -> None:
    """Write a manifest as another tool reads it; clips inside longer videos are cut out."""
    from surg.data import interchange
    from surg.data.manifest import Manifest
    from surg.errors import ConfigError

    chosen = Manifest.read(manifest).select(split)
    if format == "csv":
        counts = {"rows": interchange.export_csv(chosen, out)}
    elif label is None:
        raise ConfigError(f"--format {format} needs a class for every clip: --label NAME")
    elif format == "vjepa":
        counts = interchange.export_vjepa(chosen, out, label)
    else:
        counts = interchange.export_surgmotion(chosen, out, label, fps)
    for name, count in counts.items():
        typer.echo(f"{name:<12} {count:>9}")
    typer.echo(f"Wrote {out}. Read it back: surg data import {quoted(out)} --format {format}")
