"""What a run writes: bundles that others load, and the state that a killed run goes on from."""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surg.advice import quoted
from surg.config import flatten, load_config, to_yaml
from surg.data.preprocess import PreprocessSpec
from surg.errors import RunError
from surg.model.bundle import hash_of, save_bundle
from surg.runs import RunFolder, atomic_file, write_text
from surg.train import build
from surg.train.batches import Reading, read_batch
from surg.train.config import TrainConfig
from surg.train.drift import Anchor
from surg.train.sources import Draw, Source
from surg.train.teacher import Teacher
from surg.train.trainee import Trainee
from surg.train.whole import at_rest, whole_state

logger = logging.getLogger(__name__)
# What a head's answers depend on beside the encoder.
SHOWN = ("size", "num_frames", "fps", "zone_crop")


class Bundles:
    """Writes RUN/checkpoints/{last,best}.safetensors with everything that serving and evaluation want to know."""

    def __init__(
        self, run: RunFolder, config: TrainConfig, spec: PreprocessSpec, classes: tuple[str, ...], start: build.Start, fingerprint: str,
        sources: dict[str, Source],
    ) -> None:  # fmt: skip
        self.run, self.config, self.spec, self.classes, self.start = run, config, spec, classes, start
        self.fingerprint, self.sources = fingerprint, sources
        # Heads that came with the weights and that nobody trains here travel on, as long as the encoder stays the same.
        self.travelling = dict(start.heads) if config.trainable.encoder == "none" else {}
        self.travelling_world = start.world if config.trainable.encoder == "none" else None
        known, now = start.meta.get("preprocess") or {}, spec.model_dump(mode="json")
        self.shown_others = [
            f"{name} {known[name]} -> {now[name]}" for name in SHOWN if known.get(name, now[name]) != now[name]
        ]

    def _travel_on(self, trainee: Trainee) -> dict[str, nn.Module]:
        named = ("action", "motion_aux")
        others = {name: head for name, head in self.travelling.items() if name not in trainee.heads}
        world = None if "world" in trainee.heads else self.travelling_world
        if self.shown_others and (others or world is not None):
            # A bundle has one preprocessing: they would be served with clips that they never learnt from, under thresholds of others.
            logger.warning(
                "left out of this run's bundles, for its clips are not those that they learnt from (%s): %s of --init",
                ", ".join(self.shown_others),
                ", ".join([*others, *(["world"] if world is not None else [])]),
            )
            self.travelling, self.travelling_world = {}, None
            return {}
        if any(name in trainee.heads for name in named) and tuple(self.start.meta.get("classes", ())) != self.classes:
            # A bundle names its classes once: a head with other answers would be read by the wrong names.
            for name in (name for name in named if others.pop(name, None) is not None):
                del self.travelling[name]
                logger.warning("the %s head of --init is left out of this run's bundles: its classes are others", name)
        parts = {f"head.{name}": head for name, head in others.items()}
        if world is not None:
            parts["world"] = world
        return parts

    def save(self, name: str, trainee: Trainee, teacher: Teacher | None, step: int, scores: dict[str, float]) -> Path:
        from_teacher = teacher is not None and self.config.teacher.export
        encoder = teacher.encoder if teacher is not None and from_teacher else trainee.encoder
        if self.config.trainable.encoder == "lora":
            encoder = build.merge_lora(encoder)
        parts: dict[str, nn.Module] = {"encoder": encoder}
        if trainee.predictor is not None:
            parts["predictor"] = trainee.predictor
        parts |= {f"head.{head}": module for head, module in trainee.heads.items() if head in build.BUNDLED_HEADS}
        if "world" in trainee.heads:
            parts["world"] = trainee.heads["world"]
        parts |= self._travel_on(trainee)
        brought: tuple[str, ...] = ("classes", "horizons_s")
        # A head that learnt on needs a new threshold; one that travels along keeps its own.
        if "head.sterility" in parts and "sterility" not in trainee.heads:
            brought += ("thresholds", "calibration")
        if "world" in parts and "world" not in trainee.heads:
            brought += ("actions", "states")
        meta: dict[str, Any] = {key: self.start.meta[key] for key in brought if key in self.start.meta}
        meta |= {
            "recipe": self.config.recipe,
            "step": step,
            "seed": self.config.seed,
            "preprocess": self.spec.model_dump(mode="json"),
            "fps": self.config.data.fps,
            "num_frames": self.config.data.num_frames,
            "data_fingerprint": self.fingerprint,
            "data": {
                key: {"clips": len(source.usable), "fingerprint": source.fingerprint} for key, source in self.sources.items()
            },
            "init_sha256": self.start.sha256,
            # Frozen arms share this hash: the evaluation says "same encoder" instead of a difference.
            "encoder_sha256": hash_of(encoder),
            "aux_label": next(
                (s.config.label for s in self.sources.values() if "motion_aux" in s.config.tasks and self.classes), ""
            ),
            "trained_encoder": self.config.trainable.encoder,
            "encoder_from": "teacher" if from_teacher else "student",
            "scores": {key: round(float(value), 6) for key, value in scores.items()},
        }
        if "action" in trainee.heads or "motion_aux" in trainee.heads:
            meta["classes"] = list(self.classes)
        if "sterility" in trainee.heads:
            meta["horizons_s"] = list(self.config.model.horizons_s)
        if "world" in trainee.heads:
            for kind in ("actions", "states"):
                readers = [reader for source in self.sources.values() if (reader := getattr(source, kind)) is not None]
                meta |= {kind: readers[0].described()} if readers else {}
        path = self.run.checkpoints / f"{name}.safetensors"
        save_bundle(path, parts, {}, meta)
        return path


