"""probe_action: which of eight motions does a clip show? The yardstick that stays fixed while arms come and go.

Every arm's encoder is frozen; its features of the same clips go to the same readers (attentive probe, linear, nearest neighbours).
Beside them stand what needs no model at all and what a model without time, without order or without training reaches.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from surg.advice import quoted
from surg.config import Config
from surg.data.feature_table import Features
from surg.data.manifest import Manifest
from surg.data.overlap import patient
from surg.errors import DataError
from surg.eval import baselines
from surg.eval.backends import Backend, BackendName, open_backend
from surg.eval.classification import Predictions
from surg.eval.features import FeatureConfig, Variant, embed_manifest
from surg.eval.probes import ProbeConfig, ProbeName, Split3, run_probe
from surg.runs import atomic_file

logger = logging.getLogger(__name__)

Baseline = Literal["majority", "motion", "single", "shuffled", "random", "image"]
BASELINES: tuple[Baseline, ...] = ("majority", "motion", "single", "shuffled", "random", "image")


class ProbeActionConfig(Config):
    label: str = "action"
    """Column of the labels to be told."""
    features: FeatureConfig = FeatureConfig(level="tokens", pool=2)
    """What is read off the encoder."""
    probe: ProbeConfig = ProbeConfig()
    """How it is read."""
    probes: tuple[ProbeName, ...] = ("attentive", "linear", "knn")
    """Readers."""
    baselines: tuple[Baseline, ...] = ("majority", "motion", "single", "shuffled", "random")
    """What stands beside the arms, chance always; `image` needs image_model and image_weights."""
    image_model: str = ""
    """timm model of the single-image baseline."""
    image_weights: Path | None = None
    """Its weights, a file."""
    allow_shared_cases: bool = False
    """Go on although cases stand in train and test; the report then says so."""
    seed: int = 0
    """Of probes, shuffles and bootstrap."""
    workers: int | None = Field(None, ge=1)
    """Processes of the motion baseline."""


@dataclass(frozen=True)
class Arm:
    """One model under test, by checkpoint, repository or server."""

    name: str
    checkpoint: Path | None = None
    repository: Path | None = None
    server: str | None = None
    opened: Backend | None = None
    """A backend that is open already, instead of the three above."""

    @contextmanager
    def open(self, backend: BackendName) -> Iterator[Backend]:
        if self.opened is not None:
            yield self.opened
            return
        with open_backend(backend, server=self.server, checkpoint=self.checkpoint, repository=self.repository) as opened:
            yield opened


@dataclass
class Outcome:
    classes: list[str]
    predictions: list[Predictions]
    evidence: dict[str, Any]
    warnings: list[str]
    curves: dict[str, tuple[dict[str, float], ...]]
    """Loss and val top-1 per epoch, by arm."""
    vectors: dict[str, Features]
    """Test features of each arm, for pictures."""
    same: dict[str, str] = field(default_factory=dict)
    """Arms with the first one's encoder, by name: what is said of them in place of a difference."""


def probe_action(
    arms: Sequence[Arm],
    data: Manifest,
    tests: Mapping[str, Manifest],
    config: ProbeActionConfig,
    folder: Path,
    backend: BackendName,
) -> Outcome:
    """Run all arms and baselines. `data` gives train, val and test; `tests` adds test sets that nothing is chosen on."""
    task = read_task(data, tests, config)
    outcome = Outcome(task.classes, [], {"data_fingerprint": data.fingerprint}, list(task.warnings), {}, {})
    chosen: dict[str, float] = {}
    for number, arm in enumerate(arms):
        with arm.open(backend) as opened:
            _say_what_it_learned(arm, config, outcome)
            reader = _Reader(opened, task, config, folder / "features", arm.name)
            features = reader.read("plain")
            outcome.vectors[arm.name] = features["test"]
            for probe in config.probes:
                result = _probe(probe, arm.name, features, task, config, outcome)
                if probe == "attentive" and number == 0:
                    chosen = result
            if number == 0:
                for variant in ("single", "shuffled"):
                    if variant in config.baselines:
                        _baseline(f"{arm.name}, {_WORDS[variant]}", reader.read(variant), task, config, chosen, outcome)
            outcome.evidence[arm.name] = opened.finish()
        if number and (said := _same_encoder(arm, arms[0])):
            outcome.same[arm.name] = said
    if "random" in config.baselines:
        _random(arms[0], task, config, folder, chosen, outcome)
    for name in config.baselines:
        if name == "majority":
            outcome.predictions += baselines.majority(task)
        elif name == "motion":
            outcome.predictions += baselines.motion(task, folder / "features" / "motion.parquet", config.workers)
        elif name == "image":
            outcome.predictions += baselines.image(task, config.image_model, config.image_weights)
    write_predictions(folder / "predictions.parquet", outcome)
    return outcome


