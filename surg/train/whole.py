"""Sharded tensors, whole: under FSDP2 a parameter lies in parts on all processes, and every process must ask for it together."""

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def whole(value: Any) -> Any:
    """The full tensor of a sharded one; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(module: nn.Module | None) -> dict[str, Tensor]:
    """A module's state dict with full tensors."""
    return {} if module is None else {name: whole(tensor) for name, tensor in module.state_dict().items()}
