"""Named recipes: YAML files in the package, values for TrainConfig."""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from surg.config import load_config
from surg.errors import ConfigError
from surg.train.config import TrainConfig

FOLDER = resources.files("surg.train") / "recipes"


def names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in FOLDER.iterdir() if entry.name.endswith(".yaml"))


def describe(name: str) -> str:
    """The comment at the head of a recipe."""
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:first])


def load_recipe(
    name: str, *, extra: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (), overrides: Sequence[str] = ()
) -> TrainConfig:
    """A shipped recipe by name, or a YAML file by path; then `extra`, then `a.b=c` overrides."""
    layers: list[Mapping[str, Any]] = _layers(name)
    layers.append({"recipe": Path(name).stem})
    layers += [extra] if isinstance(extra, Mapping) else extra
    return load_config(TrainConfig, *layers, overrides=overrides)


def _layers(name: str, seen: tuple[str, ...] = ()) -> list[Mapping[str, Any]]:
    """A recipe's settings, after those of the recipe that it `extends`."""
    values = _read(name)
    base = values.pop("extends", None)
    if base is None:
        return [values]
    if base in seen:
        raise ConfigError(f"The recipes {' -> '.join([*seen, base])} extend each other in a circle.")
    if Path(base).suffix in (".yaml", ".yml"):
        base = str(Path(name).parent / base)  # beside the file that names it
    below = _layers(base, (*seen, name))
    if values.pop("replace_sources", False):
        below = [{**layer, "data": {**layer.get("data", {}), "sources": {}}} for layer in below]
    return [*below, values]


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"There is no recipe file {path}.")
        text = path.read_text()
    elif name in names():
        text = (FOLDER / f"{name}.yaml").read_text()
    else:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"There is no recipe {name!r}.{hint}\nRecipes: {', '.join(names())}; or give a YAML file.")
    loaded = yaml.safe_load(text) or {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"The recipe {name} is not a table of settings.")
    return loaded