@dataclass(frozen=True)
class Task:
    """Which clips, which classes."""

    label: str
    classes: list[str]
    data: Manifest
    tests: dict[str, Manifest]
    warnings: list[str]

    def code(self, names: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
        index = {name: number for number, name in enumerate(self.classes)}
        return np.array([index[name] for name in names], np.int64)

    def sets(self) -> Iterator[tuple[str, Manifest]]:
        """train, val, test and the further test sets, only clips that carry the label."""
        for split in ("train", "val", "test"):
            yield split, self.data.select(split, where=lambda clip: self.label in clip.labels)
        for name, manifest in self.tests.items():
            yield name, manifest.select(where=lambda clip: self.label in clip.labels)


def read_task(data: Manifest, tests: Mapping[str, Manifest], config: ProbeActionConfig) -> Task:
    """Classes of train; DataError when a split is missing, a class of test was never trained, or cases leak."""
    seen: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    answers: dict[tuple[object, ...], set[str]] = {}
    cases: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    carried: set[str] = set()
    for clip in data.clips():
        carried.update(clip.labels)
        if clip.split in seen and config.label in clip.labels:
            seen[clip.split].add(str(clip.labels[config.label]))
            stretch = (clip.video, clip.start_s, clip.end_s, clip.case, str(clip.zone))
            answers.setdefault(stretch, set()).add(str(clip.labels[config.label]))
            cases[clip.split].add(patient(clip.source, clip.case))
    for split, labels in seen.items():
        if not labels:
            raise DataError(_nothing_to_read(data, split, config.label, carried))
    if len(seen["train"]) < 2:
        raise DataError(
            f"All train clips have the same `{config.label}` ({min(seen['train'])}): there is nothing to tell apart.\n"
            "Name another label: --label NAME"
        )
    labelled = {name: [clip for clip in manifest.clips() if config.label in clip.labels] for name, manifest in tests.items()}
    extra = {name: {str(clip.labels[config.label]) for clip in clips} for name, clips in labelled.items()}
    for name, labels in {"val": seen["val"], "test": seen["test"], **extra}.items():
        if not labels:
            raise DataError(f"No clip of test set `{name}` carries the label `{config.label}`.")
        if labels - seen["train"]:
            raise DataError(f"`{name}` holds classes that train has not: {', '.join(sorted(labels - seen['train']))}.")
    warnings = []
    held = {
        "test": cases["test"],
        **{name: {patient(clip.source, clip.case) for clip in clips} for name, clips in labelled.items()},
    }
    for name, own in held.items():
        leaks = (cases["train"] | cases["val"]) & own
        if not leaks:
            continue
        message = f"{len(leaks)} cases stand in {name} and in train or val: the score counts remembering patients as skill."
        if not config.allow_shared_cases:
            raise DataError(
                f"{message}\nSplit by case: surg data split {quoted(data.path)}    or go on and say so: --set allow_shared_cases=true"
            )
        warnings.append(message)
    if several := sum(len(values) > 1 for values in answers.values()):
        warnings.append(
            f"{several} clips stand in several rows with different `{config.label}`. A reader gives a clip one answer: it cannot be right "
            "about all of its rows, and the best score is below 1."
        )
    few = len(cases["test"])
    if few < 8:
        warnings.append(f"Test has {few} cases; an interval over so few is a rough guide.")
    return Task(config.label, sorted(seen["train"]), data, dict(tests), warnings)


def _nothing_to_read(data: Manifest, split: str, label: str, carried: set[str]) -> str:
    """Why a side has no labelled clip: no clip anywhere carries the label, nobody has split yet, or this side was left out."""
    if label not in carried:
        names = f"; they carry {', '.join(sorted(carried))}" if carried else ""
        return f"No clip of {data.path} carries the label `{label}`{names}.\nName another one: --label NAME"
    message = f"No clip of split `{split}` carries the label `{label}`.\n"
    sides = {name: count for name, count in data.counts("split").items() if name}
    if not sides:
        return f"{message}Split by case first: surg data split {quoted(data.path)}"
    found = ", ".join(f"{name} {count}" for name, count in sides.items())
    return (
        f"{message}The manifest's clips: {found}; train, val and test need some with the label. "
        f"Split it anew, before a model learns from it: surg data split {quoted(data.path)} --replace"
    )


@dataclass
class _Reader:
    """Features of all sets through one backend; each table is made once and kept."""

    backend: Backend
    task: Task
    config: ProbeActionConfig
    folder: Path
    arm: str

    def read(self, variant: Variant | str) -> dict[str, Features]:
        settings = self.config.features.model_copy(update={"variant": variant})
        found = {}
        for name, manifest in self.task.sets():
            path = self.folder / f"{safe(self.arm)}_{variant}_{safe(name)}.parquet"
            found[name] = by_clip(embed_manifest(self.backend, manifest, path, settings, seed=self.config.seed))
        return found


def by_clip(features: Features) -> Features:
    """One row a clip: the tokens of its windows side by side (pooled vectors are averaged)."""
    names, first, counts = np.unique(features.clips, return_index=True, return_counts=True)
    if len(names) == len(features):
        return features
    if len(set(counts.tolist())) > 1:
        raise DataError("Clips gave different numbers of windows; a probe over clips needs --segments, not --stride-s.")
    rows = [np.flatnonzero(features.clips == name) for name in names]
    values = features.values
    joined = np.stack([values[r].mean(0) if values.ndim == 2 else values[r].reshape(-1, values.shape[-1]) for r in rows])
    one = features.pick(first)
    return replace(one, values=joined)


def _probe(
    probe: ProbeName, name: str, features: dict[str, Features], task: Task, config: ProbeActionConfig, outcome: Outcome
) -> dict[str, float]:
    tests = {key: value for key, value in features.items() if key not in ("train", "val")}
    y = {key: task.code(value.column(task.label)) for key, value in features.items()}
    stacked = np.concatenate([value.values for value in tests.values()])
    split = Split3(features["train"].values, y["train"], features["val"].values, y["val"], stacked)
    result = run_probe(probe, split, len(task.classes), config.probe, config.seed)
    start = 0
    for key, value in tests.items():
        part = result.probabilities[:, start : start + len(value)]
        start += len(value)
        outcome.predictions.append(Predictions(name, probe, key, part, y[key], value.cases, value.clips, result.chosen))
    if result.curve:
        outcome.curves[name] = result.curve
    logger.info("%s, %s: test top-1 %.3f", name, probe, outcome.predictions[-len(tests)].right.mean())
    return result.chosen


def _baseline(
    name: str, features: dict[str, Features], task: Task, config: ProbeActionConfig, chosen: dict[str, float], outcome: Outcome
) -> None:
    """The first reader only, with the learning rate that the first arm chose on val."""
    probe = config.probe
    if chosen:
        probe = probe.model_copy(update={"lr": (chosen["lr"],), "weight_decay": (chosen["weight_decay"],)})
    _probe(config.probes[0], name, features, task, config.model_copy(update={"probe": probe}), outcome)


def _random(arm: Arm, task: Task, config: ProbeActionConfig, folder: Path, chosen: dict[str, float], outcome: Outcome) -> None:
    if arm.checkpoint is None:
        outcome.warnings.append(
            "The random-weights baseline is missing: it needs --checkpoint, a server does not tell its shape."
        )
        return
    with ExitStack() as stack:
        opened = baselines.random_backend(stack, arm.checkpoint, config.seed)
        reader = _Reader(opened, task, config, folder / "features", f"random{config.seed}")
        _baseline("random weights", reader.read("plain"), task, config, chosen, outcome)


def _say_what_it_learned(arm: Arm, config: ProbeActionConfig, outcome: Outcome) -> None:
    if arm.checkpoint is None:
        return
    from surg.model.bundle import read_header
    from surg.model.saved import find_bundle

    parts, meta, _ = read_header(find_bundle(arm.checkpoint))
    source = str(meta.get("aux_label", ""))
    if "head.motion_aux" in parts and (config.label.startswith("motion") or source == config.label):
        outcome.warnings.append(
            f"{arm.name} was trained with the motion aux loss, and `{config.label}` comes from the same measured motion: "
            "its gain may be the label learned in training, not a better world model. Judge it on labels of another source."
        )
    if "head.action" in parts and config.label == "action":
        outcome.warnings.append(
            f"{arm.name} holds an action head, so its encoder may have seen action labels in training; its probe score is then not that of "
            "a self-supervised encoder."
        )


def _same_encoder(arm: Arm, first: Arm) -> str:
    """What stands for a difference where both arms have one encoder, by hash, and show it the same clips: the score on val of the arm's own
    heads. Empty for other arms."""
    if arm.checkpoint is None or first.checkpoint is None:
        return ""
    from surg.model.bundle import hash_of, read_header
    from surg.model.checkpoint import load_encoder
    from surg.model.saved import find_bundle

    paths = [find_bundle(path) for path in (first.checkpoint, arm.checkpoint)]
    metas = [read_header(path)[1] for path in paths]
    if metas[0].get("preprocess") != metas[1].get("preprocess"):
        return ""
    base, own = (meta.get("encoder_sha256") or hash_of(load_encoder(path)) for path, meta in zip(paths, metas))
    if base != own:
        return ""
    scores = (metas[1].get("scores") or {}).items()
    told = [f"{name} {value:.3f}" for name, value in scores if name.endswith("_top1") or name == "breach_ap"]
    return "same encoder" + (f"; its head: {', '.join(told)} on val" if told else "")


def write_predictions(path: Path, outcome: Outcome) -> None:
    """Every prediction of every arm, reader and seed, so that any statistic can be worked out again."""
    tables = []
    for p in outcome.predictions:
        for seed, probabilities in enumerate(p.probabilities):
            count = len(p.truth)
            tables.append(
                pa.table(
                    {
                        "arm": [p.arm] * count,
                        "probe": [p.probe] * count,
                        "test": [p.test] * count,
                        "seed": [seed] * count,
                        "clip": p.clips.tolist(),
                        "case": p.cases.tolist(),
                        "truth": [outcome.classes[i] for i in p.truth],
                        "predicted": [outcome.classes[i] for i in probabilities.argmax(1)],
                        "probabilities": probabilities.astype(np.float32).tolist(),
                    }
                )
            )
    table = pa.concat_tables(tables).replace_schema_metadata({"surg.classes": "\n".join(outcome.classes)})
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name)


_WORDS = {"single": "single frame", "shuffled": "shuffled frames"}
