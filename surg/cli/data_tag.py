"""`surg data tag`: what a clip shows, as values of one schema."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from surg.advice import quoted
from surg.cli.data_work import Address, AsJson, Engine, Manifest, MaxFailed, Resume, Settings, Workers


def register(app: typer.Typer) -> None:
    app.command("tag")(tag)


def tag(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Table to write.")] = Path("tags.parquet"),
    backend: Annotated[
        Literal["measured", "vlm"], typer.Option("--backend", help="measured needs no weights; vlm needs --weights.")
    ] = "measured",
    weights: Annotated[Path | None, typer.Option("--weights", help="Folder of an image-text model.")] = None,
    recall: Annotated[
        bool, typer.Option("--recall", help="Also report how often instruments in the masks are tagged.")
    ] = False,
    settings: Settings = None,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    resume: Resume = True,
    max_failed: MaxFailed = 0.05,
    as_json: AsJson = False,
) -> None:
    """Tag clips: view, smoke, lighting, camera motion, overlay, quality …; each with a confidence, `unknown` allowed."""
    import json
    from collections import Counter
    from functools import partial

    import pyarrow.parquet as pq

    from surg.cli.data_work import work
    from surg.config import load_config
    from surg.data.classes import clip_key
    from surg.data.manifest import Manifest as ManifestFile
    from surg.data.tags.build import TagConfig, mask_recall, tag_clip
    from surg.data.tags.schema import FIELDS, UNKNOWN, Tags
    from surg.errors import ConfigError

    given: dict[str, Any] = {"backend": backend}
    if weights is not None:
        if backend != "vlm":
            raise ConfigError("The back-end measured takes no weights. Use --backend vlm with --weights.")
        given["vlm"] = {"weights": str(weights)}
    config = load_config(TagConfig, given, overrides=settings or [])
    done = work(
        partial(tag_clip, config=config), manifest, out, config,
        engine=engine, workers=workers, address=address, resume=resume, max_failed=max_failed,
    )  # fmt: skip
    rows = pq.read_table(out).to_pylist()
    counts = {name: Counter(value for row in rows for value in str(row[name]).split(";")) for name in FIELDS}
    report: dict[str, dict[str, float]] = {}
    if recall:
        tags = {clip_key(row["video"], row["start_s"], row["end_s"]): Tags.from_row(row) for row in rows}
        keyed = ((clip, clip_key(clip.video, clip.start_s, clip.end_s)) for clip in ManifestFile.read(manifest))
        report = mask_recall((clip, tags[key]) for clip, key in keyed if key in tags)
    if as_json:
        typer.echo(json.dumps({"table": str(out), "clips": done, "counts": counts, "recall": report}))
        return
    for name, found in counts.items():
        if set(found) != {UNKNOWN}:
            typer.echo(f"{name:<14} " + "  ".join(f"{value} {count}" for value, count in found.most_common(6)))
    typer.echo(
        "unknown everywhere: " + (", ".join(name for name, found in counts.items() if set(found) == {UNKNOWN}) or "nothing")
    )
    for name, numbers in report.items():
        typer.echo(f"recall of {name or 'all things in masks'}: {numbers['recall']:.0%} of {numbers['clips']:.0f}")
    typer.echo(f"Wrote {out}: {done} clips")
    typer.echo(f"Next: surg data motion {quoted(manifest)} --out motion.parquet")
