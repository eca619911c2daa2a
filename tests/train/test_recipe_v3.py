"""Recipe v3's pieces, each against an example worked by hand, and each with an effect on a short run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from surg.model.bundle import load_bundle
from surg.model.config import FactorizedConfig
from surg.model.encoder import build_encoder
from surg.train import loop, losses, optim
from surg.train.config import TrainConfig
from surg.train.device import make_accelerator
from surg.train.drift import Anchor
from surg.train.flow import flow_weights, motion_guided_visible, warp
from surg.train.loop import train
from surg.train.teacher import Teacher
from surg.train.trainee import clear

Settings = Callable[..., TrainConfig]


def test_spd_pulls_back_only_where_the_gradient_points_home() -> None:
    # w0 = (0, 0), w = (3, 0) -> w' = (5, 0). Drift grows from 3 to 5: r = 2 / 5; strength 0.5 takes 0.5 * 0.4 * 5 = 1 away.
    start, before = torch.zeros(2), torch.tensor([3.0, 0.0])
    after = torch.tensor([5.0, 0.0])
    optim.project(after, before, start, torch.tensor([1.0, 0.0]), 0.5)  # descent along -g leads home: c = -3 < 0
    assert after.tolist() == pytest.approx([4.0, 0.0])
    after = torch.tensor([5.0, 0.0])
    optim.project(after, before, start, torch.tensor([-1.0, 0.0]), 0.5)  # descent leads on: nothing happens
    assert after.tolist() == [5.0, 0.0]
    after = torch.tensor([2.0, 0.0])
    optim.project(after, before, start, torch.tensor([1.0, 0.0]), 0.5)  # the drift shrinks: r = 0
    assert after.tolist() == [2.0, 0.0]
    after = torch.tensor([5.0, 0.0])
    optim.project(after, before, start, torch.tensor([1.0, 0.0]), 1.0)  # strength 1: back to the sphere it came from
    assert float(after.norm()) == pytest.approx(3.0)


def test_spd_takes_the_place_of_decay_where_it_holds_back_and_nowhere_else() -> None:
    named = {name: nn.Parameter(torch.ones(2, 2)) for name in ("encoder.w", "heads.action.w", "predictor.w")}
    optimizer = optim.build_optimizer(named.items(), optim.OptimConfig(spd=1.0), depth=1)
    assert isinstance(optimizer, optim.SelectiveProjection)
    optimizer.anchor({named["encoder.w"]: torch.ones(2, 2)})
    optim.set_rates(optimizer, lr=0.1, weight_decay=0.5)
    for parameter in named.values():
        parameter.grad = torch.zeros(2, 2)
    optimizer.step()
    assert {name: float(parameter.detach()[0, 0]) for name, parameter in named.items()} == pytest.approx(
        {"encoder.w": 1.0, "heads.action.w": 0.95, "predictor.w": 0.95}
    )


def test_clear_is_the_mean_squared_distance_to_the_stored_features() -> None:
    now, stored = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert float(clear(now, stored)) == pytest.approx((1 + 4 + 0 + 4) / 4)


def test_a_salt_teacher_never_moves_and_an_ema_teacher_moves_by_its_formula() -> None:
    student = nn.Linear(1, 1, bias=False)
    nn.init.constant_(student.weight, 1.0)
    salt, ema = Teacher(student, frozen=True), Teacher(student)
    nn.init.constant_(student.weight, 3.0)
    for teacher in (salt, ema):
        teacher.follow(student, 0.75)
    assert float(salt.encoder.weight.detach()) == 1.0
    assert float(ema.encoder.weight.detach()) == pytest.approx(0.75 * 1 + 0.25 * 3)


def test_mgmae_masks_move_by_one_patch_where_everything_moves_by_one_patch() -> None:
    flow = torch.zeros(1, 4, 6, 6, 2)
    flow[..., 0] = 1.0
    seen = motion_guided_visible(flow, visible=12, generator=torch.Generator().manual_seed(0))
    assert seen.sum(dim=(2, 3)).tolist() == [[12] * 4]
    for step in range(3):
        # What was seen and stays in the picture is seen one patch to the right.
        moved = seen[0, step, :, :-1]
        assert bool((seen[0, step + 1, :, 1:] | ~moved).float().mean() > 0.85)
    still = motion_guided_visible(torch.zeros(1, 4, 6, 6, 2), 12, torch.Generator().manual_seed(0))
    assert all(torch.equal(still[0, 0], still[0, step]) for step in range(4))


def test_warp_takes_the_value_from_where_it_came() -> None:
    values = torch.arange(9.0).view(1, 3, 3)
    flow = torch.zeros(1, 3, 3, 2)
    flow[..., 0] = 1.0
    moved = warp(values, flow)[0]
    assert moved[:, 1:].tolist() == [[0, 1], [3, 4], [6, 7]]
    assert moved[:, 0].tolist() == [-1, -1, -1]


def test_flow_weights_vary_and_change_the_loss() -> None:
    flow = torch.zeros(1, 1, 1, 2, 2)
    flow[0, 0, 0, 1, 0] = 2.0  # |flow| = 0 and 2, mean 1
    weights = flow_weights(flow, 0.5)
    assert weights.tolist() == [[1.0, 2.0]]
    predicted, target = torch.tensor([[[1.0], [4.0]]]), torch.zeros(1, 2, 1)
    # Weights are scaled to mean 1: (2/3 * 1 + 4/3 * 4) / 2 = 3; without them 2.5.
    assert float(losses.latent(predicted, target, weight=weights)) == pytest.approx(3.0)
    assert float(losses.latent(predicted, target)) == pytest.approx(2.5)


def test_ewc_and_the_anchor_pull_by_their_formulas() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    anchor = Anchor(layer)
    layer.weight.grad = torch.full_like(layer.weight, 3.0)
    anchor.add_fisher(layer, 1.0)  # F = 9
    nn.init.constant_(layer.weight, 2.0)
    layer.weight.grad = torch.zeros_like(layer.weight)
    penalties = anchor.pull(layer, l2=0.5, ewc=0.1)
    # 0.5 * 1^2 = 0.5; 0.1 / 2 * 9 * 1 = 0.45; gradients 2 * 0.5 * 1 + 0.1 * 9 * 1 = 1.9
    assert float(penalties["anchor"]) == pytest.approx(0.5)
    assert float(penalties["ewc"]) == pytest.approx(0.45)
    assert float(layer.weight.grad) == pytest.approx(1.9)


def held_by(run: Path, what: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints" / "resume.pt", weights_only=True)[what]
    return found


def test_fisher_information_does_not_depend_on_the_batch(settings: Settings, tmp_path: Path) -> None:
    # The same eight clips.
    for name, batch, batches in (("small", 2, 4), ("large", 8, 1)):
        plain = "data.augment={scale: [1.0, 1.0], brightness: 0, contrast: 0, saturation: 0}"
        more = (f"batch_size={batch}", f"drift.fisher_batches={batches}", "loss.keep=1.0", "data.windows=last", plain)
        train(settings("full", "steps=1", "loss.weights.ewc=1", *more), tmp_path / name)
    small, large = held_by(tmp_path / "small", "fisher"), held_by(tmp_path / "large", "fisher")
    assert small.keys() == large.keys()
    assert all(torch.allclose(tensor, large[name], rtol=1e-3, atol=1e-9) for name, tensor in small.items())


@pytest.mark.parametrize(
    ("setting", "what"), [("loss.weights.clear=1.0", "features"), ("loss.weights.ewc=1.0", "fisher")], ids=["CLEAR", "EWC"]
)
def test_what_is_switched_on_late_holds_to_the_start_all_the_same(
    setting: str, what: str, settings: Settings, tmp_path: Path
) -> None:
    # Heads and predictor stay, so that only the encoder could tell one moment from the other.
    rest = ("trainable.encoder=all", "trainable.heads=false", "trainable.predictor=false", "teacher.frozen=false")
    common = ("steps=4", "stages=[]", "optim.lr=1e-2", "masks.kind=multiblock", "loss.flow_weight=0", *rest)
    off = ("loss.weights.clear=0", "loss.weights.ewc=0", "drift.lpft=0", "teacher.momentum=0.5")
    begun = settings("surgery", *common, *off, setting)
    train(begun, tmp_path / "begun", stop_after=1)
    train(settings("surgery", *common, *off), tmp_path / "late", stop_after=3)
    train(settings("surgery", *common, *off, setting), tmp_path / "late", resume=True)
    early, late = flat(held_by(tmp_path / "begun", what)), flat(held_by(tmp_path / "late", what))
    assert early
    assert early.keys() == late.keys()
    assert all(torch.allclose(tensor, late[name], rtol=1e-4, atol=1e-8) for name, tensor in early.items())


def flat(tree: dict[Any, Any], above: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], torch.Tensor]:
    out: dict[tuple[Any, ...], torch.Tensor] = {}
    for key, value in tree.items():
        out |= flat(value, (*above, key)) if isinstance(value, dict) else {(*above, key): value}
    return out


def test_wise_ft_averages_start_and_end() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    anchor = Anchor(layer)
    nn.init.constant_(layer.weight, 5.0)
    anchor.average(layer, 0.25)
    assert float(layer.weight.detach()) == pytest.approx(2.0)


PIECES = {
    "SALT": "teacher.frozen=false",
    "LP-FT": "drift.lpft=0",
    "SPD": "optim.spd=0",
    "CLEAR": "loss.weights.clear=0",
    "MGMAE masks": "masks.kind=multiblock",
    "MGMAE weights": "loss.flow_weight=0",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    return {}


@pytest.mark.parametrize("piece", list(PIECES))
def test_leaving_out_a_piece_of_recipe_v3_moves_the_weights(
    piece: str, settings: Settings, tmp_path: Path, whole: dict[str, dict[str, torch.Tensor]]
) -> None:
    common = ("steps=8", "optim.lr=5e-3", "teacher.momentum=0.0", "loss.weights.clear=2", "save_every=100", "val_batches=1")

    def weights(name: str, *more: str) -> dict[str, torch.Tensor]:
        train(settings("surgery", *common, *more), tmp_path / name)
        state = torch.load(tmp_path / name / "checkpoints" / "resume.pt", weights_only=True)["trainee"]
        return {key: value for key, value in state.items() if key.startswith("encoder.")}

    if "all" not in whole:
        whole["all"] = weights("all")
    other = weights("other", PIECES[piece])
    length = sum(float(tensor.square().sum()) for tensor in whole["all"].values())
    moved = sum(float((tensor - other[key]).square().sum()) for key, tensor in whole["all"].items())
    assert moved / length > 1e-6


def test_the_average_is_what_a_run_leaves_even_where_a_checkpoint_before_it_was_better(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_seen = iter((1.0, 2.0))
    monkeypatch.setattr(loop, "validate", lambda *_: {"loss": next(losses_seen)})
    config = settings("pretrain", "steps=4", "validate_every=2", "drift.wise=0.5", "optim.lr=1e-3")
    outcome = train(config, tmp_path / "run")
    best, last = (
        load_bundle(tmp_path / "run" / "checkpoints" / f"{name}.safetensors").part("encoder").state_dict()
        for name in ("best", "last")
    )
    assert outcome.checkpoint.name == "best.safetensors"
    assert all(torch.equal(tensor, last[name]) for name, tensor in best.items())


def test_wise_ft_of_lora_scales_the_change_once() -> None:
    module = nn.ParameterDict({"lora_A": torch.ones(2), "lora_B": torch.zeros(2)})
    anchor = Anchor(module)
    with torch.no_grad():
        module["lora_A"].fill_(3.0)
        module["lora_B"].fill_(4.0)
    anchor.average(module, 0.5)
    assert float((module["lora_A"][0] * module["lora_B"][0]).detach()) == pytest.approx(0.5 * 3.0 * 4.0)


@pytest.mark.parametrize("setting", ["trainable.encoder=none", "drift.lpft=0.5"])
def test_an_anchor_lets_an_encoder_rest_that_does_not_learn(setting: str, settings: Settings, tmp_path: Path) -> None:
    config = settings("pretrain", setting, "steps=2")
    assert config.loss.weights.anchor > 0
    assert train(config, tmp_path / "run").step == 2


def test_the_pull_is_as_strong_under_scaled_gradients(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("pretrain", "steps=2", "loss.weights.anchor=1e3", "optim.clip=null", "loss.weights.motion_aux=0")
    train(config, tmp_path / "plain")

    def scaling(config: TrainConfig) -> Accelerator:
        accelerator = make_accelerator(config)
        accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=1024.0), True
        accelerator.state._mixed_precision = "fp16"
        return accelerator

    monkeypatch.setattr(loop, "make_accelerator", scaling)
    train(config, tmp_path / "scaled")
    plain, scaled = (
        torch.load(tmp_path / name / "checkpoints" / "resume.pt", weights_only=True)["optimizer"]
        for name in ("plain", "scaled")
    )
    kept = torch.load(tmp_path / "scaled" / "checkpoints" / "resume.pt", weights_only=True)["scaler"]
    assert kept["scale"] == 1024.0
    name = "encoder.blocks.0.mlp.fc1.weight"
    assert float(scaled[name]["exp_avg"].norm() / plain[name]["exp_avg"].norm()) == pytest.approx(1.0, rel=0.2)


def test_layers_of_a_factorised_encoder_decay_and_drift_one_by_one() -> None:
    encoder = build_encoder(FactorizedConfig(embed_dim=24, num_heads=1, spatial_depth=2, temporal_depth=2))
    named = [(f"encoder.{name}", parameter) for name, parameter in encoder.named_parameters()]
    optimizer = optim.build_optimizer(named, optim.OptimConfig(layer_decay=0.5), depth=4)
    rates = {name: group["multiplier"] for group in optimizer.param_groups for name in group["names"]}
    learnt = [rates[f"encoder.{part}"] for part in (
        "patch_embed.proj.weight", "spatial_blocks.0.attn.qkv.weight", "spatial_blocks.1.mlp.fc1.bias", "temporal_blocks.0.norm1.weight",
        "temporal_blocks.1.attn.qkv.weight", "norm.weight",
    )]  # fmt: skip
    assert learnt == [0.0625, 0.125, 0.25, 0.5, 1.0, 1.0]
    assert set(Anchor(encoder).drift(encoder)) == {
        "patch_embed", "spatial_block_00", "spatial_block_01", "temporal_block_00", "temporal_block_01", "norm", "all",
    }  # fmt: skip
