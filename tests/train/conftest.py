"""Videos and a quick config that the tests of training share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surg.train.config import TrainConfig
from surg.train.recipes import load_recipe
from tests.train import made

# A run of a few milliseconds a step: nano, 48 px, 8 frames.
QUICK = {
    "model": {"size": "nano", "encoder": {"depth": 2}, "start": "random"},
    "data": {"size": 48, "num_frames": 8, "fps": 8.0},
    "batch_size": 4,
    "steps": 4,
    "device": "cpu",
    "precision": "fp32",
    "tensorboard": False,
    "curves": False,
    "watch": {"every": 0},
    "validate_every": 100,
}


@pytest.fixture(scope="session")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.tissue(tmp_path_factory.mktemp("tissue"))


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.room(tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="session")
def factors(tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.factors(tmp_path_factory.mktemp("factors"), tissue)


@pytest.fixture
def settings(tissue: Path, room: Path, factors: Path) -> Callable[..., TrainConfig]:
    """`settings("pretrain", "optim.lr=1e-3")`: a recipe made quick, its sources filled by name."""

    def build(recipe: str, *overrides: str, **extra: Any) -> TrainConfig:
        plain = load_recipe(recipe)
        sources = {
            name: {"manifest": str(room if source.zone else factors if "factor" in source.where else tissue)}
            for name, source in plain.data.sources.items()
        }
        quick = {**QUICK, **extra}
        if plain.model.factorized or "model.factorized=true" in overrides:
            quick["model"] = {
                "encoder": {"embed_dim": 48, "spatial_depth": 2, "temporal_depth": 1, "num_heads": 2},
                "predictor": {"width": 24, "depth": 2, "num_heads": 2},
            }
        quick["data"] = {**QUICK["data"], **extra.get("data", {}), "sources": sources}  # type: ignore[dict-item]
        return load_recipe(recipe, extra=quick, overrides=overrides)

    return build
