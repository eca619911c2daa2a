"""Read a model's settings off its tensors. What no tensor shows, the head count, comes from the zoo or from the caller."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from surg.config import Config, validate
from surg.errors import CheckpointError
from surg.model import zoo
from surg.model.config import EncoderConfig, FactorizedConfig, PredictorConfig, WorldConfig
from surg.model.encoder import encoder_config_from

# Blocks after which 2.1 takes its levels, by depth, as in the released models.
LEVELS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}

Tree = Mapping[str, Tensor]


def read_encoder(tree: Tree, given: Mapping[str, Any], where: str) -> EncoderConfig | FactorizedConfig:
    """Settings of the encoder in `tree`; `given` adds what it does not show and must not contradict it."""
    width, channels, tubelet, patch, _ = tree["patch_embed.proj.weight"].shape
    if any(key.startswith("spatial_blocks.") for key in tree):
        hidden = _rows(tree, "spatial_blocks.0.mlp.fc1.weight", where)
        found: dict[str, Any] = {
            "kind": "factorized", "embed_dim": width, "spatial_depth": count(tree, "spatial_blocks"), "mlp_ratio": hidden / width,
            "temporal_depth": count(tree, "temporal_blocks"), "patch_size": patch, "tubelet_size": tubelet, "in_channels": channels,
        }  # fmt: skip
        return encoder_config_from(_with_heads(found, given, _factorized_heads(found), where))
    depth, levels = count(tree, "blocks"), count(tree, "norms_block")
    found = {
        "kind": "joint", "embed_dim": width, "depth": depth, "patch_size": patch, "tubelet_size": tubelet,
        "in_channels": channels, **_hidden(tree, "blocks.0", width, where),
        "image_path": "patch_embed_img.proj.weight" in tree, "modality_embedding": "video_mod_embed" in tree,
    }  # fmt: skip
    if levels:  # V-JEPA 2.1: its norms show the version, and the version its rotary layout
        even = tuple(depth * (index + 1) // levels - 1 for index in range(levels))
        found |= {"levels": LEVELS.get(depth, even) if levels == 4 else even}
        given = {"rope": "interleaved", "interpolate_rope": True, **given}
    heads = {config.num_heads for config in zoo.ENCODERS.values() if (config.embed_dim, config.depth) == (width, depth)}
    return encoder_config_from(_with_heads(found, given, heads, where))


def read_predictor(tree: Tree, given: Mapping[str, Any], where: str) -> PredictorConfig:
    """Settings of the predictor in `tree`. 2.1's positions are stretched as in training; its hub entry does not do that."""
    width, depth = tree["predictor_norm.weight"].shape[0], count(tree, "predictor_blocks")
    if "predictor_embed.weight" in tree:
        embed_dim, levels = tree["predictor_embed.weight"].shape[1], 1
    else:
        embed_dim = tree["predictor_embed.0.weight"].shape[0]
        levels = tree["predictor_embed.0.weight"].shape[1] // embed_dim
    out_dim = _rows(tree, "predictor_proj.weight", where)
    found = {
        "embed_dim": embed_dim, "levels": levels, "out_dim": None if out_dim == levels * embed_dim else out_dim, "width": width,
        "depth": depth, "mlp_ratio": _rows(tree, "predictor_blocks.0.mlp.fc1.weight", where) / width,
        "num_mask_tokens": count(tree, "mask_tokens"), "context_head": "predictor_proj_context.weight" in tree,
        "modality_embedding": "video_mod_embed" in tree,
    }  # fmt: skip
    if found["modality_embedding"]:
        given = {"rope": "interleaved", "interpolate_rope": True, **given}
    heads = {config.num_heads for config in zoo.PREDICTORS.values() if config.width == width}
    return validate(PredictorConfig, _with_heads(found, given, heads, where))


