"""The gate: PyTorch = onnxruntime = the served model, on real preprocessing, or the export is not kept.

B clips, T frames, S side
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from surg.data.preprocess import PreprocessSpec, normalise, preprocess
from surg.errors import ExportError
from surg.model.bundle import Bundle
from surg.model.encoder import Encoder
from surg.serving.client import Client
from surg.serving.contract import Contract
from surg.serving.onnx import Precision
from surg.serving.results import sigmoid, softmax

logger = logging.getLogger(__name__)

Inputs = dict[str, npt.NDArray[Any]]
Outputs = dict[str, npt.NDArray[np.float32]]
Run = Callable[[Inputs], Outputs]

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}
"""Largest difference allowed, relative to the output's largest value (at least 1)."""
COSINE: dict[Precision, float] = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.99}
"""Smallest cosine allowed between the outputs of one clip."""


FENCE: dict[Precision, float] = {"fp32": 0.001, "fp16": 0.01, "int8": 0.05}
"""A decision is on the fence when the reference's own probability is no further from turning than this."""


@dataclass(frozen=True)
class Decisions:
    """How many clips are decided alike (most probable class; breach yes or no at any horizon)."""

    fence: float
    """Probability."""
    near: int = 0
    """Clips on the fence: within `fence` of the threshold, or of the second class."""
    changed_near: int = 0
    """Of those, decided otherwise: allowed, and shown."""
    flips: int = 0
    """Decided otherwise although the reference was clear: the gate lets none pass."""


@dataclass(frozen=True)
class Row:
    """How one output of one model compares, over all clips and batch sizes."""

    model: str
    output: str
    pair: str
    clips: int
    batches: tuple[int, ...]
    cosine: float
    max_abs: float
    scale: float
    decisions: "Decisions"

    @property
    def relative(self) -> float:
        return self.max_abs / self.scale


def check(
    bundle: Bundle,
    contract: Contract,
    runners: Sequence[tuple[str, Client]],
    *,
    clips: int = 18,
    tolerance: float | None = None,
    seed: int = 0,
    samples: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]] | None = None,
) -> list[Row]:
    """Compare PyTorch with each runner, and each runner with the one before it. Raises ExportError above the tolerance."""
    limit, cosine = tolerance if tolerance is not None else TOLERANCE[contract.precision], COSINE[contract.precision]
    samples = samples or list(sample_clips(clips, contract.preprocess, seed))
    inputs = _inputs(contract, samples, seed)
    expected = {
        name: _in_batches(run, _those(contract, name, inputs), [len(samples)])
        for name, run in reference(bundle, contract).items()
    }
    rows: list[Row] = []
    before: tuple[str, dict[str, Outputs]] = ("PyTorch", expected)
    for label, client in runners:
        found: dict[str, Outputs] = {}
        for name in expected:
            sizes = _sizes_used(batch_sizes(contract.model(name).max_batch_size), len(samples))
            found[name] = _in_batches(_runner(client, name), _those(contract, name, inputs), sizes)
            rows += _compare(contract, name, f"{before[0]} = {label}", before[1][name], found[name], sizes)
        before = (label, found)
    failed = [row for row in rows if row.relative > limit or row.cosine < cosine or row.decisions.flips]
    if failed:
        worst = "\n".join(f"  {row.model}.{row.output} ({row.pair}): {_numbers(row)}" for row in failed)
        raise ExportError(
            f"The export does not equal the model (tolerance {limit:g}, cosine {cosine:g}), so nothing was kept:\n{worst}\n"
            + (
                "Half precision may be too little for this checkpoint: --precision fp32."
                if contract.precision != "fp32"
                else "This is a bug of ours: please report it."
            )
        )
    return rows


def reference(bundle: Bundle, contract: Contract) -> dict[str, Run]:
    """The original PyTorch modules as functions from prepared inputs, one per served model: the training code, not the graph's."""
    encoder, spec = bundle.encoder, contract.preprocess
    assert encoder is not None

    def clip(inputs: Inputs) -> torch.Tensor:
        return torch.from_numpy(np.stack([normalise(one, spec) for one in inputs["frames"]]))

    def run_clip(inputs: Inputs) -> Outputs:
        tokens = encoder(clip(inputs))
        out = {"embedding": tokens.mean(1)}
        if "action" in bundle.heads:
            out["action"] = bundle.heads["action"](tokens)
        if "sterility" in bundle.heads:
            shape = contract.model("surg_clip").output("breach_map").shape
            out["breach"], out["breach_map"] = bundle.heads["sterility"](tokens, shape, torch.from_numpy(inputs["zone"]))
        return _numpy(out)

    def run_encoder(inputs: Inputs) -> Outputs:
        seen = clip(inputs)
        levels = encoder.layers(seen, encoder.level_blocks) if isinstance(encoder, Encoder) else [encoder(seen)]
        return _numpy({"tokens": levels[-1], "levels": torch.stack(levels, 1), "pooled": levels[-1].mean(1)})

    def run_world(inputs: Inputs) -> Outputs:
        seen = clip(inputs)
        found = _world(bundle, contract, seen) if bundle.predictor is not None else {}
        if bundle.world is not None:
            actions, states = (torch.from_numpy(inputs[name]) for name in ("actions", "states"))
            # The surprise of a predictor, where there is one, stands before the world model's own.
            plain = {name: value for name, value in found.items() if name != "future"}
            found = _acted(bundle.encoder, bundle.world, contract, seen, actions, states) | plain
        return _numpy(found)

    functions = {"surg_clip": run_clip, "surg_encoder": run_encoder, "surg_world": run_world}
    return {spec.name: functions[spec.name] for spec in contract.models if spec.name in functions}


