"""Several processes: DDP (each holds everything), or FSDP2 (weights, gradients and moments rest in shards).

What is written is whole in both cases, so that either goes on from the other's checkpoints.

FSDP2's processes must gather and reduce in the same order. Where every clip takes part in the same losses, each block is gathered alone; where
clips differ, one process may encode twice while another does once, so there a step gathers all weights at its beginning.
"""

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import distribute_tensor

from surg.errors import ConfigError
from surg.train import unfreeze
from surg.train.batches import takes_part
from surg.train.config import TrainConfig
from surg.train.drift import Anchor
from surg.train.optim import SelectiveProjection
from surg.train.sources import Draw, Source
from surg.train.teacher import Teacher
from surg.train.trainee import Trainee
from surg.train.whole import whole_state

logger = logging.getLogger(__name__)


class Saved:
    """Trainee and teacher as they are written: themselves, or under FSDP2 whole copies that are filled when asked for."""

    def __init__(self, trainee: Trainee, teacher: Teacher | None, *, sharded: bool, main: bool) -> None:
        self._trainee, self._teacher = trainee, teacher
        self._copies = (
            (copy.deepcopy(trainee).cpu(), None if teacher is None else copy.deepcopy(teacher).cpu())
            if sharded and main
            else None
        )

    def now(self) -> tuple[Trainee, Teacher | None]:
        """Every process must ask; the main one gets something to write."""
        if isinstance(self._trainee, FSDPModule):
            states = whole_state(self._trainee), whole_state(self._teacher)
            if self._copies is not None:
                for module, state in zip(self._copies, states):
                    if module is not None:
                        module.load_state_dict(state)
        return self._copies or (self._trainee, self._teacher)


def is_sharded(config: TrainConfig, accelerator: Accelerator) -> bool:
    """Whether this run shards. Raises ConfigError where it cannot."""
    if config.parallel != "fsdp2":
        return False
    if accelerator.num_processes == 1:
        logger.warning(
            "parallel=fsdp2 with one process: there is nobody to share with. Start several: torchrun --nproc-per-node N -m surg train"
        )
        return False
    if accelerator.mixed_precision == "fp16":
        raise ConfigError(
            "FSDP2 here does not scale fp16's small gradients. Use --set precision=bf16 (or fp32), or parallel=ddp."
        )
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(
            f"FSDP2 with parts that rest in some steps needs torch 2.14; this is {torch.__version__}.\nUse --set parallel=ddp, or a newer torch."
        )
    return True


def same_work(sources: dict[str, Source], classes: tuple[str, ...]) -> bool:
    """Whether every clip takes part in the same losses, whatever process it falls to."""
    tasks = [*sorted({task for source in sources.values() for task in source.config.tasks}), "clear"]
    kinds = {
        tuple(takes_part(task, Draw(name, int(index), ()), sources, classes) for task in tasks)
        for name, source in sources.items()
        for index in source.usable
    }
    return len(kinds) == 1


def shard(
    trainee: Trainee,
    teacher: Teacher | None,
    optimizer: torch.optim.Optimizer,
    anchor: Anchor,
    accelerator: Accelerator,
    *,
    by_block: bool,
) -> None:
    """Split everything over the processes, in place; the optimiser and the anchor follow."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    before = dict(trainee.named_parameters())
    predictor: Any = trainee.predictor
    blocks = [*unfreeze.encoder_blocks(trainee.encoder), *(predictor.predictor_blocks if predictor is not None else ())]
    for block in blocks if by_block else ():
        fully_shard(block, mesh=mesh)
    fully_shard(trainee, mesh=mesh)
    root: Any = trainee
    root.set_reduce_scatter_unused_params(True)
    register_fsdp_forward_method(trainee, "look")
    if teacher is not None:
        for block in unfreeze.encoder_blocks(teacher.encoder) if by_block else ():
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # Without a backward pass nobody else would drop what was gathered, and the next step would ask the teacher of the last one.
        fully_shard(teacher, mesh=mesh, reshard_after_forward=True)
    after = dict(trainee.named_parameters())
    new: dict[Any, Any] = {old: after[name] for name, old in before.items()}
    for group in optimizer.param_groups:
        group["params"] = [new[parameter] for parameter in group["params"]]
    moments = {
        new[old]: {key: _like(new[old], value) for key, value in entry.items()} for old, entry in optimizer.state.items()
    }
    optimizer.state.clear()
    optimizer.state.update(moments)
    for kept in (anchor.start, anchor.fisher):
        kept.update({name: _like(after[f"encoder.{name}"], tensor) for name, tensor in kept.items()})
    if isinstance(optimizer, SelectiveProjection):
        optimizer.anchor({after[f"encoder.{name}"]: tensor for name, tensor in anchor.start.items()})


def _like(parameter: Any, value: Any) -> Any:
    """A tensor of a parameter's shape, split as the parameter is; anything else as it was."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def settle(module: nn.Module) -> None:
    """Back to shards after a pass without gradients: what was gathered would go stale at the next update."""
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()


@contextmanager
def unsynced(accelerator: Accelerator, wrapped: nn.Module) -> Iterator[None]:
    """Gradients stay with their process until the last part of the batch."""
    if not isinstance(wrapped, FSDPModule):
        with accelerator.no_sync(wrapped):
            yield
        return
    wrapped.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        wrapped.set_requires_gradient_sync(True)


@torch.no_grad()
def share_buffers(trainee: Trainee) -> None:
    """Everyone takes the main process's buffers (the queue of InfoNCE), as DDP does."""
    kept = trainee.state_dict()
    for name, buffer in trainee.named_buffers():
        if name in kept:
            dist.broadcast(buffer, 0)


@torch.no_grad()
def drop_unused(trainee: Trainee) -> None:
    """A gradient that is zero everywhere is none: nobody used the weight, and AdamW must not decay it. DDP leaves it out by itself."""
    learning = [parameter for parameter in trainee.parameters() if parameter.grad is not None]
    if not learning:
        return
    sizes = torch.stack(torch._foreach_norm([p.grad.to_local() for p in learning]))  # type: ignore[union-attr]
    dist.all_reduce(sizes, dist.ReduceOp.MAX)
    for parameter, size in zip(learning, sizes.tolist()):
        if size == 0.0:
            parameter.grad = None


def broadcast(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Everyone takes the main process's tensors, in place."""
    for tensor in tensors if accelerator.num_processes > 1 else ():
        dist.broadcast(tensor, 0)


def summed(counts: dict[str, int], device: torch.device, world: int) -> dict[str, int]:
    """Each count over all processes."""
    if world == 1 or not counts:
        return counts
    told = torch.tensor(list(counts.values()), device=device)
    dist.all_reduce(told)
    return dict(zip(counts, told.tolist()))


def averaged(values: dict[str, float], names: Iterable[str], device: torch.device, world: int) -> dict[str, float]:
    """Each value's mean over all processes; one that a process lacks is 0 there. `names`: all that there could be, in everyone's order."""
    if world == 1:
        return values
    listed = list(names)
    told = torch.tensor([[values.get(name, 0.0), float(name in values)] for name in listed], device=device)
    dist.all_reduce(told)
    return {name: total / world for name, (total, there) in zip(listed, told.tolist()) if there}


def anyone(flag: bool, accelerator: Accelerator) -> bool:
    """Whether any process says so: all must stop and save together."""
    if accelerator.num_processes == 1:
        return flag
    said = torch.tensor([float(flag)], device=accelerator.device)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said.item())
