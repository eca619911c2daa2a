"""The models that are served, as modules to export, and the contract that describes them.

surg_clip     frames, zone -> embedding, action, breach, breach_map       one encoder pass
surg_encoder  frames -> tokens, levels, pooled
surg_world    frames -> future, surprise, surprise_map; with an action-conditioned world model also actions, states -> present
surg_video    many frames -> surg_clip per window; runs on the server (backend/video)

B clips, T frames, S side, N = t*h*w tokens, D width, A classes, H horizons, L levels, K tubelets ahead, s newest tubelets
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from surg.config import Config, validate
from surg.data.preprocess import PreprocessSpec
from surg.errors import ExportError
from surg.model import zoo
from surg.model.bundle import Bundle
from surg.model.config import EncoderConfig, FactorizedConfig
from surg.model.encoder import Encoder
from surg.model.predictor import Predictor
from surg.model.world import WorldPredictor
from surg.serving.contract import Conditions, Contract, ModelSpec, TensorSpec
from surg.serving.graph import GraphEncoder, GraphPredictor
from surg.serving.graph_world import GraphWorld


class ServedConfig(Config):
    """What is exported, apart from what the checkpoint decides."""

    max_batch_size: int = Field(8, ge=1)
    """Largest batch the server forms."""
    horizon_tubelets: int = Field(4, ge=1)
    """Tubelets that surg_world looks ahead; one is tubelet_size / fps seconds."""
    newest_tubelets: int = Field(2, ge=1)
    """Newest tubelets that are predicted from the earlier ones: their error is the surprise."""


class ClipModel(nn.Module):
    """Everything a window needs from one encoder pass. Heads that the bundle lacks are left out."""

    def __init__(self, encoder: nn.Module, heads: dict[str, nn.Module], grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder, self.grid = encoder, grid
        self.action, self.sterility = heads.get("action"), heads.get("sterility")

    @property
    def output_names(self) -> list[str]:
        return ["embedding", *(["action"] if self.action else []), *(["breach", "breach_map"] if self.sterility else [])]

    def forward(self, frames: Tensor, zone: Tensor) -> tuple[Tensor, ...]:
        (tokens,) = self.encoder(frames)
        outputs = [tokens.float().mean(1)]
        if self.action is not None:
            outputs.append(self.action(tokens).float())
        if self.sterility is not None:
            logits, places = self.sterility(tokens, self.grid, zone.to(tokens.dtype))
            outputs += [logits.float(), places.float()]
        else:
            # A graph keeps no input that nothing reads, and the contract has the zone.
            outputs[0] = outputs[0] + 0.0 * zone.mean((1, 2)).unsqueeze(-1)
        return tuple(outputs)


class EncoderModel(nn.Module):
    output_names = ("tokens", "levels", "pooled")

    def __init__(self, encoder: nn.Module, level_blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder, self.level_blocks = encoder, level_blocks

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        levels = self.encoder(frames, self.level_blocks)
        tokens = levels[-1].float()
        return tokens, torch.stack([level.float() for level in levels], 1), tokens.mean(1)


class WorldModel(nn.Module):
    """What comes next, and how far the newest tubelets are from what was to be expected.

    The earlier tubelets are encoded alone, so that nothing of the newest ones leaks into their prediction.
    """

    output_names = ("future", "surprise", "surprise_map")
    whole_numbers = False

    def __init__(self, full: nn.Module, earlier: nn.Module, ahead: nn.Module, newest: nn.Module, config: "WorldShape") -> None:
        super().__init__()
        self.full, self.earlier, self.ahead, self.newest, self.shape = full, earlier, ahead, newest, config

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        shape = self.shape
        if not self.whole_numbers:
            # Cast before Slice: TensorRT's parser refuses to slice uint8 (a test with TensorRT-RTX found it).
            frames = frames.to(next(self.parameters()).dtype)
        levels = self.full(frames, shape.levels)
        tokens = torch.cat(levels, -1)
        past = torch.cat(self.earlier(frames[:, : shape.earlier_frames], shape.levels), -1)
        future = self.ahead(tokens).float()
        expected = self.newest(past).float()[..., -shape.width :]
        # As in training, targets are layer-normed tokens of the whole clip.
        found = nn.functional.layer_norm(levels[-1][:, -shape.newest_tokens :].float(), (shape.width,))
        error = (expected - found).abs().mean(-1)
        future = future[..., -shape.width :].reshape(-1, shape.ahead, shape.per_step, shape.width)
        return future, error.mean(1, keepdim=True), error.reshape(-1, *shape.map)


class ActionWorldModel(nn.Module):
    """What comes next if this is done. Each step is one frame (a tubelet's last), encoded alone, as in V-JEPA 2-AC.

    Surprise is the predictor's where there is one, for it needs no actions; else the world model's own.
    """

    output_names = ("future", "surprise", "surprise_map", "present")
    whole_numbers = False

    def __init__(self, still: GraphEncoder, world: GraphWorld, plain: WorldModel | None, tubelet: int) -> None:
        super().__init__()
        self.still, self.world, self.plain, self.tubelet = still, world, plain, tubelet

    def forward(self, frames: Tensor, actions: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        dtype, world, (_, h, w) = next(self.parameters()).dtype, self.world, self.still.grid
        if not self.whole_numbers:
            frames = frames.to(dtype)  # before Slice, as in WorldModel
        _, _, height, width, channels = frames.shape
        last = frames.view(-1, world.seen, self.tubelet, height, width, channels)[:, :, -1]
        (tokens,) = self.still(last.reshape(-1, 1, height, width, channels))
        tokens = nn.functional.layer_norm(tokens, (world.out,)).view(-1, world.seen * world.places, world.out)
        future, expected = world(tokens, actions.to(dtype), states.to(dtype))
        newest = tokens.view(-1, world.seen, world.places, world.out)[:, world.seen - world.newest :].float()
        if self.plain is not None:
            _, surprise, places = self.plain(frames)
        else:
            error = (expected.float() - newest).abs().mean(-1)
            surprise, places = error.mean((1, 2)).unsqueeze(1), error.view(-1, world.newest, h, w)
        return future.float(), surprise, places, newest[:, -1]


@dataclass(frozen=True)
class WorldShape:
    levels: tuple[int, ...]
    earlier_frames: int
    newest_tokens: int
    width: int
    ahead: int
    per_step: int
    map: tuple[int, int, int]


class PlainEncoder(nn.Module):
    """Any other encoder (the factorised one) as it is: normalised inside, its own forward."""

    def __init__(self, encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(mean).view(1, 1, 1, 1, 3))
        self.register_buffer("std", torch.tensor(std).view(1, 1, 1, 1, 3))

    def forward(self, frames: Tensor, levels: Any = None) -> list[Tensor]:
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        clip = ((frames.to(mean.dtype) * (1.0 / 255.0) - mean) / std).permute(0, 4, 1, 2, 3)
        return [cast(Tensor, self.encoder(clip))] * (len(levels) if levels else 1)


@dataclass
class Served:
    """Modules ready to export, with the contract for them."""

    contract: Contract
    modules: dict[str, nn.Module] = field(repr=False)
    notes: list[str] = field(default_factory=list)
    """What is left out, and why."""


def prepare(bundle: Bundle, config: ServedConfig) -> Served:
    """Build the served models that a bundle has the parts for. Raises ExportError when it has no encoder."""
    if bundle.encoder is None:
        raise ExportError(
            "The checkpoint holds no encoder, so there is nothing to serve. surg weights inspect PATH shows what it holds."
        )
    spec = validate(PreprocessSpec, bundle.meta.get("preprocess") or {})
    settings = cast(EncoderConfig | FactorizedConfig, bundle.encoder.config)
    patch, tubelet = settings.patch_size, settings.tubelet_size
    if spec.patch_size != patch or spec.num_frames % tubelet:
        raise ExportError(
            f"The checkpoint's preprocessing ({spec.num_frames} frames, patches of {spec.patch_size}) does not fit its encoder "
            f"(tubelets of {tubelet} frames, patches of {patch})."
        )
    grid = (spec.num_frames // tubelet, spec.size // patch, spec.size // patch)
    heads: dict[str, nn.Module] = {
        name: copy.deepcopy(bundle.heads[name]) for name in ("action", "sterility") if name in bundle.heads
    }
    encoder = _graph_encoder(bundle.encoder, spec, spec.num_frames)
    clip = ClipModel(encoder, heads, grid)
    modules: dict[str, nn.Module] = {"surg_clip": clip}
    notes = [
        f"no {name} head: surg_clip has no {output}"
        for name, output in (("action", "action"), ("sterility", "breach"))
        if name not in heads
    ]
    levels = bundle.encoder.level_blocks if isinstance(bundle.encoder, Encoder) else (0,)
    modules["surg_encoder"] = EncoderModel(encoder, levels)
    plain = None
    if isinstance(bundle.predictor, Predictor) and isinstance(bundle.encoder, Encoder):
        plain = modules["surg_world"] = _world(bundle.encoder, bundle.predictor, encoder, spec, grid, config)
    if isinstance(bundle.world, WorldPredictor) and isinstance(bundle.encoder, Encoder):
        modules["surg_world"] = _action_world(bundle.encoder, bundle.world, plain, spec, grid, config)
    if "surg_world" not in modules:
        joint = isinstance(bundle.encoder, Encoder)
        reason = "no predictor and no world model" if joint else "a factorised encoder has no graph that looks ahead"
        notes.append(f"{reason}: surg_world is left out")
    contract = _contract(bundle, spec, config, modules, grid, len(levels))
    return Served(contract, {name: module.eval().requires_grad_(False) for name, module in modules.items()}, notes)


def _graph_encoder(encoder: nn.Module, spec: PreprocessSpec, frames: int) -> nn.Module:
    # Copies: the export may turn weights into half precision, and the bundle stays as it is.
    if isinstance(encoder, Encoder):
        return GraphEncoder(copy.deepcopy(encoder), frames, spec.size, spec.mean, spec.std)
    return PlainEncoder(copy.deepcopy(encoder), spec.mean, spec.std)


def _world(
    encoder: Encoder,
    predictor: Predictor,
    full: nn.Module,
    spec: PreprocessSpec,
    grid: tuple[int, int, int],
    config: ServedConfig,
) -> WorldModel:
    newest = _newest(grid, config)
    earlier_frames = (grid[0] - newest) * encoder.config.tubelet_size
    ahead_grid = (grid[0] + config.horizon_tubelets, grid[1], grid[2])
    shape = WorldShape(
        levels=encoder.level_blocks if predictor.config.levels > 1 else (encoder.config.depth - 1,),
        earlier_frames=earlier_frames,
        newest_tokens=newest * grid[1] * grid[2],
        width=encoder.config.embed_dim,
        ahead=config.horizon_tubelets,
        per_step=grid[1] * grid[2],
        map=(newest, grid[1], grid[2]),
    )
    return WorldModel(
        full,
        _graph_encoder(encoder, spec, earlier_frames),
        GraphPredictor(copy.deepcopy(predictor), ahead_grid, seen=grid[0]),
        GraphPredictor(copy.deepcopy(predictor), grid, seen=grid[0] - newest),
        shape,
    )


def _action_world(
    encoder: Encoder,
    world: WorldPredictor,
    plain: WorldModel | None,
    spec: PreprocessSpec,
    grid: tuple[int, int, int],
    config: ServedConfig,
) -> ActionWorldModel:
    still = GraphEncoder(copy.deepcopy(encoder), 0, spec.size, spec.mean, spec.std, still=True)
    steps = GraphWorld(copy.deepcopy(world), grid[1:], grid[0], config.horizon_tubelets, _newest(grid, config))
    return ActionWorldModel(still, steps, plain, encoder.config.tubelet_size)


def _newest(grid: tuple[int, int, int], config: ServedConfig) -> int:
    newest = min(config.newest_tubelets, grid[0] - 1)
    if newest < 1:
        raise ExportError("Surprise needs clips of at least two tubelets: the newest is predicted from the earlier ones.")
    return newest


def _size(config: EncoderConfig | FactorizedConfig) -> str:
    return zoo.name_of(config) if isinstance(config, EncoderConfig) else "factorized"


def _contract(
    bundle: Bundle,
    spec: PreprocessSpec,
    config: ServedConfig,
    modules: dict[str, nn.Module],
    grid: tuple[int, int, int],
    levels: int,
) -> Contract:
    t, h, w = grid
    assert bundle.encoder is not None
    encoder = cast(EncoderConfig | FactorizedConfig, bundle.encoder.config)
    width = encoder.embed_dim
    classes, horizons = _classes(bundle), _horizons(bundle)
    frames = TensorSpec(name="frames", dtype="UINT8", shape=(spec.num_frames, spec.size, spec.size, 3), axes="T S S C")
    zone = TensorSpec(name="zone", dtype="FP32", shape=(h, w), axes="h w")
    tensors = {
        "embedding": ((width,), "D"),
        "action": ((len(classes),), "A"),
        "breach": ((len(horizons),), "H"),
        "breach_map": (grid, "t h w"),
        "tokens": ((t * h * w, width), "N D"),
        "levels": ((levels, t * h * w, width), "L N D"),
        "pooled": ((width,), "D"),
        "future": ((config.horizon_tubelets, h * w, width), "K hw D"),
        "surprise": ((1,), ""),
        "surprise_map": ((min(config.newest_tubelets, t - 1), h, w), "s h w"),
        "present": ((h * w, width), "hw D"),
    }
    acted: tuple[TensorSpec, ...] = ()
    if isinstance(bundle.world, WorldPredictor) and "surg_world" in modules:
        steps, numbers = t + config.horizon_tubelets - 1, bundle.world.config
        acted = tuple(
            TensorSpec(name=name, dtype="FP32", shape=(steps, count), axes="step numbers")
            for name, count in (("actions", numbers.action_dim), ("states", numbers.state_dim))
        )
    models = []
    for name, module in modules.items():
        outputs = tuple(
            TensorSpec(name=out, dtype="FP32", shape=tensors[out][0], axes=tensors[out][1])
            for out in cast(Sequence[str], module.output_names)
        )
        inputs = {"surg_clip": (frames, zone), "surg_world": (frames, *acted)}.get(name, (frames,))
        models.append(ModelSpec(name=name, inputs=inputs, outputs=outputs, max_batch_size=config.max_batch_size))
    models.append(_video_spec(models[0], spec, zone))
    return Contract(
        checkpoint_sha256=bundle.sha256,
        architecture=str(bundle.meta.get("architecture") or _size(encoder)),
        preprocess=spec,
        classes=classes,
        horizons_s=horizons,
        world_horizons=config.horizon_tubelets if "surg_world" in modules else 0,
        world_step_s=encoder.tubelet_size / spec.fps,
        actions=_conditions(bundle, "actions") if acted else None,
        states=_conditions(bundle, "states") if acted else None,
        thresholds={key: float(value) for key, value in dict(bundle.meta.get("thresholds") or {}).items()},
        models=tuple(models),
    )


def _video_spec(clip: ModelSpec, spec: PreprocessSpec, zone: TensorSpec) -> ModelSpec:
    frames = TensorSpec(name="frames", dtype="UINT8", shape=(-1, spec.size, spec.size, 3), axes="F S S C")
    stride = TensorSpec(name="stride", dtype="INT32", shape=(1,), axes="frames")
    window = TensorSpec(name="window", dtype="INT32", shape=(1,), axes="index of the window")
    return ModelSpec(
        name="surg_video",
        inputs=(frames, zone, stride),
        outputs=(window, *clip.outputs),
        max_batch_size=0,
        kind="python",
        decoupled=True,
    )


def _conditions(bundle: Bundle, kind: str) -> Conditions | None:
    """What the numbers of an action or a state mean, as the training recorded it; None where it did not."""
    recorded = bundle.meta.get(kind)
    return Conditions.model_validate(recorded) if recorded is not None else None


def _classes(bundle: Bundle) -> tuple[str, ...]:
    head = bundle.heads.get("action")
    if head is None:
        return ()
    count = int(cast(dict[str, Any], head.config)["num_classes"])
    names = tuple(str(name) for name in bundle.meta.get("classes") or ())
    if names and len(names) != count:
        raise ExportError(
            f"The checkpoint names {len(names)} classes ({', '.join(names)}), its action head has {count} outputs."
        )
    return names or tuple(f"class_{index}" for index in range(count))


def _horizons(bundle: Bundle) -> tuple[float, ...]:
    head = bundle.heads.get("sterility")
    return tuple(float(second) for second in cast(tuple[float, ...], head.horizons_s)) if head is not None else ()
