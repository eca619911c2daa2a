"""Stage 1 as the integration guide promises it, its flags and its file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surg.errors import ConfigError
from surg.model.world import SurgicalActionConditionedWorldModel
from surg.runs import RunFolder
from surg.train.config import TrainConfig
from surg.train.launch import Choices, resolve
from surg.train.loop import train
from surg.train.stage1 import ContrastHead, OrderHead

Settings = Callable[..., TrainConfig]


def test_every_tensor_of_the_predictor_gets_a_gradient_and_moves(settings: Settings, tmp_path: Path) -> None:
    train(settings("stage1", "steps=2", "data.sources.main.val_split=none"), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoints" / "resume.pt", weights_only=True)
    moments = {name for name in state["optimizer"] if name.startswith("predictor.")}
    weights = {name for name in state["trainee"] if name.startswith("predictor.")}
    # Of the mask tokens only the first is used while training, upstream as here.
    assert weights - moments == {f"predictor.mask_tokens.{n}" for n in range(1, 10)}


def test_the_guides_loading_snippets_work(settings: Settings, tmp_path: Path) -> None:
    train(settings("stage1-finetune", "steps=4"), tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "best_vjepa2_finetuned.pth"

    checkpoint = torch.load(path, weights_only=True)
    config = checkpoint["config"]
    model = SurgicalActionConditionedWorldModel(**config)
    model.load_state_dict(checkpoint["full_model_state_dict"])
    assert config["encoder_dim"] == 48

    told = f"Epoch: {checkpoint['epoch']}\nLoss: {checkpoint['loss']:.4f}\nConfig: {checkpoint['config']}"
    assert told.startswith("Epoch: 2")


def test_an_epoch_prints_its_losses_with_their_trend(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(settings("stage1", "epochs=2", "steps=null", "loss.weights.mask_aux=0.1"), tmp_path / "run")
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Epoch 02")]
    assert lines
    for name in ("Temporal Loss", "Contrastive Loss", "Mask Loss", "Latent Loss", "Total Loss"):
        assert name in lines[0]
    assert "creasing" in lines[0]
    assert any("saved best" in record.getMessage() for record in caplog.records)


def test_the_guides_flags_reach_the_settings(tissue: Path) -> None:
    choices = Choices(
        "stage1", [str(tissue)], init="w.pt", encoder_frozen=False, num_epochs=8, batch_size=3, learning_rate=1e-3,
        warmup_epochs=2, use_mask_aux=True, lambda_mask=0.3, num_workers=5, device="cpu", seed=4,
    )  # fmt: skip
    config = resolve(choices)
    assert config.init == "w.pt"
    assert (config.trainable.encoder, config.optim.encoder_lr) == ("all", 0.1)
    assert (config.epochs, config.batch_size, config.optim.lr, config.schedule.warmup) == (8, 3, 1e-3, 0.25)
    assert (config.loss.weights.mask_aux, config.data.workers, config.device, config.seed) == (0.3, 5, "cpu", 4)
    assert config.data.sources["main"].manifest == tissue
    frozen = resolve(Choices("stage1", [str(tissue)], encoder_frozen=True, use_mask_aux=True))
    assert (frozen.trainable.encoder, frozen.loss.weights.mask_aux) == ("none", 0.1)


def test_a_single_clip_cannot_be_ordered_without_a_look_at_it() -> None:
    torch.manual_seed(0)
    head = OrderHead(8)
    with torch.no_grad():
        head.net[-1].weight.zero_()
        head.net[-1].bias.copy_(torch.tensor([20.0, -20.0]))  # always "as it was"
    assert head(torch.randn(1, 4, 8), torch.randn(1, 4, 8)) > 1.0


def test_warm_up_counts_the_epochs_that_the_run_really_has(tissue: Path) -> None:
    assert resolve(Choices("stage1", [str(tissue)], warmup_epochs=2, overrides=["epochs=20"])).schedule.warmup == 0.1
    assert resolve(Choices("quickstart", [str(tissue)], num_epochs=2, warmup_epochs=1)).schedule.warmup == 0.5
    with pytest.raises(ConfigError, match="--num-epochs"):
        resolve(Choices("quickstart", [str(tissue)], warmup_epochs=1))


def test_epochs_asked_for_win_over_a_recipes_steps(tissue: Path) -> None:
    config = resolve(Choices("quickstart", [str(tissue)], num_epochs=2))
    assert (config.steps, config.epochs) == (None, 2)


def test_a_manifest_for_the_rest_leaves_the_named_ones_alone(tissue: Path, factors: Path) -> None:
    for words in ([f"raw={tissue}", str(factors)], [str(factors), f"raw={tissue}"]):
        sources = resolve(Choices("surgery", words)).data.sources
        assert (sources["raw"].manifest, sources["layout"].manifest) == (tissue, factors)
    with pytest.raises(ConfigError, match="--data NAME=PATH"):
        resolve(Choices("surgery", [str(tissue), str(factors)]))


def test_a_folder_with_a_manifest_and_its_timeline_is_enough(tissue: Path, tmp_path: Path) -> None:
    for name in ("mmor.parquet", "mmor.timeline.parquet"):
        shutil.copy(tissue, tmp_path / name)
    assert resolve(Choices("stage1", [str(tmp_path)])).data.sources["main"].manifest == tmp_path / "mmor.parquet"


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [("stage1", "trainable.encoder=lora"), ("stage2", "model.world.mlp_ratio=2.0"), ("stage2", "model.world.extrinsics_dim=6"),
     ("stage1", "data.sources.main.val_split=none")],
)  # fmt: skip
def test_the_guides_file_is_there_whatever_learnt(recipe: str, setting: str, settings: Settings, tmp_path: Path) -> None:
    train(settings(recipe, "steps=2", setting), tmp_path / "run")
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "best_vjepa2_finetuned.pth", weights_only=True)
    SurgicalActionConditionedWorldModel(**checkpoint["config"]).load_state_dict(checkpoint["full_model_state_dict"])


def test_the_flag_that_lets_the_encoder_learn_makes_its_recipe(tissue: Path) -> None:
    flag = resolve(Choices("stage1", [str(tissue)], encoder_frozen=False))
    recipe = resolve(Choices("stage1-finetune", [str(tissue)]))
    for config in (flag, recipe):
        assert (config.trainable.encoder, config.optim.encoder_lr, config.teacher.frozen) == ("all", 0.1, False)


@pytest.mark.parametrize("given", [{"use_mask_aux": True}, {"lambda_mask": 0.3}])
def test_mask_denoising_is_refused_where_no_source_has_it(given: dict[str, Any], tissue: Path) -> None:
    with pytest.raises(ConfigError, match="has no mask denoising"):
        resolve(Choices("pretrain", [str(tissue)], **given))


def test_clips_that_are_halved_must_come_out_even(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_frames=10 .*half of a clip.* data\.num_frames=8"):
        train(settings("stage1", "data.num_frames=10"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_curriculum_of_halved_clips_grows_by_what_can_be_halved(settings: Settings, tmp_path: Path) -> None:
    growing = ("data.curriculum=true", "data.curriculum_every=1", "data.num_frames=16", "batch_size=9")
    assert train(settings("stage1", "steps=5", *growing), tmp_path / "run").step == 5


@pytest.mark.parametrize("task", ["contrast", "mask_aux"])
def test_each_task_of_stage_1_works_alone(task: str, settings: Settings, tmp_path: Path) -> None:
    train(settings("stage1", "steps=1", f"data.sources.main.tasks=[{task}]", "loss.weights.mask_aux=0.1"), tmp_path / "run")
    row = next(row for row in RunFolder(tmp_path / "run").metrics() if row["kind"] == "train")
    assert row[task] > 0


def test_the_queue_knows_whose_views_wait_in_it() -> None:
    """A set of two clips: whatever the queue holds is theirs, so that each has the other for its only negatives."""
    torch.manual_seed(0)
    head, clips = ContrastHead(16, out=8, temperature=1.0, queue=5), torch.tensor([[0, 0], [0, 1]])
    for _ in range(4):
        head(torch.randn(2, 3, 16), torch.randn(2, 3, 16), clips)
    assert sorted(head.of.tolist()) in ([[0, 0]] * 2 + [[0, 1]] * 3, [[0, 0]] * 3 + [[0, 1]] * 2)
    alone = torch.randn(1, 3, 16)
    with torch.no_grad():
        head.of.fill_(0)
        # Only itself is there, and nothing to be told from.
        assert float(head(alone, torch.randn(1, 3, 16), clips[:1])) == pytest.approx(0.0, abs=1e-6)
        # A clip of val bears the same number and is another one.
        assert float(head.eval()(alone, torch.randn(1, 3, 16), clips[:1])) > 0.1


def test_a_queue_shorter_than_the_batch_keeps_the_last_views() -> None:
    head, clips = ContrastHead(16, out=8, queue=3), torch.stack([torch.zeros(7), torch.arange(7)], 1).long()
    head(torch.randn(7, 2, 16), torch.randn(7, 2, 16), clips)
    assert sorted(head.of[:, 1].tolist()) == [4, 5, 6]
