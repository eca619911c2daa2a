"""`surg data deidentify`: copies of videos that tell less about people."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from surg.advice import quoted


class OutOfBody(StrEnum):
    blank = "blank"
    keep = "keep"


class OverlayDoing(StrEnum):
    crop = "crop"
    blank = "blank"
    keep = "keep"


def register(app: typer.Typer) -> None:
    app.command("deidentify")(deidentify)


def deidentify(
    inputs: Annotated[list[Path], typer.Argument(exists=True, help="Videos, folders of videos, or one manifest.")],
    out: Annotated[Path, typer.Option(help="Folder for the copies; originals are never changed.")],
    out_of_body: Annotated[
        OutOfBody, typer.Option(help="Views from outside the body; keep them in recordings of rooms.")
    ] = OutOfBody.blank,
    overlay: Annotated[OverlayDoing, typer.Option(help="Burnt-in text.")] = OverlayDoing.crop,
    faces: Annotated[Path | None, typer.Option(exists=True, help="YuNet's ONNX file: faces become blocks.")] = None,
    threshold: Annotated[float, typer.Option(help="Score from which a picture is inside the body; higher blanks more.")] = 0.15,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="Copies keep their file names, which often name patients.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core when not given.")] = None,
    max_failed: Annotated[float, typer.Option(min=0, max=1, help="Largest share of videos that may fail.")] = 0.0,
) -> None:
    """Copy videos without metadata, sound, burnt-in text and views from outside the body. A person still has to look."""
    from surg.data.deidentify import DeidentifyConfig
    from surg.data.deidentify_run import deidentify_all
    from surg.data.out_of_body import OutOfBodyConfig

    config = DeidentifyConfig(
        out_of_body=out_of_body.value, overlay=overlay.value, outside=OutOfBodyConfig(threshold=threshold)
    )
    done = deidentify_all(inputs, out, config, faces=faces, keep_names=keep_names, workers=workers, max_failed=max_failed)
    for name, error in done.failed:
        typer.echo(f"failed: {name}: {error}", err=True)
    typer.echo(done.summary())
    typer.echo(f"Wrote {done.report}" + (f" and {done.manifest}" if done.manifest else "") + ".")
    if done.names:
        typer.echo(f"Wrote {done.names}: which copy is which. It names patients: keep it apart from {out}, or delete it.")
    if done.manifest is None:
        typer.echo(
            f"Next: look at the copies yourself: surg data index {quoted(out)} --out {quoted(f'{out}.parquet')}, then surg data show {quoted(f'{out}.parquet')}"
        )
    else:
        typer.echo(f"Next: look at the copies yourself, for example: surg data show {quoted(done.manifest)}")
