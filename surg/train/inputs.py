"""What a run learns from: its sources opened, the classes in them, and whether any clip has what the losses need."""

import logging
from collections.abc import Iterable
from pathlib import Path

from surg.data.manifest import Clip
from surg.errors import ConfigError, DataError
from surg.train.batches import takes_part
from surg.train.config import SourceConfig, TrainConfig
from surg.train.sources import Draw, NothingThereError, Source, open_source

logger = logging.getLogger(__name__)


def open_sources(config: TrainConfig, cache: Path, which: str, like: dict[str, Source] | None = None) -> dict[str, Source]:
    """All sources of one split; a source without validation clips is left out of validation."""
    opened: dict[str, Source] = {}
    for name, source in config.data.sources.items():
        split = source.split if which == "train" else source.val_split
        needs_classes = which == "train" and "action" in source.tasks
        try:
            opened[name] = open_source(
                name,
                source,
                config.data,
                cache,
                split=split,
                classes_needed=needs_classes,
                weights=config.loss.weights,
                like=(like or {}).get(name),
            )
        except NothingThereError:
            if which == "train":
                raise
            logger.warning("source %s has no clips of split %r: it is not validated on", name, split)
    return opened


def action_classes(config: TrainConfig, sources: dict[str, Source]) -> tuple[str, ...]:
    """Class names: as set, else what the training clips hold, in alphabetical order."""
    if config.model.classes:
        return config.model.classes
    found = {name for source in sources.values() for name in class_names(source.config, source.clips)}
    for name, source in sources.items():
        # Without a motion table either, the motion_aux head of an unlabelled set has nothing to learn, which is a choice; a typo is none.
        label = source.config.label
        if label != SourceConfig().label and not any(label in clip.labels for clip in source.clips):
            known = sorted({key for clip in source.clips for key in clip.labels})
            logger.warning("source %s: no clip has the label %r; the labels there: %s", name, label, ", ".join(known) or "none")
    return tuple(sorted(found))


def class_names(config: SourceConfig, clips: Iterable[Clip]) -> set[str]:
    """What some clips of a source hold of the label that its heads learn."""
    if not {"action", "motion_aux"} & set(config.tasks):
        return set()
    return {str(clip.labels[config.label]) for clip in clips if config.label in clip.labels}


def check_losses(config: TrainConfig, sources: dict[str, Source], classes: tuple[str, ...]) -> None:
    """Raises ConfigError or DataError when no clip could ever teach anything."""
    weights = config.loss.weights.model_dump()
    weights["sterility"] = weights["sterility"] or weights["breach_map"]
    wanted = {name: [t for t in source.config.tasks if weights[t]] for name, source in sources.items()}
    if weights["clear"] and any(source.config.replay for source in sources.values()):
        return
    if not any(wanted.values()):
        raise ConfigError("No loss is switched on: every weight is 0. Set one, for example --set loss.weights.jepa=1")
    if not any(
        takes_part(task, Draw(name, int(index), ()), sources, classes)
        for name, tasks in wanted.items()
        for task in tasks
        for index in sources[name].usable
    ):
        asked = ", ".join(f"{name}: {' '.join(tasks)} (label {sources[name].config.label!r})" for name, tasks in wanted.items())
        raise DataError(
            f"No training clip has what the losses of this run need ({asked}).\n"
            f"Labels there: {sorted({key for source in sources.values() for clip in source.clips for key in clip.labels})}. "
            "Choose: --set data.sources.NAME.label=LABEL"
        )
