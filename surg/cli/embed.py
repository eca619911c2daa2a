"""`surg embed`: a manifest's clips as a table of features."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from surg.advice import quoted
from surg.cli.asked import BackendChoice, BackendOption, Checkpoint, Repository, Server, open_model

app = typer.Typer(help="Features of every clip as one Arrow table: for probes, kNN, retrieval and plots.")


class LevelChoice(StrEnum):
    pooled = "pooled"
    tokens = "tokens"
    levels = "levels"


@app.callback(
    invoke_without_command=True, context_settings={"allow_interspersed_args": True, "help_option_names": ["-h", "--help"]}
)
def embed(
    manifest: Annotated[Path, typer.Argument(help="Manifest of clips or of long videos.")],
    out: Annotated[Path, typer.Option(help="Table to write (Parquet). A killed run goes on from what is done.")],
    checkpoint: Checkpoint = None,
    server: Server = None,
    repository: Repository = None,
    backend: BackendOption = BackendChoice.triton,
    level: Annotated[
        LevelChoice, typer.Option(help="One vector a window, its tokens, or tokens of four depths.")
    ] = LevelChoice.pooled,
    pool: Annotated[int, typer.Option(min=1, help="Average tokens over squares of so many patches a side.")] = 1,
    segments: Annotated[int, typer.Option(min=1, help="Windows per clip, spread evenly.")] = 1,
    stride_s: Annotated[
        float | None, typer.Option(min=0.001, help="A window every so many seconds instead, for long videos.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only clips of this split.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--afresh", help="Go on from what an earlier run left, or begin anew.")
    ] = True,
) -> None:
    from surg.config import validate
    from surg.data.executor import check_table_name
    from surg.data.manifest import Manifest
    from surg.errors import ConfigError
    from surg.eval.features import FeatureConfig, embed_manifest

    if level is LevelChoice.pooled and pool > 1:
        raise ConfigError(
            f"--pool {pool} averages tokens, and --level pooled has one vector a window. Add --level tokens, or leave --pool out."
        )
    check_table_name(out)
    asked = {"level": level.value, "pool": pool, "segments": segments, "stride_s": stride_s}
    config = validate(FeatureConfig, asked)
    clips = Manifest.read(manifest)
    with open_model(backend, server, checkpoint, repository) as opened:
        features = embed_manifest(opened, clips.select(split) if split else clips, out, config, resume=resume)
        evidence = opened.finish()
    ran = evidence.get("server", evidence["backend"])
    typer.echo(f"Wrote {out}: {len(features)} rows of {'x'.join(map(str, features.meta['shape']))}, by {ran}")
    typer.echo(
        f"Next: surg eval retrieval {quoted(out)} --label action    or surg eval probe-action --data {quoted(manifest)} …"
    )
