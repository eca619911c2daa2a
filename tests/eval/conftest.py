"""One tiny checkpoint per test run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import small

    return small.checkpoint(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="session")
def motion_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import small

    return small.motion_clips(tmp_path_factory.mktemp("motion"))


@pytest.fixture(scope="session")
def take_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import small

    return small.breach_takes(tmp_path_factory.mktemp("takes"), seconds=26)


@pytest.fixture
def torch_backend(checkpoint: Path) -> Iterator[object]:
    from surg.eval.backends import open_backend

    with open_backend("torch", checkpoint=checkpoint) as backend:
        yield backend
