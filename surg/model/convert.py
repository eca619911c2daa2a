"""Turn weights from elsewhere into our one-file format, and ours into a folder that transformers opens. Nothing is held twice."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surg.advice import quoted
from surg.config import Config
from surg.errors import CheckpointError
from surg.model import names, zoo
from surg.model.bundle import FORMAT, check_weights_name, write_safetensors
from surg.model.checkpoint import ENCODER_KEYS, Part, read_part
from surg.model.config import EncoderConfig, PredictorConfig
from surg.model.files import WeightFile, open_weights
from surg.runs import file_sha256, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    path: Path
    parts: dict[str, int]
    """Tensors by part."""
    reports: list[str]
    sha256: str


def convert(
    source: Path, target: Path, *, model: str | None = None, key: str | None = None, config: Mapping[str, Any] | None = None
) -> Converted:
    """Read every model a file holds and write one of our bundles.

    `config` says what the encoder's tensors do not show; under "predictor" and "world", what theirs do not.

    `model` is a name of the zoo: it fills in what tensors do not show, checks the sizes, and records the preprocessing.
    """
    check_weights_name(target)
    file = open_weights(source)
    if file.layout == "bundle":
        raise CheckpointError(f"{source} is in our format already. Look inside with: surg weights inspect {quoted(source)}")
    parts = _parts(file, source, model, key, dict(config or {}))
    settings = {
        name: part.config.model_dump(mode="json") if isinstance(part.config, Config) else part.config
        for name, part in parts.items()
    }
    origin = file.path if file.path.is_file() else file.path / "config.json"
    meta: dict[str, Any] = {
        "source": {"file": origin.name, "sha256": file_sha256(origin), "layout": file.layout},
        "trees": {name: part.report.source.rpartition(", ")[2] for name, part in parts.items()},
    }
    if model is not None:
        meta |= {"model": model}
        if model in zoo.RELEASED:
            meta |= {"preprocess": zoo.preprocessing(model), "licence": zoo.released(model).licence}
    tensors = {f"{name}.{tensor}": value for name, part in parts.items() for tensor, value in part.tree.items()}
    header = {"surg_format": FORMAT, "config": json.dumps(settings, sort_keys=True), "meta": json.dumps(meta, sort_keys=True)}
    write_safetensors(target, tensors, header)
    counts = {name: len(part.tree) for name, part in parts.items()}
    return Converted(target, counts, [str(part.report) for part in parts.values()], file_sha256(target))


def to_transformers(source: Path, folder: Path) -> list[Path]:
    """Write config.json, model.safetensors and a preprocessor config that `transformers.AutoModel.from_pretrained` opens."""
    encoder = read_part(source, "encoder")
    if not isinstance(encoder.config, EncoderConfig) or encoder.config.levels or encoder.config.mlp != "gelu":
        raise CheckpointError(
            f"{source} holds no plain V-JEPA 2 encoder; transformers has no class for 2.1 or the factorised variant."
        )
    predictor = _optional(source, "predictor")
    meta = open_weights(source).meta
    config = _transformers_config(encoder.config, predictor.config if predictor else None, meta.get("preprocess", {}))
    parts: dict[str, Mapping[str, Tensor]] = {"encoder": encoder.tree}
    if predictor is not None:
        parts["predictor"] = predictor.tree
    else:
        # Its model class always builds a predictor; without one, fresh weights of the smallest kind fill the place.
        parts["predictor"] = _smallest_predictor(encoder.config, config)
    write_safetensors(folder / "model.safetensors", names.to_transformers(parts), {"format": "pt"})
    write_json(folder / "config.json", config)
    write_json(folder / "video_preprocessor_config.json", _processor(config["crop_size"], meta.get("preprocess", {})))
    return [folder / name for name in ("model.safetensors", "config.json", "video_preprocessor_config.json")]


def inspect(path: Path) -> dict[str, Any]:
    """What a file is: layout, trees with their models, shapes, and statistics that tell an average from a student."""
    file = open_weights(path)
    trees = {}
    raw = names.from_transformers(file.trees[""]) if file.layout == "transformers" else file.trees
    for name, tree in raw.items():
        clean = names.clean(tree)
        final = next(
            (clean[key] for key in ("norm.weight", "norms_block.3.weight", "predictor_norm.weight") if key in clean), None
        )
        trees[name] = {
            "kind": name if file.layout == "bundle" else names.what_is(clean),
            "tensors": len(tree),
            "parameters": sum(tensor.numel() for tensor in tree.values()),
            "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tree.values()}),
            "final_norm": None if final is None else {"mean": final.float().mean().item(), "std": final.float().std().item()},
            "finite": all(bool(torch.isfinite(tensor).all()) for tensor in tree.values() if tensor.is_floating_point()),
            "shapes": {key: list(tensor.shape) for key, tensor in clean.items()},
        }
    size = sum(part.stat().st_size for part in ([file.path] if file.path.is_file() else file.path.glob("*.safetensors")))
    return {
        "path": str(file.path), "layout": file.layout, "bytes": size, "settings": file.settings, "meta": file.meta, "trees": trees,
        "likely": _likely(raw),
    }  # fmt: skip


def _parts(file: WeightFile, source: Path, model: str | None, key: str | None, config: dict[str, Any]) -> dict[str, Part]:
    inner = {name: config.pop(name, None) for name in ("predictor", "world")}
    given = {**config}
    if model is not None:
        wanted = zoo.encoder_config(model)
        given = {**{field: getattr(wanted, field) for field in ("embed_dim", "depth", "num_heads", "rope")}, **config}
        if key is None and model in zoo.RELEASED and file.layout == "torch" and zoo.released(model).key in file.trees:
            key = zoo.released(model).key
    kinds = _kinds(file)
    parts: dict[str, Part] = {}
    if "encoder" in kinds:
        parts["encoder"] = read_part(source, "encoder", key, given)
    elif key in ENCODER_KEYS or model is not None:
        raise CheckpointError(f"{source} holds no encoder; it holds: {', '.join(sorted(kinds)) or 'nothing known'}.")
    if "predictor" in kinds:
        parts["predictor"] = read_part(source, "predictor", config=inner["predictor"])
    if "world" in kinds:
        parts["world"] = read_part(source, "world", config=inner["world"])
    if "probe" in kinds:
        parts["head.action"] = read_part(source, "probe", config=config)
    if not parts:
        raise CheckpointError(f"{source} holds nothing of V-JEPA 2: no encoder, predictor, world model or probe.")
    return parts


def _kinds(file: WeightFile) -> set[str]:
    if file.layout == "transformers":
        return set(names.from_transformers(file.trees[""]))
    found = {names.what_is(names.clean(tree)) for tree in file.trees.values()}
    return {"encoder" if kind == "factorized" else kind for kind in found if kind is not None}


def _optional(source: Path, kind: str) -> Part | None:
    return read_part(source, kind) if kind in open_weights(source).settings or kind in _kinds(open_weights(source)) else None


def _likely(trees: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Names of the zoo whose encoder has the width and depth found."""
    for tree in trees.values():
        clean = names.clean(tree)
        if names.what_is(clean) == "encoder":
            from surg.model.sizes import count

            shape = (clean["patch_embed.proj.weight"].shape[0], count(clean, "blocks"), bool(count(clean, "norms_block")))
            return [
                name for name, config in zoo.ENCODERS.items() if (config.embed_dim, config.depth, bool(config.levels)) == shape
            ]
    return []


