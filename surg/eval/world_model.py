"""Is the predicted future better than standing still? Errors by horizon, held against simple baselines, so that no shrinking
of the features can win.

Prediction and truth lie in the arm's own feature space; the error is divided by the variance of the truth there (1 is as good as
knowing the mean). To compare arms, a ridge map fitted on train carries each arm's prediction to the features of one fixed teacher.
K tubelets ahead, P places, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.manifest import Clip, Manifest
from surg.data.preprocess import preprocess
from surg.data.sources import read_clip
from surg.errors import DataError, ServerError
from surg.eval import plots
from surg.eval.backends import Backend
from surg.eval.results import Metric, Result, Table
from surg.eval.sterility import roc_area
from surg.metrics.bootstrap import case_sums, how_far_to_trust, interval, ratio_of_sums
from surg.metrics.spread import effective_rank
from surg.serving.contract import Contract

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]


class WorldConfig(Config):
    clips: int = Field(200, ge=2)
    """At most so many clips, spread evenly over the split."""
    split: str = "test"
    """Split that is judged."""
    places: int = Field(64, ge=1)
    """Places of each clip that enter the variances."""
    seed: int = 0
    """Of the draw of places."""


@dataclass(frozen=True)
class Foresight:
    """What was predicted and what came, of C clips."""

    predicted: npt.NDArray[np.float32]
    """(C, K, P, D)"""
    truth: npt.NDArray[np.float32]
    """(C, K, P, D)"""
    last: npt.NDArray[np.float32]
    """(C, P, D): the newest tubelet seen."""
    cases: npt.NDArray[np.str_]
    surprise: npt.NDArray[np.float64]
    """(C, 2): of the clip and of the same clip backwards."""
    actions: npt.NDArray[np.float64] | None = None
    """(C, 2): squared error with the true and with another clip's actions, where the model takes any."""


