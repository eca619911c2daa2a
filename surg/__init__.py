"""V-JEPA 2 video world models for the operating room."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surg.model.checkpoint import load_encoder, load_predictor
    from surg.serving.client import connect

__all__ = ["connect", "load_encoder", "load_predictor"]

_HOMES = {"load_encoder": "surg.model.checkpoint", "load_predictor": "surg.model.checkpoint", "connect": "surg.serving.client"}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import surg` stays quick and the client side never pulls in torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'surg' has no attribute {name!r}")
