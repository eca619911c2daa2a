"""Two processes, and a batch in parts, make the step that one process makes at once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from surg.config import to_yaml
from surg.train.config import TrainConfig
from surg.train.loop import train

ROOT = Path(__file__).resolve().parents[2]
Settings = Callable[..., TrainConfig]


def on_two_processes(config: TrainConfig, out: Path, *more: str) -> None:
    recipe = out.with_suffix(".yaml")
    recipe.write_text(to_yaml(config))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "surg",
        "train", str(recipe), "--out", str(out), *more,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def first_moments(run: Path) -> dict[str, torch.Tensor]:
    """After one step Adam's first moment is 0.1 times the gradient."""
    state = torch.load(run / "checkpoints" / "resume.pt", weights_only=True)["optimizer"]
    return {name: entry["exp_avg"] * 10 for name, entry in state.items()}


def test_two_processes_have_the_gradients_of_one(settings: Settings, tmp_path: Path) -> None:
    # Half of a task's clips may fall to either process: their means must still be those of the whole batch.
    config = settings("joint", "steps=1", "loss.keep=1.0", "loss.weights.motion_aux=0", "optim.clip=null")
    train(config, tmp_path / "one")
    on_two_processes(config, tmp_path / "two")
    one, two = first_moments(tmp_path / "one"), first_moments(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        assert torch.allclose(gradient, two[name], atol=1e-5), name


def test_split_batches_have_the_gradients_of_whole_ones(settings: Settings, tmp_path: Path) -> None:
    more = ("steps=1", "loss.keep=1.0", "loss.weights.motion_aux=0", "optim.clip=null")
    train(settings("joint", *more), tmp_path / "whole")
    train(settings("joint", *more, "accumulate=2"), tmp_path / "split")
    whole, split = first_moments(tmp_path / "whole"), first_moments(tmp_path / "split")
    for name, gradient in whole.items():
        assert torch.allclose(gradient, split[name], atol=1e-5), name
