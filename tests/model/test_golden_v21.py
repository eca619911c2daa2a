"""V-JEPA 2.1 equals the official code, in its pre-trained flavour (four levels) and its distilled one (one level)."""

import pytest
import torch
from torch import Tensor

from surg.model.config import PredictorConfig
from surg.model.encoder import Encoder
from surg.model.predictor import Prediction, Predictor
from tests.model.golden import TOLERANCE, V21, difference, golden, weights

ENCODER_KEY = {"pretrained": "target_encoder", "distilled": "ema_encoder"}
both = pytest.mark.parametrize("flavour", ["pretrained", "distilled"])


def encoder_of(flavour: str) -> Encoder:
    encoder = Encoder(V21).eval()
    encoder.load_state_dict(weights(f"v21_{flavour}_{ENCODER_KEY[flavour]}"))
    return encoder


def arrays_of(flavour: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{flavour}/"): value for key, value in golden("v21_arrays").items()}


@both
@torch.no_grad()
def test_tokens_of_clips_wide_clips_and_images_equal_the_official_ones(flavour: str) -> None:
    encoder, arrays = encoder_of(flavour), arrays_of(flavour)
    for name, given in (("encoder_full", "clip"), ("encoder_wide", "clip_wide"), ("encoder_image", "image")):
        assert difference(encoder(arrays[given]), arrays[name]) < TOLERANCE


@both
@torch.no_grad()
def test_levels_and_visible_only_tokens_equal_the_official_ones(flavour: str) -> None:
    encoder, arrays = encoder_of(flavour), arrays_of(flavour)
    keep = arrays["mask_enc_0"]
    assert difference(encoder.levels(arrays["clip"]), arrays["encoder_levels"]) < TOLERANCE
    assert difference(encoder(arrays["clip"], keep=keep), arrays["encoder_masked"]) < TOLERANCE
    assert difference(encoder.levels(arrays["clip"], keep=keep), arrays["encoder_masked_levels"]) < TOLERANCE


@both
@pytest.mark.parametrize("interpolate", [False, True])
@torch.no_grad()
def test_predicted_targets_and_context_equal_the_official_ones(flavour: str, interpolate: bool) -> None:
    arrays, levels = arrays_of(flavour), 4 if flavour == "pretrained" else 1
    config = PredictorConfig(
        embed_dim=24, width=24, depth=4, num_heads=2, levels=levels, out_dim=96 if levels == 4 else 48, num_mask_tokens=8,
        rope="interleaved", interpolate_rope=interpolate, modality_embedding=True, context_head=True,
    )  # fmt: skip
    predictor = Predictor(config).eval()
    predictor.load_state_dict(weights(f"v21_{flavour}_predictor"))
    seen = arrays["encoder_masked_levels" if levels == 4 else "encoder_masked"]
    result = predictor(seen, arrays["mask_enc_0"], arrays["mask_pred_0"], (2, 3, 3), mask_token=0)
    assert isinstance(result, Prediction)
    suffix = "_interp" if interpolate else ""
    assert difference(result.target, arrays[f"pred_target{suffix}"]) < TOLERANCE
    assert difference(result.context, arrays[f"pred_context{suffix}"]) < TOLERANCE
