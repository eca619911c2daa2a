"""The gradients of one step: a batch forward and backward, in parts where it does not fit, and EWC's look at them before the first."""

import logging
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from surg.advice import quoted
from surg.errors import RunError
from surg.train import drift, masks, parallel
from surg.train.batches import Batch, Reading, read_batch, takes_part
from surg.train.config import TrainConfig
from surg.train.device import SMALLER
from surg.train.losses import weighted_sum
from surg.train.sources import Draw, Sampler, Source
from surg.train.teacher import Teacher
from surg.train.trainee import Targets, Trainee

logger = logging.getLogger(__name__)


def gradients(
    accelerator: "Accelerator | Alone", wrapped: nn.Module, trainee: Trainee, teacher: Teacher | None, batch: Batch, draws: list[Draw],
    config: TrainConfig, step: int, parts: int, sources: dict[str, Source], weights: dict[str, float], classes: tuple[str, ...],
) -> dict[str, float]:  # fmt: skip
    """Forward and backward of one batch, in `parts`; the gradients are those of the whole batch over all processes."""
    trainee.train()
    world, rank = int(accelerator.num_processes), int(accelerator.process_index)
    members = {task: sum(takes_part(task, draw, sources, classes) for draw in draws) for task in [*batch.tasks, "clear"]}
    # Which horizons are known depends on where a window ended: only the process that read a clip can say.
    members |= parallel.summed(batch.answers(), batch.frames.device, world)

    def scale(task: str, rows: Tensor) -> float:
        # Mean over these rows -> this part's share of the mean over all rows; DDP then averages over processes.
        return int(rows.sum()) * world / max(1, members[task])

    shape = trainee.grid(batch.frames.permute(0, 4, 1, 2, 3))
    mine: masks.Masks = []
    if teacher is not None and config.masks.kind == "mgmae":
        mine = masks.draw_masks(config.masks, shape, len(batch), config.seed + rank, step, batch.flow)
    elif teacher is not None:
        mine = [
            (a[rank::world], b[rank::world]) for a, b in masks.draw_masks(config.masks, shape, len(draws), config.seed, step)
        ]
    mine = [(seen.to(batch.frames.device), hidden.to(batch.frames.device)) for seen, hidden in mine]
    sums: dict[str, float] = {}
    for number in range(parts):
        torch.manual_seed(hash((config.seed, step, number, rank)) % 2**63)
        part = slice(number, None, parts)
        piece = batch[part]
        together = nullcontext() if number == parts - 1 else parallel.unsynced(accelerator, wrapped)
        with together, accelerator.autocast():
            latents = None
            if teacher is not None and "jepa" in piece.tasks:
                rows = piece.tasks["jepa"]
                if isinstance(teacher, FSDPModule) and not bool(rows.any()):
                    teacher(trainee.normalise(piece.frames[:1]))  # all processes gather it together
                elif bool(rows.any()):
                    latents = teacher(trainee.normalise(piece.frames[rows]))
            targets = Targets(latents, [(seen[part], hidden[part]) for seen, hidden in mine], step)
            losses = wrapped(piece, targets, scale)
            nothing = losses.pop("nothing", None)
            accelerator.backward(weighted_sum(losses, weights) if nothing is None else nothing)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    # Each process has its share of the batch's means, as large as there are processes: their mean is the batch's loss.
    return parallel.averaged(sums, weights, batch.frames.device, world)


def split_further(error: BaseException, config: TrainConfig, parts: int, world: int, out: Path) -> int:
    """More parts, while they come out even; else RunError with what fits."""
    mine = config.batch_size // world
    larger = next((n for n in range(parts + 1, mine + 1) if mine % n == 0), None)
    if larger is None:
        raise RunError(f"Out of memory with a single clip at a time ({str(error).splitlines()[0]}).\n{SMALLER}") from error
    if world > 1:
        # The others are in the middle of this step and wait for this process's gradients: it cannot begin the step again.
        raise RunError(
            f"Out of memory ({str(error).splitlines()[0]}).\n"
            f"Split the batch, its gradients stay the same: --set accumulate={larger}, with --resume {quoted(out)} where it has saved already."
        ) from error
    logger.warning(
        "out of memory: the batch is split into %d parts of %d clips (its gradients stay the same)", larger, mine // larger
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return larger


def estimate_fisher(
    config: TrainConfig,
    trainee: Trainee,
    teacher: Teacher | None,
    sampler: Sampler,
    sources: dict[str, Source],
    reading: Reading,
    anchor: drift.Anchor,
    accelerator: Accelerator,
) -> None:
    """EWC: squared gradients of the run's own losses, over a few batches. Every process looks at all of them.

    Clip by clip, as Kirkpatrick et al. (2017) have it: in a batch's mean the clips' gradients cancel, and what is left of its square
    falls with the batch's size.
    """
    weights, alone = config.loss.weights.model_dump(), Alone(accelerator)
    count = config.drift.fisher_batches * config.batch_size
    for number in range(1, config.drift.fisher_batches + 1):
        for place, draw in enumerate(sampler.draw(number)):
            batch = read_batch([draw], sources, reading).to(accelerator.device)
            step = (number - 1) * config.batch_size + place + 1  # a mask of its own
            gradients(alone, trainee, trainee, teacher, batch, [draw], config, step, 1, sources, weights, reading.classes)
            anchor.add_fisher(trainee.encoder, 1 / count)
            trainee.zero_grad(set_to_none=True)
    # What pulls must be the same to the bit everywhere, or the processes' weights part.
    parallel.broadcast(anchor.fisher.values(), accelerator)


class Alone:
    """The accelerator as one process sees it that shares its step with nobody; its gradients are not scaled."""

    num_processes, process_index = 1, 0

    def __init__(self, accelerator: Accelerator) -> None:
        self.autocast = nullcontext if accelerator.mixed_precision == "fp16" else accelerator.autocast

    def no_sync(self, _: nn.Module) -> nullcontext[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