def _transformers_config(
    encoder: EncoderConfig, predictor: PredictorConfig | None, preprocess: Mapping[str, Any]
) -> dict[str, Any]:
    inner = predictor or PredictorConfig(
        embed_dim=encoder.embed_dim, width=encoder.embed_dim, depth=1, num_heads=encoder.num_heads, num_mask_tokens=1
    )
    return {
        "architectures": ["VJEPA2Model"], "model_type": "vjepa2", "dtype": "float32",
        "patch_size": encoder.patch_size, "tubelet_size": encoder.tubelet_size, "in_chans": encoder.in_channels,
        "crop_size": preprocess.get("size", 256), "frames_per_clip": preprocess.get("num_frames", 16),
        "hidden_size": encoder.embed_dim, "num_hidden_layers": encoder.depth, "num_attention_heads": encoder.num_heads,
        "mlp_ratio": _ratio(encoder.embed_dim, encoder.mlp_ratio), "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True,
        "pred_hidden_size": inner.width, "pred_num_hidden_layers": inner.depth, "pred_num_attention_heads": inner.num_heads,
        "pred_mlp_ratio": _ratio(inner.width, inner.mlp_ratio), "pred_num_mask_tokens": inner.num_mask_tokens,
    }  # fmt: skip


def _ratio(width: int, ratio: float) -> float:
    """A ratio whose product with the width truncates, as transformers does it, to the hidden width that we round to."""
    hidden = round(width * ratio)
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _smallest_predictor(encoder: EncoderConfig, config: Mapping[str, Any]) -> dict[str, Tensor]:
    from surg.model.predictor import Predictor

    stand_in = PredictorConfig(
        embed_dim=encoder.embed_dim,
        width=config["pred_hidden_size"],
        depth=config["pred_num_hidden_layers"],
        num_heads=config["pred_num_attention_heads"],
        mlp_ratio=config["pred_mlp_ratio"],
        num_mask_tokens=config["pred_num_mask_tokens"],
    )
    return Predictor(stand_in).state_dict()


def _processor(crop: int, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "video_processor_type": "VJEPA2VideoProcessor", "do_resize": True, "size": {"shortest_edge": int(crop * 256 / 224)},
        "do_center_crop": True, "crop_size": {"height": crop, "width": crop}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(preprocess.get("mean", zoo.IMAGENET_MEAN)),
        "image_std": list(preprocess.get("std", zoo.IMAGENET_STD)), "resample": 2,
    }  # fmt: skip
