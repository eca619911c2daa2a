"""After training, on val alone: what a breach's score means, and from which score on to alarm.

A scale and a bias, one for all horizons, make the sterility head's logits as likely as they can be on val. They are folded into the head's last
weights, so that whatever reads the bundle (export, server, demo) is calibrated without knowing of it. Thresholds go into the bundle's meta.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from surg.metrics.calibration import expected_calibration_error, f1_threshold, fit_platt, fit_temperature
from surg.metrics.detection import AlarmRule, Take, Tolerance, event_curve, recall_at
from surg.model.bundle import Bundle, load_bundle, save_bundle
from surg.model.heads import SterilityHead
from surg.train.batches import Reading, read_batch
from surg.train.config import CalibrateConfig
from surg.train.sources import Draw, Source
from surg.train.trainee import Trainee

logger = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]
# Fewer answers than this, or of one kind only, say nothing about a threshold.
FEWEST = 20


@dataclass(frozen=True)
class Looked:
    """One val clip, a window every so often: W windows, H horizons."""

    times_s: Floats
    logits: Floats
    """(W, H)."""
    truth: Floats
    """(W, H), NaN: not known."""
    events: tuple[tuple[float, float], ...]


def calibrate_bundle(
    path: Path,
    trainee: Trainee,
    held_out: dict[str, Source],
    reading: Reading,
    config: CalibrateConfig,
    accelerator: Accelerator,
) -> dict[str, Any] | None:
    """Calibrate the sterility head of a bundle in place and add `thresholds` and `calibration` to its meta; None when val cannot tell."""
    bundle = load_bundle(path)
    head = bundle.heads.get("sterility")
    if not isinstance(head, SterilityHead) or bundle.encoder is None:
        return None
    if earlier := bundle.meta.get("calibration"):
        # A finished run that is resumed. What is recorded must lead from the scores as they were trained to those that are served.
        fold(head, 1 / earlier["scale"], -earlier["bias"] / earlier["scale"])
    looked = look(bundle.encoder, head, trainee, held_out, reading, config, accelerator)
    logits = np.concatenate([clip.logits.ravel() for clip in looked]) if looked else np.zeros(0)
    truth = np.concatenate([clip.truth.ravel() for clip in looked]) if looked else np.zeros(0)
    known = np.isfinite(truth)
    if known.sum() < FEWEST or len(set(truth[known].tolist())) < 2:
        logger.warning(
            "the sterility head is not calibrated: val has %d answers (%d yes); at least %d of both kinds are needed. "
            "Alarms begin at 0.5, which nobody chose",
            int(known.sum()), int((truth[known] > 0).sum()), FEWEST,
        )  # fmt: skip
        return None
    scale, bias = fit(logits[known], truth[known], config.method)
    before, after = (
        expected_calibration_error(_sigmoid(values), truth[known]) for values in (logits[known], scale * logits[known] + bias)
    )
    thresholds = {
        name_of(horizon, first=not place): choose(looked, place, scale, bias, config)
        for place, horizon in enumerate(head.horizons_s)
    }
    fold(head, scale, bias)
    found = {
        "thresholds": thresholds,
        "calibration": {
            "method": config.method, "scale": scale, "bias": bias, "split": "val", "clips": len(looked), "answers": int(known.sum()),
            "chosen_by": config.threshold if config.threshold == "f1" else f"{config.false_per_hour:g} false alarms an hour",
            "ece_before": round(float(before), 4), "ece_after": round(float(after), 4),
        },
    }  # fmt: skip
    save_bundle(path, _parts(bundle), bundle.config, {**bundle.meta, **found})
    logger.info(
        "%s: breach scores calibrated on %d val clips (logit x %.3f %+.3f, ECE %.3f -> %.3f); alarms from %s",
        path.name, len(looked), scale, bias, before, after, ", ".join(f"{name} {value:.3f}" for name, value in thresholds.items()),
    )  # fmt: skip
    return found


def name_of(horizon_s: float, *, first: bool) -> str:
    """`breach` for the first horizon (now), `breach@2s` for later ones: the names that the server's contract knows."""
    return "breach" if first else f"breach@{horizon_s:g}s"


