"""The commands that train the shipped model again are commands of this package, each beginning from what the last one left."""

import importlib.util
import shlex
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import click
import pytest
import typer.main

from surg.cli.main import app
from surg.train.recipes import load_recipe

SCRIPT = Path(__file__).parents[1] / "making/model.py"


@pytest.fixture(scope="module")
def making() -> ModuleType:
    spec = importlib.util.spec_from_file_location("making_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(arguments: tuple[str, ...]) -> dict[str, object]:
    """What the command line would understand; raises click's error for a word it does not know."""
    command: click.Command = typer.main.get_command(app)
    words = list(arguments)
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            break
        command = found
        words.pop(0)
    return command.make_context("surg", words, resilient_parsing=False).params


def test_every_command_is_understood_and_begins_where_the_last_one_ended(making: ModuleType, tmp_path: Path) -> None:
    made = making.stages(tmp_path / "work", tmp_path / "model.safetensors")

    written: set[str] = set()
    for stage in made:
        arguments = stage.arguments
        assert options_of(arguments), shlex.join(arguments)
        read = [word.partition("=")[2] or word for flag, word in pairwise(arguments) if flag in ("--data", "--init")]
        if arguments[0] == "train":
            load_recipe(arguments[1])
        missing = [word for word in read if word not in written]
        assert not missing, f"{shlex.join(arguments)}: nothing wrote {missing} before"
        folder = next((word for flag, word in pairwise(arguments) if flag == "--out"), arguments[-1])
        written |= {folder, f"{folder}/manifest.parquet"}
    assert made[-1].arguments[:2] == ("weights", "pack")
