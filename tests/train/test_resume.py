"""A run that was broken goes on to the same weights; one that ran on two processes has them too."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surg.config import load_config, to_yaml
from surg.data.manifest import Manifest, write_manifest
from surg.errors import ConfigError, RunError
from surg.model.bundle import read_header
from surg.model.saved import find_bundle
from surg.runs import RunFolder
from surg.train import loop
from surg.train.config import TrainConfig
from surg.train.launch import Choices, launch
from surg.train.loop import train

ROOT = Path(__file__).resolve().parents[2]
Settings = Callable[..., TrainConfig]


def states(run: Path) -> dict[str, torch.Tensor]:
    """Everything a run's state holds, as flat tensors by name."""
    loaded = torch.load(run / "checkpoints" / "resume.pt", weights_only=True)
    flat = {f"{part}.{name}": tensor for part in ("trainee", "teacher") for name, tensor in (loaded[part] or {}).items()}
    flat |= {f"opt.{name}.{key}": value for name, entry in loaded["optimizer"].items() for key, value in entry.items()}
    return flat


def assert_equal(one: Path, other: Path) -> None:
    first, second = states(one), states(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(torch.as_tensor(tensor), torch.as_tensor(second[name])), name


@pytest.mark.parametrize("recipe", ["joint", "surgery", "stage1-finetune"])
def test_resume_gives_the_same_weights_bit_for_bit(recipe: str, settings: Settings, tmp_path: Path) -> None:
    config = settings(recipe, "steps=6", "save_every=2")
    train(config, tmp_path / "whole")
    stopped = train(config, tmp_path / "broken", stop_after=3)
    assert stopped.interrupted
    train(config, tmp_path / "broken", resume=True)
    assert_equal(tmp_path / "whole", tmp_path / "broken")


def test_the_epochs_of_a_broken_run_are_those_of_a_whole_one(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = settings("stage1", "epochs=2", "steps=null", "batch_size=2")

    def epochs() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Epoch 0")]
        caplog.clear()
        return lines

    whole = train(config, tmp_path / "whole")
    told = epochs()
    assert "creasing" in told[1]
    # In the middle of each epoch: what came before counts in its means, and the epoch before in its trend.
    for step in (whole.step // 4, 3 * whole.step // 4, None):
        train(config, tmp_path / "broken", resume=(tmp_path / "broken").exists(), stop_after=step)
    assert epochs() == told


KILLED = """
import os, signal
from surg.cli.main import run
from surg.runs import RunFolder

plain = RunFolder.log

def dies(self, values):
    plain(self, values)
    if values["kind"] == "train" and values["step"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.log = dies
run()
"""


def test_kill_9_and_resume_gives_the_same_weights_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    config = settings("joint", "steps=14", "save_every=3", "log_every=1")
    train(config, tmp_path / "whole")
    (tmp_path / "recipe.yaml").write_text(to_yaml(config))
    # By itself, between checkpoints: step 3 is saved, step 4 is done. From here it could have come to its end before the signal.
    command = [sys.executable, "-c", KILLED, "train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    log = tmp_path / "killed" / "metrics.jsonl"
    assert len(log.read_text().splitlines()) == 4
    train(config, tmp_path / "killed", resume=True)
    assert_equal(tmp_path / "whole", tmp_path / "killed")
    steps = [line for line in log.read_text().splitlines() if '"kind": "train"' in line]
    assert len(steps) == 14


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(number: int, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(to_yaml(settings("joint", "steps=4000", "log_every=1")))
    command = [sys.executable, "-m", "surg", "train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None and not (log.exists() and log.read_text()):
            time.sleep(0.02)
        process.send_signal(number)
        told, _ = process.communicate(timeout=240)
    assert process.returncode == 128 + number
    assert "--resume" in told
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
    assert torch.load(tmp_path / "run" / "checkpoints" / "resume.pt", weights_only=True)["step"] >= 1


def test_a_resumed_run_listens_to_flags_and_refuses_those_it_cannot_follow(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    train(settings("pretrain", "steps=6", "save_every=2"), out, stop_after=2)
    for refused in ({"dry_run": True}, {"init": "w.pt"}, {"data": ["x.parquet"]}, {"recipe": "stage2"}, {"out": tmp_path}):
        with pytest.raises(ConfigError, match="--init"):
            launch(Choices(**{"recipe": "pretrain", "data": [], "resume": out, **refused}))
    launch(Choices("pretrain", [], resume=out, learning_rate=3e-5, num_epochs=1, batch_size=2))
    assert "optim.lr 0.0002 -> 3e-05" in caplog.text
    config = load_config(TrainConfig, out / "config.yaml")
    assert (config.optim.lr, config.batch_size, config.steps) == (3e-5, 2, None)


def test_other_data_under_the_same_name_are_noticed(
    settings: Settings, tissue: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = list(Manifest.read(tissue).clips())
    config = settings("pretrain", "steps=4", f"data.sources.main.manifest={write_manifest(tmp_path / 'm.parquet', clips).path}")
    train(config, tmp_path / "run", stop_after=2)
    write_manifest(tmp_path / "m.parquet", clips[1:])
    train(config, tmp_path / "run", resume=True)
    assert "the manifests are not those" in caplog.text


def test_a_run_written_over_leaves_nothing_to_resume_or_evaluate(settings: Settings, tmp_path: Path) -> None:
    train(settings("pretrain", "steps=2"), tmp_path / "run")
    config = settings("pretrain", "steps=4", "save_every=3", "data.sources.main.val_split=none")
    train(config, tmp_path / "run", overwrite=True)
    assert find_bundle(tmp_path / "run").name == "last.safetensors"


@pytest.mark.parametrize(
    "change",
    ["model.head_depth=3", "trainable.encoder=lora", "loss.weights.jepa=1", "data.sources.tissue.tasks=[action]"],
)
def test_settings_that_the_state_does_not_fit_are_refused_and_not_kept(change: str, settings: Settings, tmp_path: Path) -> None:
    """The run itself can still go on."""
    out = tmp_path / "run"
    train(settings("joint", "steps=4", "loss.weights.jepa=0"), out, stop_after=2)
    before = (out / "config.yaml").read_text()
    with pytest.raises(RunError, match="--init"):
        launch(Choices("joint", [], resume=out, overrides=[change]))
    assert (out / "config.yaml").read_text() == before
    launch(Choices("joint", [], resume=out))


def test_a_run_goes_on_without_the_file_it_started_from(settings: Settings, tmp_path: Path) -> None:
    train(settings("pretrain", "steps=1"), tmp_path / "first")
    weights = (tmp_path / "first" / "checkpoints" / "last.safetensors").rename(tmp_path / "weights.safetensors")
    config = settings("joint", "steps=4", f"init={weights}", "loss.weights.anchor=0.01", model={})
    train(config, tmp_path / "whole")
    train(config, tmp_path / "broken", stop_after=2)
    weights.unlink()
    train(config, tmp_path / "broken", resume=True)
    assert_equal(tmp_path / "whole", tmp_path / "broken")
    one, other = (read_header(tmp_path / run / "checkpoints" / "last.safetensors")[1] for run in ("whole", "broken"))
    assert one == other


def test_a_run_killed_before_its_first_checkpoint_leaves_no_lines_behind(settings: Settings, tmp_path: Path) -> None:
    config = settings("pretrain", "steps=2", "log_every=1", "watch.every=1", "data.sources.main.val_split=train")
    train(config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "resume.pt").unlink()
    train(config, tmp_path / "run", resume=True)
    metrics = RunFolder(tmp_path / "run").metrics()
    assert [row["step"] for row in metrics if row["kind"] == "train"] == [1, 2]
    assert [row["step"] for row in metrics if row["kind"] == "watch"] == [0, 1, 2]


def test_a_resumed_run_that_is_stopped_again_says_how_to_go_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    train(settings("pretrain", "steps=6", "save_every=2"), out, stop_after=2)
    monkeypatch.setattr(loop, "train", lambda config, run, resume: train(config, run, resume=resume, stop_after=4))
    told = launch(Choices("pretrain", [], resume=out)).summary()
    assert told[-1] == f"go on: surg train pretrain --resume {out}"


@pytest.mark.parametrize(("recipe", "measure"), [("stage2", "sterility --test-data"), ("pretrain", "probe-action --data")])
def test_a_finished_run_names_the_evaluation_of_what_it_learnt(
    recipe: str, measure: str, settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(settings(recipe, "steps=1"), out)
    told = launch(Choices(recipe, [], resume=out)).summary()
    assert told[-1].startswith(f"next: surg eval {measure} MANIFEST --checkpoint {out}")
