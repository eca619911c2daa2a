"""`surg data index`: from a data set on disk to a manifest."""

from pathlib import Path
from typing import Annotated

import typer

from surg.advice import quoted


def register(app: typer.Typer) -> None:
    app.command("index")(index)


def index(
    root: Annotated[Path | None, typer.Argument(help="Folder the data set was unpacked to; for csv, the table.")] = None,
    out: Annotated[Path, typer.Option(help="Manifest to write.")] = Path("manifest.parquet"),
    format: Annotated[str, typer.Option(help="Layout of ROOT; `list` shows all of them, without a ROOT.")] = "folder",
    option: Annotated[list[str] | None, typer.Option("--set", help="An option of the format, as name=value.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="One unlabelled clip per video, for self-supervised training.")
    ] = False,
    max_missing: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of videos or labels that may be missing.")
    ] = 0.05,
) -> None:
    """Read a data set and write its manifest."""
    from surg.data.adapters.indexing import index as index_data_set
    from surg.data.adapters.registry import adapter, names
    from surg.errors import ConfigError

    if format == "list":
        for name in names():
            reader = adapter(name)
            typer.echo(f"{name:<16} {reader.about}  options: {', '.join(sorted(reader.options())) or 'none'}")
        return
    if root is None:
        raise ConfigError(
            f"Where is the data? surg data index ROOT --format {format}    all formats: surg data index --format list"
        )
    options = {}
    for pair in option or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(
                f"--set {pair!r} is not of the form name=value. Options of {format}: surg data index --format list"
            )
        options[name] = value
    done = index_data_set(format, root, out, whole=whole, max_missing=max_missing, **options)
    typer.echo(done.ledger.summary())
    typer.echo(f"{len(done.manifest)} clips, fingerprint {done.manifest.fingerprint[:12]}")
    for path, what in ((done.timeline, "what is known along time"), (done.problems, "what was missing or left out")):
        if path is not None:
            typer.echo(f"Wrote {path}: {what}.")
    typer.echo(f"Wrote {out}. Next: surg data check {quoted(out)}")
