"""`surg data merge`: several manifests become one."""

from pathlib import Path
from typing import Annotated

import typer

from surg.advice import quoted


def register(app: typer.Typer) -> None:
    app.command("merge")(merge)


def merge(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests, two or more.")],
    out: Annotated[Path, typer.Option(help="The manifest to write; none of those merged.")],
) -> None:
    """Put manifests together; splits stay. Refuses a clip that stands in two, and a patient on two sides."""
    from surg.data.manifest import Manifest
    from surg.data.merge import merge as merge_manifests
    from surg.errors import ConfigError

    if len(manifests) < 2:
        raise ConfigError(
            f"merge got {len(manifests)} manifest; it takes two or more: surg data merge A.parquet B.parquet --out ALL"
        )
    if out.resolve() in {path.resolve() for path in manifests}:
        raise ConfigError(f"--out {out} is one of the manifests to merge. Name another file; the parts stay as they are.")
    merged = merge_manifests([Manifest.read(path) for path in manifests], out)
    for name, count in merged.counts("split").items():
        typer.echo(f"{name or '(no split)':<12} {count:>9} clips")
    typer.echo(f"Wrote {out}. Next: surg data check {quoted(out)}")
