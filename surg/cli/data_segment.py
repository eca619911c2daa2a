"""`surg data segment`: masks, tracks, agents and interactions of every clip."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from surg.advice import quoted
from surg.cli.data_work import Address, AsJson, Engine, Manifest, MaxFailed, Resume, Settings, Workers


def register(app: typer.Typer) -> None:
    app.command("segment")(segment)


def segment(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for masks and the manifest that points to them.")],
    segmenter: Annotated[
        Literal["motion", "given", "sam3", "sam2"],
        typer.Option(
            "--segmenter", help="motion needs no weights; given takes the clips' mask files; sam3 and sam2 need --weights"
        ),
    ] = "motion",
    weights: Annotated[Path | None, typer.Option("--weights", help="Model folder of SAM 3, SAM 2 or EdgeTAM.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="SAM 3: what to look for; may be given more than once.")
    ] = None,
    settings: Settings = None,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    resume: Resume = True,
    max_failed: MaxFailed = 0.02,
    as_json: AsJson = False,
) -> None:
    """Find things and follow them: instance masks, tracks, agent or layout, interactions."""
    import json
    from dataclasses import replace
    from functools import partial

    from surg.cli.data_work import key_of, work
    from surg.config import load_config
    from surg.data.derive import derive
    from surg.data.manifest import Manifest as ManifestFile
    from surg.data.segment.build import SegmentConfig, segment_clip
    from surg.errors import ConfigError

    given: dict[str, Any] = {"segmenter": segmenter}
    if weights is not None:
        if segmenter not in ("sam3", "sam2"):
            raise ConfigError(f"The segmenter {segmenter} takes no weights. Use --segmenter sam3 or sam2 with --weights.")
        given[segmenter] = {"weights": str(weights)}
    if prompt:
        if segmenter != "sam3":
            raise ConfigError(f"The segmenter {segmenter} takes no prompts. Use --segmenter sam3.")
        given.setdefault("sam3", {})["prompts"] = prompt
    config = load_config(SegmentConfig, given, overrides=settings or [])
    table = out / "masks.parquet"
    done = work(
        partial(segment_clip, config=config, out=out), manifest, table, config,
        engine=engine, workers=workers, address=address, resume=resume, max_failed=max_failed,
    )  # fmt: skip
    rows = _rows(table)
    # By the whole clip: one stretch of video may stand there with two zones.
    masks = {row["key"]: row["masks"] for row in rows}
    source = ManifestFile.read(manifest)
    clips = ((clip, masks.get(key_of(clip, config))) for clip in source)
    derive(source, out / "manifest.parquet", (replace(clip, masks=path) for clip, path in clips if path is not None))
    totals = {name: sum(row[name] for row in rows) for name in ("tracks", "agents", "interactions")}
    if as_json:
        typer.echo(json.dumps({"manifest": str(out / "manifest.parquet"), "clips": done, **totals}))
        return
    typer.echo(
        f"{done} clips: {totals['tracks']} tracks, {totals['agents']} of them agents, {totals['interactions']} interactions"
    )
    typer.echo(f"Wrote {out / 'manifest.parquet'}, which points to the masks")
    typer.echo(f"Next: surg data factors show {quoted(out / 'manifest.parquet')} --out factors.jpg")


def _rows(table: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return rows
