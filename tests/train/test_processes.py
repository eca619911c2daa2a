"""Two processes, and a batch in parts, make the step that one process makes at once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surg.config import to_yaml
from surg.model.checkpoint import load_bundle
from surg.train.config import TrainConfig
from surg.train.loop import train

ROOT = Path(__file__).resolve().parents[2]
Settings = Callable[..., TrainConfig]


def on_two_processes(config: TrainConfig, out: Path, *more: str) -> None:
    recipe = out.with_suffix(".yaml")
    recipe.write_text(to_yaml(config))
    start_two(["-m", "surg", "train", str(recipe), "--out", str(out), *more])


# Three runs in one pair of processes: unbroken, and broken in the middle with the other way of sharing after the break.
RELAY = """
import sys
from pathlib import Path
from surg.config import load_config
from surg.train.config import TrainConfig
from surg.train.loop import train

recipe, out = Path(sys.argv[1]), Path(sys.argv[2])
for name, first, then in (("whole", "ddp", "ddp"), ("there", "ddp", "fsdp2"), ("back", "fsdp2", "ddp")):
    config = load_config(TrainConfig, recipe, overrides=[f"parallel={first}"])
    train(config, out / name, stop_after=None if name == "whole" else 2)
    if name != "whole":
        train(load_config(TrainConfig, recipe, overrides=[f"parallel={then}"]), out / name, resume=True)
"""


def start_two(words: list[str], timeout: int = 900) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    # A session of its own: when time is up the workers go with the launcher.
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, told = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, told[-3000:]


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(
    "recipe", ["pretrain", pytest.param("joint", marks=pytest.mark.slow), pytest.param("surgery", marks=pytest.mark.slow)]
)
def test_ddp_and_fsdp2_go_on_from_each_others_checkpoints(recipe: str, settings: Settings, tmp_path: Path) -> None:
    # joint gives each process its own tasks; surgery wakes blocks up on the way, with a projected optimiser and stored features.
    more = ("watch.every=2", "validate_every=2", "loss.keep=1.0", "loss.weights.anchor=1", "log_every=1")
    config = settings(recipe, "steps=4", "save_every=2", "optim.lr=1e-4", *more)
    (tmp_path / "recipe.yaml").write_text(to_yaml(config))
    (tmp_path / "relay.py").write_text(RELAY)
    start_two([str(tmp_path / "relay.py"), str(tmp_path / "recipe.yaml"), str(tmp_path)])
    unbroken = torch.load(tmp_path / "whole" / "checkpoints" / "resume.pt", weights_only=True)
    for name in ("there", "back"):
        state = torch.load(tmp_path / name / "checkpoints" / "resume.pt", weights_only=True)
        assert state["step"] == 4
        assert pulls(tmp_path / name) == pytest.approx(pulls(tmp_path / "whole"), rel=1e-2)
        assert state["optimizer"].keys() == unbroken["optimizer"].keys()
        for part in ("trainee", "teacher"):
            for key, tensor in (unbroken[part] or {}).items():
                assert torch.allclose(tensor, state[part][key], atol=1e-5), (name, part, key)
        bundle = load_bundle(tmp_path / name / "checkpoints" / "last.safetensors")
        encoder = {key.removeprefix("encoder."): value for key, value in state["trainee"].items() if key.startswith("encoder.")}
        assert all(torch.equal(value, encoder[key]) for key, value in bundle.part("encoder").state_dict().items())


def pulls(run: Path) -> list[float]:
    """The anchor's penalty at each step that says one: 0 at first, for nothing has moved."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line["anchor"] for line in lines if line["kind"] == "train"]
    assert len(found) == 4
    assert found[-1] > 0
    return found


def first_moments(run: Path) -> dict[str, torch.Tensor]:
    """After one step Adam's first moment is 0.1 times the gradient."""
    state = torch.load(run / "checkpoints" / "resume.pt", weights_only=True)["optimizer"]
    return {name: entry["exp_avg"] * 10 for name, entry in state.items()}


