"""Names of models and what belongs to each: sizes, files, preprocessing, licences, memory.

Facts of the released models come from Meta's repository and model cards; memory is computed, not measured (see `memory`).
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from surg.errors import ConfigError
from surg.model.config import EncoderConfig, PredictorConfig

META = "https://dl.fbaipublicfiles.com/vjepa2/"
HUB = "https://huggingface.co/"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

ENCODERS: dict[str, EncoderConfig] = {
    "nano": EncoderConfig(embed_dim=48, depth=4, num_heads=2),
    "tiny": EncoderConfig(embed_dim=192, depth=12, num_heads=3),
    "small": EncoderConfig(embed_dim=384, depth=12, num_heads=6),
    "vitl": EncoderConfig(embed_dim=1024, depth=24, num_heads=16),
    "vith": EncoderConfig(embed_dim=1280, depth=32, num_heads=16),
    "vitg": EncoderConfig(embed_dim=1408, depth=40, num_heads=22, mlp_ratio=48 / 11),
}
_V21: dict[str, Any] = {"rope": "interleaved", "interpolate_rope": True, "image_path": True, "modality_embedding": True}
ENCODERS |= {
    "vitg-384": ENCODERS["vitg"],
    "vjepa2-ac-vitg": ENCODERS["vitg"],
    "vitb-2.1": EncoderConfig(embed_dim=768, depth=12, num_heads=12, levels=(2, 5, 8, 11), **_V21),
    "vitl-2.1": EncoderConfig(embed_dim=1024, depth=24, num_heads=16, levels=(5, 11, 17, 23), **_V21),
    "vitg-2.1": EncoderConfig(embed_dim=1408, depth=40, num_heads=22, mlp_ratio=48 / 11, levels=(9, 19, 29, 39), **_V21),
    "vitgigantic-2.1": EncoderConfig(
        embed_dim=1664, depth=48, num_heads=26, mlp_ratio=64 / 13, levels=(11, 23, 37, 47), **_V21
    ),
}

_P21: dict[str, Any] = {
    "rope": "interleaved", "interpolate_rope": True, "num_mask_tokens": 8, "modality_embedding": True, "context_head": True,
}  # fmt: skip
PREDICTORS: dict[str, PredictorConfig] = {
    "nano": PredictorConfig(embed_dim=48, width=24, depth=2, num_heads=2),
    "tiny": PredictorConfig(embed_dim=192, width=96, depth=6, num_heads=3),
    "small": PredictorConfig(embed_dim=384, width=192, depth=6, num_heads=6),
    "vitl": PredictorConfig(embed_dim=1024),
    "vith": PredictorConfig(embed_dim=1280),
    "vitg": PredictorConfig(embed_dim=1408),
    "vitg-384": PredictorConfig(embed_dim=1408),
    "vitb-2.1": PredictorConfig(embed_dim=768, out_dim=1664, **_P21),
    "vitl-2.1": PredictorConfig(embed_dim=1024, out_dim=1664, **_P21),
    "vitg-2.1": PredictorConfig(embed_dim=1408, levels=4, depth=24, **_P21),
    "vitgigantic-2.1": PredictorConfig(embed_dim=1664, levels=4, depth=24, **_P21),
}


@dataclass(frozen=True)
class Released:
    """Where a released model is, and how its inputs were made."""

    file: str
    """Name under Meta's download folder."""
    key: str
    """Tree to take the encoder from."""
    licence: str
    pixels: int
    frames: int = 64
    fps: float = 4.0
    hub: str | None = None
    """Repository at Hugging Face, where transformers has the model."""

    @property
    def url(self) -> str:
        return META + self.file


_CARD = "MIT or Apache-2.0: see the model card"
RELEASED: dict[str, Released] = {
    "vitl": Released("vitl.pt", "target_encoder", "MIT", 256, hub="facebook/vjepa2-vitl-fpc64-256"),
    "vith": Released("vith.pt", "target_encoder", "Apache-2.0", 256, hub="facebook/vjepa2-vith-fpc64-256"),
    "vitg": Released("vitg.pt", "target_encoder", _CARD, 256, hub="facebook/vjepa2-vitg-fpc64-256"),
    "vitg-384": Released("vitg-384.pt", "target_encoder", _CARD, 384, hub="facebook/vjepa2-vitg-fpc64-384"),
    "vjepa2-ac-vitg": Released("vjepa2-ac-vitg.pt", "encoder", "MIT", 256, frames=8),
    "vitb-2.1": Released("vjepa2_1_vitb_dist_vitG_384.pt", "ema_encoder", "MIT", 384),
    "vitl-2.1": Released("vjepa2_1_vitl_dist_vitG_384.pt", "ema_encoder", "MIT", 384),
    "vitg-2.1": Released("vjepa2_1_vitg_384.pt", "target_encoder", "MIT", 384),
    "vitgigantic-2.1": Released("vjepa2_1_vitG_384.pt", "target_encoder", "MIT", 384),
}


@dataclass(frozen=True)
class Memory:
    """Computed bytes for fp32: weights alone, one clip through the encoder, and one step of masked training."""

    weights: int
    inference: int
    training: int


def encoder_config(name: str) -> EncoderConfig:
    """Settings of a named encoder."""
    return _named(ENCODERS, name)


def name_of(config: EncoderConfig) -> str:
    """Name of an encoder by its settings; of one that has no name, its width and depth."""
    return next((name for name, known in ENCODERS.items() if known == config), f"{config.embed_dim} x {config.depth}")


def predictor_config(name: str) -> PredictorConfig:
    """Settings of the predictor that goes with a named encoder."""
    return _named(PREDICTORS, name)


def released(name: str) -> Released:
    """Files and preprocessing of a released model."""
    return _named(RELEASED, name)


def preprocessing(name: str) -> dict[str, Any]:
    """How the inputs of a released model were made."""
    facts = released(name)
    return {
        "size": facts.pixels, "num_frames": facts.frames, "fps": facts.fps, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD),
    }  # fmt: skip


def parameters(config: EncoderConfig) -> int:
    """Weights of an encoder, counted from its settings."""
    width, hidden = config.embed_dim, round(config.embed_dim * config.mlp_ratio)
    block = 4 * width + 3 * width * width + 3 * width + width * width + width + 2 * width * hidden + hidden + width
    tube = config.in_channels * config.patch_size**2 * width
    embed = tube * (config.tubelet_size + config.image_path) + width * (1 + config.image_path)
    return config.depth * block + embed + 2 * width * config.num_levels + 2 * width * config.modality_embedding


def memory(config: EncoderConfig, pixels: int, frames: int) -> Memory:
    """fp32, one clip. Training: weights, gradients, two Adam moments and the slow target; with gradient checkpointing, one
    block's activations and one token tensor per block for all tokens of the target and a quarter of them in the student."""
    tokens = (frames // config.tubelet_size) * (pixels // config.patch_size) ** 2
    width, hidden = config.embed_dim, round(config.embed_dim * config.mlp_ratio)
    weights = 4 * parameters(config)
    one_block = 4 * tokens * (6 * width + 2 * hidden)
    training = 5 * weights + one_block + 4 * (tokens // 4) * width * config.depth
    return Memory(weights, weights + one_block, training)


T = TypeVar("T")


def _named(table: Mapping[str, T], name: str) -> T:
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"There is no model {name!r}.{hint} Known: {', '.join(table)}.")
    return table[name]
