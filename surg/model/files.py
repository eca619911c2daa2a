"""Open a file of weights without running code from it and without reading it all: `.pt`, `.safetensors`, transformers folders.

What comes back is a set of trees, flat dicts of tensors by name ("encoder", "target_encoder", …; "" when the file has one).
Tensors are mapped from the file and read when touched.
"""

import json
import pickle
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from surg.errors import CheckpointError
from surg.model.saved import SHIPPED, shipped

Tree = dict[str, Tensor]
Layout = Literal["bundle", "safetensors", "transformers", "torch"]


@dataclass
class WeightFile:
    """An opened file: where it is, how it is laid out, and its trees."""

    path: Path
    layout: Layout
    trees: dict[str, Tree]
    settings: dict[str, Any] = field(default_factory=dict)
    """transformers: config.json. Bundles: settings by part. `.pt`: the file's own `config`, if it has one."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Bundles: meta. `.pt`: numbers and words at the top level, such as the epoch."""


def open_weights(path: Path) -> WeightFile:
    """Open whatever `path` is; CheckpointError says what it is instead, if it is no weights."""
    path = resolve(Path(path))
    if path.is_dir():
        return _transformers(path)
    _refuse_impostors(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    return _torch(path)


def resolve(path: Path) -> Path:
    """The file meant by a path: a run folder stands for its best checkpoint, or its last one; `surg-tiny` for what ships."""
    if str(path) == SHIPPED and not path.exists():
        return shipped()
    if not path.exists():
        raise CheckpointError(f"There is no file or folder {path}.\nFetch released weights with: surg weights pull NAME")
    if path.is_dir():
        for name in ("checkpoints/best.safetensors", "checkpoints/last.safetensors", "best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
    return path


def _refuse_impostors(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    if not start:
        raise CheckpointError(f"{path} is empty. The download or the copy did not finish: fetch it again.")
    if start[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, not weights: the server answered with an error or a log-in page.\n"
            "Open the address in a browser to see what it says, then fetch the file again."
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights. Fetch the file itself: git lfs pull")
    first = start.splitlines()[0].decode("ascii", "backslashreplace")
    # The first letter of a table may be an opcode of pickle, `c` even the one that runs code. A pickle in text has no such line.
    if first.replace("\t", " ").isprintable() and re.search(r"[,;:\t ]", first) and not first.startswith("("):
        raise CheckpointError(
            f"{path} is a text that begins with `{first[:60]}`, no PyTorch checkpoint and no safetensors file.\n"
            "Give the file of weights itself, or a run folder."
        )


def _torch(path: Path) -> WeightFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)|Unsupported (?:global|class)", str(error))
        if refused:
            named = f" (it names {refused.group(1)})" if refused.group(1) else ""
            raise CheckpointError(
                f"{path} asks to run Python code while it loads; only tensors and plain values are read{named}.\n"
                "Use a file from a source you trust that holds a plain state dict, or convert it where it came from."
            ) from error
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint: it cannot be unpickled.") from error
    # A file that is no pickle makes the unpickler stumble in whatever way its first bytes lead to.
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(
            f"{path} is damaged, cut short, or no PyTorch checkpoint ({_first_line(error)}).\n"
            "Compare its size with the source's and fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a dict of tensors, or of state dicts.")
    trees: dict[str, Tree] = {}
    for name, value in content.items():
        if _is_tree(value):
            trees[str(name)] = dict(value)
        elif isinstance(value, list | tuple):
            trees.update({f"{name}.{index}": dict(item) for index, item in enumerate(value) if _is_tree(item)})
    if not trees and _is_tree(content):
        trees[""] = dict(content)
    if not trees:
        raise CheckpointError(
            f"{path} holds no state dict; its top level has: {', '.join(map(str, list(content)[:10])) or 'nothing'}."
        )
    config = content.get("config")
    meta = {str(key): value for key, value in content.items() if isinstance(value, int | float | str)}
    return WeightFile(path, "torch", trees, config if isinstance(config, dict) else {}, meta)


def _is_tree(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _safetensors(path: Path) -> WeightFile:
    header, tree = _read_safetensors(path)
    if "surg_format" in header:
        from surg.model.bundle import read_header

        settings, meta, _ = read_header(path)
        trees: dict[str, Tree] = {name: {} for name in settings}
        for key, tensor in tree.items():
            name = next((name for name in sorted(settings, key=len, reverse=True) if key.startswith(f"{name}.")), "")
            trees.setdefault(name, {})[key.removeprefix(f"{name}.")] = tensor
        return WeightFile(path, "bundle", trees, settings, meta)
    if any(".embeddings.patch_embeddings." in key for key in tree):
        if not (path.parent / "config.json").is_file():
            raise CheckpointError(
                f"{path} comes from transformers, but its config.json is not beside it. Give the whole folder."
            )
        return _transformers(path.parent)
    return WeightFile(path, "safetensors", {"": tree})


def _transformers(folder: Path) -> WeightFile:
    config_path, index_path = folder / "config.json", folder / "model.safetensors.index.json"
    if not config_path.is_file():
        raise CheckpointError(
            f"{folder} is neither a transformers folder (no config.json) nor a run (no checkpoints/best.safetensors)."
        )
    config = _json(config_path)
    if config.get("model_type") != "vjepa2":
        raise CheckpointError(f"{config_path} describes a model of type {config.get('model_type')!r}; expected 'vjepa2'.")
    if index_path.is_file():
        parts = sorted(set(_json(index_path)["weight_map"].values()))
    else:
        parts = ["model.safetensors"]
    tree: Tree = {}
    for part in parts:
        if not (folder / part).is_file():
            raise CheckpointError(f"{folder} lacks {part}: the download did not finish, or the weights are in another format.")
        _refuse_impostors(folder / part)
        tree |= _read_safetensors(folder / part)[1]
    return WeightFile(folder, "transformers", {"": tree}, config)


def _read_safetensors(path: Path) -> tuple[dict[str, str], Tree]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({_first_line(error)}).\nIt may have been cut short: fetch or write it again."
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}).") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