def foresee(backend: Backend, manifest: Manifest, config: WorldConfig) -> Foresight:
    """Ask for the future of clips long enough to hold it. ServerError without a world model, DataError without such clips."""
    contract = backend.client.contract
    if not contract.has("surg_world"):
        raise ServerError("This model has no predictor, so there is no world model to judge (surg_world is not served).")
    spec = backend.spec
    steps = contract.world_horizons
    tokens = contract.model("surg_encoder").output("tokens").shape[0]
    patches = (spec.size // spec.patch_size) ** 2
    tubelet = spec.num_frames * patches // tokens
    need_s = (spec.num_frames - 1 + steps * tubelet) / spec.fps
    chosen = _spread(
        [clip for clip in manifest.select(config.split).clips() if clip.end_s - clip.start_s >= need_s - 1e-3], config.clips
    )
    if not chosen:
        raise DataError(
            f"No clip of split `{config.split}` lasts {need_s:.2f} s: {spec.num_frames} frames at {spec.fps:g} fps and the {steps} tubelets to foresee.\n"
            "Give longer clips, or a shorter horizon: surg export CHECKPOINT --out REPO --set served.horizon_tubelets=1, then --repository REPO"
        )
    rng = np.random.default_rng(config.seed)
    places = np.sort(rng.choice(patches, min(config.places, patches), replace=False))

    said = _conditions(contract, manifest, chosen, spec.num_frames // tubelet + steps - 1, tubelet)
    acts = said is not None and bool(contract.actions and contract.actions.names)

    def one(index: int) -> tuple[Array, Array, Array, tuple[float, float], tuple[float, float]]:
        clip = chosen[index]
        count = spec.num_frames + steps * tubelet
        read, zone = read_clip(clip, clip.start_s + np.arange(count) / spec.fps, threads=1)
        frames = preprocess(read, spec, zone).frames
        seen = frames[: spec.num_frames]
        done, known = (None, None) if said is None else (said[0][index], said[1][index])
        answer = backend.world(seen, actions=done, states=known)
        reverse = backend.world(np.ascontiguousarray(seen[::-1]))
        if answer.present is not None:
            # An action-conditioned model sees steps one by one: what came is what it sees in the clip that ends there.
            ends = spec.num_frames + tubelet * np.arange(1, steps + 1)
            came = [backend.world(frames[end - spec.num_frames : end]).present for end in ends]
            later = np.stack([step[0] for step in came if step is not None])
            wrong = (0.0, 0.0)
            if acts and said is not None:
                other = backend.world(seen, actions=said[0][_another(chosen, index)], states=known)
                wrong = (float(((answer.future[0] - later) ** 2).mean()), float(((other.future[0] - later) ** 2).mean()))
            surprise = (float(answer.surprise[0]), float(reverse.surprise[0]))
            return answer.future[0][:, places], later[:, places], answer.present[0][places], surprise, wrong
        grid = (-1, patches, answer.future.shape[-1])
        # Truth by the same encoder on later clips, of which only tubelets beyond the clip seen are read.
        pieces = []
        for step in range(0, steps, tokens // patches):
            upto = min(step + tokens // patches, steps)
            end = spec.num_frames + upto * tubelet
            pieces.append(
                normalised(backend.embed(frames[end - spec.num_frames : end]).tokens[0]).reshape(grid)[-(upto - step) :]
            )
        later = np.concatenate(pieces)
        now = normalised(backend.embed(seen).tokens[0]).reshape(grid)[-1]
        return (
            answer.future[0][:, places],
            later[:, places],
            now[places],
            (float(answer.surprise[0]), float(reverse.surprise[0])),
            (0.0, 0.0),
        )

    rows = list(backend.client.map(one, range(len(chosen))))
    predicted, truth, last, surprise, wrong = (np.stack([np.asarray(row[i]) for row in rows]) for i in range(5))
    return Foresight(predicted, truth, last, np.array([clip.case for clip in chosen]), surprise, wrong if acts else None)


def _conditions(
    contract: Contract, manifest: Manifest, clips: Sequence[Clip], steps: int, tubelet: int
) -> tuple[list[Array], list[Array]] | None:
    """Actions and states of each clip, (steps, numbers), as the training read them; None where the model takes none."""
    if contract.actions is None or contract.states is None:
        return None
    from surg.train.worlds import ActionReader  # torch is slow to import, and most models need none of this

    moments = ((1 + np.arange(steps)) * tubelet - 1) / contract.preprocess.fps
    readers = [ActionReader(part.names, manifest.path, clips, like=part) for part in (contract.actions, contract.states)]
    actions, states = ([reader.read(clip, list(clip.start_s + moments)) for clip in clips] for reader in readers)
    return actions, states


def _another(clips: Sequence[Clip], index: int) -> int:
    """The next clip of another case, or just the next one when there is but one case."""
    count = len(clips)
    following = [(index + shift) % count for shift in range(1, count)] or [index]
    return next((other for other in following if clips[other].case != clips[index].case), following[0])


def normalised(tokens: Array) -> Array:
    """Layer-normed without scale and shift, as the predictor's targets are."""
    centred = tokens - tokens.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5))


def unexplained(predicted: Array, truth: Array) -> Array:
    """Squared error over the variance of the truth around its mean, per clip and step: (C, K). 1 is as good as the mean."""
    variance = ((truth - truth.mean(axis=(0, 2), keepdims=True)) ** 2).mean(axis=(0, 2, 3))
    return np.asarray(((predicted - truth) ** 2).mean(axis=(2, 3)) / np.maximum(variance, 1e-12))


def judge(found: Foresight, step_s: float, folder: Path) -> Result:
    """Tables and plots of one arm."""
    result = Result("world-model", "World model")
    steps = found.predicted.shape[1]
    errors = {
        "model": unexplained(found.predicted, found.truth),
        "copy the last": unexplained(np.repeat(found.last[:, None], steps, 1), found.truth),
        "mean of the truth": np.ones(found.predicted.shape[:2]),
    }
    # The best multiple of the prediction tells shrinking from knowing: a prediction that only shrinks gains here.
    scale = (found.predicted * found.truth).sum(axis=(0, 2, 3)) / np.maximum((found.predicted**2).sum(axis=(0, 2, 3)), 1e-12)
    rows = []
    for step in range(steps):
        cells = [f"{(step + 1) * step_s:.2f} s"]
        for name, values in errors.items():
            sums, counts = case_sums(values[:, step], found.cases)
            metric = Metric.of(interval(ratio_of_sums(sums, counts), len(sums)), better="lower")
            if name != "mean of the truth":
                result.metrics[f"{name.replace(' ', '-')}/unexplained@{step + 1}"] = metric
            cells.append(str(metric))
        skill = 1 - errors["model"][:, step].mean() / errors["copy the last"][:, step].mean()
        result.metrics[f"model/skill@{step + 1}"] = Metric(float(skill))
        rows.append([*cells, f"{skill:+.3f}", f"{scale[step]:.3f}"])
    note = (
        "Squared error over the variance of what came: 1 is as good as knowing the mean, 0 is perfect; features that shrink gain nothing. "
        "Skill is the share of copy-last's error that is gone. Best scale near 1: the prediction is neither shrunk nor blown up."
    )
    result.tables.append(
        Table("Error by horizon", ["ahead", "model", "copy the last", "mean", "skill", "best scale"], rows, note)
    )
    _drift_and_arrow(found, result)
    x = np.arange(1, steps + 1) * step_s
    lines = {name: (x, values.mean(0)) for name, values in errors.items()}
    result.plots.append(
        plots.curves(
            lines, folder / "plots", "world_error", "Unexplained variance by horizon", "seconds ahead", "unexplained variance"
        )
    )
    first = result.metrics["model/unexplained@1"]
    result.headline = f"One step ahead {first} of the variance stays unexplained; copying the last tubelet leaves {result.metrics['copy-the-last/unexplained@1']}."
    trust = how_far_to_trust(len(set(found.cases.tolist())))
    if trust:
        result.warnings.append(trust)
    if found.actions is not None:
        _action_sensitivity(found, found.actions, result)
    else:
        result.limits.append(
            "This world model takes no actions, or does not say which; action sensitivity (shuffled actions must hurt) does not apply to it."
        )
    return result


def teacher_error(predicted: Array, teacher: Array, cases: npt.NDArray[np.str_], *, ridge: float = 1.0) -> Metric:
    """How well an arm's predicted future tells a fixed teacher's features of that future, by a ridge map fitted on other cases.

    predicted: (C, D) mean over places of the arm's prediction; teacher: (C, E) the teacher's features of the same moment.
    Two-fold over cases; 1 is as good as the teacher's mean.
    """
    from sklearn.linear_model import Ridge

    names = np.unique(cases)
    if len(names) < 2:
        return Metric(float("nan"), better="lower")
    fold = np.isin(cases, names[::2])
    values = np.zeros(len(cases))
    for held in (fold, ~fold):
        x, mean, std = predicted, predicted[~held].mean(0), predicted[~held].std(0) + 1e-6
        model = Ridge(alpha=ridge * int((~held).sum())).fit((x[~held] - mean) / std, teacher[~held])
        wrong = ((model.predict((x[held] - mean) / std) - teacher[held]) ** 2).mean(1)
        values[held] = wrong / max(float(((teacher[held] - teacher[~held].mean(0)) ** 2).mean()), 1e-12)
    sums, counts = case_sums(values, cases)
    return Metric.of(interval(ratio_of_sums(sums, counts), len(sums)), better="lower")


def _drift_and_arrow(found: Foresight, result: Result) -> None:
    flat = found.predicted.mean(2)
    truth = found.truth.mean(2)
    rows = []
    for step in range(flat.shape[1]):
        rank, true_rank = effective_rank(flat[:, step]), effective_rank(truth[:, step])
        length = float(
            np.linalg.norm(found.predicted[:, step], axis=-1).mean() / np.linalg.norm(found.truth[:, step], axis=-1).mean()
        )
        rows.append([str(step + 1), f"{rank:.1f}", f"{true_rank:.1f}", f"{length:.3f}"])
        result.metrics[f"model/rank@{step + 1}"] = Metric(rank)
    note = "A prediction that drifts to the mean loses rank and length with every step."
    result.tables.append(
        Table("Roll-out drift", ["step", "effective rank", "of the truth", "length over the truth's"], rows, note)
    )
    y = np.repeat([0.0, 1.0], len(found.surprise))
    arrow = roc_area(y, found.surprise.T.ravel())
    sums, counts = case_sums(_more(found.surprise[:, 1], found.surprise[:, 0]), found.cases)
    more = Metric.of(interval(ratio_of_sums(sums, counts), len(sums), bounds=(0, 1)))
    result.metrics |= {"arrow/auroc": Metric(arrow), "arrow/paired": more}
    note = "Surprise of each clip played backwards against forwards: 0.5 says that the model does not know which way time runs."
    result.tables.append(
        Table(
            "Arrow of time",
            ["", "value"],
            [["AUROC over clips", f"{arrow:.3f}"], ["share of clips more surprising backwards", str(more)]],
            note,
        )
    )


def _action_sensitivity(found: Foresight, errors: Array, result: Result) -> None:
    own, others = errors[:, 0], errors[:, 1]
    sums, counts = case_sums(_more(others, own), found.cases)
    share = Metric.of(interval(ratio_of_sums(sums, counts), len(sums), bounds=(0, 1)))
    gain = Metric(float(others.sum() / max(own.sum(), 1e-12) - 1))
    result.metrics |= {"actions/paired": share, "actions/worse-by": gain}
    rows = [
        ["share of clips foreseen worse with another clip's actions (chance 0.5)", str(share)],
        ["squared error with another clip's actions over that with the true ones, less 1", f"{gain.value:+.4f}"],
    ]
    note = "A model that reads its actions is worse with wrong ones; one that ignores them is not."
    result.tables.append(Table("Action sensitivity", ["", "value"], rows, note))


def _more(a: Array, b: Array) -> Array:
    """1 where a is more, 0 where it is less, a half where they are equal: what cannot tell the two gets chance, not nothing."""
    return np.asarray((np.sign(a - b) + 1) / 2)


def _spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    if len(clips) <= count:
        return list(clips)
    return [clips[int(index)] for index in np.linspace(0, len(clips) - 1, count)]
