"""Parameter names: Meta's as we use them, and the way from and to transformers'."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from surg.errors import CheckpointError

Tree = dict[str, Tensor]

STALE = {
    "pos_embed": "stale table of absolute positions; positions are rotary",
    "predictor_pos_embed": "stale table of absolute positions; positions are rotary",
}
"""Keys that some released files carry and no model uses. Nothing else may be left out."""


def clean(tree: Mapping[str, Tensor]) -> Tree:
    """Take off what DDP and wrappers put before and between the names: `module.`, `backbone.`, and `_orig_mod.`."""
    out: Tree = {}
    for key, tensor in tree.items():
        name = re.sub(r"(^|\.)(?:(?:module|backbone|_orig_mod)\.)+", r"\1", key)
        if name in out:
            raise CheckpointError(f"Two keys mean {name!r} once wrappers are taken off; one of them is {key!r}.")
        out[name] = tensor
    return out


def what_is(tree: Mapping[str, Tensor]) -> str | None:
    """encoder, predictor, world or probe, by the names; None for anything else."""
    if "patch_embed.proj.weight" in tree:
        return "factorized" if any(key.startswith("spatial_blocks.") for key in tree) else "encoder"
    if "action_encoder.weight" in tree:
        return "world"
    if any(key.startswith("predictor_embed.") for key in tree):
        return "predictor"
    if any(key.startswith("pooler.") for key in tree):
        return "probe"
    return None


# ours -> transformers; {n} is a block's number. Joined names are stacked row-wise in ours.
ENCODER = {
    "patch_embed.proj": "encoder.embeddings.patch_embeddings.proj",
    "blocks.{n}.norm1": "encoder.layer.{n}.norm1",
    "blocks.{n}.attn.qkv": "encoder.layer.{n}.attention.query|encoder.layer.{n}.attention.key|encoder.layer.{n}.attention.value",
    "blocks.{n}.attn.proj": "encoder.layer.{n}.attention.proj",
    "blocks.{n}.norm2": "encoder.layer.{n}.norm2",
    "blocks.{n}.mlp.fc1": "encoder.layer.{n}.mlp.fc1",
    "blocks.{n}.mlp.fc2": "encoder.layer.{n}.mlp.fc2",
    "norm": "encoder.layernorm",
}
PREDICTOR = {
    "predictor_embed": "predictor.embeddings.predictor_embeddings",
    **{
        ours.replace("blocks", "predictor_blocks"): theirs.replace("encoder.layer", "predictor.layer")
        for ours, theirs in ENCODER.items()
        if ours.startswith("blocks")
    },
    "predictor_norm": "predictor.layernorm",
    "predictor_proj": "predictor.proj",
}
_POOL = "pooler.self_attention_layers.{n}"
_CROSS = "pooler.cross_attention_layer"
PROBE = {
    "pooler.blocks.{n}.norm1": f"{_POOL}.layer_norm1",
    "pooler.blocks.{n}.attn.qkv": f"{_POOL}.self_attn.q_proj|{_POOL}.self_attn.k_proj|{_POOL}.self_attn.v_proj",
    "pooler.blocks.{n}.attn.proj": f"{_POOL}.self_attn.out_proj",
    "pooler.blocks.{n}.norm2": f"{_POOL}.layer_norm2",
    "pooler.blocks.{n}.mlp.fc1": f"{_POOL}.mlp.fc1",
    "pooler.blocks.{n}.mlp.fc2": f"{_POOL}.mlp.fc2",
    "pooler.cross_attention_block.norm1": f"{_CROSS}.layer_norm1",
    "pooler.cross_attention_block.xattn.q": f"{_CROSS}.cross_attn.q_proj",
    "pooler.cross_attention_block.xattn.kv": f"{_CROSS}.cross_attn.k_proj|{_CROSS}.cross_attn.v_proj",
    "pooler.cross_attention_block.norm2": f"{_CROSS}.layer_norm2",
    "pooler.cross_attention_block.mlp.fc1": f"{_CROSS}.mlp.fc1",
    "pooler.cross_attention_block.mlp.fc2": f"{_CROSS}.mlp.fc2",
    "linear": "classifier",
}
PARTS = {"encoder": ENCODER, "predictor": PREDICTOR, "probe": PROBE}
_MASKS = "predictor.embeddings.mask_tokens"
_QUERY = "pooler.query_tokens"


def from_transformers(tree: Mapping[str, Tensor]) -> dict[str, Tree]:
    """Trees "encoder", "predictor", "probe" under our names. Every key must find its place."""
    left = {key.removeprefix("vjepa2."): tensor for key, tensor in tree.items()}
    depth = 1 + max((int(number) for key in left for number in re.findall(r"\.(\d+)\.", key)), default=0)
    out: dict[str, Tree] = {}
    for part, table in PARTS.items():
        for ours, theirs in table.items():
            for n in range(depth if "{n}" in ours else 1):
                names = theirs.format(n=n).split("|")
                for kind in ("weight", "bias"):
                    if all(f"{name}.{kind}" in left for name in names):
                        pieces = [left.pop(f"{name}.{kind}") for name in names]
                        out.setdefault(part, {})[f"{ours.format(n=n)}.{kind}"] = (
                            torch.cat(pieces) if len(pieces) > 1 else pieces[0]
                        )
    if _MASKS in left:
        tokens = left.pop(_MASKS)
        out.setdefault("predictor", {}).update({f"mask_tokens.{index}": token for index, token in enumerate(tokens)})
    if _QUERY in left:
        out.setdefault("probe", {})[_QUERY] = left.pop(_QUERY)
    if left:
        raise CheckpointError(f"{len(left)} tensors have no place in V-JEPA 2: {', '.join(sorted(left)[:6])}.")
    return out


def to_transformers(parts: Mapping[str, Mapping[str, Tensor]]) -> Tree:
    """One flat tree under transformers' names from our trees "encoder", "predictor" and, for a classifier, "probe"."""
    out: Tree = {}
    for part, tree in parts.items():
        masks = [
            tree[key] for key in sorted((k for k in tree if k.startswith("mask_tokens.")), key=lambda k: int(k.split(".")[1]))
        ]
        if masks:
            out[_MASKS] = torch.stack(masks)
        for key, tensor in tree.items():
            if key.startswith("mask_tokens."):
                continue
            if key == _QUERY:
                out[key] = tensor
                continue
            stem, _, kind = key.rpartition(".")
            number = re.search(r"blocks\.(\d+)\.", stem)
            pattern = re.sub(r"blocks\.\d+\.", "blocks.{n}.", stem)
            if pattern not in PARTS[part]:
                raise CheckpointError(
                    f"transformers' V-JEPA 2 has no place for {key!r}: 2.1 and the factorised variant cannot go there."
                )
            names = PARTS[part][pattern].format(n=number.group(1) if number else "").split("|")
            out.update({f"{name}.{kind}": piece.contiguous() for name, piece in zip(names, tensor.chunk(len(names)))})
    prefix = "vjepa2." if "probe" in parts else ""
    return {key if key.startswith(("pooler.", "classifier.")) else prefix + key: tensor for key, tensor in out.items()}
