"""`surg data check`: what is wrong with a manifest, before a training finds out."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from surg.advice import quoted


def register(app: typer.Typer) -> None:
    app.command("check")(check)


def check(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    depth: Annotated[
        Literal["none", "sample", "full"], typer.Option(help="Look at no video, at some frames of each, or decode everything.")
    ] = "sample",
    out: Annotated[Path | None, typer.Option(help="Write the findings here as JSON, too.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core when not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Find unreadable and duplicate videos, cases on two sides, and count classes and licences. Exit 1 when something is wrong."""
    import tempfile

    from surg.data.check import check as check_manifest
    from surg.data.check import lines
    from surg.data.manifest import Manifest
    from surg.errors import CheckFailed
    from surg.runs import check_place, write_json

    if out is not None:
        check_place(out)
    with tempfile.TemporaryDirectory() as folder:
        found = check_manifest(Manifest.read(manifest), Path(folder) / "videos.parquet", depth=depth, workers=workers)
    if out is not None:
        write_json(out, found.as_json())
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
    else:
        for line in lines(found):
            typer.echo(line)
    if found.problems:
        raise CheckFailed(f"{manifest} is not sound: " + "; ".join(found.problems) + ".")
    if not as_json:
        split = any(found.splits)
        step = f"surg data show {quoted(manifest)}" if split else f"surg data split {quoted(manifest)}"
        typer.echo(f"Nothing wrong.{f' Wrote {out}.' if out else ''} Next: {step}")
