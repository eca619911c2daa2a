"""One training step, number by number, against what the official V-JEPA 2 code computed."""

import pytest
import torch

from surg.data.preprocess import PreprocessSpec
from surg.model.encoder import build_encoder
from surg.model.predictor import build_predictor
from surg.train import optim, schedules
from surg.train.batches import Batch
from surg.train.config import LossConfig
from surg.train.teacher import Teacher
from surg.train.trainee import Targets, Trainee
from tests.model.golden import TOLERANCE, V2, V2_PREDICTOR, difference, golden, weights


class FromClip(Trainee):
    """Takes the golden clip, which is normalised already, in place of stored frames."""

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        return frames


@pytest.fixture(scope="module")
def stepped() -> tuple[Trainee, Teacher, float, dict[str, float]]:
    arrays = golden("v2_arrays")
    encoder, predictor = build_encoder(V2), build_predictor(V2_PREDICTOR)
    encoder.load_state_dict(weights("v2_encoder"))
    predictor.load_state_dict(weights("v2_predictor"))
    trainee = FromClip(encoder, predictor, {}, LossConfig(), PreprocessSpec(size=48), patch=16, tubelet=2)
    teacher = Teacher(encoder)
    teacher.encoder.load_state_dict(weights("v2_target_encoder"))
    settings = optim.OptimConfig(lr=5.25e-4, weight_decay=0.04, clip=None)
    optimizer = optim.build_optimizer(trainee.named_parameters(), settings, depth=2)
    optim.set_rates(optimizer, float(golden("v2_train_step")["lr"]), 0.04)

    clip = arrays["clip"]
    batch = Batch.unlabelled(clip, "jepa")
    masks = [(arrays[f"mask_enc_{i}"], arrays[f"mask_pred_{i}"]) for i in (0, 1)]
    losses = trainee(batch, Targets(teacher(clip), masks), lambda _, __: 1.0)
    losses["jepa"].backward()
    norms = {name: float(p.grad.norm()) for name, p in trainee.named_parameters() if p.grad is not None}
    optimizer.step()
    teacher.follow(trainee.encoder, 0.99925)
    return trainee, teacher, float(losses["jepa"].detach()), norms


def test_the_loss_is_the_official_one(stepped: tuple[Trainee, Teacher, float, dict[str, float]]) -> None:
    assert stepped[2] == pytest.approx(float(golden("v2_train_step")["loss"]), abs=TOLERANCE)


def test_every_gradient_has_the_official_norm(stepped: tuple[Trainee, Teacher, float, dict[str, float]]) -> None:
    expected = {
        key.removeprefix("grad_norm/"): float(v) for key, v in golden("v2_train_step").items() if key.startswith("grad_norm/")
    }
    # Mask tokens 1 to 9 get none, there as here.
    assert set(stepped[3]) == set(expected)
    for name, norm in stepped[3].items():
        assert norm == pytest.approx(expected[name], abs=TOLERANCE, rel=1e-5), name


@pytest.mark.parametrize("part", ["encoder", "target_encoder", "predictor"])
def test_adamw_and_ema_leave_the_official_weights(part: str, stepped: tuple[Trainee, Teacher, float, dict[str, float]]) -> None:
    trainee, teacher, _, _ = stepped
    module = {"encoder": trainee.encoder, "target_encoder": teacher.encoder, "predictor": trainee.predictor}[part]
    assert module is not None
    step, start = golden("v2_train_step"), weights(f"v2_{part}")
    for name, tensor in module.state_dict().items():
        # The golden file keeps the change of every fourth weight, in 127ths of the largest one.
        expected = step[f"{part}/{name}"].float() / 127 * step[f"{part}_largest/{name}"]
        assert difference((tensor - start[name]).flatten()[::4], expected) < TOLERANCE, name


def test_the_rate_of_the_first_step_is_the_official_one() -> None:
    rate = schedules.learning_rate(1, steps=125, peak=5.25e-4, shape="cosine", start=1e-4, final=0.0, warmup=20)
    assert rate == pytest.approx(float(golden("v2_train_step")["lr"]), rel=1e-9)
