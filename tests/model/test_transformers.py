"""transformers' V-JEPA 2 and ours agree on the same weights, in both directions."""

from pathlib import Path
from typing import Any

import pytest
import torch

from surg.model.checkpoint import load_bundle, load_encoder, load_predictor, save_bundle
from surg.model.config import EncoderConfig, PredictorConfig
from surg.model.convert import convert, to_transformers
from surg.model.encoder import Encoder, gather_tokens
from surg.model.names import from_transformers
from surg.model.names import to_transformers as rename
from surg.model.predictor import Predictor
from surg.model.zoo import encoder_config, predictor_config
from tests.model.golden import TOLERANCE, V2, V2_PREDICTOR, difference, golden, weights

SMALL: dict[str, Any] = {
    "crop_size": 64, "frames_per_clip": 4, "hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 3, "mlp_ratio": 48 / 11,
    "pred_hidden_size": 32, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 2, "pred_num_mask_tokens": 3,
    "pred_zero_init_mask_tokens": False,
}  # fmt: skip


def theirs(**changes: Any) -> Any:
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(3)
    model = VJEPA2Model(VJEPA2Config(**{**SMALL, **changes})).eval()
    for parameter in model.parameters():  # away from zero biases and unit norms
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1) * 0.5, std=0.1)
    return model


@torch.no_grad()
def test_our_models_from_their_folder_give_their_outputs(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path / "hf")
    encoder, predictor = load_encoder(tmp_path / "hf"), load_predictor(tmp_path / "hf", config={"num_heads": 2})
    assert encoder.config.num_heads == 3
    clip = torch.randn(2, 4, 3, 64, 64)
    context, target = torch.tensor([[0, 3, 7, 12], [1, 2, 20, 31]]), torch.tensor([[5, 8, 9], [0, 16, 17]])
    out = model(clip, context_mask=[context], target_mask=[target])
    tokens = encoder(clip.transpose(1, 2))
    assert difference(tokens, out.last_hidden_state) < TOLERANCE
    predicted = predictor(gather_tokens(tokens, context), context, target, encoder.grid(clip.transpose(1, 2)), mask_token=1)
    assert difference(predicted, out.predictor_output.last_hidden_state) < TOLERANCE


@torch.no_grad()
def test_their_model_from_our_folder_gives_our_outputs(tmp_path: Path) -> None:
    from transformers import AutoModel

    torch.manual_seed(4)
    encoder = Encoder(EncoderConfig(embed_dim=96, depth=3, num_heads=3, mlp_ratio=48 / 11)).eval()
    predictor = Predictor(PredictorConfig(embed_dim=96, width=32, depth=2, num_heads=2)).eval()
    meta = {"preprocess": {"size": 64, "num_frames": 4}}
    save_bundle(tmp_path / "ours.safetensors", {"encoder": encoder, "predictor": predictor}, {}, meta)
    to_transformers(tmp_path / "ours.safetensors", tmp_path / "hf")
    model = AutoModel.from_pretrained(tmp_path / "hf").eval()
    clip = torch.randn(1, 3, 4, 64, 64)
    everything = torch.arange(32)[None]
    out = model(clip.transpose(1, 2))
    assert difference(encoder(clip), out.last_hidden_state) < TOLERANCE
    predicted = predictor(encoder(clip), everything, everything, (2, 4, 4))
    assert difference(predicted, out.predictor_output.last_hidden_state) < TOLERANCE


@torch.no_grad()
def test_an_encoder_alone_goes_to_transformers_too(tmp_path: Path) -> None:
    from transformers import AutoModel

    encoder = Encoder(encoder_config("nano")).eval()
    save_bundle(tmp_path / "ours.safetensors", {"encoder": encoder}, {}, {})
    to_transformers(tmp_path / "ours.safetensors", tmp_path / "hf")
    model = AutoModel.from_pretrained(tmp_path / "hf").eval()
    clip = torch.randn(1, 3, 4, 256, 256)
    found = model(clip.transpose(1, 2), skip_predictor=True).last_hidden_state
    assert difference(encoder(clip), found) < TOLERANCE


@torch.no_grad()
def test_their_classifier_folder_becomes_encoder_predictor_and_head(tmp_path: Path) -> None:
    from transformers import VJEPA2Config, VJEPA2ForVideoClassification

    torch.manual_seed(5)
    model = VJEPA2ForVideoClassification(VJEPA2Config(**SMALL | {"num_labels": 5})).eval()
    model.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "ours.safetensors", config={"num_heads": 3, "predictor": {"num_heads": 2}})
    bundle = load_bundle(tmp_path / "ours.safetensors")
    clip = torch.randn(1, 4, 3, 64, 64)
    logits = bundle.heads["action"](bundle.part("encoder")(clip.transpose(1, 2)))
    assert difference(logits, model(clip).logits) < TOLERANCE


@torch.no_grad()
def test_recorded_outputs_of_transformers_equal_ours() -> None:
    arrays, expected = golden("v2_arrays"), golden("hf_arrays")
    encoder, predictor = Encoder(V2).eval(), Predictor(V2_PREDICTOR).eval()
    encoder.load_state_dict(weights("v2_target_encoder"))
    predictor.load_state_dict(weights("v2_predictor"))
    tokens = encoder(arrays["clip"])[:1]
    context, target = arrays["mask_enc_0"][:1], arrays["mask_pred_0"][:1]
    everything = torch.arange(18)[None]
    assert difference(tokens, expected["encoder_full"]) < TOLERANCE
    assert difference(encoder(arrays["clip_short"]), expected["encoder_short"]) < TOLERANCE
    assert difference(gather_tokens(tokens, context), expected["encoder_gathered_0"]) < TOLERANCE
    assert difference(gather_tokens(tokens, target), expected["target_0"]) < TOLERANCE
    grid = (2, 3, 3)
    found = predictor(gather_tokens(tokens, context), context, target, grid)
    assert difference(found, expected["predictor_0"]) < TOLERANCE
    assert difference(predictor(tokens, everything, everything, grid), expected["predictor_all_tokens"]) < TOLERANCE


def test_vitl_has_their_names_and_shapes_both_ways() -> None:
    from transformers import VJEPA2Config, VJEPA2Model

    with torch.device("meta"):
        model = VJEPA2Model(VJEPA2Config(crop_size=256, frames_per_clip=64))
        ours = {"encoder": Encoder(encoder_config("vitl")), "predictor": Predictor(predictor_config("vitl"))}
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    states = {name: module.state_dict() for name, module in ours.items()}
    assert {key: tensor.shape for key, tensor in rename(states).items()} == shapes
    back = from_transformers(model.state_dict())
    for name, state in states.items():
        assert {key: tensor.shape for key, tensor in back[name].items()} == {key: tensor.shape for key, tensor in state.items()}


@pytest.mark.slow
@torch.no_grad()
def test_vitl_random_weights_give_the_same_tokens() -> None:
    model = theirs(crop_size=64, hidden_size=1024, num_attention_heads=16, num_hidden_layers=24, mlp_ratio=4.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1) * 0.5, std=0.02)
    encoder = Encoder(encoder_config("vitl")).eval()
    encoder.load_state_dict(from_transformers(model.state_dict())["encoder"])
    clip = torch.randn(1, 3, 4, 64, 64)
    assert difference(encoder(clip), model(clip.transpose(1, 2), skip_predictor=True).last_hidden_state) < TOLERANCE
