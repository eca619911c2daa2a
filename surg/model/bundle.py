"""Our file format: one safetensors file whose header holds the settings, so that a file rebuilds its own models.

    header   surg_format "1" · config: JSON, settings of each part · meta: JSON, what the file was trained for and on
             surg_stored "fp16", if the numbers were rounded to halve the file
    tensors  encoder.*   predictor.*   world.*   head.action.*   head.sterility.*   head.motion_aux.*

Parts are written one tensor after another, so saving a model costs no second copy of it in memory.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from surg.advice import quoted
from surg.config import validate
from surg.errors import CheckpointError, ConfigError
from surg.model.config import WorldConfig
from surg.model.encoder import build_encoder
from surg.model.heads import build_head
from surg.model.predictor import Predictor, build_predictor
from surg.runs import atomic_file, file_sha256

FORMAT = "1"
MAP_ABOVE_BYTES = 1 << 30
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
HALVES = (torch.float16, torch.bfloat16)


@dataclass
class Bundle:
    """Models read from one file, in eval mode, with what the file says about itself."""

    encoder: nn.Module | None
    predictor: Predictor | None
    world: nn.Module | None
    heads: dict[str, nn.Module]
    """By their short names: "action", "sterility", "motion_aux"."""
    config: dict[str, Any]
    """Settings of each part, by part name."""
    meta: dict[str, Any]
    """Classes, horizons, preprocessing, seeds, data fingerprint, thresholds: whatever the writer recorded."""
    sha256: str
    """Hash of the whole file: what the server contract and the reports quote."""

    def part(self, name: str) -> nn.Module:
        """A part by its full name, such as "encoder" or "head.action"."""
        parts = {"encoder": self.encoder, "predictor": self.predictor, "world": self.world}
        parts |= {f"head.{short}": head for short, head in self.heads.items()}
        module = parts.get(name)
        if module is None:
            held = ", ".join(sorted(key for key, value in parts.items() if value is not None))
            raise CheckpointError(f"The checkpoint holds no {name!r}; it holds: {held}.")
        return module


def save_bundle(
    path: Path, parts: Mapping[str, nn.Module], config: Mapping[str, Any], meta: Mapping[str, Any], *, halved: bool = False
) -> str:
    """Write modules and settings to one file, atomically. Returns its sha256.

    `config` maps part names to settings; a part that is absent there brings its own `.config`. `halved` rounds to fp16.
    """
    settings = {name: _settings(name, module, config) for name, module in parts.items()}
    tensors = {f"{name}.{key}": tensor for name, module in parts.items() for key, tensor in module.state_dict().items()}
    header = {
        "surg_format": FORMAT,
        "config": json.dumps(settings, sort_keys=True),
        "meta": json.dumps(dict(meta), sort_keys=True, ensure_ascii=False),
    }
    if halved:
        tensors = {key: tensor.half() if tensor.dtype == torch.float32 else tensor for key, tensor in tensors.items()}
        header["surg_stored"] = "fp16"
    write_safetensors(path, tensors, header)
    return file_sha256(path)


def load_bundle(path: Path) -> Bundle:
    """Rebuild every part from the file alone, strictly, in eval mode."""
    path = Path(path)
    settings, meta, keys = read_header(path)
    with torch.device("meta"):
        modules = {name: _build(path, name, values) for name, values in settings.items()}
    names = sorted(modules, key=len, reverse=True)
    states: dict[str, dict[str, Tensor]] = {name: {} for name in modules}
    strays = []
    with _opened(path) as file:
        for key in keys:
            name = next((name for name in names if key.startswith(f"{name}.")), None)
            if name is None:
                strays.append(key)
            else:
                tensor = file.get_tensor(key)
                # Rounded to halve the file, or converted from such a file: computed with in fp32 either way.
                states[name][key[len(name) + 1 :]] = tensor.float() if tensor.dtype in HALVES else tensor
    if strays:
        raise CheckpointError(f"{path} holds tensors that belong to no part of its own header: {', '.join(strays[:5])}.")
    for name, module in modules.items():
        fill(module, states[name], f"{path}, part {name}")
        module.eval()
    heads = {name.removeprefix("head."): module for name, module in modules.items() if name.startswith("head.")}
    predictor = modules.get("predictor")
    assert predictor is None or isinstance(predictor, Predictor)
    return Bundle(modules.get("encoder"), predictor, modules.get("world"), heads, settings, meta, file_sha256(path))


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Settings of the parts, meta, and tensor names of one of our files; CheckpointError when it is none."""
    with _opened(path) as file:
        header, keys = file.metadata() or {}, list(file.keys())
    if header.get("surg_format") != FORMAT:
        found = f"format {header['surg_format']}" if "surg_format" in header else "no surg header"
        raise CheckpointError(
            f"{path} is a safetensors file with {found}; expected format {FORMAT}.\n"
            f"Weights from elsewhere become ours with: surg weights convert {quoted(path)} OUT.safetensors"
        )
    return json.loads(header["config"]), json.loads(header["meta"]), keys


def fill(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict whole, or fail with a list of what did not fit."""
    own = module.state_dict()
    problems = [f"missing: {key}" for key in own if key not in state]
    problems += [f"unexpected: {key}" for key in state if key not in own]
    problems += [
        f"shape of {key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        raise CheckpointError(
            f"{where} does not fit the model: {len(problems)} of {len(own)} tensors.\n  "
            + "\n  ".join(problems[:12] + ([f"... and {len(problems) - 12} more"] if len(problems) > 12 else []))
        )
    # Large weights stay mapped from the file: a second copy of ViT-g would be 4 GB.
    mapped = sum(tensor.nbytes for tensor in state.values()) > MAP_ABOVE_BYTES
    module.load_state_dict(
        {key: tensor if mapped else tensor.clone() for key, tensor in state.items()}, strict=True, assign=True
    )


def check_weights_name(path: Path) -> None:
    """Raise ConfigError for a name under which the weights would not be found again: readers go by the ending."""
    if Path(path).suffix != ".safetensors":
        raise ConfigError(f"{path} would hold safetensors: its name should end in .safetensors.")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, one tensor in memory at a time."""
    index: dict[str, Any] = {"__metadata__": dict(header)}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        index[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(index, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_file(Path(path)) as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        _write_tensors(file, tensors.values())


def hash_of(module: nn.Module) -> str:
    """SHA-256 of a module's weights, in the order of their names."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _write_tensors(file: IO[Any], tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)


def _settings(name: str, module: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    values = config.get(name, getattr(module, "config", None))
    if values is None:
        raise CheckpointError(f"Part {name!r} has no settings to store: give them in `config`, or the module a `.config`.")
    return values.model_dump(mode="json") if hasattr(values, "model_dump") else dict(values)


def _build(path: Path, name: str, values: dict[str, Any]) -> nn.Module:
    if name == "encoder":
        return build_encoder(values)
    if name == "predictor":
        return build_predictor(values)
    if name == "world":
        from surg.model.world import WorldPredictor

        return WorldPredictor(validate(WorldConfig, values))
    if name.startswith("head."):
        return build_head(values)
    raise CheckpointError(f"{path} holds a part {name!r} that this version of surg does not know.")


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {path}.") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}).\nIt may have been cut short: fetch or write it again."
        ) from error
