"""Load encoders, predictors and world models from any file we know, whole or not at all, and say what was done."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from surg.config import Config
from surg.errors import CheckpointError
from surg.model import names, sizes
from surg.model.bundle import MAP_ABOVE_BYTES, Bundle, load_bundle, save_bundle
from surg.model.config import EncoderConfig, FactorizedConfig, PredictorConfig, WorldConfig
from surg.model.encoder import Encoder, build_encoder
from surg.model.files import Tree, WeightFile, open_weights
from surg.model.predictor import Predictor

if TYPE_CHECKING:
    from surg.model.factorized import FactorizedEncoder
    from surg.model.world import WorldPredictor

__all__ = ["Bundle", "LoadReport", "load_bundle", "load_encoder", "load_predictor", "load_world", "read_part", "save_bundle"]

logger = logging.getLogger(__name__)

ENCODER_KEYS = ("target_encoder", "ema_encoder", "encoder")
"""Trees an encoder may be under, in the order tried: evaluations use the slow average, distilled 2.1 calls it ema_encoder."""

Given = Config | Mapping[str, Any] | None
M = TypeVar("M", bound=nn.Module)


@dataclass
class LoadReport:
    """What a load did with every tensor of the file and of the model."""

    source: str
    """Which tree of which file."""
    loaded: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    """Left out by rule: name and reason."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.loaded} tensors loaded"]
        lines += [f"  left out {key}: {reason}" for key, reason in self.dropped.items()]
        for title in ("missing", "unexpected", "mismatched"):
            entries = getattr(self, title)
            lines += (
                [f"  {title} ({len(entries)}): {', '.join(entries[:8])}{' …' if len(entries) > 8 else ''}"] if entries else []
            )
        return "\n".join(lines)

    def check(self) -> None:
        """Raise CheckpointError if anything is unexplained."""
        if self.missing or self.unexpected or self.mismatched:
            raise CheckpointError(
                f"{self}\nNothing was loaded. See what the file holds with: surg weights inspect PATH\n"
                "Perhaps another tree was meant (--key), or the file belongs to another model."
            )


@dataclass
class Part:
    """One model's worth of a file: its settings and its tensors under our names."""

    kind: str
    config: Any
    tree: Tree
    report: LoadReport


def load_encoder(path: Path | str, key: str | None = None, config: Given = None) -> "Encoder | FactorizedEncoder":
    """An encoder in eval mode from a bundle, a run folder, Meta's `.pt`, a transformers folder or bare safetensors.

    `key` picks the tree of a Meta file (target_encoder, encoder, ema_encoder). Sizes are read off the tensors; `config` adds
    what no tensor shows, such as {"num_heads": 2} for a size that is not in the zoo. Raises CheckpointError if anything is left.
    """
    return _load(path, "encoder", key, config, build_encoder)


def load_predictor(path: Path | str, config: Given = None) -> Predictor:
    """A predictor in eval mode, from the same files. 2.1's positions are stretched as in its training; the hub's are not."""
    return _load(path, "predictor", None, config, Predictor)


def load_world(path: Path | str, config: Given = None) -> "WorldPredictor":
    """An action-conditioned predictor in eval mode, from our bundles or Meta's V-JEPA 2-AC file."""
    from surg.model.world import WorldPredictor

    return _load(path, "world", None, config, WorldPredictor)


def read_part(path: Path | str, kind: str, key: str | None = None, config: Given = None) -> Part:
    """Find one model in a file, name its tensors our way and check them against its settings, without copying any."""
    file = open_weights(Path(path))
    part = _find(file, kind, key, sizes.as_given(config))
    with torch.device("meta"):
        expected = _module(part).state_dict()
    _compare(part, expected)
    part.report.check()
    return part


