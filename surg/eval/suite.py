"""All evaluations through one server, for one report: what CI runs on the small model and what a new checkpoint gets first."""

import importlib
import importlib.util
import logging
from pathlib import Path

from pydantic import Field

from surg.config import Config
from surg.data.manifest import Manifest
from surg.errors import DataError
from surg.eval.backends import Backend
from surg.eval.features import FeatureConfig
from surg.eval.probe_action import Arm, ProbeActionConfig
from surg.eval.probes import ProbeConfig
from surg.eval.results import Result
from surg.eval.retrieval import RetrievalConfig
from surg.eval.runs import judge_probe, judge_retrieval, judge_sterility, judge_world
from surg.eval.sterility import SterilityConfig
from surg.eval.world_model import WorldConfig

logger = logging.getLogger(__name__)


class SuiteConfig(Config):
    clips: int = Field(96, ge=24)
    """Clips simulated of each kind where no manifest is given."""
    quick: bool = True
    """A probe of two blocks over pooled tokens with one setting, instead of the sweep."""
    seed: int = 20_000
    """Of the simulated clips: no training recipe uses it."""


def run_suite(
    backend: Backend, out: Path, config: SuiteConfig, *, tissue: Path | None = None, room: Path | None = None
) -> list[Result]:
    """Retrieval, action probe, sterility and world model, as far as the model has the parts and there is data."""
    contract = backend.client.contract
    results = []
    actions = Manifest.read(tissue or _simulated("tissue", out, config))
    results.append(
        judge_probe("probe-action", [_same(backend)], actions, {}, _probe_config(config, backend), out, backend.name)
    )
    results.append(judge_retrieval(backend, actions, out, RetrievalConfig()))
    rooms = Manifest.read(room or _simulated("room", out, config)) if contract.horizons_s or room else None
    if rooms is not None and contract.horizons_s:
        results.append(judge_sterility(backend, rooms, out, SterilityConfig()))
    if contract.has("surg_world"):
        results += _world(backend, [actions, *([rooms] if rooms else [])], out)
    return results


def _world(backend: Backend, manifests: list[Manifest], out: Path) -> list[Result]:
    """On the first manifest whose clips are long enough to hold the future."""
    for manifest in manifests:
        try:
            return [judge_world(backend, manifest, out, WorldConfig(clips=48))]
        except DataError as error:
            logger.info("no world-model evaluation on %s: %s", manifest.path.parent.name, error)
    logger.warning("no world-model evaluation: no clips are long enough")
    return []


def _probe_config(config: SuiteConfig, backend: Backend) -> ProbeActionConfig:
    if not config.quick:
        return ProbeActionConfig()
    patches = backend.spec.size // backend.spec.patch_size
    features = FeatureConfig(level="tokens", pool=max(1, patches // 2))
    probe = ProbeConfig(depth=2, epochs=12, lr=(1e-3,), weight_decay=(0.05,))
    return ProbeActionConfig(features=features, probe=probe, baselines=("majority", "motion"))


def _same(backend: Backend) -> Arm:
    """The arm that this open backend serves: asked over its own address, so that one server does all the work."""
    return Arm("model", opened=backend)


def _simulated(kind: str, out: Path, config: SuiteConfig) -> Path:
    path = out / "data" / kind / "manifest.parquet"
    if path.is_file():
        return path
    if importlib.util.find_spec(f"surg.data.synth.{kind}") is None:
        raise DataError(f"There is no simulator `{kind}` in this installation; give a manifest: --{kind} MANIFEST")
    module = importlib.import_module(f"surg.data.synth.{kind}")
    return Path(module.generate(path.parent, config.clips, config.seed, "a", None))
