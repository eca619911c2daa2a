"""The factorised variant and its one-call use."""

from pathlib import Path
from typing import Any

import pytest
import torch

from surg.errors import ConfigError
from surg.model.checkpoint import load_encoder, save_bundle
from surg.model.config import FactorizedConfig
from surg.model.encoder import Encoder, gather_tokens
from surg.model.factorized import FactorizedEncoder, VJEPAConfig, VJEPAModel

SMALL: dict[str, Any] = {
    "encoder_dim": 48, "predictor_dim": 24, "num_frames": 4, "patch_size": 16, "tubelet_size": 2, "mask_ratio": 0.7,
    "temporal_mask_ratio": 0.5, "factorized": True, "spatial_depth": 2, "temporal_depth": 1, "num_heads": 2, "predictor_depth": 1,
    "predictor_heads": 2,
}  # fmt: skip


@pytest.fixture
def encoder() -> FactorizedEncoder:
    torch.manual_seed(0)
    return FactorizedEncoder(FactorizedConfig(embed_dim=48, spatial_depth=2, temporal_depth=1, num_heads=2)).eval()


@torch.no_grad()
def test_ragged_visibility_equals_the_full_path_where_everything_is_visible(encoder: FactorizedEncoder) -> None:
    clip = torch.randn(2, 3, 4, 48, 32)
    ids = torch.stack([torch.randperm(12), torch.randperm(12)])
    torch.testing.assert_close(encoder(clip, keep=ids), gather_tokens(encoder(clip), ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_frames_may_keep_different_numbers_of_tokens_and_hidden_ones_do_not_leak(encoder: FactorizedEncoder) -> None:
    clip = torch.randn(1, 3, 4, 48, 32)
    ids = torch.tensor([[0, 1, 2, 3, 9]])  # four of the first time step, one of the second
    other = clip.clone()
    other[:, :, 2:, :16] += 3  # ids 6 and 7
    other[:, :, :2, 32:] += 3  # ids 4 and 5
    assert torch.equal(encoder(clip, keep=ids), encoder(other, keep=ids))


@torch.no_grad()
def test_spatial_blocks_stay_within_a_frame(encoder: FactorizedEncoder) -> None:
    encoder.temporal_blocks = torch.nn.ModuleList()
    clip = torch.randn(1, 3, 4, 32, 32)
    other = clip.clone()
    other[:, :, 2:] += 1
    before, after = encoder(clip), encoder(other)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_one_call_trains(encoder: FactorizedEncoder) -> None:
    torch.manual_seed(0)
    model, video = VJEPAModel(SMALL), torch.randn(2, 3, 4, 64, 64)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(25):
        loss, metrics = model(video, generator=torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(metrics["loss"])
    assert losses[-1] < 0.97 * losses[0]
    before = model.target_encoder.norm.bias.clone()
    model.update_target()
    assert not torch.equal(before, model.target_encoder.norm.bias)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_mask_ratio_does_what_it_says(ratio: float) -> None:
    _, metrics = VJEPAModel({**SMALL, "mask_ratio": ratio})(torch.randn(1, 3, 4, 64, 64))
    assert metrics["mask_ratio"] == pytest.approx(ratio, abs=1 / 32)


def test_temporal_mask_ratio_moves_the_mask_towards_the_end() -> None:
    video = torch.randn(1, 3, 4, 64, 64)
    losses = {
        share: VJEPAModel({**SMALL, "temporal_mask_ratio": share})(video, torch.Generator().manual_seed(0))[1]["mask_ratio"]
        for share in (0.0, 0.5, 1.0)
    }
    assert set(losses.values()) == {22 / 32}


def test_without_factorisation_attention_is_joint_and_as_deep() -> None:
    model = VJEPAModel({**SMALL, "factorized": False})
    assert isinstance(model.encoder, Encoder)
    assert model.encoder.config.depth == 3
    loss, _ = model(torch.randn(1, 3, 4, 32, 32))
    assert loss.isfinite()


def test_the_documented_defaults_are_the_defaults() -> None:
    config = VJEPAConfig()
    assert (config.encoder_dim, config.predictor_dim, config.spatial_depth, config.temporal_depth) == (768, 384, 8, 4)
    assert (config.mask_ratio, config.temporal_mask_ratio, config.patch_size, config.tubelet_size) == (0.7, 0.5, 16, 2)
    assert config.factorized
    with pytest.raises(ConfigError, match="There is no setting `mask_ration`"):
        VJEPAModel({"mask_ration": 0.5})


def test_a_clip_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_frames 4"):
        VJEPAModel(SMALL)(torch.randn(1, 3, 8, 32, 32))


@torch.no_grad()
def test_it_goes_through_our_files_like_any_encoder(tmp_path: Path, encoder: FactorizedEncoder) -> None:
    save_bundle(tmp_path / "factorized.safetensors", {"encoder": encoder}, {}, {})
    torch.save({"encoder": encoder.state_dict()}, tmp_path / "factorized.pt")
    clip = torch.randn(1, 3, 4, 32, 32)
    for again in (
        load_encoder(tmp_path / "factorized.safetensors"),
        load_encoder(tmp_path / "factorized.pt", config={"num_heads": 2}),
    ):
        assert torch.equal(again(clip), encoder(clip))
