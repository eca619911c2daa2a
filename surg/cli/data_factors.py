"""`surg data factors`: layout only, agents only, interactions only."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surg.advice import quoted
from surg.cli.data_work import Address, AsJson, Engine, Manifest, MaxFailed, Resume, Settings, Workers

if TYPE_CHECKING:
    from surg.data.manifest import Clip

group = typer.Typer(
    help="Factor data sets: D_L (layout), D_A (agents), D_I (interactions), composed while training or written to disk.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="factors")


@group.command()
def make(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for the manifest, and for videos with --to-disk.")],
    kinds: Annotated[str, typer.Option("--kinds", help="Which, by comma.")] = "D_L,D_A,D_I",
    to_disk: Annotated[
        bool, typer.Option("--to-disk", help="Write lossless videos; otherwise clips are composed while training.")
    ] = False,
    fps: Annotated[float, typer.Option("--fps", min=0.1, help="Frames per second of the videos.")] = 8.0,
    settings: Settings = None,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    resume: Resume = True,
    max_failed: MaxFailed = 0.02,
    as_json: AsJson = False,
) -> None:
    """Turn segmented clips into a manifest of factor clips."""
    import json
    from collections import Counter
    from functools import partial
    from typing import get_args

    from surg.cli.data_work import work
    from surg.config import load_config
    from surg.data.derive import derive
    from surg.data.factor_clips import plan_factors
    from surg.data.factor_disk import render_factor
    from surg.data.factors import FactorConfig, Kind
    from surg.data.manifest import Manifest as ManifestFile
    from surg.data.manifest import write_manifest
    from surg.errors import ConfigError

    wanted = [kind for kind in get_args(Kind) if kind in kinds.split(",")]
    unknown = set(kinds.split(",")) - set(wanted)
    if unknown or not wanted:
        raise ConfigError(f"There is no factor {', '.join(sorted(unknown)) or repr(kinds)}; expected some of D_L,D_A,D_I.")
    config = load_config(FactorConfig, overrides=settings or [])
    rows: list[Clip] = []
    dropped: Counter[str] = Counter()
    source = ManifestFile.read(manifest)
    for clip in source:
        plan = plan_factors(clip, wanted, config)
        rows += plan.clips
        dropped.update(plan.dropped.keys())
    target = out / "manifest.parquet"
    if to_disk:
        write_manifest(out / "plan.parquet", rows)
        table = out / "rendered.parquet"
        work(
            partial(render_factor, fps=fps, out=out), out / "plan.parquet", table, config,
            engine=engine, workers=workers, address=address, resume=resume, max_failed=max_failed,
        )  # fmt: skip
        rows = _rendered(table)
    derive(source, target, rows, same_times=not to_disk)
    counts = Counter(clip.meta["factor"] for clip in rows)
    if as_json:
        typer.echo(json.dumps({"manifest": str(target), "clips": dict(counts), "dropped": dict(dropped)}))
        return
    for kind in wanted:
        typer.echo(f"{kind}  {counts[kind]:>6} clips  {dropped[kind]:>6} clips gave none")
    typer.echo(f"Wrote {target}")
    typer.echo(f"Next: surg train surgery --data {quoted(target)}")


@group.command()
def show(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Picture to write.")] = Path("factors.jpg"),
    clips: Annotated[int, typer.Option("--clips", min=1, help="How many clips, spread over the manifest.")] = 4,
    columns: Annotated[int, typer.Option("--columns", min=1, max=4, help="Moments of each clip.")] = 2,
    settings: Settings = None,
) -> None:
    """Draw original, D_L, D_A and D_I beside each other, tracks and tube drawn in."""
    import cv2
    import numpy as np

    from surg.config import load_config
    from surg.data.factor_pictures import factor_rows, headline
    from surg.data.factors import FactorConfig
    from surg.data.manifest import Manifest as ManifestFile
    from surg.data.segment.masks import Segmentation
    from surg.errors import DataError
    from surg.runs import atomic_file

    config = load_config(FactorConfig, overrides=settings or [])
    every = [clip for clip in ManifestFile.read(manifest) if clip.masks is not None]
    if not every:
        raise DataError(
            f"No clip of {manifest} has masks to show. Make them: surg data segment {quoted(manifest)} --out FOLDER"
        )
    picked = [every[index] for index in sorted(set(np.linspace(0, len(every) - 1, clips).round().astype(int).tolist()))]
    strips = [factor_rows(clip, Segmentation.load(Path(str(clip.masks))), config, columns) for clip in picked]
    sheet = np.concatenate([headline(strips[0].shape[1], columns), *strips])
    suffix = out.suffix.lower() or ".jpg"
    # OpenCV 5 refuses a setting that the format does not have.
    settings_of = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 85], ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 85]}
    good, data = cv2.imencode(suffix, sheet[..., ::-1], settings_of.get(suffix, []))
    if not good:
        raise DataError(f"{out} cannot be written as a picture; expected a name that ends in .jpg or .png.")
    with atomic_file(out) as file:
        file.write(data.tobytes())
    typer.echo(f"Wrote {out}: {len(picked)} clips; agents yellow, layout blue, the tube of D_I green")
    typer.echo(f"Next: surg data factors make {quoted(manifest)} --out factors")


def _rendered(table: Path) -> "list[Clip]":
    import json

    import pyarrow.parquet as pq

    from surg.data.manifest import Clip

    return [Clip(**json.loads(text)) for text in pq.read_table(table, columns=["clip"]).column("clip").to_pylist()]