def test_two_processes_have_the_gradients_of_one(settings: Settings, tmp_path: Path) -> None:
    # Half of a task's clips may fall to either process: their means must still be those of the whole batch.
    # Windows that end anywhere: of some all horizons are known, of others none but now.
    more = ("batch_size=8", "loss.positive_share=null")
    config = settings("joint", "steps=1", "loss.keep=1.0", "loss.weights.motion_aux=0", "optim.clip=null", *more)
    train(config, tmp_path / "one")
    on_two_processes(config, tmp_path / "two")
    one, two = first_moments(tmp_path / "one"), first_moments(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        assert torch.allclose(gradient, two[name], atol=1e-5), name
    # And its losses, where each process has other tasks' clips.
    alone, told = (first_losses(tmp_path / name) for name in ("one", "two"))
    assert told == pytest.approx(alone, rel=1e-3)


def first_losses(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, float] = next(line for line in lines if line["kind"] == "train")
    return {name: found[name] for name in sorted(found) if name not in ("kind", "step", "clips_per_s")}


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("joint", ("loss.positive_share=null",)),
        ("multitask", ("data.sources.tissue.flip=0.5",)),
        ("pretrain", ("loss.flow_weight=2",)),
    ],
)
def test_split_batches_have_the_gradients_of_whole_ones(
    recipe: str, more: tuple[str, ...], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever each loss is a mean over: clips, horizons that are known, features of motion that a mirror leaves."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda _, x: x)
    more = ("steps=1", "batch_size=8", "loss.keep=1.0", "optim.clip=null", *more)
    train(settings(recipe, *more), tmp_path / "whole")
    train(settings(recipe, *more, "accumulate=4"), tmp_path / "split")
    whole, split = first_moments(tmp_path / "whole"), first_moments(tmp_path / "split")
    for name, gradient in whole.items():
        assert torch.allclose(gradient, split[name], atol=1e-5), name


def test_two_processes_know_the_fisher_information_of_one(settings: Settings, tmp_path: Path) -> None:
    config = settings("scratch", "steps=1", "loss.weights.ewc=1", "loss.weights.motion_aux=0", "drift.fisher_batches=2")
    train(config, tmp_path / "one")
    on_two_processes(config, tmp_path / "two")
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "resume.pt", weights_only=True)["fisher"] for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-3, atol=1e-12), name


WAITING = """
import datetime, sys
from surg.train.device import make_accelerator
from surg.train.config import TrainConfig
from torch.distributed.distributed_c10d import _get_default_group

make_accelerator(TrainConfig(device="cpu", precision="fp32"))
assert _get_default_group()._get_backend(__import__("torch").device("cpu")).options._timeout > datetime.timedelta(hours=12)
"""


def test_processes_wait_for_one_that_decodes_for_hours(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    start_two([str(tmp_path / "waiting.py")])


def test_a_dry_run_on_two_processes(settings: Settings, tmp_path: Path) -> None:
    on_two_processes(settings("pretrain", "steps=4"), tmp_path / "two", "--dry-run")


STARVED = """
import sys
from pathlib import Path
from surg.config import load_config
from surg.errors import RunError
from surg.train.config import TrainConfig
from surg.train.loop import train
from surg.train.trainee import Trainee

plain = Trainee.forward

def starved(self, batch, *rest):
    import torch.distributed as dist
    if self.training and dist.get_rank() == 1 and len(batch) > 1:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return plain(self, batch, *rest)

Trainee.forward = starved
try:
    train(load_config(TrainConfig, Path(sys.argv[1])), Path(sys.argv[2]))
except RunError as error:
    Path(sys.argv[3]).write_text(str(error))
    raise
"""


@pytest.mark.timeout(500)
def test_a_process_out_of_memory_says_what_fits_instead_of_hanging(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(to_yaml(settings("pretrain", "steps=2")))
    (tmp_path / "starved.py").write_text(STARVED)
    words = ("starved.py", "recipe.yaml", "run", "said")
    with pytest.raises(AssertionError):
        start_two([str(tmp_path / word) for word in words], timeout=400)
    assert "--set accumulate=2" in (tmp_path / "said").read_text()
