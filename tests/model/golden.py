"""Reads the golden files and builds the models they belong to."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surg.model.config import EncoderConfig, PredictorConfig
from tests.golden.make import read

FOLDER = Path(__file__).parent.parent / "golden"
TOLERANCE = 5e-5

V2 = EncoderConfig(embed_dim=48, depth=2, num_heads=2)
V2_PREDICTOR = PredictorConfig(embed_dim=48, width=24, depth=2, num_heads=2)
V21 = EncoderConfig(
    embed_dim=24, depth=12, num_heads=2, rope="interleaved", interpolate_rope=True, levels=(2, 5, 8, 11), image_path=True,
    modality_embedding=True,
)  # fmt: skip


def golden(name: str) -> dict[str, Tensor]:
    """Every array of one golden file as a tensor."""
    return {key: torch.from_numpy(array) for key, array in read(FOLDER / f"{name}.xz").items()}


def weights(name: str) -> dict[str, Tensor]:
    """The state dict in a golden file."""
    return {key.removeprefix("weights/"): tensor for key, tensor in golden(name).items() if key.startswith("weights/")}


def meta_checkpoint(parts: dict[str, str]) -> dict[str, Any]:
    """A checkpoint in the layout of Meta's files: `{"target_encoder": "v2_target_encoder"}`, keys as DDP leaves them."""
    trees = {part: {f"module.backbone.{key}": tensor for key, tensor in weights(name).items()} for part, name in parts.items()}
    return {**trees, "opt": {"state": {}, "param_groups": []}, "scaler": None, "epoch": 3, "loss": 0.5, "lr": 5e-4}


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())
