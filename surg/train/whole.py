"""Sharded tensors, whole: under FSDP2 a parameter lies in parts on all processes, and every process must ask for it together."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def whole(value: Any) -> Any:
    """The full tensor of a sharded one; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def at_rest(value: Any) -> Any:
    """The full tensor of a sharded one, in the main process's memory: a GPU that needs its neighbours has no room for the whole, and a
    machine none for one of each process. Nothing in the other processes, which must ask all the same. Anything else as it is."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if dist.get_rank() == 0 else torch.empty(0)


def whole_state(module: nn.Module | None) -> dict[str, Tensor]:
    """A module's state dict with full tensors, those that were sharded as `at_rest` has them."""
    return {} if module is None else {name: at_rest(tensor) for name, tensor in module.state_dict().items()}
