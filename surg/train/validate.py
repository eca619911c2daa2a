"""Scores on clips of the validation split: the losses, and what they stand for."""

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from surg.train import masks
from surg.train.batches import Batch, Reading, read_batch
from surg.train.config import TrainConfig
from surg.train.losses import weighted_sum
from surg.train.parallel import settle
from surg.train.sources import Draw, Source
from surg.train.teacher import Teacher
from surg.train.trainee import Targets, Trainee


@torch.no_grad()
def validate(
    trainee: Trainee,
    teacher: Teacher | None,
    held_out: dict[str, Source],
    reading: Reading,
    config: TrainConfig,
    accelerator: Accelerator,
    parts: int = 1,
) -> dict[str, float]:
    """Mean losses over the same clips, windows and masks every time; top-1 of the action and of the motion class, average precision of the breach.

    Every process looks at whole batches, in `parts`: with as many as a training step has over all processes, it needs no more memory.

    Empty when no clip of val has what a loss needs, a measured motion for example.
    """
    trainee.eval()
    still = Reading(**{**reading.__dict__, "training": False, "features": 0})
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    classes: dict[str, list[npt.NDArray[np.bool_]]] = {"action": [], "motion_aux": []}
    breach: list[npt.NDArray[np.float64]] = []
    weights = config.loss.weights.model_dump()
    for number, draws in enumerate(validation_draws(held_out, config)):
        batch = read_batch(draws, held_out, still).to(accelerator.device)
        torch.manual_seed(number)
        values, answers = _scored(trainee, teacher, batch, config, number, accelerator, min(parts, len(batch)))
        for name, value in values.items():
            rows = len(batch)
            sums[name] = sums.get(name, 0.0) + value * rows
            counts[name] = counts.get(name, 0) + rows
        for name in classes.keys() & answers.keys():
            known = torch.isfinite(answers[name][:, 0]) & (batch.action >= 0)
            classes[name].append((answers[name].argmax(1) == batch.action)[known].cpu().numpy())
        if "breach" in answers:
            known = torch.isfinite(batch.breach[:, 0]) & torch.isfinite(answers["breach"][:, 0])
            breach.append(
                torch.stack([answers["breach"][known, 0].cpu().double(), batch.breach[known, 0].cpu().double()], 1).numpy()
            )
    trainee.train()
    settle(trainee)
    scores = {name: sums[name] / counts[name] for name in sums}
    if not scores:
        return {}
    total = weighted_sum({name: torch.tensor(value) for name, value in scores.items()}, weights)
    out = {"loss": float(total), **scores}
    for name, found in classes.items():
        if found and len(right := np.concatenate(found)):
            out[f"{name}_top1"] = float(right.mean())
    if breach and len(scored := np.concatenate(breach)):
        out["breach_ap"] = average_precision(scored[:, 0], scored[:, 1])
        out["breach_prior"] = float(scored[:, 1].mean())
    answered = [out[name] for name in ("action_top1", "breach_ap") if np.isfinite(out.get(name, np.nan))]
    if answered:
        out["score"] = float(np.mean(answered))
    return out


def validation_draws(held_out: dict[str, Source], config: TrainConfig) -> list[list[Draw]]:
    """Up to `val_batches` batches, spread evenly over each source's clips; one source a batch."""
    per_source = max(1, config.val_batches // max(1, len(held_out)))
    out: list[list[Draw]] = []
    for number, (name, source) in enumerate(held_out.items()):
        wanted = min(len(source.usable), per_source * config.batch_size)
        chosen = source.usable[np.unique(np.linspace(0, len(source.usable) - 1, wanted).astype(int))]
        draws = [Draw(name, int(index), (config.seed, 0, number, int(index))) for index in chosen]
        out += [draws[first : first + config.batch_size] for first in range(0, len(draws), config.batch_size)]
    return out


def average_precision(score: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    """Area under precision over recall, as a step function. NaN without positives."""
    if not truth.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits = truth[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def _scored(
    trainee: Trainee, teacher: Teacher | None, batch: Batch, config: TrainConfig, number: int, accelerator: Accelerator, parts: int
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:  # fmt: skip
    """Losses of one batch and the heads' logits, however many parts it is taken in."""
    members = {task: int(rows.sum()) for task, rows in batch.tasks.items()} | batch.answers()

    def scale(task: str, rows: torch.Tensor) -> float:
        return int(rows.sum()) / max(1, members[task])

    predicts = teacher is not None and "jepa" in batch.tasks and bool(batch.tasks["jepa"].any())
    shape = trainee.grid(batch.frames.permute(0, 4, 1, 2, 3))
    drawn = masks.draw_masks(config.masks, shape, len(batch), config.seed + 1, number, batch.flow) if predicts else []
    values: dict[str, float] = {}
    answers: dict[str, torch.Tensor] = {}
    for first in range(parts):
        part = slice(first, None, parts)
        piece, found = batch[part], dict[str, torch.Tensor]()
        mine = [(seen[part].to(piece.frames.device), hidden[part].to(piece.frames.device)) for seen, hidden in drawn]
        with accelerator.autocast():
            latents = None
            if teacher is not None and predicts and bool((rows := piece.tasks["jepa"]).any()):
                latents = teacher(trainee.normalise(piece.frames[rows]))
            # The context loss counts whole, however far its ramp is: or each validation would be measured by another yardstick.
            losses = trainee(piece, Targets(latents, mine, step=config.loss.context_ramp[1]), scale, found)
        for name, value in losses.items():
            values[name] = values.get(name, 0.0) + float(value)
        for name, logits in found.items():
            whole = answers.setdefault(name, logits.new_full((len(batch), logits.shape[1]), torch.nan))
            whole[part] = logits
    return values, answers
