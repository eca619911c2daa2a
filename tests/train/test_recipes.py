"""Every shipped recipe runs, and what it trains is what it says."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surg.errors import ConfigError
from surg.model.checkpoint import load_bundle
from surg.train import masks, recipes
from surg.train.build import load_start
from surg.train.config import TrainConfig
from surg.train.loop import train
from surg.train.rehearsal import peak_memory, rehearse
from surg.train.trainee import Trainee

Settings = Callable[..., TrainConfig]
# The encoder may not move in these.
FROZEN = {"probe", "pretrain-head", "surgery-head", "stage1", "stage1-8gb", "stage1-mps", "stage2", "surg-tiny-world"}


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_trains_what_it_says_and_leaves_a_bundle(name: str, settings: Settings, tmp_path: Path) -> None:
    steps = 6 if "surgery" in name else 3
    # The stage that grows a trained encoder is begun here with a fresh one.
    config = settings(name, f"steps={steps}", "accumulate=1", "save_every=100", "model.grow=null")
    outcome = train(config, tmp_path / "run")
    assert outcome.step == steps
    bundle = load_bundle(outcome.run / "checkpoints" / "last.safetensors")
    assert bundle.meta["preprocess"]["size"] == 48
    assert bundle.meta["data_fingerprint"]
    torch.manual_seed(config.seed)
    before = load_start(config).encoder.state_dict()
    moved = any(not torch.equal(before[key], value) for key, value in bundle.part("encoder").state_dict().items())
    assert moved == (name not in FROZEN)


def test_a_bundle_says_whose_weights_it_holds(settings: Settings, tmp_path: Path) -> None:
    # Without masked latents there is no teacher, whoever is asked for.
    wanted = {"multitask": "student", "joint": "teacher"}
    for recipe, whose in wanted.items():
        train(settings(recipe, "steps=1", "trainable.encoder=lora", "teacher.export=true"), tmp_path / recipe)
        meta = load_bundle(tmp_path / recipe / "checkpoints" / "last.safetensors").meta
        assert meta["encoder_from"] == whose


def test_an_unknown_recipe_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean surgery"):
        recipes.load_recipe("surgeri")


def test_a_recipe_file_extends_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: pretrain\nepochs: 7\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nbatch_size: 3\n")
    config = recipes.load_recipe(str(tmp_path / "mine.yaml"))
    assert (config.recipe, config.epochs, config.batch_size) == ("mine", 7, 3)


def test_a_misspelt_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        recipes.load_recipe("pretrain", overrides=["optim.lrr=1"])


def test_the_guides_numbers_stand_in_the_recipes() -> None:
    plain, finetune = recipes.load_recipe("stage1"), recipes.load_recipe("stage1-finetune")
    assert (plain.epochs, plain.batch_size, plain.optim.lr, plain.trainable.encoder) == (10, 4, 2e-4, "none")
    assert plain.schedule.warmup * plain.epochs == 2
    assert (finetune.epochs, finetune.batch_size, finetune.optim.lr, finetune.trainable.encoder) == (15, 2, 1e-4, "all")
    assert recipes.load_recipe("stage1-8gb").batch_size == 1
    assert recipes.load_recipe("stage1-8gb").data.workers == 2
    assert recipes.load_recipe("stage1-mps").device == "mps"


def test_surgery_follows_the_diagram() -> None:
    config = recipes.load_recipe("surgery")
    assert [round(stage.depth * 40) for stage in config.stages] == [10, 20, 30]
    diagram = ({"layout": 1}, {"agent": 0.9, "layout": 0.1}, {"interaction": 0.85, "agent": 0.1, "layout": 0.05})
    for stage, shares in zip(config.stages, diagram):
        factor = {name: share for name, share in stage.mix.items() if name != "raw"}
        assert {name: share / sum(factor.values()) for name, share in factor.items()} == pytest.approx(shares)
        assert stage.mix["raw"] == pytest.approx(0.1)


def test_the_drawn_recipe_sees_4608_tokens_of_ten_seconds() -> None:
    config = recipes.load_recipe("pretrain-vitg384")
    side = config.data.size // 16
    assert config.data.num_frames // 2 * side * side == 4608
    assert config.data.num_frames / config.data.fps == pytest.approx(10)
    assert config.teacher.momentum == 0.99925


def test_the_drawings_counts_stand_beside_the_drawn_recipes() -> None:
    config = recipes.load_recipe("pretrain-vitg384")
    said = masks.describe(masks.draw_masks(config.masks, (8, 24, 24), 2, 0, 1), (8, 24, 24))
    assert re.search(
        r"^4608 tokens .*mask 1 sees \d+, predicts \d+; mask 2 sees \d+, predicts \d+; .*500-1,100 and 3,500-4,100", said
    )
    config = recipes.load_recipe("pretrain")
    assert "drawing" not in masks.describe(masks.draw_masks(config.masks, (8, 16, 16), 2, 0, 1), (8, 16, 16))


@pytest.mark.parametrize(("recipe", "says"), [("surgery", "mask 1 sees 8, predicts 28"), ("pretrain-head", ""), ("full", "")])
def test_a_run_says_its_token_counts_where_something_is_masked(
    recipe: str, says: str, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(settings(recipe, "steps=3"), tmp_path / "run")
    assert ("36 tokens (4 x 3 x 3): " + says in caplog.text) if says else ("tokens (" not in caplog.text)


def test_a_dry_run_knows_every_class_of_the_run(settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(settings("full", "steps=1"), tmp_path / "run")
    caplog.clear()
    # Two clips hold at most two of the three classes.
    rehearse(settings("full", f"init={tmp_path / 'run'}", "batch_size=1", model={}))
    assert "starts fresh" not in caplog.text


def test_a_dry_run_of_stages_of_unequal_length_tries_each(settings: Settings) -> None:
    stages = "stages=[{depth: 0.5, share: 10}, {depth: 0.5}, {depth: 1.0}]"
    told = rehearse(settings("pretrain", "steps=24", "trainable.encoder=prefix", stages))
    assert "24 steps" in told[1]


@pytest.mark.parametrize(("recipe", "epochs", "frames"), [("pretrain", 9, 16), ("pretrain", 5, 12), ("stage1", 7, 12)])
def test_a_dry_run_of_growing_clips_tries_the_longest(
    recipe: str, epochs: int, frames: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = Trainee.forward
    monkeypatch.setattr(
        Trainee, "forward", lambda self, batch, *rest: (seen.append(batch.frames.shape[1]), plain(self, batch, *rest))[1]
    )
    more = ("data.num_frames=16", "data.curriculum=true", "data.curriculum_every=1", "steps=null", f"epochs={epochs}")
    rehearse(settings(recipe, *more))
    assert set(seen) == {frames}


def test_a_dry_run_on_the_cpu_tells_the_cpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "GPU" not in peak_memory("cpu")


def test_a_dry_run_refuses_what_the_whole_run_would(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="2 steps are too few for 3 stages"):
        rehearse(settings("surgery", "steps=2"))
