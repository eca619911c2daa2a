"""From a config to the modules that learn: encoder and predictor from weights or fresh, heads by the tasks of the sources."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from surg.config import validate
from surg.data.preprocess import PreprocessSpec
from surg.errors import CheckpointError, ConfigError
from surg.model import zoo
from surg.model.checkpoint import load_bundle, load_encoder, load_predictor
from surg.model.config import EncoderConfig, FactorizedConfig, PredictorConfig, WorldConfig
from surg.model.encoder import build_encoder
from surg.model.heads import AttentiveClassifier, MotionAuxHead, SterilityHead
from surg.model.motion_energy import start_with_motion
from surg.model.predictor import build_predictor
from surg.model.saved import find_bundle
from surg.model.world import WorldPredictor
from surg.train.config import TrainConfig
from surg.train.sources import Source
from surg.train.stage1 import ContrastHead, MaskHead, OrderHead
from surg.train.trainee import HALVED, Trainee

P = TypeVar("P", bound=nn.Module | None)

logger = logging.getLogger(__name__)
BUNDLED_HEADS = ("action", "sterility", "motion_aux")


@dataclass
class Start:
    """What the weights given brought along."""

    encoder: nn.Module
    predictor: nn.Module | None
    heads: dict[str, nn.Module]
    meta: dict[str, Any]
    sha256: str | None
    world: nn.Module | None = None


def load_start(config: TrainConfig, kept: Path | None = None) -> Start:
    """Encoder, predictor and heads from `init`, or fresh ones of `model.size`.

    `kept`, a run's own last bundle, stands in for an `init` that is gone: its parts have the same shapes, and a run that goes on has its numbers
    from its state.
    """
    if config.init is None:
        if config.model.grow is not None:
            raise ConfigError(
                f"model.grow={config.model.grow} adds blocks to a trained encoder, and none is given. Give one: --init RUN"
            )
        return Start(*_fresh(config), {}, {}, None)
    try:
        path = find_bundle(config.init)
    except CheckpointError:
        if kept is None or not kept.is_file():
            raise
        bundle = load_bundle(kept)
        if bundle.encoder is None:
            raise
        logger.warning("%s, which this run started from, is gone; the run has all it needs in %s", config.init, kept)
        return Start(
            bundle.encoder, bundle.predictor, dict(bundle.heads), bundle.meta, bundle.meta.get("init_sha256"), bundle.world
        )
    if config.model.encoder or config.model.factorized:
        raise ConfigError(f"{path} brings its own encoder: leave out model.encoder and model.factorized, or leave out --init.")
    if path.suffix == ".safetensors" and _is_ours(path):
        bundle = load_bundle(path)
        if bundle.encoder is None:
            raise CheckpointError(f"{path} holds no encoder, so nothing can be trained from it.")
        encoder = bundle.encoder if config.model.grow is None else grown(bundle.encoder, config.model.grow)
        predictor = _of_own_teacher(_as_asked(config, path, bundle.predictor), encoder, path)
        predictor = predictor or build_predictor(_predictor_config(config, encoder))
        return Start(encoder, predictor, dict(bundle.heads), bundle.meta, bundle.sha256, bundle.world)
    encoder = load_encoder(path, key=config.init_key)
    encoder = encoder if config.model.grow is None else grown(encoder, config.model.grow)
    try:
        predictor = _of_own_teacher(_as_asked(config, path, load_predictor(path)), encoder, path)
    except CheckpointError as error:
        logger.warning("the predictor starts fresh: %s", str(error).splitlines()[0])
        predictor = build_predictor(_predictor_config(config, encoder))
    return Start(encoder, predictor, {}, {}, None)


def _as_asked(config: TrainConfig, path: Path, predictor: P) -> P:
    """The predictor that came with the weights. Raises ConfigError where model.predictor asks for another shape."""
    shape: Any = getattr(predictor, "config", None)
    if shape and (other := {key: value for key, value in config.model.predictor.items() if getattr(shape, key) != value}):
        raise ConfigError(
            f"{path} brings its own predictor, and model.predictor asks for {other}: leave it out, or leave out --init."
        )
    return predictor


def _of_own_teacher(predictor: nn.Module | None, encoder: nn.Module, path: Path) -> nn.Module | None:
    """A predictor whose answers are as wide as this encoder's tokens, which a teacher made from it gives.

    2.1's B and L were distilled: their predictors answer in ViT-G's 1664 numbers a token. Their output layers start fresh, the rest goes on.
    """
    shape: Any = getattr(predictor, "config", None)
    width = getattr(encoder.config, "embed_dim", None)
    if predictor is None or width is None or shape.target_dim == shape.levels * width:
        return predictor
    fitting = build_predictor(shape.model_copy(update={"out_dim": None}))
    kept = {name: tensor for name, tensor in predictor.state_dict().items() if not name.startswith("predictor_proj")}
    fresh = {name: tensor for name, tensor in fitting.state_dict().items() if name not in kept}
    fitting.load_state_dict({**kept, **fresh})
    logger.warning(
        "the predictor of %s answers in %d numbers a token, as the model it was distilled from; a teacher made from this encoder has %d. "
        "Its output layers start fresh: %s", path, shape.target_dim, shape.levels * width, ", ".join(fresh),
    )  # fmt: skip
    return fitting


def check_context(config: TrainConfig, predictor: nn.Module | None) -> None:
    """Raises ConfigError when the loss on visible tokens is asked of a predictor that has no answer for them."""
    shape: Any = getattr(predictor, "config", None)
    if config.loss.weights.context and not getattr(shape, "context_head", False):
        raise ConfigError(
            f"loss.weights.context={config.loss.weights.context:g} needs a predictor that also answers for visible tokens, as V-JEPA 2.1's "
            "does; this one does not.\nLeave it out, start from 2.1's weights, or give a fresh one: --set model.predictor={context_head: true}"
        )


def check_ramp(config: TrainConfig, steps: int) -> None:
    """Raises ConfigError when the run ends before its loss on visible tokens begins."""
    first = config.loss.context_ramp[0]
    if config.loss.weights.context and steps <= first:
        raise ConfigError(
            f"loss.weights.context={config.loss.weights.context:g} would never count: it comes in after step {first}, and the run has {steps}.\n"
            f"Bring it in earlier: --set loss.context_ramp=[0,{max(1, steps // 2)}]; or leave it out"
        )


def check_shape(config: TrainConfig, start: Start) -> None:
    """Raises ConfigError when clips of the size and length set cannot be cut into the encoder's tokens."""
    shape: Any = start.encoder.config
    if shape.embed_dim % (config.model.head_heads or 1):
        raise ConfigError(
            f"model.head_heads={config.model.head_heads} does not divide this encoder's width of {shape.embed_dim}."
        )
    unit = frame_unit(config, start)
    halves = f" of each half of a clip, as {', '.join(HALVED)} ask" if unit > shape.tubelet_size else ""
    for name, value, part, why in (
        ("size", config.data.size, shape.patch_size, ""),
        ("num_frames", config.data.num_frames, unit, halves),
    ):
        if value % part:
            nearest = max(part, round(value / part) * part)
            raise ConfigError(
                f"data.{name}={value} cannot be cut into parts of {part}, as this encoder does{why}. Use --set data.{name}={nearest}"
            )