def read_world(tree: Tree, given: Mapping[str, Any], where: str) -> WorldConfig:
    """Settings of an action-conditioned predictor."""
    width, embed_dim = tree["predictor_embed.weight"].shape
    extrinsics = tree["extrinsics_encoder.weight"].shape[1] if "extrinsics_encoder.weight" in tree else 0
    found = {
        "embed_dim": embed_dim, "width": width, "depth": count(tree, "predictor_blocks"),
        "mlp_ratio": _rows(tree, "predictor_blocks.0.mlp.fc1.weight", where) / width,
        "action_dim": tree["action_encoder.weight"].shape[1], "state_dim": tree["state_encoder.weight"].shape[1],
        "extrinsics_dim": extrinsics,
    }  # fmt: skip
    return validate(WorldConfig, _with_heads(found, given, {16} if width == 1024 else set(), where))


def read_probe(tree: Tree, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an attentive classifier. Official probes have 16 heads whatever the width."""
    classes, width = tree["linear.weight"].shape
    depth = 1 + count(tree, "pooler.blocks")
    return {
        "kind": "attentive",
        "embed_dim": width,
        "num_heads": given.get("num_heads", 16),
        "depth": depth,
        "num_classes": classes,
    }


def count(tree: Tree, stem: str) -> int:
    """Entries of a module list: one more than the highest number under `stem`."""
    numbers = [int(match.group(1)) for key in tree if (match := re.match(rf"{re.escape(stem)}\.(\d+)(?:\.|$)", key))]
    return 1 + max(numbers, default=-1)


def _hidden(tree: Tree, block: str, width: int, where: str) -> dict[str, Any]:
    if f"{block}.mlp.fc1_g.weight" in tree:
        # timm's SwiGLU keeps two thirds of the nominal width, rounded up to 8.
        return {"mlp": "swiglu", "mlp_ratio": _rows(tree, f"{block}.mlp.fc1_g.weight", where) * 1.5 / width}
    return {"mlp_ratio": _rows(tree, f"{block}.mlp.fc1.weight", where) / width}


def _rows(tree: Tree, key: str, where: str) -> int:
    if key not in tree:
        raise CheckpointError(f"{where} lacks {key}: it is half a checkpoint, or not one of V-JEPA 2.")
    return tree[key].shape[0]


def _factorized_heads(found: Mapping[str, Any]) -> set[int]:
    return {FactorizedConfig().num_heads} if found["embed_dim"] == FactorizedConfig().embed_dim else set()


def _with_heads(found: dict[str, Any], given: Mapping[str, Any], known: set[int], where: str) -> dict[str, Any]:
    for key, value in given.items():
        if key in found and found[key] is not None and not _same(found[key], value):
            raise CheckpointError(
                f"{where} has {key} = {_plain(found[key])}, the config asks for {_plain(value)}.\n"
                "Leave it out of the config to use what the file holds, or choose the file that was meant."
            )
    values = {**found, **{key: value for key, value in given.items() if key not in found or found[key] is None}}
    if "num_heads" not in values:
        if len(known) != 1:
            raise CheckpointError(
                f"{where}: no tensor shows how many attention heads a model of this size has"
                f" ({', '.join(f'{key} {_plain(found[key])}' for key in ('embed_dim', 'width', 'depth') if key in found)}).\n"
                'Say it: load_encoder(path, config={"num_heads": N}), or once: surg weights convert FILE OUT.safetensors --set num_heads=N'
            )
        values["num_heads"] = known.pop()
    return values


def _same(found: Any, given: Any) -> bool:
    if isinstance(found, float):
        return bool(abs(found - given) < 1e-3)
    return bool(found == (tuple(given) if isinstance(given, list) else given))


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_given(config: Config | Mapping[str, Any] | None) -> dict[str, Any]:
    """What a caller said about a model, as plain values; of a whole config only what was set on purpose."""
    if config is None:
        return {}
    return config.model_dump(exclude_unset=True) if isinstance(config, Config) else dict(config)
