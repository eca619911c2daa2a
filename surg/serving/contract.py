"""What a served model takes and gives: the one description that exporter, repository, server and client share.

It travels inside the server's own model configuration (`parameters`), so a client reads it back from the very server it talks to.
No torch here.

    B clips, T frames, S side in pixels, h w patches, t tubelets, D width, N = t*h*w tokens
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.preprocess import PreprocessSpec
from surg.errors import ServerError

FORMAT = 1
"""Raised whenever a client of today could misread a server of tomorrow."""

UNCHOSEN_THRESHOLD = 0.5
"""Of a checkpoint that brings none."""

DType = Literal["UINT8", "INT32", "INT64", "FP16", "FP32", "BYTES"]
NUMPY: dict[str, type[np.generic]] = {
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "BYTES": np.object_,
}
Array = npt.NDArray[Any]


class TensorSpec(Config):
    name: str
    dtype: DType
    shape: tuple[int, ...]
    """Without the batch; -1 where the length is free."""
    axes: str = ""
    """What the axes are, for people: `T H W C`."""

    def check(self, array: Array, *, batched: bool, model: str) -> None:
        """Raise ServerError when `array` is not this tensor: the server would say it later and less clearly."""
        expected = (
            f"{self.dtype} of shape ({', '.join((['B'] if batched else []) + [str(n) if n >= 0 else '*' for n in self.shape])})"
        )
        if array.dtype != NUMPY[self.dtype]:
            raise ServerError(
                f"`{self.name}` of {model} is {array.dtype} {array.shape}; expected {expected}.\n"
                + (
                    "Send decoded pixels 0..255 as uint8: the model normalises them itself."
                    if self.dtype == "UINT8"
                    else "Cast it first."
                )
            )
        shape = array.shape[1:] if batched else array.shape
        if len(shape) != len(self.shape) or any(want >= 0 and want != got for want, got in zip(self.shape, shape)):
            raise ServerError(
                f"`{self.name}` of {model} has shape {array.shape}; expected {expected}{f' [{self.axes}]' if self.axes else ''}.\n"
                "Prepare clips with surg.data.preprocess.preprocess and the spec in `client.contract.preprocess`."
            )


class ModelSpec(Config):
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = Field(8, ge=0)
    """Largest batch the server forms; 0 means that the model takes no batch axis."""
    kind: Literal["onnx", "python"] = "onnx"
    decoupled: bool = False
    """Many answers for one request, over a gRPC stream."""

    @property
    def batched(self) -> bool:
        return self.max_batch_size > 0

    def input(self, name: str) -> TensorSpec:
        return next(spec for spec in self.inputs if spec.name == name)

    def output(self, name: str) -> TensorSpec:
        return next(spec for spec in self.outputs if spec.name == name)


class Conditions(Config):
    """What the numbers mean that a world model is conditioned on, in their order."""

    names: tuple[str, ...] = ()
    """Names in the timeline or the labels."""
    widths: dict[str, int] = Field(default_factory=dict)
    """How many numbers each has."""
    classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Classes of the names that are text: one number each."""


class Contract(Config):
    """Everything a client must know about one version of the served models."""

    format: int = FORMAT
    checkpoint_sha256: str
    """Of the bundle the models were exported from."""
    architecture: str = ""
    """Name of the size: tiny, small, vitl, …"""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    preprocess: PreprocessSpec
    classes: tuple[str, ...] = ()
    """Names of the action logits, in order."""
    horizons_s: tuple[float, ...] = ()
    """Seconds ahead of each breach logit; 0 is now."""
    world_horizons: int = Field(0, ge=0)
    """Tubelets that surg_world predicts ahead."""
    world_step_s: float = Field(0.0, ge=0)
    """Seconds of one such tubelet."""
    actions: Conditions | None = None
    """What surg_world's actions are, one row a tubelet; None when it takes none or the checkpoint does not say."""
    states: Conditions | None = None
    """The same for its states."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Decision thresholds chosen on validation data, by name: `breach` for now, `breach@2s` for two seconds ahead."""
    models: tuple[ModelSpec, ...]

    def model(self, name: str) -> ModelSpec:
        for spec in self.models:
            if spec.name == name:
                return spec
        raise ServerError(
            f"This server has no model {name}; it serves {', '.join(spec.name for spec in self.models) or 'none'}.\n"
            f"Export a bundle that holds the part it needs: surg export RUN, then surg serve start REPO."
        )

    def has(self, name: str) -> bool:
        return any(spec.name == name for spec in self.models)

    def threshold(self, horizon_s: float) -> float:
        """From which probability on a breach at this horizon is one: as the checkpoint says, or 0.5, which nobody chose."""
        return self.thresholds.get(f"breach@{horizon_s:g}s", self.thresholds.get("breach", UNCHOSEN_THRESHOLD))

    @property
    def interface(self) -> str:
        """Fingerprint of what a caller depends on (tensors, classes, preprocessing), not of the weights."""
        body = self.model_dump(mode="json", exclude={"checkpoint_sha256", "precision", "thresholds", "architecture"})
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def require_same_interface(self, other: "Contract", where: str) -> None:
        """Raise ServerError that lists what differs between the contract expected (self) and the one found (other)."""
        if self.interface == other.interface:
            return
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        differing = [
            key for key in mine if key not in ("checkpoint_sha256", "precision", "thresholds") and mine[key] != theirs[key]
        ]
        detail = "\n".join(
            f"  {key}: expected {_short(mine[key])}\n  {' ' * len(key)}  found    {_short(theirs[key])}" for key in differing
        )
        raise ServerError(
            f"{where} speaks another contract; these parts differ:\n{detail}\nExport again from the checkpoint you mean, or connect to its server."
        )


def contract_from_parameters(parameters: Mapping[str, str], where: str) -> dict[int, Contract]:
    """Contracts by version, as the repository wrote them into the model configuration. Raises ServerError when there are none."""
    found: dict[int, Contract] = {}
    for key, value in parameters.items():
        prefix, _, version = key.rpartition(".")
        if prefix != PARAMETER or not version.isdigit():
            continue
        body = json.loads(value)
        if body.get("format") != FORMAT:
            raise ServerError(
                f"{where} speaks contract format {body.get('format')}, this client speaks {FORMAT}.\n"
                "Install the same version of surg on both sides, or export the repository again."
            )
        found[int(version)] = Contract.model_validate(body)
    if not found:
        raise ServerError(
            f"{where} serves a model of the right name that surg did not export: its configuration carries no contract.\n"
            "Serve a repository made by surg export: surg serve start REPO."
        )
    return found


def contract_parameters(contracts: Mapping[int, Contract]) -> dict[str, str]:
    """The reverse: what goes into config.pbtxt."""
    return {f"{PARAMETER}.{version}": contract.model_dump_json() for version, contract in sorted(contracts.items())}


PARAMETER = "surg.contract"


def _short(value: Any, limit: int = 160) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
