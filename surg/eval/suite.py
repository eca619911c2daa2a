"""All evaluations through one server, for one report: what CI runs on the small model and what a new checkpoint gets first.

What is not given as a manifest is simulated, always the same: seeds that no training recipe uses, cases kept apart by split. The
`small` protocol takes minutes on two cores, its intervals are wide and its report says so; `full` is the one to quote.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from surg.config import Config
from surg.data.executor import item_key
from surg.data.manifest import Manifest, write_manifest
from surg.errors import DataError
from surg.eval import parity
from surg.eval.backends import Backend, BackendName
from surg.eval.features import FeatureConfig
from surg.eval.probe_action import Arm, ProbeActionConfig
from surg.eval.probes import ProbeConfig
from surg.eval.results import Result
from surg.eval.retrieval import RetrievalConfig
from surg.eval.runs import judge_probe, judge_retrieval, judge_sterility, judge_world
from surg.eval.sterility import SterilityConfig
from surg.eval.world_model import WorldConfig

logger = logging.getLogger(__name__)

UNSEEN = "unseen appearance"


class Protocol(Config):
    """How much of everything."""

    name: Literal["small", "full"]
    """What the report and the baseline call it."""
    tissue: tuple[int, int, int, int]
    """Clips of tool motion: train, val and test of one appearance family, and test of another that nothing was chosen on."""
    room: tuple[int, int]
    """Clips of operating rooms: val, test."""
    takes: tuple[int, int]
    """Long takes of operating rooms: val, test."""
    minutes: float = Field(gt=0)
    """Length of a take."""
    breaches_per_hour: float = Field(gt=0)
    """Staged in the takes."""
    probe: ProbeActionConfig
    """Readers of the frozen features and the baselines beside them."""
    world_clips: int = Field(ge=2)
    """Clips whose future is foreseen."""
    parity_clips: int = Field(ge=1)
    """Clips that every backend answers."""


SMALL = Protocol(
    name="small",
    tissue=(64, 16, 32, 16),
    room=(8, 32),
    takes=(1, 1),
    minutes=1.1,
    breaches_per_hour=120.0,
    probe=ProbeActionConfig(
        features=FeatureConfig(level="tokens", pool=4),
        probe=ProbeConfig(depth=2, epochs=20, lr=(1e-3,), weight_decay=(0.05,)),
        baselines=("majority", "motion"),
    ),
    world_clips=16,
    parity_clips=8,
)
FULL = Protocol(
    name="full",
    tissue=(640, 128, 320, 160),
    room=(64, 320),
    takes=(4, 8),
    minutes=10.0,
    breaches_per_hour=12.0,
    probe=ProbeActionConfig(),
    world_clips=96,
    parity_clips=32,
)
PROTOCOLS = {protocol.name: protocol for protocol in (SMALL, FULL)}


@dataclass(frozen=True)
class Data:
    """Manifests to use instead of simulated ones."""

    tissue: Path | None = None
    """Clips with the label `action`, split into train, val and test."""
    shifted: Path | None = None
    """More clips with it, of an appearance that the others have not."""
    room: Path | None = None
    """Clips with the label `breach`."""
    takes: Path | None = None
    """Long videos with it."""


def run_suite(
    backend: Backend,
    out: Path,
    protocol: Protocol,
    data: Data,
    *,
    checkpoint: Path | None = None,
    seed: int = 20_000,
    workers: int | None = None,
) -> list[Result]:
    """Action probe, retrieval, sterility, world model and parity, as far as the model has the parts.

    A part that is missing is named in the first result's warnings; held against a baseline that has it, its numbers are missing and fail.
    """
    contract = backend.client.contract
    if (out / "report.html").is_file():
        # A finished run is done again, not resumed: its tables would prove nothing about this server.
        shutil.rmtree(out / "features", ignore_errors=True)
        for table in out.glob("scores_*.parquet*"):
            shutil.rmtree(table) if table.is_dir() else table.unlink()
        (out / "report.html").unlink()
    simulated = _Simulated(out / "data", protocol, seed, workers)
    actions, shifted = data.tissue or simulated.tissue(), data.shifted
    if shifted is None and data.tissue is None:
        shifted = simulated.shifted()
    tests = {UNSEEN: Manifest.read(shifted)} if shifted else {}
    rooms = [Manifest.read(data.room or simulated.room())] if contract.horizons_s else []
    missing: list[str] = []
    last: list[Result] = []
    if checkpoint is None:
        missing.append("parity: without --checkpoint there is nothing to hold the server against")
    else:
        # First of all: numbers of a server that does not equal the checkpoint are not worth waiting for.
        names: list[BackendName] = list(dict.fromkeys(("torch", "onnx", backend.name)))
        clips = (rooms or [Manifest.read(actions)])[0]
        last.append(
            parity.compare(
                names,
                clips,
                checkpoint=checkpoint,
                repository=backend.repository,
                server=None,
                clips=protocol.parity_clips,
                opened=backend,
            )
        )
    arm = Arm("model", checkpoint, opened=backend)
    results = [judge_probe("probe-action", [arm], Manifest.read(actions), tests, protocol.probe, out, backend.name)]
    results.append(judge_retrieval(backend, Manifest.read(actions), out, RetrievalConfig()))
    if rooms:
        takes = data.takes or (None if data.room else simulated.takes())
        long = Manifest.read(takes) if takes else None
        results.append(judge_sterility(backend, rooms[0], out, SterilityConfig(), takes=long))
    else:
        missing.append("sterility: the model has no sterility head")
    if contract.has("surg_world"):
        results += _world(backend, [Manifest.read(actions), *rooms], out, protocol, missing)
    else:
        missing.append("world model: the model has no predictor")
    results += last
    results[0].warnings += [f"Not judged: {reason}." for reason in missing]
    if protocol.name == "small":
        results[0].warnings.append(
            "The small protocol: few clips and cases, a short probe. It finds what broke; quote the full one."
        )
    described = {"protocol": protocol.name, **simulated.described, **_given(data)}
    for result in results:
        result.evidence["protocol"] = described
        result.protocol.append(f"Part of the `{protocol.name}` protocol of surg eval all: " + _words(described) + ".")
    return results


def _world(backend: Backend, manifests: list[Manifest], out: Path, protocol: Protocol, missing: list[str]) -> list[Result]:
    """On the first manifest whose clips are long enough to hold the future."""
    reason = ""
    for manifest in manifests:
        try:
            return [judge_world(backend, manifest, out, WorldConfig(clips=protocol.world_clips))]
        except DataError as error:
            reason = str(error).splitlines()[0]
    missing.append(f"world model: {reason}")
    return []


class _Simulated:
    """Data sets under `folder`, made when they are first asked for and kept for the next run."""

    def __init__(self, folder: Path, protocol: Protocol, seed: int, workers: int | None) -> None:
        self._folder, self._protocol, self._seed = folder, protocol, seed
        # Two at least, so that processes of their own draw: OpenGL's LLVM and that of torch do not live together in one.
        self._workers = max(workers or os.cpu_count() or 1, 2)
        self.described: dict[str, Any] = {}

    def tissue(self) -> Path:
        from surg.data.synth.tissue import generate

        train, val, test, _ = self._protocol.tissue
        counts = {"train": train, "val": val, "test": test}
        return self._make(
            "tissue", counts, lambda out, count, seed, split: generate(out, count, seed, "a", self._workers, split=split)
        )

    def shifted(self) -> Path:
        from surg.data.synth.tissue import generate

        counts = {"test": self._protocol.tissue[3]}
        return self._make(
            "shifted", counts, lambda out, count, seed, split: generate(out, count, seed, "b", self._workers, split=split)
        )

    def room(self) -> Path:
        from surg.data.synth.room import generate

        renderer = self._renderer()
        return self._make(
            "room",
            dict(zip(("val", "test"), self._protocol.room)),
            lambda out, count, seed, split: generate(out, count, seed, "a", self._workers, split=split, renderer=renderer),
        )

    def takes(self) -> Path:
        from surg.data.synth.room import generate_takes

        renderer, minutes, rate = self._renderer(), self._protocol.minutes, self._protocol.breaches_per_hour
        return self._make(
            "takes",
            dict(zip(("val", "test"), self._protocol.takes)),
            lambda out, count, seed, split: generate_takes(
                out, count, minutes, seed, "a", self._workers, split=split, breaches_per_hour=rate, renderer=renderer
            ),
        )

    def _renderer(self) -> str:
        """Two renderers give two data sets: which one it was belongs to the protocol."""
        from surg.data.synth.room_scene import choose_renderer

        self.described["renderer"] = choose_renderer("auto")
        return str(self.described["renderer"])

    def _make(self, kind: str, counts: dict[str, int], generate: Any) -> Path:
        """One manifest over a folder a split, each split with a seed of its own, so that no case stands in two."""
        from surg.data.synth.version import SIMULATOR_VERSION

        self.described |= {"simulator": SIMULATOR_VERSION, "seed": self._seed}
        key = item_key([kind, counts, self.described, self._protocol.minutes, self._protocol.breaches_per_hour])[:8]
        folder = self._folder / f"{kind}-{key}"
        path = folder / "manifest.parquet"
        if path.is_file():
            return path
        offset = 10 * ("tissue", "shifted", "room", "takes").index(kind)
        parts = []
        for number, (split, count) in enumerate(counts.items()):
            logger.info("simulating %s, %s: %d", kind, split, count)
            parts.append(Manifest.read(generate(folder / split, count, self._seed + offset + number, split)))
        return write_manifest(path, (clip for part in parts for clip in part.clips())).path


def _given(data: Data) -> dict[str, str]:
    return {
        name: Manifest.read(path).fingerprint[:12]
        for name in ("tissue", "shifted", "room", "takes")
        if (path := getattr(data, name)) is not None
    }


def _words(described: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in described.items())
