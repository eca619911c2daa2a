"""`surg export`: a checkpoint becomes a Triton repository, through the parity gate."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from surg.advice import quoted

app = typer.Typer(help="Export a model for serving and prove that it equals the original.")


class Format(StrEnum):
    triton = "triton"
    onnx = "onnx"
    tensorrt = "tensorrt"


class Numbers(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


# A group stops reading options at the first argument unless told otherwise; this one has an argument and no subcommands.
@app.callback(
    invoke_without_command=True, context_settings={"allow_interspersed_args": True, "help_option_names": ["-h", "--help"]}
)
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Run folder of surg train, or a .safetensors bundle.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Model repository to publish into; a new version if it exists.")
    ] = Path("repo"),
    format: Annotated[
        Format,
        typer.Option(help="triton: ONNX plus the whole repository. onnx: the files alone. tensorrt: plans, on the target GPU."),
    ] = Format.triton,
    precision: Annotated[Numbers, typer.Option(help="Precision of the graphs.")] = Numbers.fp32,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest difference from PyTorch allowed, relative (default by precision).")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips that the parity gate compares.")] = 18,
    through_server: Annotated[bool, typer.Option(help="Also compare with an embedded Triton where one can run.")] = True,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, such as served.max_batch_size=16; which there are: surg config schema export."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Export CHECKPOINT and prove it equals the original; above the tolerance nothing is kept."""
    import json

    from surg.config import load_config
    from surg.errors import ConfigError
    from surg.serving.export import ExportConfig, export_files, export_repository
    from surg.serving.parity import table

    config = load_config(ExportConfig, overrides=overrides or ())
    if format is Format.tensorrt:
        from surg.serving.tensorrt import require_tensorrt

        if precision is Numbers.int8:
            raise ConfigError(
                "TensorRT takes no graph of int8 weights with activations quantised as they come. Use --precision fp16 or fp32."
            )
        require_tensorrt()  # before minutes of work
    if format is Format.onnx:
        if config.queue != ExportConfig().queue:
            raise ConfigError(
                "The settings queue.* go into a repository, and --format onnx writes the files alone. Leave one out."
            )
        files = export_files(checkpoint, out, served=config.served, precision=precision.value, clips=clips, tolerance=tolerance)
        if as_json:
            typer.echo(
                json.dumps(
                    {"files": [str(path) for path in files.paths], "checkpoint_sha256": files.contract.checkpoint_sha256}
                )
            )
            return
        _print_table(table(files.rows))
        for path in files.paths:
            typer.echo(f"wrote {path}")
        typer.echo(f"\nServe them too: surg export {quoted(checkpoint)} --out repo")
        return
    done = export_repository(
        checkpoint,
        out,
        served=config.served,
        queue=config.queue,
        precision=precision.value,
        clips=clips,
        tolerance=tolerance,
        through_server=through_server,
        plans=format is Format.tensorrt,
    )
    if as_json:
        typer.echo(
            json.dumps({"repo": str(done.repo), "version": done.version, "notes": done.notes, "parity": table(done.rows)})
        )
        return
    _print_table(table(done.rows))
    for note in done.notes:
        typer.echo(f"note: {note}")
    typer.echo(
        f"wrote {done.repo}, version {done.version} of {', '.join(model.name for model in done.contract.models)} ({precision.value})"
    )
    typer.echo(f"\nServe it: surg serve start {quoted(done.repo)}")


def _print_table(rows: list[dict[str, str]]) -> None:
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    for row in [{key: key for key in widths}, *rows]:
        typer.echo("  ".join(row[key].ljust(width) for key, width in widths.items()).rstrip())
