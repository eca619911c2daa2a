"""`surg weights`: list, fetch, convert and look into weights."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from surg.advice import quoted

app = typer.Typer(help="List, fetch, convert and inspect weights.", no_args_is_help=True)


class Source(StrEnum):
    meta = "meta"
    hf = "hf"


Json = Annotated[bool, typer.Option("--json", help="JSON, for machines.")]
Key = Annotated[
    str | None,
    typer.Option(help="Which encoder of a Meta file: target_encoder, encoder or ema_encoder. Left out, the slow average."),
]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Models by name: size, file, licence, input and memory."""
    from surg.model import zoo

    rows: list[dict[str, Any]] = []
    for name, config in zoo.ENCODERS.items():
        facts = zoo.RELEASED.get(name)
        pixels, frames = (facts.pixels, facts.frames) if facts else (160, 16)
        memory = zoo.memory(config, pixels, frames)
        rows.append(
            {
                "name": name, "parameters": zoo.parameters(config), "width": config.embed_dim, "depth": config.depth,
                "heads": config.num_heads, "pixels": pixels, "frames": frames, "fps": facts.fps if facts else 4.0,
                "mean": zoo.IMAGENET_MEAN, "std": zoo.IMAGENET_STD, "file": facts.file if facts else None,
                "url": facts.url if facts else None, "hub": facts.hub if facts else None, "key": facts.key if facts else None,
                "licence": facts.licence if facts else "Apache-2.0", "weights_bytes": memory.weights,
                "inference_bytes": memory.inference, "training_bytes": memory.training,
            }
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    typer.echo(f"{'name':16} {'params':>8} {'input':>14} {'infer':>8} {'train':>8}  {'tree':14} licence")
    for row in rows:
        clip = f"{row['frames']} x {row['pixels']} px"
        typer.echo(
            f"{row['name']:16} {row['parameters'] / 1e6:7.1f}M {clip:>14} {row['inference_bytes'] / 1e9:6.1f}GB"
            f" {row['training_bytes'] / 1e9:6.1f}GB  {row['key'] or '-':14} {row['licence']}"
        )
    typer.echo(
        "\nMemory is computed: fp32, one clip; training with gradient checkpointing. Frames at 4 per second, ImageNet mean and std."
    )
    typer.echo("nano, tiny and small are ours: train them, or take the ones that ship. Next: surg weights pull vitl")


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A name from `surg weights list`.")],
    source: Annotated[Source, typer.Option(help="Meta's file, or the folder at Hugging Face.")] = Source.meta,
    save_path: Annotated[
        Path | None, typer.Option("--save-path", help="File (meta) or folder (hf); by default weights/NAME.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds without an answer before giving up.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Fetch released weights. A download cut short goes on where it stopped; the hash is recorded."""
    from surg.model.pull import pull as fetch

    files = fetch(name, save_path, source.value, timeout_s=timeout)
    if as_json:
        typer.echo(
            json.dumps([{"path": str(f.path), "bytes": f.bytes, "sha256": f.sha256, "fresh": f.fresh} for f in files], indent=2)
        )
        return
    for file in files:
        typer.echo(f"{'fetched' if file.fresh else 'was there'}  {file.path}  {file.bytes / 1e6:.1f} MB  sha256 {file.sha256}")
    start = files[0].path if source is Source.meta else files[0].path.parent
    typer.echo(f"Next: surg weights convert {quoted(start)} {name}.safetensors --model {name}")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Meta's .pt, a transformers folder, or bare safetensors.")],
    target: Annotated[Path, typer.Argument(help="File to write, .safetensors.")],
    model: Annotated[str | None, typer.Option(help="What it is, from `surg weights list`; checks the sizes.")] = None,
    key: Key = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting that no tensor shows, such as num_heads=2."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn weights from elsewhere into one file that rebuilds its own model. All or nothing: every tensor is accounted for."""
    from surg.model.convert import convert as run

    done = run(source, target, model=model, key=key, config=_settings(changes))
    if as_json:
        typer.echo(
            json.dumps({"path": str(done.path), "parts": done.parts, "reports": done.reports, "sha256": done.sha256}, indent=2)
        )
        return
    typer.echo("\n".join(done.reports))
    parts = ", ".join(f"{name} ({count} tensors)" for name, count in done.parts.items())
    typer.echo(f"wrote {done.path}: {parts}\nsha256 {done.sha256}\nNext: surg weights inspect {quoted(done.path)}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Any weights: .pt, .safetensors, a transformers folder, a run folder.")],
    keys: Annotated[bool, typer.Option("--keys", help="Print every tensor and its shape.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a file is: trees, models, sizes, shapes, norm statistics."""
    from surg.model.convert import inspect as look

    found = look(path)
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=str))
        return
    typer.echo(f"{found['path']}: {found['layout']}, {found['bytes'] / 1e6:.1f} MB")
    for name, tree in found["trees"].items():
        norm = tree["final_norm"]
        typer.echo(
            f"  {name or '(whole file)'}: {tree['kind'] or 'unknown'}, {tree['tensors']} tensors, {tree['parameters'] / 1e6:.2f} M,"
            f" {'/'.join(tree['dtypes'])}"
            + (f", final norm {norm['mean']:.4f} ± {norm['std']:.4f}" if norm else "")
            + ("" if tree["finite"] else "  HOLDS NaN OR INFINITY")
        )
        if keys:
            for key, shape in tree["shapes"].items():
                typer.echo(f"    {key}  {'x'.join(map(str, shape)) or 'scalar'}")
    for title in ("meta", "settings"):
        if found[title] and found["layout"] != "transformers":
            typer.echo(f"  {title}: {json.dumps(found[title], ensure_ascii=False, default=str)[:600]}")
    likely = found["likely"]
    if found["layout"] == "bundle":
        typer.echo(f"Next: surg train probe --data MANIFEST --init {quoted(path)}")
    else:
        model = f" --model {likely[0]}" if likely else " --set num_heads=N"
        typer.echo(
            (f"Looks like {' or '.join(likely)}. " if likely else "")
            + f"Next: surg weights convert {quoted(path)} OUT.safetensors{model}"
        )


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(help="Run folder of surg train, or a bundle.")],
    target: Annotated[Path, typer.Argument(help="File to write, .safetensors.")],
    as_json: Json = False,
) -> None:
    """Halve a checkpoint for shipping: numbers rounded to fp16, read back and computed with as fp32."""
    from surg.model.pack import pack as run

    done = run(source, target)
    if as_json:
        typer.echo(
            json.dumps({"path": str(done.path), "bytes": done.size, "change": done.change, "sha256": done.sha256}, indent=2)
        )
        return
    typer.echo(
        f"wrote {done.path}: {done.size / 1e6:.1f} MB, answers changed by at most {done.change:.1e}\nsha256 {done.sha256}"
    )


@app.command("to-hf")
def to_hf(
    source: Annotated[Path, typer.Argument(help="Our .safetensors, Meta's .pt or a run folder.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Write a folder that transformers opens: AutoModel.from_pretrained(FOLDER)."""
    from surg.model.convert import to_transformers

    for path in to_transformers(source, folder):
        typer.echo(f"wrote {path}")
    opens = f"from transformers import AutoModel; AutoModel.from_pretrained({str(folder)!r})"
    typer.echo(f"Next: python -c {quoted(opens)}")


def _settings(changes: list[str] | None) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from surg.errors import ConfigError

    for change in changes or []:
        if "=" not in change:
            raise ConfigError(f"--set {change!r} is not of the form key=value, for example --set num_heads=2")
    return dict(OmegaConf.to_container(OmegaConf.from_dotlist(list(changes or []))))  # type: ignore[arg-type]
