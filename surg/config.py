"""One validated tree of settings, and the one way to build it: defaults, then YAML, then `--set a.b=c`."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from surg.errors import ConfigError


class Config(BaseModel):
    """Base of every settings class: frozen, typos refused, the string under a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _keep_the_branch(cls, values: Any) -> Any:
        """One setting of a branch changes that one: the others stay what this class gives them, not what the branch's own would."""
        if not isinstance(values, Mapping):
            return values
        defaults = {name: cls.model_fields[name].default for name in values if name in cls.model_fields}
        return {
            name: {**default.model_dump(exclude_unset=True), **value}
            if isinstance(default := defaults.get(name), Config) and isinstance(value, Mapping)
            else value
            for name, value in values.items()
        }


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], *sources: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> C:
    """Build `cls` from YAML files and mappings, later ones winning, then from `a.b=c` overrides.

    Numbers such as `3e-4` are read as floats (plain YAML 1.1 calls them strings).
    Raises ConfigError that names the setting, what was found, and the nearest known name.
    """
    merged: Any = OmegaConf.create({})
    for source in sources:
        merged = OmegaConf.merge(merged, _read_yaml(source) if isinstance(source, Path) else OmegaConf.create(dict(source)))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r} is not of the form key=value, for example --set optim.lr=3e-4")
    try:
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"The settings cannot be put together: {error}") from error
    return validate(cls, values)


def validate(cls: type[C], values: Any) -> C:
    """Turn plain values into a config, with errors a person can act on."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, problem) for problem in error.errors())) from error


def require_known(cls: type[Config], values: Mapping[str, Any], within: str) -> None:
    """Refuse names and values that `cls` would not take, when only some of its settings are known. `within` is their branch."""
    try:
        cls.model_validate(values)
    except ValidationError as error:
        # How settings must fit each other (no place in the tree) is judged when all are known.
        if wrong := [problem for problem in error.errors() if problem["loc"]]:
            raise ConfigError("\n".join(_explain(cls, problem, f"{within}.") for problem in wrong)) from error


def to_yaml(config: Config) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(config: Config) -> dict[str, Any]:
    """`{"clip.fps": 4.0, …}`: every leaf by its dotted name."""
    return dict(_leaves(config.model_dump(mode="json"), ""))


def known_keys(cls: type[Config], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a config class, branches included; of a branch whose names are free, NAME stands for them."""
    for name, field in cls.model_fields.items():
        yield prefix + name
        free = "NAME." if get_origin(field.annotation) is dict else ""
        for annotation in (field.annotation, *get_args(field.annotation)):
            if isinstance(annotation, type) and issubclass(annotation, Config):
                yield from known_keys(annotation, f"{prefix}{name}.{free}")


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _read_yaml(path: Path) -> Any:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no settings file {path}.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not OmegaConf.is_dict(loaded):
        raise ConfigError(f"{path} holds a list or a bare value; expected settings as `name: value` lines.")
    return loaded


def _as_said(key: str, name: str) -> str:
    """A known key with the free names that `name` has in their places."""
    said = dict(enumerate(name.split(".")))
    return ".".join(said.get(place, part) if part == "NAME" else part for place, part in enumerate(key.split(".")))


def _explain(cls: type[Config], problem: Any, within: str = "") -> str:
    name = within + ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = [_as_said(key, name) for key in known_keys(cls, within)]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        branch = name.rpartition(".")[0]
        beside = ", ".join(key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == branch)
        return f"There is no setting `{name}`.{hint} {f'`{branch}` has' if branch else 'There are'}: {beside}."
    found = problem.get("input")
    if problem["type"] == "value_error" and isinstance(found, Mapping):  # settings that do not fit each other: it names them
        return f"Setting{f' `{name}`' if name else 's'}: {problem['msg'].removeprefix('Value error, ')}"
    return f"Setting `{name or cls.__name__}`: {problem['msg']} (found {found!r}, a {type(found).__name__})."
