"""V-JEPA 2 equals the official code: encoder, predictor, probe, and one training step."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surg.model.encoder import Encoder, gather_tokens
from surg.model.heads import AttentiveClassifier
from surg.model.predictor import Predictor
from tests.model.golden import TOLERANCE, V2, V2_PREDICTOR, difference, golden, weights

GRID = (2, 3, 3)


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    return golden("v2_arrays")


def build(cls: Any, config: Any, name: str) -> Any:
    module = cls(config).eval()
    module.load_state_dict(weights(name))
    return module


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build(Encoder, V2, "v2_encoder")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return build(Predictor, V2_PREDICTOR, "v2_predictor")  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize(
    ("expected", "clip"), [("encoder_full", "clip"), ("encoder_wide", "clip_wide"), ("encoder_short", "clip_short")]
)
def test_tokens_equal_the_official_ones(encoder: Encoder, arrays: dict[str, Tensor], clip: str, expected: str) -> None:
    assert difference(encoder(arrays[clip]), arrays[expected]) < TOLERANCE


@torch.no_grad()
def test_patch_embedding_and_every_layer_equal_the_official_ones(encoder: Encoder, arrays: dict[str, Tensor]) -> None:
    assert difference(encoder.embed(arrays["clip"]), arrays["patch_embed"]) < TOLERANCE
    for layer, tokens in enumerate(encoder.layers(arrays["clip"], [0, 1])):
        assert difference(tokens, arrays[f"encoder_layer_{layer}"]) < TOLERANCE


@torch.no_grad()
def test_target_encoder_and_its_layer_norm_equal_the_official_ones(arrays: dict[str, Tensor]) -> None:
    target = build(Encoder, V2, "v2_target_encoder")(arrays["clip"])
    assert difference(target, arrays["target_full"]) < TOLERANCE
    assert difference(F.layer_norm(target, target.shape[-1:]), arrays["target_layernorm"]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("mask", [0, 1])
def test_visible_only_tokens_equal_the_official_ones(encoder: Encoder, arrays: dict[str, Tensor], mask: int) -> None:
    seen = encoder(arrays["clip"], keep=arrays[f"mask_enc_{mask}"])
    assert difference(seen, arrays[f"encoder_masked_{mask}"]) < TOLERANCE


@torch.no_grad()
def test_a_list_of_masks_equals_the_official_batch_of_masks(encoder: Encoder, arrays: dict[str, Tensor]) -> None:
    # Upstream joins the masks of a list along the batch, mask by mask; the second one swaps the two clips' ids.
    masks = [arrays["mask_enc_0"], arrays["mask_enc_0"].flip(0)]
    seen = encoder(arrays["clip"].repeat(2, 1, 1, 1, 1), keep=torch.cat(masks))
    assert difference(seen, arrays["encoder_masked_list"]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("token", [0, 1])
def test_predicted_tokens_equal_the_official_ones(
    predictor: Predictor, arrays: dict[str, Tensor], mask: int, token: int
) -> None:
    seen, context, target = (arrays[f"{name}_{mask}"] for name in ("encoder_masked", "mask_enc", "mask_pred"))
    predicted = predictor(seen, context, target, GRID, mask_token=token)
    assert difference(predicted, arrays[f"predictor_{mask}_token{token}"]) < TOLERANCE


@torch.no_grad()
def test_predictions_from_all_tokens_equal_the_official_ones(predictor: Predictor, arrays: dict[str, Tensor]) -> None:
    everything, context = torch.arange(18).expand(2, -1), arrays["mask_enc_0"]
    predicted = predictor(arrays["encoder_full"], everything, everything, GRID)
    assert difference(predicted, arrays["predictor_all_tokens"]) < TOLERANCE
    some_of_all = gather_tokens(arrays["encoder_full"], context)
    predicted = predictor(some_of_all, context, arrays["mask_pred_0"], GRID)
    assert difference(predicted, arrays["predictor_from_full_0"]) < TOLERANCE


@torch.no_grad()
def test_probe_logits_equal_the_official_ones(arrays: dict[str, Tensor]) -> None:
    file = golden("v2_probe")
    probe = AttentiveClassifier(48, num_heads=2, depth=4, num_classes=7).eval()
    probe.load_state_dict(weights("v2_probe"))
    assert difference(probe.pooler(file["tokens"])[:, 0], file["pooled"]) < TOLERANCE
    assert difference(probe(file["tokens"]), file["logits"]) < TOLERANCE
    two_segments = torch.cat((file["tokens"], arrays["encoder_full"]), 1)
    assert difference(probe(two_segments), file["logits_two_segments"]) < TOLERANCE


def test_a_training_step_equals_the_official_one(arrays: dict[str, Tensor]) -> None:
    """Two masks, L1 against layer-normed targets, AdamW without decay on vectors, EMA of the target at 0.99925."""
    step = golden("v2_train_step")
    student, target = build(Encoder, V2, "v2_encoder"), build(Encoder, V2, "v2_target_encoder")
    predictor = build(Predictor, V2_PREDICTOR, "v2_predictor")
    with torch.no_grad():
        full = target(arrays["clip"])
        full = F.layer_norm(full, full.shape[-1:])
    loss = torch.zeros(())
    for mask in (0, 1):
        context, wanted = arrays[f"mask_enc_{mask}"], arrays[f"mask_pred_{mask}"]
        predicted = predictor(student(arrays["clip"], keep=context), context, wanted, GRID, mask_token=0)
        loss = loss + F.l1_loss(predicted, full.gather(1, wanted[..., None].expand(-1, -1, 48))) / 2
    loss.backward()  # type: ignore[no-untyped-call]
    assert abs(loss.item() - float(step["loss"])) < TOLERANCE

    named = {f"encoder.{k}": p for k, p in student.named_parameters()} | {
        f"predictor.{k}": p for k, p in predictor.named_parameters()
    }
    norms = {key.partition("/")[2]: value for key, value in step.items() if key.startswith("grad_norm/")}
    for name, parameter in named.items():
        if parameter.grad is None:
            assert name.startswith("predictor.mask_tokens.")
        else:
            assert float(parameter.grad.norm()) == pytest.approx(float(norms[name]), abs=TOLERANCE, rel=1e-4)
    assert len(norms) == sum(parameter.grad is not None for parameter in named.values())

    before = {
        part: clone(module) for part, module in (("encoder", student), ("target_encoder", target), ("predictor", predictor))
    }
    groups: list[dict[str, Any]] = [
        {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": float(step["wd"])},
        {"params": [p for p in named.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=float(step["lr"]), betas=(0.9, 0.999), eps=1e-8).step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), student.parameters()):
            slow.lerp_(fast, 1 - 0.99925)
    for part, module in (("encoder", student), ("target_encoder", target), ("predictor", predictor)):
        for key, value in module.state_dict().items():
            largest = float(step[f"{part}_largest/{key}"])
            expected = step[f"{part}/{key}"].float() / 127 * largest
            assert difference((value - before[part][key]).reshape(-1)[::4], expected) < TOLERANCE


def clone(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}