def _load(path: Path | str, kind: str, key: str | None, config: Given, build: Callable[[Any], M]) -> M:
    part = read_part(path, kind, key, config)
    logger.info("%s", part.report)
    with torch.device("meta"):
        module = build(part.config)
    keep = sum(tensor.nbytes for tensor in part.tree.values()) > MAP_ABOVE_BYTES
    state = {name: tensor.float() if keep else tensor.float().clone() for name, tensor in part.tree.items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def _module(part: Part) -> nn.Module:
    if isinstance(part.config, EncoderConfig | FactorizedConfig):
        return build_encoder(part.config)
    if isinstance(part.config, PredictorConfig):
        return Predictor(part.config)
    if isinstance(part.config, WorldConfig):
        from surg.model.world import WorldPredictor

        return WorldPredictor(part.config)
    from surg.model.heads import build_head

    return build_head(part.config)


def _find(file: WeightFile, kind: str, key: str | None, given: dict[str, Any]) -> Part:
    if file.layout == "bundle":
        return _from_bundle(file, kind, key, given)
    if file.layout == "transformers":
        trees, given = names.from_transformers(file.trees[""]), {**_transformers_heads(file.settings, kind), **given}
        if kind not in trees:
            raise CheckpointError(f"{file.path} holds {', '.join(trees)}, but no {kind}.")
        _refuse_key(key, file)
        chosen, tree = kind, trees[kind]
    else:
        chosen, tree = _choose(file, kind, key)
    where = f"{file.path}, {chosen}" if chosen else str(file.path)
    _refuse_version_1(file, tree, given, where)
    report = LoadReport(where, dropped={name: reason for name, reason in names.STALE.items() if name in tree})
    tree = {name: tensor for name, tensor in tree.items() if name not in report.dropped}
    readers: dict[str, Callable[[], Any]] = {
        "encoder": lambda: sizes.read_encoder(tree, given, where),
        "predictor": lambda: sizes.read_predictor(tree, given, where),
        "world": lambda: sizes.read_world(tree, given, where),
        "probe": lambda: sizes.read_probe(tree, given),
    }
    try:
        return Part(kind, readers[kind](), tree, report)
    except KeyError as error:
        raise CheckpointError(f"{where} lacks {error}: it is half a checkpoint, or not one of V-JEPA 2.") from error


def _refuse_version_1(file: WeightFile, tree: Tree, given: Mapping[str, Any], where: str) -> None:
    """Drop a table of absolute positions only where it is known to be stale.

    V-JEPA 1's files have the same names and such a table, and need it. What tells them apart is the number of mask tokens of the
    predictor beside it, 2 there and 6 or more in V-JEPA 2; without one, whoever loads must say so by naming the rotary layout.
    """
    tables = [name for name in names.STALE if name in tree]
    masks = max((sizes.count(names.clean(other), "mask_tokens") for other in file.trees.values()), default=0)
    if not tables or masks > 2 or "rope" in given:
        return
    shape = " x ".join(map(str, tree[tables[0]].shape))
    found = (
        f"its predictor has {masks} mask tokens, as V-JEPA 1's"
        if masks
        else "there is no predictor beside it to tell the version by"
    )
    raise CheckpointError(
        f"{where} carries a table of absolute positions ({tables[0]}, {shape}), and {found}.\n"
        "V-JEPA 1's weights need that table and would say something else under the rotary positions of V-JEPA 2, which surg has. "
        'If you know that it is V-JEPA 2 with a stale table: load_encoder(path, config={"rope": "tiled"}), or once: surg weights convert FILE OUT.safetensors --set rope=tiled'
    )


def _from_bundle(file: WeightFile, kind: str, key: str | None, given: dict[str, Any]) -> Part:
    from surg.config import validate
    from surg.model.encoder import encoder_config_from

    if kind not in file.settings:
        raise CheckpointError(f"{file.path} holds {', '.join(sorted(file.settings))}, but no {kind}.")
    _refuse_key(key, file)
    stored = file.settings[kind]
    for name, value in given.items():
        if name in stored and not sizes._same(tuple(stored[name]) if isinstance(stored[name], list) else stored[name], value):
            if name in ("drop_path", "interpolate_rope", "rope_grid", "step_s"):
                continue  # these change how a model runs, not what its tensors are
            raise CheckpointError(f"{file.path}, {kind} was built with {name} = {stored[name]}, the config asks for {value}.")
    values = {**stored, **given}
    config: Config
    if kind == "encoder":
        config = encoder_config_from(values)
    else:
        config = validate(WorldConfig if kind == "world" else PredictorConfig, values)
    return Part(kind, config, file.trees[kind], LoadReport(f"{file.path}, {kind}"))


def _choose(file: WeightFile, kind: str, key: str | None) -> tuple[str, Tree]:
    """The tree of a `.pt` or bare safetensors file that holds a model of this kind."""
    trees = {name: names.clean(tree) for name, tree in file.trees.items()}
    kinds = {name: "encoder" if (found := names.what_is(tree)) == "factorized" else found for name, tree in trees.items()}
    if key is not None:
        if key not in trees:
            raise CheckpointError(f"{file.path} has no tree {key!r}; it has: {', '.join(map(repr, trees))}.")
        if kinds[key] != kind:
            raise CheckpointError(f"{file.path}, {key} holds {_article(kinds[key])}, where {_article(kind)} was expected.")
        return key, trees[key]
    fitting = [name for name in trees if kinds[name] == kind]
    if not fitting:
        held = ", ".join(f"{name!r} ({kinds[name] or 'unknown'})" for name in trees)
        raise CheckpointError(f"{file.path} holds no {kind}; its trees: {held}.")
    preferred = [name for name in ENCODER_KEYS if name in fitting]
    if not preferred and len(fitting) > 1 and kind != "probe":
        raise CheckpointError(f"{file.path} holds several: {', '.join(fitting)}. Choose one with --key.")
    chosen = (preferred or fitting)[0]
    return chosen, trees[chosen]


def _compare(part: Part, expected: Mapping[str, Tensor]) -> None:
    report = part.report
    report.missing = [name for name in expected if name not in part.tree]
    report.unexpected = [name for name in part.tree if name not in expected]
    report.mismatched = [
        f"{name} is {tuple(part.tree[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in part.tree and part.tree[name].shape != expected[name].shape
    ]
    report.loaded = len(expected) - len(report.missing) - len(report.mismatched)


def _transformers_heads(settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"num_heads": settings["pred_num_attention_heads" if kind == "predictor" else "num_attention_heads"]}


def _refuse_key(key: str | None, file: WeightFile) -> None:
    if key is not None:
        raise CheckpointError(
            f"--key {key} chooses among the trees of a Meta file; {file.path} holds one encoder. Leave it out."
        )


def _article(kind: str | None) -> str:
    return "something unknown" if kind is None else f"{'an' if kind == 'encoder' else 'a'} {kind}"
