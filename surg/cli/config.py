"""`surg config`: show, explain and compare settings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from surg.train.config import TrainConfig

app = typer.Typer(
    help="Show, explain and compare settings: of a recipe, a run, or a command that takes --set.", no_args_is_help=True
)

SETTINGS = {
    "train": "surg.train.config:TrainConfig",
    "motion": "surg.data.motion:MotionConfig",
    "classes": "surg.data.classes:ClassConfig",
    "segment": "surg.data.segment.build:SegmentConfig",
    "tag": "surg.data.tags.build:TagConfig",
    "factors": "surg.data.factors:FactorConfig",
    "export": "surg.serving.export:ExportConfig",
    "probe-action": "surg.eval.probe_action:ProbeActionConfig",
    "classify": "surg.eval.probe_action:ProbeActionConfig",
    "sterility": "surg.eval.sterility:SterilityConfig",
    "world-model": "surg.eval.world_model:WorldConfig",
    "retrieval": "surg.eval.retrieval:RetrievalConfig",
    "phases": "surg.eval.phases:PhasesConfig",
}
"""Commands that take --set, and the class that holds their settings."""

Setting = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]


@app.command()
def show(
    source: Annotated[str, typer.Argument(help="A recipe's name, a YAML file or a run folder.")] = "pretrain",
    changes: Setting = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML.")] = False,
) -> None:
    """Print the resolved settings."""
    from surg.config import to_yaml

    config = _resolve(source, changes or [])
    typer.echo(json.dumps(config.model_dump(mode="json"), indent=2) if as_json else to_yaml(config), nl=as_json)


@app.command()
def schema(
    command: Annotated[str, typer.Argument(help=f"Whose settings: {', '.join(SETTINGS)}.", metavar="[COMMAND]")] = "train",
) -> None:
    """Print the JSON schema of a command's settings, with their help texts: editors complete and check YAML with it."""
    import importlib

    from surg.errors import ConfigError

    if command not in SETTINGS:
        raise ConfigError(f"There are no settings of {command!r}; expected one of {', '.join(SETTINGS)}.")
    module, _, name = SETTINGS[command].partition(":")
    typer.echo(json.dumps(getattr(importlib.import_module(module), name).model_json_schema(), indent=2))


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="A recipe's name, a YAML file or a run folder.")],
    second: Annotated[str, typer.Argument(help="Likewise.")],
) -> None:
    """Print the settings in which two recipes or runs differ."""
    from surg.config import flatten

    left, right = flatten(_resolve(first)), flatten(_resolve(second))
    width = max((len(key) for key in left | right), default=0)
    changed = [key for key in sorted(left | right) if left.get(key) != right.get(key)]
    for key in changed:
        typer.echo(f"{key:<{width}}  {left.get(key)!s:>16}  {right.get(key)!s:>16}")
    typer.echo(f"{len(changed)} of {len(left | right)} settings differ.", err=True)


def _resolve(source: str, changes: Sequence[str] = ()) -> "TrainConfig":
    """Settings of a recipe, a YAML file, or a run folder."""
    from surg.config import load_config
    from surg.runs import RunFolder
    from surg.train.config import TrainConfig
    from surg.train.recipes import load_recipe

    path = Path(source)
    if path.is_dir():
        return load_config(TrainConfig, RunFolder.reopen(path).config_path, overrides=changes)
    return load_recipe(source, overrides=changes)
