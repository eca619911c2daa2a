"""From the command line's words to a run: recipe, then sources, then named flags, then --set."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surg.advice import quoted
from surg.config import load_config
from surg.errors import ConfigError
from surg.runs import RunFolder
from surg.train import recipes
from surg.train.config import TrainConfig


@dataclass(frozen=True)
class Choices:
    """What a person may say to `surg train`."""

    recipe: str
    data: list[str]
    init: str | None = None
    out: Path | None = None
    overrides: list[str] | None = None
    resume: Path | None = None
    overwrite: bool = False
    dry_run: bool = False
    encoder_frozen: bool | None = None
    num_epochs: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_epochs: float | None = None
    use_mask_aux: bool | None = None
    lambda_mask: float | None = None
    num_workers: int | None = None
    device: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Report:
    """What the command prints at its end, and its exit status."""

    lines: list[str]
    status: int = 0

    def summary(self) -> list[str]:
        return self.lines


def resolve(choices: Choices) -> TrainConfig:
    """The settings of a new run."""
    plain = recipes.load_recipe(choices.recipe)
    given: dict[str, Any] = {"data": {"sources": _manifests(choices.data, plain)}}
    if choices.init is not None:
        given["init"] = choices.init

    def build(*layers: Mapping[str, Any]) -> TrainConfig:
        return recipes.load_recipe(choices.recipe, extra=[given, *layers], overrides=choices.overrides or [])

    return _with_flags(choices, plain, build)


def _with_flags(choices: Choices, plain: TrainConfig, build: Callable[..., TrainConfig]) -> TrainConfig:
    """What `build` makes of the named flags; `plain` is what stands without them."""
    flags = _flags(choices, plain)
    config = build(flags)
    if choices.warmup_epochs is None:
        return config
    if config.steps is not None:
        raise ConfigError(
            f"--warmup-epochs counts passes, but the length of this run is set in steps ({config.steps}).\n"
            "Say --num-epochs as well, or the share of the run: --set schedule.warmup=0.1"
        )
    return build(flags, {"schedule": {"warmup": choices.warmup_epochs / config.epochs}})


def _flags(choices: Choices, plain: TrainConfig) -> dict[str, Any]:
    """The named flags as settings, but for the warm-up."""
    extra: dict[str, Any] = {}
    if choices.encoder_frozen is not None:
        extra["trainable"] = {"encoder": "none" if choices.encoder_frozen else "all"}
        if not choices.encoder_frozen:
            # Fine-tuned encoders learn at a tenth of the heads' rate, and their teacher follows them.
            extra["optim"] = {"encoder_lr": 0.1}
            if plain.trainable.encoder == "none":
                extra["teacher"] = {"frozen": False}
            if plain.data.cache_features:
                extra["data"] = {"cache_features": False}  # one encoding of each clip is a frozen encoder's
    if choices.num_epochs is not None:
        # A length in steps would win.
        extra |= {"epochs": choices.num_epochs, "steps": None}
    if choices.batch_size is not None:
        extra["batch_size"] = choices.batch_size
    if choices.learning_rate is not None:
        extra.setdefault("optim", {})["lr"] = choices.learning_rate
    weights: dict[str, float] = {}
    if (choices.use_mask_aux or choices.lambda_mask) and not any("mask_aux" in s.tasks for s in plain.data.sources.values()):
        raise ConfigError(
            f"The recipe {plain.recipe} has no mask denoising: --use-mask-aux and --lambda-mask are for stage 1's recipes.\n"
            "Or give a source that task: --set data.sources.NAME.tasks=[...,mask_aux]"
        )
    if choices.lambda_mask is not None:
        weights["mask_aux"] = choices.lambda_mask
    if choices.use_mask_aux is False:
        weights["mask_aux"] = 0.0
    elif choices.use_mask_aux and choices.lambda_mask is None and plain.loss.weights.mask_aux == 0:
        weights["mask_aux"] = 0.1
    if weights:
        extra["loss"] = {"weights": weights}
    if choices.num_workers is not None:
        extra.setdefault("data", {})["workers"] = choices.num_workers
    for name in ("device", "seed"):
        if getattr(choices, name) is not None:
            extra[name] = getattr(choices, name)
    return extra


def resumed(choices: Choices, run: RunFolder) -> TrainConfig:
    """The settings of a run that goes on: its own, then the named flags, then --set."""
    config = load_config(TrainConfig, run.config_path)
    if Path(choices.recipe).stem != config.recipe:
        raise ConfigError(
            f"{run.path} is a run of {config.recipe}, not of {choices.recipe}.\n"
            f"Go on with it: surg train {quoted(config.recipe)} --resume {quoted(run.path)}; or start from its weights: --init {quoted(run.path)}"
        )
    useless = {"--data": choices.data, "--init": choices.init, "--overwrite": choices.overwrite, "--dry-run": choices.dry_run}
    useless["--out"] = choices.out is not None and choices.out.resolve() != run.path.resolve()
    if given := [name for name, value in useless.items() if value]:
        raise ConfigError(
            f"--resume goes on with the run's own data and weights, in its own folder: leave out {', '.join(given)}.\n"
            f"Another run from these weights: --init {quoted(run.path)} --out NEW. Data that moved: --set data.sources.NAME.manifest=PATH"
        )

    def build(*layers: Mapping[str, Any]) -> TrainConfig:
        return load_config(TrainConfig, run.config_path, *layers, overrides=choices.overrides or [])

    return _with_flags(choices, config, build)


def _manifests(words: list[str], config: TrainConfig) -> Mapping[str, Any]:
    """`PATH` fills every source that has no manifest, `NAME=PATH` one of them."""
    named: dict[str, Any] = {}
    rest: list[str] = []
    for word in words:
        name, equals, path = word.partition("=")
        if equals and name in config.data.sources:
            if name in named:
                raise ConfigError(
                    f"--data {name}=… was given twice, and a source reads one manifest. Two sets in one: surg data merge"
                )
            named[name] = {"manifest": str(manifest_path(Path(path)))}
        elif equals and not Path(word).exists():
            raise ConfigError(f"The recipe {config.recipe} has no source {name!r}; it has {', '.join(config.data.sources)}.")
        else:
            rest.append(str(manifest_path(Path(word))))
    if len(rest) > 1:
        raise ConfigError(
            f"--data {' --data '.join(map(quoted, rest))}: which is for which source? Say --data NAME=PATH; the sources are "
            f"{', '.join(config.data.sources)}. Two sets in one: surg data merge"
        )
    empty = [key for key, source in config.data.sources.items() if source.manifest is None and key not in named]
    if rest and not empty:
        raise ConfigError(
            f"--data {rest[0]} is for no source: {', '.join(config.data.sources)} of {config.recipe} have their manifests.\n"
            f"Say which one it takes the place of: --data {next(iter(config.data.sources))}={quoted(rest[0])}"
        )
    return {key: {"manifest": path} for path in rest for key in empty} | named


def manifest_path(path: Path) -> Path:
    """A manifest, or the one in a folder. Raises ConfigError that says how to make one."""
    if path.is_dir():
        found = sorted(entry for entry in path.glob("*.parquet") if not entry.name.endswith(".timeline.parquet"))
        preferred = [entry for entry in found if entry.name == "manifest.parquet"] or found
        if len(preferred) != 1:
            have = f"{len(found)} Parquet files" if found else "no manifest"
            raise ConfigError(
                f"{path} holds {have}.\nMake one: surg data index --format folder {quoted(path)} --out {quoted(path / 'manifest.parquet')}"
            )
        return preferred[0]
    return path


def launch(choices: Choices) -> Report:
    """Train, or go on with a run, or try one step."""
    from accelerate import PartialState

    from surg.train.loop import train
    from surg.train.rehearsal import rehearse

    if choices.resume is not None:
        run = RunFolder.reopen(choices.resume)
        config = resumed(choices, run)
        outcome = train(config, choices.resume, resume=True)
    else:
        config = resolve(choices)
        if choices.dry_run:
            return Report(rehearse(config))
        out = choices.out or Path("runs") / config.recipe
        outcome = train(config, out, overwrite=choices.overwrite)
    # What is typed behind it, `surg train … && surg export …`, is for a run that came to its end.
    status = 128 + (outcome.signal or signal.SIGINT) if outcome.interrupted else 0
    if not PartialState().is_main_process:
        return Report([], status)
    if outcome.interrupted:
        return Report(
            [
                f"stopped at step {outcome.step}; saved {outcome.checkpoint}",
                f"go on: surg train {quoted(config.recipe)} --resume {quoted(outcome.run)}",
            ],
            status,
        )
    learnt = {task for source in config.data.sources.values() for task in source.tasks}
    measure = "sterility --test-data" if "sterility" in learnt and "action" not in learnt else "probe-action --data"
    return Report(
        [
            f"wrote {outcome.run} (checkpoint {outcome.checkpoint})",
            f"next: surg eval {measure} MANIFEST --checkpoint {quoted(outcome.checkpoint)}",
        ]
    )
