"""Sharded tensors, whole: under FSDP2 a parameter lies in parts on all processes, and every process must ask for it together."""

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def whole(value: Any) -> Any:
    """The full tensor of a sharded one; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def at_rest(value: Any) -> Any:
    """The full tensor of a sharded one, in the CPU's memory: a GPU that needs its neighbours has no room for the whole. Anything else as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def whole_state(module: nn.Module | None) -> dict[str, Tensor]:
    """A module's state dict with full tensors, those that were sharded on the CPU."""
    return {} if module is None else {name: at_rest(tensor) for name, tensor in module.state_dict().items()}
