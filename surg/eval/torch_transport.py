"""The checkpoint itself behind the client's interface: the original modules, as training saw them, nothing exported."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surg.data.preprocess import PreprocessSpec
from surg.errors import CheckpointError
from surg.model.bundle import Bundle, load_bundle
from surg.model.encoder import Encoder
from surg.serving.contract import Array, contract_parameters
from surg.serving.models import ServedConfig, prepare
from surg.serving.transport import Answer, Request, TransportError

# B clips, T frames, S side, N tokens, D width


class TorchTransport:
    where = "torch"

    def __init__(self, checkpoint: Path | Bundle, device: str | None = None) -> None:
        bundle = checkpoint if isinstance(checkpoint, Bundle) else load_bundle(checkpoint)
        if bundle.encoder is None:
            raise CheckpointError("The checkpoint holds no encoder; there is nothing to evaluate.")
        self._served = prepare(bundle, ServedConfig())
        self.contract = self._served.contract
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._encoder = bundle.encoder.to(self._device)
        self._heads = {name: head.to(self._device) for name, head in bundle.heads.items()}
        self._world = self._served.modules.get("surg_world")
        spec = self.contract.preprocess
        patches = spec.size // spec.patch_size
        tokens = self.contract.model("surg_encoder").output("tokens").shape[0]
        self._grid = (tokens // patches**2, patches, patches)
        self._lock = threading.Lock()

    def configuration(self, model: str, timeout_s: float) -> tuple[dict[str, str], list[int]]:  # noqa: ARG002
        if not self.contract.has(model):
            raise TransportError("missing", f"the checkpoint has no {model}")
        return contract_parameters({1: self.contract}), [1]

    def infer(self, request: Request) -> Answer:
        frames = torch.from_numpy(np.ascontiguousarray(request.inputs["frames"]))
        with self._lock, torch.inference_mode():
            if request.model == "surg_world":
                assert self._world is not None
                said = [torch.tensor(request.inputs[name]) for name in ("actions", "states") if name in request.inputs]
                found = dict(zip(self._names("surg_world"), self._world(frames, *said)))
            elif request.model == "surg_encoder":
                found = self._encode(frames)
            else:
                found = self._clip(frames, torch.tensor(request.inputs["zone"], device=self._device))
        return Answer({name: _numpy(found[name]) for name in request.outputs}, 1)

    def stream(self, request: Request) -> Iterator[Answer]:  # noqa: ARG002
        raise TransportError("invalid", "surg_video runs on a server only")

    def close(self) -> None:
        self._heads.clear()

    def _names(self, model: str) -> list[str]:
        return [tensor.name for tensor in self.contract.model(model).outputs]

    def _encode(self, frames: Tensor) -> dict[str, Tensor]:
        levels = self._levels(frames)
        return {"tokens": levels[-1], "levels": torch.stack(levels, 1), "pooled": levels[-1].mean(1)}

    def _clip(self, frames: Tensor, zone: Tensor) -> dict[str, Tensor]:
        tokens = self._encoder(normalised(frames.to(self._device), self.contract.preprocess))
        found = {"embedding": tokens.mean(1)}
        if "action" in self._heads:
            found["action"] = self._heads["action"](tokens)
        if "sterility" in self._heads:
            found["breach"], found["breach_map"] = self._heads["sterility"](tokens, self._grid, zone)
        return found

    def _levels(self, frames: Tensor) -> list[Tensor]:
        clip = normalised(frames.to(self._device), self.contract.preprocess)
        if isinstance(self._encoder, Encoder):
            return self._encoder.layers(clip, self._encoder.level_blocks)
        return [self._encoder(clip)]


def normalised(frames: Tensor, spec: PreprocessSpec) -> Tensor:
    """uint8 (B, T, S, S, 3) to the encoder's input (B, 3, T, S, S)."""
    mean, std = (torch.tensor(values, device=frames.device) for values in (spec.mean, spec.std))
    return ((frames.float() / 255 - mean) / std).permute(0, 4, 1, 2, 3)


def _numpy(tensor: Tensor) -> Array:
    return tensor.float().cpu().numpy()