def collect(
    step: int,
    best: float,
    trainee: Trainee,
    teacher: Teacher | None,
    optimizer: torch.optim.Optimizer,
    anchor: Anchor,
    sources: dict[str, Source],
) -> dict[str, Any]:
    """Everything that the next step depends on, whole; under FSDP2 every process must call. Batches, crops and masks do not: they are functions of (seed, step)."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in trainee.named_parameters()}
    moments = {
        names[parameter]: {key: at_rest(value) for key, value in entry.items()} for parameter, entry in optimizer.state.items()
    }
    return {
        "step": step,
        "best": best,
        "trainee": whole_state(trainee),
        "teacher": whole_state(teacher) if teacher is not None else None,
        "optimizer": moments,
        "anchor": {name: at_rest(tensor) for name, tensor in anchor.start.items()},
        "fisher": {name: at_rest(tensor) for name, tensor in anchor.fisher.items()},
        "features": {name: {i: torch.from_numpy(f) for i, f in source.features.items()} for name, source in sources.items()},
    }


def write(path: Path, state: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        torch.save(state, file)


def read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{path} cannot be read ({error}), so the run cannot go on.\nStart anew from its last weights: --init {quoted(path.parent / 'last.safetensors')}"
        ) from error
    return state


def restore(
    state: dict[str, Any],
    trainee: Trainee,
    teacher: Teacher | None,
    optimizer: torch.optim.Optimizer,
    anchor: Anchor,
    sources: dict[str, Source],
) -> tuple[int, float]:
    """Put a collected state back. Returns the step done and the best validation loss. Raises RunError when it is one of another model."""
    _refuse_others("model", trainee, state["trainee"])
    trainee.load_state_dict(state["trainee"])
    if teacher is not None:
        _refuse_others("teacher", teacher, state["teacher"] or {})
        teacher.load_state_dict(state["teacher"])
    parameters = dict(trainee.named_parameters())
    for name, entry in state["optimizer"].items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in entry.items()}
    anchor.start, anchor.fisher = (
        {name: tensor.to(parameters[f"encoder.{name}"].device) for name, tensor in state[kind].items()}
        for kind in ("anchor", "fisher")
    )
    if hasattr(optimizer, "anchor"):
        optimizer.anchor({parameters[f"encoder.{name}"]: tensor for name, tensor in anchor.start.items()})
    for name, features in state["features"].items():
        if name in sources:
            sources[name].features = {index: tensor.numpy() for index, tensor in features.items()}
    return int(state["step"]), float(state["best"])


def _refuse_others(what: str, module: nn.Module, kept: dict[str, Tensor]) -> None:
    mine = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in kept.items()}
    if other := [name for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name)]:
        name = other[0]
        raise RunError(
            f"The {what} of these settings and data is not the one that was saved: {len(other)} tensors differ, first {name} "
            f"({theirs.get(name, 'not there')} saved, {mine.get(name, 'not there')} now).\n"
            "Go on with the run's own settings and data; or begin another run from its weights: --init RUN --out NEW"
        )


@torch.no_grad()
def store_features(trainee: Trainee, sources: dict[str, Source], reading: Reading) -> None:
    """CLEAR: what the encoder says at the start about every clip of the replay sources."""
    trainee.eval()
    for name, source in sources.items():
        if not source.config.replay:
            continue
        numbers = [int(number) for number in source.usable]
        for first in range(0, len(numbers), 8):
            part = numbers[first : first + 8]
            batch = read_batch([Draw(name, number, (0, number)) for number in part], sources, reading)
            pooled = trainee.encode(trainee.normalise(batch.frames.to(trainee.mean.device))).float().mean(dim=1).cpu()
            source.features.update({number: row.numpy().copy() for number, row in zip(part, pooled)})
    trainee.train()


def note_changes(run: RunFolder, config: TrainConfig, fingerprint: str, *, trained: bool) -> None:
    """Say what a resumed run does differently from now on, and write it down: the next --resume goes on with it.

    trained: no step is left, and only the calibration can still change.
    """
    earlier = load_config(TrainConfig, run.config_path)
    if trained:
        calibrated = earlier.model_copy(update={"calibrate": config.calibrate})
        if idle := _changes(calibrated, config):
            logger.warning(
                "no step is left to train, so these settings change nothing: %s. Train on: --set steps=N", ", ".join(idle)
            )
        config = calibrated
    if changed := _changes(earlier, config):
        logger.warning("going on with other settings than before: %s", ", ".join(changed))
        write_text(run.config_path, to_yaml(config))
    environment = run.path / "environment.json"
    known = json.loads(environment.read_text()).get("data_fingerprint") if environment.is_file() else None
    if known is not None and known != fingerprint:
        logger.warning("the manifests are not those that the run began with: its steps draw other clips from now on")


def _changes(before: TrainConfig, now: TrainConfig) -> list[str]:
    old, new = flatten(before), flatten(now)
    return [f"{key} {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]
