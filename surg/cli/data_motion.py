"""`surg data motion`: the 23-d motion vector of every clip."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from surg.advice import quoted
from surg.cli.data_work import Address, AsJson, Engine, Manifest, MaxFailed, Resume, Settings, Workers


def register(app: typer.Typer) -> None:
    app.command("motion")(motion)


def motion(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Table to write.")] = Path("motion.parquet"),
    flow: Annotated[
        Literal["dis", "dis-fine", "raft-small", "raft-large"],
        typer.Option("--flow", help="Optical flow; raft-* need --weights."),
    ] = "dis",
    weights: Annotated[Path | None, typer.Option("--weights", help="torchvision's RAFT weights.")] = None,
    settings: Settings = None,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    resume: Resume = True,
    max_failed: MaxFailed = 0.02,
    as_json: AsJson = False,
) -> None:
    """Measure motion: 23 numbers a clip (strength, directions, camera, what moves besides it)."""
    import json
    from functools import partial

    from surg.cli.data_work import work
    from surg.config import load_config
    from surg.data.motion import FEATURES, MotionConfig, describe_clip

    given: dict[str, Any] = {"flow": flow} | ({"weights": str(weights)} if weights is not None else {})
    config = load_config(MotionConfig, given, overrides=settings or [])
    done = work(
        partial(describe_clip, config=config), manifest, out, config,
        engine=engine, workers=workers, address=address, resume=resume, max_failed=max_failed,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"table": str(out), "clips": done, "features": list(FEATURES)}))
        return
    typer.echo(f"Wrote {out}: {done} clips, {len(FEATURES)} features each ({FEATURES[0]} … {FEATURES[-1]})")
    typer.echo(f"Next: surg data classes {quoted(manifest)} --motion {quoted(out)} --out classes.parquet")