def _acted(
    encoder: Any, world: Any, contract: Contract, clip: torch.Tensor, actions: torch.Tensor, states: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The action-conditioned model by its own roll-out, which sees the whole past anew at each step."""
    spec = contract.model("surg_world")
    newest, h, w = spec.output("surprise_map").shape
    ahead, places, width = spec.output("future").shape
    tubelet, count = encoder.config.tubelet_size, len(clip)
    t = clip.shape[2] // tubelet
    single = clip[:, :, tubelet - 1 :: tubelet].transpose(1, 2).flatten(0, 1).unsqueeze(2).expand(-1, -1, tubelet, -1, -1)
    tokens = torch.nn.functional.layer_norm(encoder(single), (width,)).reshape(count, t * places, width)
    future = world.roll_out(tokens, actions, states, (h, w), ahead).reshape(count, ahead, places, width)
    known = (t - newest) * places
    expected = world.roll_out(tokens[:, :known], actions, states, (h, w), newest)
    error = (expected - tokens[:, known:]).abs().mean(-1)
    return {
        "future": future, "surprise": error.mean(1, keepdim=True), "surprise_map": error.reshape(count, newest, h, w),
        "present": tokens[:, -places:],
    }  # fmt: skip


def _world(bundle: Bundle, contract: Contract, clip: torch.Tensor) -> dict[str, torch.Tensor]:
    encoder, predictor, spec = bundle.encoder, bundle.predictor, contract.model("surg_world")
    assert isinstance(encoder, Encoder)
    assert predictor is not None
    newest, h, w = spec.output("surprise_map").shape
    ahead, _, width = spec.output("future").shape
    t, count = clip.shape[2] // encoder.config.tubelet_size, len(clip)
    look = encoder.levels if predictor.config.levels > 1 else encoder
    tokens, past = look(clip), look(clip[:, :, : (t - newest) * encoder.config.tubelet_size])

    def ids(start: int, end: int) -> torch.Tensor:
        return torch.arange(start * h * w, end * h * w)[None].expand(count, -1)

    def ask(seen: torch.Tensor, steps: int, total: int) -> torch.Tensor:
        answer = predictor(seen, ids(0, steps), ids(steps, total), (total, h, w))
        return (answer if isinstance(answer, torch.Tensor) else answer.target)[..., -width:]

    found = torch.nn.functional.layer_norm(tokens[:, -newest * h * w :, -width:], (width,))
    error = (ask(past, t - newest, t) - found).abs().mean(-1)
    future = ask(tokens, t, t + ahead).reshape(count, ahead, h * w, width)
    return {"future": future, "surprise": error.mean(1, keepdim=True), "surprise_map": error.reshape(count, newest, h, w)}


def _sizes_used(sizes: Sequence[int], clips: int) -> list[int]:
    """Those that occur when so many clips are sent; the last batch may be cut short, and is then not claimed."""
    used = [size for index, size in enumerate(sizes) if sum(sizes[: index + 1]) <= clips]
    return used or [min(clips, sizes[0])]


def batch_sizes(largest: int) -> list[int]:
    """Batch sizes to try: alone, two, an odd one, the preferred ones of the configuration."""
    return sorted({1, 2, 3, largest // 2, largest} & set(range(1, largest + 1)))


def sample_clips(
    count: int, spec: PreprocessSpec, seed: int
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]:
    """Moving things on textured ground, 480 x 360, through the real preprocessing; every other clip with a zone."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        ground = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (480, 360), interpolation=cv2.INTER_CUBIC)
        start, speed = rng.uniform(0.2, 0.8, 2) * (480, 360), rng.uniform(-9, 9, 2)
        colour, radius = tuple(int(value) for value in rng.integers(0, 256, 3)), int(rng.integers(15, 60))
        frames = np.empty((spec.num_frames, 360, 480, 3), np.uint8)
        for time in range(spec.num_frames):
            picture = np.roll(ground, int(2 * time), axis=1).copy()
            centre = start + time * speed
            cv2.circle(picture, (int(centre[0]), int(centre[1])), radius, colour, -1, cv2.LINE_AA)
            noise = rng.normal(0, 4, picture.shape)
            frames[time] = np.clip(picture + noise, 0, 255).astype(np.uint8)
        x, y = rng.uniform(0.1, 0.5, 2)
        zone = [[x, y], [x + 0.4, y], [x + 0.4, y + 0.4], [x, y + 0.4]] if index % 2 else None
        prepared = preprocess(frames, spec, zone)
        yield prepared.frames, prepared.zone


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Rows as text for a table: what was compared, cosine, largest difference, flips, and what was left out as on the fence."""
    return [
        {
            "model": row.model,
            "output": row.output,
            "compared": row.pair,
            "batches": ",".join(map(str, row.batches)),
            "cosine": f"{row.cosine:.7f}",
            "max abs": f"{row.max_abs:.1e}",
            **_decided(row),
        }
        for row in rows
    ]


def _decided(row: Row) -> dict[str, str]:
    if row.output not in ("action", "breach"):
        return {"flips": "-", "on the fence": "-"}
    found = row.decisions
    return {
        "flips": f"{found.flips}/{row.clips}",
        "on the fence": f"{found.near} within {found.fence:g}, {found.changed_near} changed",
    }


def _inputs(contract: Contract, samples: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]], seed: int) -> Inputs:
    """Frames and zones of the samples, and for an action-conditioned world model actions and states drawn at random."""
    found: Inputs = {"frames": np.stack([sample[0] for sample in samples]), "zone": np.stack([sample[1] for sample in samples])}
    rng = np.random.default_rng(seed)
    if contract.has("surg_world"):
        for tensor in contract.model("surg_world").inputs:
            if tensor.name not in found:
                found[tensor.name] = rng.standard_normal((len(samples), *tensor.shape), np.float32)
    return found


def _those(contract: Contract, model: str, inputs: Inputs) -> Inputs:
    return {tensor.name: inputs[tensor.name] for tensor in contract.model(model).inputs}


def _runner(client: Client, model: str) -> Run:
    return lambda inputs: dict(client.raw(model, inputs).outputs)


def _in_batches(run: Run, inputs: Inputs, sizes: Sequence[int]) -> Outputs:
    """Outputs of all clips, sent in batches whose sizes take turns, so that every size occurs."""
    parts: list[Outputs] = []
    start, turn = 0, 0
    with torch.inference_mode():
        while start < len(inputs["frames"]):
            size = sizes[turn % len(sizes)]
            parts.append(run({name: values[start : start + size] for name, values in inputs.items()}))
            start, turn = start + size, turn + 1
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compare(contract: Contract, model: str, pair: str, wanted: Outputs, found: Outputs, sizes: Sequence[int]) -> Iterator[Row]:
    for name, reference_values in wanted.items():
        a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (reference_values, found[name]))
        if not np.isfinite(b).all():
            raise ExportError(f"{model}.{name} holds values that are not finite ({pair}). Export with --precision fp32.")
        cosine = float(cosines(a, b).min()) if a.shape[1] > 1 else 1.0
        scale = max(1.0, float(np.abs(a).max()))
        worst = float(np.abs(a - b).max())
        decided = decisions(
            name, a, b, [contract.threshold(second) for second in contract.horizons_s], FENCE[contract.precision]
        )
        yield Row(model, name, pair, len(a), tuple(sizes), cosine, worst, scale, decided)


def cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Of each row of (C, D) with its counterpart."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / np.maximum(norms, 1e-12), np.float64)


def decisions(output: str, a: npt.NDArray[Any], b: npt.NDArray[Any], thresholds: Sequence[float], fence: float) -> Decisions:
    """Compare the decisions of logits (C, numbers), `a` the reference. Outputs that decide nothing have none.

    thresholds: of the breach's probability, one a horizon.
    """
    if output == "action" and a.shape[1] > 1:
        top = np.sort(softmax(a.astype(np.float32)), axis=1)
        near = (top[:, -1] - top[:, -2] <= fence)[:, None]
        changed = (a.argmax(1) != b.argmax(1))[:, None]
    elif output == "breach":
        probability = np.clip(thresholds, 1e-9, 1 - 1e-9)
        near = np.abs(sigmoid(a.astype(np.float32)) - probability) <= fence
        line = np.log(probability / (1 - probability))
        changed = (a > line) != (b > line)
    else:
        return Decisions(fence)
    flips, beside = (changed & ~near).any(1), (changed & near).any(1)
    return Decisions(fence, int(near.any(1).sum()), int((beside & ~flips).sum()), int(flips.sum()))


def _numbers(row: Row) -> str:
    return f"max abs {row.max_abs:.2e}, cosine {row.cosine:.7f}, {row.decisions.flips} flips"


def _numpy(tensors: dict[str, torch.Tensor]) -> Outputs:
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Keep the gate's table beside the repository."""
    from surg.runs import write_json

    write_json(path, [{**asdict(row), "relative": row.relative} for row in rows])