def frame_unit(config: TrainConfig, start: Start) -> int:
    """What a clip's length must be a multiple of: a tube, or two where the clip's halves are encoded one by one."""
    shape: Any = start.encoder.config
    tubelet: int = shape.tubelet_size
    return tubelet * (2 if any(set(source.tasks) & set(HALVED) for source in config.data.sources.values()) else 1)


def grown(encoder: nn.Module, depth: int) -> nn.Module:
    """A copy of a shallow encoder with more blocks on top, whose last layers are zero: it says what it said before."""
    shape: Any = encoder.config
    if not isinstance(shape, EncoderConfig) or shape.levels or depth < shape.depth:
        raise ConfigError(
            f"model.grow={depth} does not fit the encoder of --init: it needs a joint encoder without levels and of at most {depth} "
            f"blocks; found {type(shape).__name__} with {shape.depth} blocks."
        )
    deep = build_encoder(shape.model_copy(update={"depth": depth}))
    deep.load_state_dict({**deep.state_dict(), **encoder.state_dict()})
    blocks: Any = deep.blocks
    for block in blocks[shape.depth :]:
        for layer in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return deep


def _is_ours(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return "surg_format" in (file.metadata() or {})


def _fresh(config: TrainConfig) -> tuple[nn.Module, nn.Module]:
    if config.model.factorized:
        encoder = build_encoder(validate(FactorizedConfig, config.model.encoder))
    else:
        encoder = build_encoder({**zoo.encoder_config(config.model.size).model_dump(), **config.model.encoder})
    if config.model.start == "motion-energy":
        start_with_motion(encoder, config.seed)
    return encoder, build_predictor(_predictor_config(config, encoder))


def _predictor_config(config: TrainConfig, encoder: nn.Module) -> PredictorConfig:
    shape: Any = encoder.config
    base = zoo.predictor_config(config.model.size) if config.model.size in zoo.PREDICTORS else PredictorConfig()
    levels = len(getattr(shape, "levels", ())) or 1
    return validate(
        PredictorConfig,
        # Wide as this encoder's own teacher, also where the released one was distilled from a wider model.
        {**base.model_dump(), "out_dim": None, "embed_dim": shape.embed_dim, "levels": levels, **config.model.predictor},
    )


def build_trainee(
    config: TrainConfig, start: Start, classes: tuple[str, ...], spec: PreprocessSpec, sources: dict[str, Source] | None = None
) -> Trainee:
    """Put encoder, predictor and the heads that the sources' tasks ask for behind one forward."""
    shape: Any = start.encoder.config
    width, tasks = shape.embed_dim, {task for source in config.data.sources.values() for task in source.tasks}
    attention: int = getattr(shape, "num_heads", 3) if config.model.head_heads is None else config.model.head_heads
    heads: dict[str, nn.Module] = {}
    if "action" in tasks:
        heads["action"] = _kept(start, "action", classes, config.model.head_depth) or AttentiveClassifier(
            width, attention, config.model.head_depth, len(classes)
        )
    if "action" in tasks and config.loss.weights.action_map:
        heads["action_map"] = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(classes) + 1))
    if "motion_aux" in tasks:
        heads["motion_aux"] = _kept(start, "motion_aux", classes) or MotionAuxHead(width, num_classes=max(len(classes), 1))
    if "sterility" in tasks:
        fresh = SterilityHead(width, depth=config.model.head_depth, horizons_s=config.model.horizons_s)
        heads["sterility"] = _kept(start, "sterility", config.model.horizons_s, config.model.head_depth) or fresh
    if "sterility" in tasks and config.loss.weights.unsterile_map:
        heads["unsterile_map"] = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
    if "flow" in tasks:
        heads["flow"] = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))
    if "world" in tasks:
        heads["world"] = _kept_world(config, start, sources) or WorldPredictor(_world_config(config, shape, sources))
    if "order" in tasks:
        heads["order"] = OrderHead(width)
    if "contrast" in tasks:
        heads["contrast"] = ContrastHead(width, temperature=config.loss.temperature, queue=config.loss.queue)
    if "mask_aux" in tasks:
        heads["mask_aux"] = MaskHead(width, shape.patch_size, shape.tubelet_size)
    # 2.1's pre-trained models predict four levels of their encoder, its distilled ones the last.
    levels = getattr(getattr(start.predictor, "config", None), "levels", 1)
    trainee = Trainee(
        start.encoder,
        start.predictor,
        heads,
        config.loss,
        spec,
        patch=shape.patch_size,
        tubelet=shape.tubelet_size,
        levels=levels,
    )
    modules: tuple[Any, ...] = (trainee.encoder, trainee.predictor, heads.get("world"))
    for module in modules:
        if module is not None and hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = config.model.gradient_checkpointing
    return trainee


