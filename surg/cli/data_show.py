"""`surg data show`: a contact sheet of a manifest."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("show")(show)


def show(
    manifest: Annotated[Path, typer.Argument(help="Manifest to look at.")],
    out: Annotated[Path, typer.Option(help="Picture to write, .png or .jpg.")] = Path("contact_sheet.jpg"),
    clips: Annotated[int, typer.Option(min=1, help="How many clips.")] = 12,
    frames: Annotated[int, typer.Option(min=1, help="Frames per clip.")] = 8,
    height: Annotated[int, typer.Option(min=16, help="Height of a frame in pixels.")] = 108,
    split: Annotated[str | None, typer.Option(help="Only clips of this split.")] = None,
    label: Annotated[str | None, typer.Option(help="Show this label, and every class of it in turn.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which clips are drawn.")] = 0,
) -> None:
    """Draw a contact sheet: a row of frames per clip, with case, labels and zone."""
    from surg.data.contact_sheet import contact_sheet, pick, write_image
    from surg.data.manifest import Manifest

    chosen = pick(Manifest.read(manifest).select(split), clips, seed, label)
    write_image(out, contact_sheet(chosen, frames=frames, height=height, label=label))
    typer.echo(f"Wrote {out} with {len(chosen)} clips. Next: surg train --help")
