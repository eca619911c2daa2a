"""Halve a checkpoint for shipping, and measure what the rounding changed."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from surg.errors import CheckpointError
from surg.model.bundle import Bundle, check_weights_name, hash_of, load_bundle, save_bundle
from surg.model.saved import find_bundle

LIMIT = 0.02
"""Largest change of a token, relative to the tokens' spread, that passes."""


@dataclass(frozen=True)
class Packed:
    path: Path
    size: int
    change: float
    sha256: str


def pack(source: Path | str, target: Path) -> Packed:
    """Write `source` with fp16 numbers. Raises CheckpointError, and leaves nothing, when the encoder then says something else."""
    check_weights_name(target)
    bundle = load_bundle(find_bundle(source))
    if bundle.encoder is None:
        raise CheckpointError(f"{source} holds no encoder: there is nothing to ship.")
    parts = _parts(bundle)
    rounded = {key: value.half().to(value.dtype) for key, value in bundle.encoder.state_dict().items()}
    before = _tokens(bundle.encoder)
    bundle.encoder.load_state_dict(rounded)
    after = _tokens(bundle.encoder)
    change = float((after - before).abs().max() / before.std())
    if not change < LIMIT:
        raise CheckpointError(
            f"fp16 changes the tokens of {source} by {change:.2e} of their spread; at most {LIMIT} passes. Ship it unrounded."
        )
    meta = {**bundle.meta, "encoder_sha256": hash_of(bundle.encoder), "packed_from": bundle.sha256}
    settings = {name: bundle.config[name] for name in parts}
    sha256 = save_bundle(target, parts, settings, meta, halved=True)
    return Packed(target, target.stat().st_size, change, sha256)


def _parts(bundle: Bundle) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module | None] = {"encoder": bundle.encoder, "predictor": bundle.predictor, "world": bundle.world}
    parts |= {f"head.{name}": head for name, head in bundle.heads.items()}
    return {name: part for name, part in parts.items() if part is not None}


def _tokens(encoder: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        tokens: torch.Tensor = encoder(torch.randn(2, 3, 8, 64, 64, generator=generator))
    return tokens