def _world_config(config: TrainConfig, shape: Any, sources: dict[str, Source] | None) -> WorldConfig:
    """As wide as the encoder and half as deep unless told otherwise; action and state as wide as their sources say."""
    readers = [(s.actions, s.states) for s in (sources or {}).values() if s.actions is not None and s.states is not None]
    if len({(a.dim, b.dim) for a, b in readers}) > 1:
        raise ConfigError("The world sources have actions or states of different widths; name the same ones for each.")
    actions, states = (readers[0][0].dim, readers[0][1].dim) if readers else (7, 7)
    values = {
        "embed_dim": shape.embed_dim,
        "width": shape.embed_dim,
        "depth": max(1, getattr(shape, "depth", 12) // 2),
        "num_heads": shape.num_heads,
        "action_dim": actions,
        "state_dim": states,
        "step_s": shape.tubelet_size / config.data.fps,
    }
    return validate(WorldConfig, {**values, **config.model.world})


def _kept_world(config: TrainConfig, start: Start, sources: dict[str, Source] | None) -> nn.Module | None:
    """The world model that came with the weights, when it is told the same actions and states and has the shape asked for."""
    if start.world is None:
        return None
    shape: Any = start.world.config
    readers = next(
        ((s.actions, s.states) for s in (sources or {}).values() if s.actions is not None and s.states is not None), None
    )
    before = {kind: start.meta.get(kind) for kind in ("actions", "states")}
    asked = dict(zip(before, (reader.described() for reader in readers))) if readers else before
    if before != asked:
        logger.warning("the world model starts fresh: it was told %s, now %s", before, asked)
        return None
    if other := {key: value for key, value in config.model.world.items() if getattr(shape, key, value) != value}:
        logger.warning("the world model starts fresh: model.world asks for %s", other)
        return None
    return start.world


def _kept(start: Start, name: str, answers: tuple[Any, ...], depth: int | None = None) -> nn.Module | None:
    """The head that came with the weights, when it answers the same questions. `depth` is that of a fresh one."""
    head = start.heads.get(name)
    if head is None:
        return None
    before = tuple(start.meta.get("horizons_s" if name == "sterility" else "classes", ()))
    if before != tuple(answers):
        logger.warning("the %s head starts fresh: it answered %s, now asked for %s", name, list(before), list(answers))
        return None
    shape: Any = getattr(head, "config", {})
    if depth is not None and shape.get("depth", depth) != depth:
        logger.warning(
            "the %s head of --init goes on with its own depth of %d; model.head_depth=%d is for a fresh one",
            name,
            shape["depth"],
            depth,
        )
    return head


def add_lora(encoder: nn.Module, rank: int, alpha: int) -> nn.Module:
    """Low-rank updates of attention and hidden layers (peft), in place; `merge_lora` folds them into the weights."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=["qkv", "proj", "fc1", "fc2"], exclude_modules=["patch_embed.proj"]
    )
    injected: nn.Module = inject_adapter_in_model(settings, encoder)
    return injected


def merge_lora(encoder: nn.Module) -> nn.Module:
    """A copy of the encoder in its plain shape, with the updates in its weights."""
    import copy

    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(encoder)
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent = plain.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    return plain


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
