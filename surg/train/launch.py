"""From the command line's words to a run: recipe, then sources, then named flags, then --set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """What the command prints at its end."""

    lines: list[str]

    def summary(self) -> list[str]:
        return self.lines


def resolve(choices: Choices) -> TrainConfig:
    """The settings of a new run."""
    plain = recipes.load_recipe(choices.recipe)
    extra: dict[str, Any] = {"data": {"sources": _manifests(choices.data, plain)}}
    if choices.init is not None:
        extra["init"] = choices.init
    if choices.encoder_frozen is not None:
        extra["trainable"] = {"encoder": "none" if choices.encoder_frozen else "all"}
        if not choices.encoder_frozen:
            # Fine-tuned encoders learn at a tenth of the heads' rate.
            extra["optim"] = {"encoder_lr": 0.1}
    if choices.num_epochs is not None:
        extra["epochs"] = choices.num_epochs
    if choices.batch_size is not None:
        extra["batch_size"] = choices.batch_size
    if choices.learning_rate is not None:
        extra.setdefault("optim", {})["lr"] = choices.learning_rate
    if choices.warmup_epochs is not None:
        extra["schedule"] = {"warmup": choices.warmup_epochs / (choices.num_epochs or plain.epochs)}
    weights: dict[str, float] = {}
    if choices.lambda_mask is not None:
        weights["mask_aux"] = choices.lambda_mask
    if choices.use_mask_aux is False:
        weights["mask_aux"] = 0.0
    elif choices.use_mask_aux and choices.lambda_mask is None and plain.loss.weights.mask_aux == 0:
        weights["mask_aux"] = 0.1
    if weights:
        extra["loss"] = {"weights": weights}
    if choices.num_workers is not None:
        extra["data"]["workers"] = choices.num_workers
    for name in ("device", "seed"):
        if getattr(choices, name) is not None:
            extra[name] = getattr(choices, name)
    return recipes.load_recipe(choices.recipe, extra=extra, overrides=choices.overrides or [])


def _manifests(words: list[str], config: TrainConfig) -> Mapping[str, Any]:
    """`PATH` fills every source that has no manifest, `NAME=PATH` one of them."""
    sources: dict[str, Any] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if equals and name in config.data.sources:
            sources[name] = {"manifest": str(manifest_path(Path(path)))}
        elif equals and not Path(word).exists():
            raise ConfigError(f"The recipe {config.recipe} has no source {name!r}; it has {', '.join(config.data.sources)}.")
        else:
            found = str(manifest_path(Path(word)))
            sources |= {key: {"manifest": found} for key, source in config.data.sources.items() if source.manifest is None}
    return sources


def manifest_path(path: Path) -> Path:
    """A manifest, or the one in a folder. Raises ConfigError that says how to make one."""
    if path.is_dir():
        found = sorted(path.glob("*.parquet"))
        preferred = [entry for entry in found if entry.name == "manifest.parquet"] or found
        if len(preferred) != 1:
            have = f"{len(found)} Parquet files" if found else "no manifest"
            raise ConfigError(
                f"{path} holds {have}.\nMake one: surg data index --format folder {path} --out {path}/manifest.parquet"
            )
        return preferred[0]
    return path


def launch(choices: Choices) -> Report:
    """Train, or go on with a run, or try one step."""
    from surg.train.loop import train
    from surg.train.rehearsal import rehearse

    if choices.resume is not None:
        run = RunFolder.reopen(choices.resume)
        config = load_config(TrainConfig, run.config_path, overrides=choices.overrides or [])
        outcome = train(config, choices.resume, resume=True)
    else:
        config = resolve(choices)
        if choices.dry_run:
            return Report(rehearse(config))
        out = choices.out or Path("runs") / config.recipe
        outcome = train(config, out, overwrite=choices.overwrite)
    if outcome.interrupted:
        return Report(
            [
                f"stopped at step {outcome.step}; saved {outcome.checkpoint}",
                f"go on: surg train {config.recipe} --resume {outcome.run}",
            ]
        )
    return Report(
        [
            f"wrote {outcome.run} (checkpoint {outcome.checkpoint})",
            f"next: surg eval probe-action --data MANIFEST --checkpoint {outcome.checkpoint}",
        ]
    )
