"""V-JEPA 2 video world models for the operating room."""

import os
from typing import TYPE_CHECKING, Any

# onnxruntime's wheels from 1.29 on send events to their maker unless told not to before they are first used (its docs/Privacy.md);
# Ray asks for usage statistics. What runs beside patients tells nobody that it runs.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

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
