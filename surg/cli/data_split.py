"""`surg data split`: whole patients to train, val and test."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from surg.advice import quoted


def register(app: typer.Typer) -> None:
    app.command("split")(split)


def split(
    manifest: Annotated[Path, typer.Argument(help="Manifest to split.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; without, MANIFEST is replaced.")] = None,
    shares: Annotated[str, typer.Option(help="Names and shares of the sides.")] = "train=0.7,val=0.15,test=0.15",
    stratify: Annotated[str | None, typer.Option(help="Label whose classes every side gets its share of.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same split.")] = 0,
    unit: Annotated[
        Literal["case", "clip"], typer.Option(help="What is kept together. `clip` leaks and needs --force.")
    ] = "case",
    force: Annotated[bool, typer.Option("--force", help="Allow a split by clip; the manifest records that it leaks.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Split anew what has a split already.")] = False,
) -> None:
    """Put whole patients on the sides of a split; stratified, seeded, and the same again."""
    from surg.data.manifest import Manifest
    from surg.data.splits import parse_shares, split_by_case, split_by_clip

    source, target, wanted = Manifest.read(manifest), out or manifest, parse_shares(shares)
    if unit == "clip":
        split_by_clip(source, target, wanted, seed=seed, force=force, replace=replace)
        for name, count in Manifest.read(target).counts("split").items():
            typer.echo(f"{name:<12} {count:>9} clips")
    else:
        table = split_by_case(source, target, wanted, seed=seed, stratify=stratify, replace=replace)
        for name in wanted:
            typer.echo(f"{name:<12} {table.cases[name]:>6} cases {table.clips[name]:>9} clips")
            for label, count in sorted(table.classes.get(name, {}).items()):
                typer.echo(f"    {label:<30} {count:>9}")
    typer.echo(f"Wrote {target}. Next: surg data check {quoted(target)}")
