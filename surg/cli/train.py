"""`surg train RECIPE`: pretraining, surgery, stages 1 and 2, heads, probes."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Train: pretrain, surgery, stage1, stage2, heads, probes. `surg train list` shows the recipes.")

Devices = "auto, cuda, mps or cpu"


# A group stops reading options at the first argument unless told otherwise; this one has an argument and no subcommands.
@app.callback(
    invoke_without_command=True, context_settings={"allow_interspersed_args": True, "help_option_names": ["-h", "--help"]}
)
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, a YAML file, or `list`.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "--data-root", help="Manifest, or the folder it lies in; once for all sources or NAME=PATH."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            "--pretrained-checkpoint",
            help="Weights to start from: a run, a bundle, Meta's .pt, a Hugging Face folder.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE when not given.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, such as optim.lr=1e-4; which there are: surg config schema.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run where it stopped.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a run that is in --out already.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Two steps of everything; time and memory of the whole run; nothing is kept.")
    ] = False,
    encoder_frozen: Annotated[
        bool | None,
        typer.Option(
            "--encoder-frozen/--finetune-encoder", help="Freeze the encoder, or let it learn (at a tenth of the rate)."
        ),
    ] = None,
    num_epochs: Annotated[float | None, typer.Option(help="Passes over the training clips.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips a step, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Passes in which the rate rises.")] = None,
    use_mask_aux: Annotated[
        bool | None, typer.Option("--use-mask-aux/--no-mask-aux", help="Stage 1's mask denoising loss.")
    ] = None,
    lambda_mask: Annotated[float | None, typer.Option(help="Its weight.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Threads that decode and prepare clips.")] = None,
    device: Annotated[str | None, typer.Option(help=Devices)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, batches, crops and masks.")] = None,
) -> None:
    from surg.train import recipes

    if recipe == "list":
        for name in recipes.names():
            typer.echo(f"{name:22} {recipes.describe(name)}")
        return
    from surg.train.launch import Choices, launch

    choices = Choices(
        recipe=recipe, data=data or [], init=init, out=out, overrides=set_ or [], resume=resume, overwrite=overwrite, dry_run=dry_run,
        encoder_frozen=encoder_frozen, num_epochs=num_epochs, batch_size=batch_size, learning_rate=learning_rate,
        warmup_epochs=warmup_epochs, use_mask_aux=use_mask_aux, lambda_mask=lambda_mask, num_workers=num_workers, device=device, seed=seed,
    )  # fmt: skip
    outcome: Any = launch(choices)
    for line in outcome.summary():
        typer.echo(line)
    if outcome.status:
        raise typer.Exit(outcome.status)
