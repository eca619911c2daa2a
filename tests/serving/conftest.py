"""A random nano model, exported once per test process, and one embedded Triton that serves it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from surg.data.preprocess import PreprocessSpec
from surg.model import zoo
from surg.model.bundle import save_bundle
from surg.model.encoder import build_encoder
from surg.model.heads import AttentiveClassifier, SterilityHead
from surg.model.predictor import build_predictor
from surg.model.world import WorldPredictor
from surg.serving.client import Client, connect
from surg.serving.engine import Server, start_server
from surg.serving.export import Exported, ExportedFiles, export_files, export_repository
from surg.serving.models import ServedConfig

CLASSES = ["hold", "cut", "push", "pull", "sweep", "grasp", "twist", "rest"]
SPEC = PreprocessSpec(size=64, num_frames=8)


def make_bundle(
    path: Path, seed: int = 0, *, world: WorldPredictor | None = None, without: tuple[str, ...] = (), **meta: object
) -> Path:
    torch.manual_seed(seed)
    width = zoo.encoder_config("nano").embed_dim
    parts: dict[str, torch.nn.Module] = {
        "encoder": build_encoder(zoo.encoder_config("nano")),
        "predictor": build_predictor(zoo.predictor_config("nano")),
        "head.action": AttentiveClassifier(width, 2, 2, len(CLASSES)),
        "head.sterility": SterilityHead(width, num_heads=2, depth=2, width=48),
    }
    facts = {
        "classes": CLASSES,
        "preprocess": SPEC.model_dump(mode="json"),
        "thresholds": {"breach": 0.3},
        **meta,
    }
    parts |= {"world": world} if world is not None else {}
    save_bundle(path, {name: part for name, part in parts.items() if name not in without}, {}, facts)
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "nano.safetensors")


@pytest.fixture(scope="session")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A repository with two versions: two checkpoints side by side."""
    repo = tmp_path_factory.mktemp("export") / "repo"
    small = ServedConfig(max_batch_size=4)
    export_repository(
        make_bundle(bundle.with_name("older.safetensors"), seed=1), repo, served=small, clips=4, through_server=False
    )
    return export_repository(bundle, repo, served=small, clips=10, through_server=False)


@pytest.fixture(scope="session")
def standard(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedFiles:
    """The same models as files alone: standard operators, for any runtime."""
    out = tmp_path_factory.mktemp("standard") / "files"
    return export_files(bundle, out, served=ServedConfig(max_batch_size=4), clips=2)


@pytest.fixture(scope="session")
def server(exported: Exported) -> Iterator[Server]:
    with start_server(exported.repo, threads=1) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with connect(server.grpc_url) as opened:
        yield opened


@pytest.fixture
def local(exported: Exported) -> Iterator[Client]:
    with connect(f"local:{exported.repo}", threads=1) as opened:
        yield opened


@pytest.fixture
def frames() -> np.ndarray:
    """Three prepared clips."""
    return np.random.default_rng(0).integers(0, 256, (3, SPEC.num_frames, SPEC.size, SPEC.size, 3), dtype=np.uint8)


@pytest.fixture
def zone() -> np.ndarray:
    return np.random.default_rng(1).random((3, 4, 4)).astype(np.float32)