def fit(logits: Floats, truth: Floats, method: str) -> tuple[float, float]:
    """Scale and bias of the logits."""
    if method == "platt":
        return fit_platt(logits, truth)
    return (1 / fit_temperature(logits, truth), 0.0) if method == "temperature" else (1.0, 0.0)


def choose(looked: list[Looked], place: int, scale: float, bias: float, config: CalibrateConfig) -> float:
    """The calibrated score from which an alarm begins, for one horizon."""
    takes = [Take(clip.times_s, _sigmoid(scale * clip.logits[:, place] + bias), clip.events) for clip in looked]
    if config.threshold == "false_alarms":
        curve = event_curve(takes, AlarmRule(0.5), Tolerance(), points=200)
        if any(take.events for take in takes):
            point = recall_at(curve, config.false_per_hour)
            if point is not None:
                return point.threshold
            # Val may be so short that its highest score alone is too many an hour: then above it, as a lower one would alarm more often.
            every = np.concatenate([take.scores for take in takes])
            judged = any(np.isfinite(found.recall) and np.isfinite(found.false_per_hour) for found in curve)
            if not judged:
                return float(np.quantile(every, 0.995))
            hours = sum(take.hours for take in takes)
            logger.warning(
                "no threshold on val gives at most %g false alarms an hour (one in its %.2f h is %.1f an hour): the alarm's stands above all "
                "of its scores, and the model may never alarm. Give longer val takes, or allow more: --set calibrate.false_per_hour=N",
                config.false_per_hour, hours, 1 / hours,
            )  # fmt: skip
            return float(np.nextafter(every.max(), np.inf))
    scores, truth = np.concatenate([take.scores for take in takes]), np.concatenate([clip.truth[:, place] for clip in looked])
    known = np.isfinite(truth)
    return f1_threshold(scores[known], truth[known])


@torch.no_grad()
def fold(head: SterilityHead, scale: float, bias: float) -> None:
    """logits -> scale * logits + bias, in the weights. The map keeps its own scale."""
    head.answer.weight.mul_(scale)
    head.answer.bias.mul_(scale).add_(bias)
    head.evidence.mul_(scale)


@torch.no_grad()
def look(
    encoder: nn.Module, head: SterilityHead, trainee: Trainee, held_out: dict[str, Source], reading: Reading, config: CalibrateConfig,
    accelerator: Accelerator,
) -> list[Looked]:  # fmt: skip
    """Windows over up to `clips` val clips whose breaches are known. `trainee` only says how frames become a clip."""
    encoder.to(accelerator.device)
    head.to(accelerator.device)
    plain = replace(
        reading, training=False, second_view=False, with_flow=False, features=0, cached=False, horizons_s=head.horizons_s
    )
    found = []
    for name, source in held_out.items():
        numbers = [int(number) for number in source.usable if int(number) in source.breaches]
        for place in (
            np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), config.clips)).astype(int)) if numbers else ()
        ):
            number = numbers[place]
            clip, last = source.clips[number], source.count(number) - 1
            step = max(1, round(config.stride_s * reading.data.fps))
            ends = list(range(last, min(reading.num_frames, last + 1) - 2, -step))[::-1]
            logits, truth = [], []
            for first in range(0, len(ends), 8):
                some = ends[first : first + 8]
                batch = read_batch([Draw(name, number, (0, number))] * len(some), {name: source}, plain, some).to(
                    accelerator.device
                )
                frames = trainee.normalise(batch.frames)
                with accelerator.autocast():
                    answers, _ = head(encoder(frames), trainee.grid(frames), batch.zone)
                logits.append(answers.cpu().double().numpy())
                truth.append(batch.breach.cpu().double().numpy())
            times = clip.start_s + np.array(ends) / reading.data.fps
            found.append(Looked(times, np.concatenate(logits), np.concatenate(truth), source.breaches[number].spans))
    encoder.cpu()
    head.cpu()
    return found


def _parts(bundle: Bundle) -> dict[str, nn.Module]:
    return {name: bundle.part(name) for name in bundle.config}


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
