"""One file that rebuilds its own models."""

from pathlib import Path

import pytest
import torch
from torch import nn

from surg.errors import CheckpointError
from surg.model.checkpoint import load_bundle, save_bundle
from surg.model.encoder import Encoder
from surg.model.heads import AttentiveClassifier, MotionAuxHead, SterilityHead
from surg.model.predictor import Predictor
from surg.model.zoo import encoder_config, predictor_config

META = {"classes": ["cut", "sew"], "horizons_s": [0, 1, 2, 5], "fps": 4.0, "note": "naïve"}


@pytest.fixture
def parts() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "encoder": Encoder(encoder_config("nano")),
        "predictor": Predictor(predictor_config("nano")),
        "head.action": AttentiveClassifier(48, 2, 2, 8),
        "head.motion_aux": MotionAuxHead(48),
        "head.sterility": SterilityHead(48, num_heads=2, width=24),
    }


def test_a_bundle_rebuilds_every_part_from_the_file_alone(tmp_path: Path, parts: dict[str, nn.Module]) -> None:
    sha256 = save_bundle(tmp_path / "model.safetensors", parts, {}, META)
    bundle = load_bundle(tmp_path / "model.safetensors")
    assert bundle.meta == META
    assert bundle.sha256 == sha256
    for name, module in parts.items():
        again = bundle.part(name)
        assert not again.training
        for key, tensor in module.state_dict().items():
            assert torch.equal(again.state_dict()[key], tensor)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(bundle.part("encoder")(clip), parts["encoder"].eval()(clip))


def test_a_truncated_bundle_is_refused(tmp_path: Path, parts: dict[str, nn.Module]) -> None:
    path = tmp_path / "model.safetensors"
    save_bundle(path, parts, {}, META)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        load_bundle(path)


def test_settings_of_another_size_are_refused_with_the_list_of_what_differs(
    tmp_path: Path, parts: dict[str, nn.Module]
) -> None:
    path = tmp_path / "model.safetensors"
    save_bundle(
        path, {"encoder": parts["encoder"]}, {"encoder": encoder_config("nano").model_copy(update={"embed_dim": 64})}, META
    )
    with pytest.raises(CheckpointError, match=r"shape of patch_embed\.proj\.weight"):
        load_bundle(path)


def test_asking_for_an_absent_part_names_the_parts_there_are(tmp_path: Path, parts: dict[str, nn.Module]) -> None:
    path = tmp_path / "model.safetensors"
    save_bundle(path, {"encoder": parts["encoder"]}, {}, META)
    with pytest.raises(CheckpointError, match=r"holds no 'head.action'; it holds: encoder"):
        load_bundle(path).part("head.action")
