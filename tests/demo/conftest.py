"""A tiny random model behind the real server, the real page in its own process, and Debian's Chromium."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from surg.data.video import probe
from surg.demo.analysis import Analysis
from surg.serving.engine import Server, start_server
from surg.serving.results import Window
from tests.demo.videos import moving_square

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("approach", "withdraw", "open", "close")
ZONE = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]


@pytest.fixture(autouse=True)
def visits_leave_with_their_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visit outside the page has a temporary folder of its own, and nobody sweeps those."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return moving_square(tmp_path / "clip.mp4")


@pytest.fixture
def analysis(video: Path) -> Analysis:
    """Eight windows of half a second: two actions, and one alarm from 2.0 to 3.0 s."""
    made = Analysis(video, probe(video), ZONE, 0.5, "abc123", CLASSES, 0.5)
    breach = [0.1, 0.1, 0.2, 0.7, 0.9, 0.3, 0.1, 0.1]
    for index, score in enumerate(breach):
        action = "approach" if index < 4 else "close"
        made.windows.append(
            Window(
                index,
                max(0.0, index * 0.5 - 1.5),
                0.5 + index * 0.5,
                action,
                {name: 0.7 if name == action else 0.1 for name in CLASSES},
                {"0": score, "2": 0.2},
                np.full((4, 4, 4), score, np.float32),
                np.full(8, index, np.float32),
                surprise=0.1 + 0.01 * index,
                motion=0.02,
                box=(0, 0, 128, 128),
            )
        )
    return made


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from surg.data.preprocess import PreprocessSpec
    from surg.model import zoo
    from surg.model.bundle import save_bundle
    from surg.model.encoder import build_encoder
    from surg.model.heads import AttentiveClassifier, SterilityHead
    from surg.model.predictor import build_predictor
    from surg.serving.export import export_repository
    from surg.serving.models import ServedConfig

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("demo")
    width = zoo.encoder_config("nano").embed_dim
    parts = {
        "encoder": build_encoder(zoo.encoder_config("nano")),
        "predictor": build_predictor(zoo.predictor_config("nano")),
        "head.action": AttentiveClassifier(width, 2, 2, len(CLASSES)),
        "head.sterility": SterilityHead(width, num_heads=2, depth=2, width=48),
    }
    spec = PreprocessSpec(size=64, num_frames=8, fps=4)
    meta = {"classes": list(CLASSES), "preprocess": spec.model_dump(mode="json")}
    save_bundle(folder / "nano.safetensors", parts, {}, meta)
    return export_repository(
        folder / "nano.safetensors", folder / "repo", served=ServedConfig(max_batch_size=4), clips=4, through_server=False
    ).repo


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    with start_server(repository) as running:
        yield running


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo of `address` makes its private folder."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def address(server: Server, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo in front of a server, as a user starts it; ends with the session."""
    with demo("--server", server.grpc_url, folder=kept, log=tmp_path_factory.mktemp("log") / "demo.log") as line:
        yield line


@contextmanager
def demo(*options: str, folder: Path, log: Path) -> Iterator[str]:
    """The address of a demo that runs while the block does, and that ends well."""
    command = [sys.executable, "-m", "surg", "demo", *options, "--port", "0", "--no-open"]
    env = {**os.environ, "TMPDIR": str(folder)}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith("http://127.0.0.1:"), log.read_text()[-2000:]
        yield line
        process.terminate()
        assert process.wait(timeout=60) == 0, log.read_text()[-2000:]


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=quiet)
        yield chromium
        chromium.close()
