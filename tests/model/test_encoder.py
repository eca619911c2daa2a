"""What the encoder promises beside its numbers: sizes, visible-only paths, precision, recomputation, compilation, tables."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.pos_embed_sincos import apply_rot_embed

from surg.errors import ConfigError
from surg.model.config import EncoderConfig
from surg.model.encoder import Encoder, build_encoder, gather_tokens
from surg.model.layers import Attention, attend
from surg.model.predictor import Predictor, build_predictor
from surg.model.rope import RotaryTables, axis_positions, halves_order, rotate
from surg.model.zoo import encoder_config, parameters, predictor_config


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(encoder_config("nano")).eval()


@pytest.mark.parametrize("layout", ["tiled", "interleaved"])
@pytest.mark.parametrize("head_dim", [12, 24, 32, 64, 80, 88])
def test_rotation_in_halves_equals_timms_companion_on_adjacent_pairs(layout: Any, head_dim: int) -> None:
    grid, width = (2, 3, 4), 2 * (head_dim // 3 // 2)
    heads = torch.randn(1, 24, 2, head_dim)
    positions = torch.from_numpy(axis_positions(grid)).float()
    omega = 10000.0 ** (-torch.arange(width // 2) / (width / 2))
    expected = heads.clone()
    for axis in range(3):
        angle = positions[:, axis, None] * omega
        angle = angle.repeat(1, 2) if layout == "tiled" else angle.repeat_interleave(2, 1)
        part = slice(axis * width, (axis + 1) * width)
        expected[..., part] = apply_rot_embed(heads[..., part], angle.sin()[:, None], angle.cos()[:, None])
    order = torch.from_numpy(halves_order(head_dim))
    table = RotaryTables(head_dim, layout).at(grid, None, heads.device, heads.dtype)
    torch.testing.assert_close(rotate(heads[..., order], table), expected[..., order], atol=1e-6, rtol=1e-5)


def test_stretched_positions_span_the_training_grid_and_a_single_patch_stays_finite() -> None:
    positions = axis_positions((1, 24, 1), stretch_to=16)
    assert positions[:, 1].max() == pytest.approx(15)
    assert np.isfinite(positions).all()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 16, 16), (6, 48, 32), (4, 32, 80), (1, 32, 32)])
def test_any_even_frame_count_and_any_patch_divisible_size_works(encoder: Encoder, shape: tuple[int, int, int]) -> None:
    clip = torch.randn(1, 3, *shape)
    t, h, w = encoder.grid(clip)
    assert encoder(clip).shape == (1, t * h * w, 48)


@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 40, 32), (4, 32, 30)])
def test_a_clip_that_cannot_be_cut_is_refused_with_the_way_out(encoder: Encoder, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="divisible by 16"):
        encoder(torch.randn(1, 3, *shape))


@torch.no_grad()
def test_a_single_frame_is_a_clip_of_repeated_frames(encoder: Encoder) -> None:
    image = torch.randn(1, 3, 1, 32, 32)
    assert torch.equal(encoder(image), encoder(image.expand(-1, -1, 2, -1, -1)))


@torch.no_grad()
def test_keeping_every_token_equals_the_full_encoding_and_order_is_the_callers(encoder: Encoder) -> None:
    clip = torch.randn(2, 3, 4, 32, 32)
    ids = torch.stack([torch.randperm(8), torch.randperm(8)])
    torch.testing.assert_close(encoder(clip, keep=ids), gather_tokens(encoder(clip), ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hidden_tokens_cannot_reach_the_visible_ones(encoder: Encoder) -> None:
    clip = torch.randn(1, 3, 4, 32, 32)
    other = clip.clone()
    other[:, :, :, 16:, 16:] += 5  # the patches with ids 3 and 7
    ids = torch.tensor([[0, 1, 2, 4, 5, 6]])
    assert torch.equal(encoder(clip, keep=ids), encoder(other, keep=ids))


@torch.no_grad()
def test_levels_are_layers_side_by_side_and_later_blocks_do_not_run(encoder: Encoder) -> None:
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(encoder.levels(clip), torch.cat(encoder.layers(clip, [0, 1, 2, 3]), -1))
    encoder.blocks[3].norm1.weight.fill_(float("nan"))
    assert encoder.layers(clip, [2])[0].isfinite().all()
    with pytest.raises(ConfigError, match="blocks 0 to 3"):
        encoder.layers(clip, [4])


def test_recomputing_activations_changes_no_gradient(encoder: Encoder) -> None:
    clip, twin = torch.randn(1, 3, 4, 32, 32), copy.deepcopy(encoder)
    twin.gradient_checkpointing = True
    for model in (encoder, twin):
        model.train()(clip).square().sum().backward()
    for first, second in zip(encoder.parameters(), twin.parameters()):
        assert first.grad is not None
        assert second.grad is not None
        torch.testing.assert_close(first.grad, second.grad)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_whole_model_half_precision_and_autocast_stay_near_float32(encoder: Encoder, dtype: torch.dtype) -> None:
    clip, ids = torch.randn(1, 3, 4, 32, 32), torch.tensor([[0, 3, 5]])
    exact = encoder(clip, keep=ids)
    with torch.autocast("cpu", dtype=dtype):
        cast = encoder(clip, keep=ids)
    whole = copy.deepcopy(encoder).to(dtype)(clip.to(dtype), keep=ids)
    assert whole.dtype == dtype
    for found in (cast, whole):
        assert torch.nn.functional.cosine_similarity(found.float(), exact, dim=-1).min() > 0.999


def test_drop_path_changes_training_and_not_evaluation() -> None:
    torch.manual_seed(0)
    config = encoder_config("nano").model_copy(update={"drop_path": 0.9})
    model, clip = Encoder(config), torch.randn(4, 3, 2, 32, 32)
    assert not torch.equal(model.train()(clip), model(clip))
    assert torch.equal(model.eval()(clip), model(clip))


def test_swiglu_changes_the_hidden_layer() -> None:
    model = Encoder(encoder_config("nano").model_copy(update={"mlp": "swiglu"}))
    assert "blocks.0.mlp.fc1_g.weight" in model.state_dict()
    assert model(torch.randn(1, 3, 2, 32, 32)).isfinite().all()


def test_lora_style_wrapping_of_the_projection_keeps_the_result(encoder: Encoder) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self, inner: torch.nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)  # type: ignore[no-any-return]

    clip = torch.randn(1, 3, 4, 32, 32)
    before = encoder(clip)
    for module in encoder.modules():
        if isinstance(module, Attention):
            module.qkv = Wrapped(module.qkv)  # type: ignore[assignment]
    torch.testing.assert_close(encoder(clip), before)


def test_tables_are_computed_once_per_grid_and_not_saved(encoder: Encoder) -> None:
    clip = torch.randn(1, 3, 4, 32, 32)
    encoder(clip)
    kept = dict(encoder.rotary._kept)
    encoder(clip, keep=torch.tensor([[1, 2]]))
    assert all(encoder.rotary._kept[key] is value for key, value in kept.items())
    assert len(encoder.rotary._kept) == 1
    assert not any("rotary" in key or "order" in key for key in encoder.state_dict())


def test_a_model_that_was_used_in_inference_mode_can_be_trained(encoder: Encoder) -> None:
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        before = encoder(clip)
    after = encoder(clip)
    after.sum().backward()
    assert torch.equal(before, after)


@torch.no_grad()
def test_an_exported_program_gives_the_same_tokens(encoder: Encoder) -> None:
    clip = torch.randn(1, 3, 4, 32, 32)
    exported = torch.export.export(encoder, (clip,))
    torch.testing.assert_close(exported.module()(clip), encoder(clip))
    fresh = Encoder(encoder.config).eval()
    torch.export.export(fresh, (clip,))
    assert fresh(clip).isfinite().all()  # tables made while tracing do not stay behind


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_encoder_gives_the_same_tokens(encoder: Encoder) -> None:
    clip, ids = torch.randn(1, 3, 4, 32, 32), torch.tensor([[0, 3, 5]])
    compiled = torch.compile(encoder)
    torch.testing.assert_close(compiled(clip), encoder(clip), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(compiled(clip, keep=ids), encoder(clip, keep=ids), atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@torch.no_grad()
def test_tokens_on_cuda_equal_those_on_the_cpu(encoder: Encoder) -> None:
    clip, ids = torch.randn(1, 3, 4, 32, 32), torch.tensor([[0, 3, 5]])
    there = copy.deepcopy(encoder).cuda()
    torch.testing.assert_close(there(clip.cuda(), keep=ids.cuda()).cpu(), encoder(clip, keep=ids), atol=1e-3, rtol=1e-3)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.cosine_similarity(there(clip.cuda()).float().cpu(), encoder(clip), dim=-1).min() > 0.999


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("tiny", 5_633_856), ("small", 21_884_544), ("vitl", 303_885_312), ("vith", 631_648_000), ("vitg", 1_012_173_952),
        ("vitb-2.1", 86_833_152),
    ],
)  # fmt: skip
def test_parameter_counts_equal_the_published_ones(name: str, published: int) -> None:
    with torch.device("meta"):
        built = sum(parameter.numel() for parameter in Encoder(encoder_config(name)).parameters())
    assert built == parameters(encoder_config(name)) == published


def test_tiny_with_predictor_ships_in_well_under_25_megabytes() -> None:
    with torch.device("meta"):
        modules = Encoder(encoder_config("tiny")), Predictor(predictor_config("tiny"))
    assert sum(parameter.numel() * 4 for module in modules for parameter in module.parameters()) < 26e6


def test_a_config_that_cannot_be_built_says_why() -> None:
    with pytest.raises(ConfigError, match="cannot be split into 5 heads"):
        build_encoder({"embed_dim": 48, "num_heads": 5})
    with pytest.raises(ConfigError, match="must be even and at least 6"):
        build_predictor({"width": 16, "num_heads": 4})
    with pytest.raises(ConfigError, match="must rise and end with the last block"):
        build_encoder({"embed_dim": 48, "num_heads": 2, "depth": 4, "levels": [0, 2]})


def test_predictor_refuses_a_mask_token_that_it_does_not_have() -> None:
    predictor = Predictor(predictor_config("nano"))
    with pytest.raises(ConfigError, match="this predictor has 10"):
        predictor(torch.randn(1, 2, 48), torch.tensor([[0, 1]]), torch.tensor([[2]]), (1, 2, 2), mask_token=10)


def test_predictor_reaches_beyond_the_clip_that_was_encoded() -> None:
    """Ids on a longer grid ask for the future; other ids of the same grid give another answer."""
    predictor = Predictor(predictor_config("nano")).eval()
    seen, ids = torch.randn(1, 4, 48), torch.arange(4)[None]
    future = predictor(seen, ids, torch.tensor([[8, 9]]), (3, 2, 2))
    assert future.shape == (1, 2, 48)
    assert not torch.allclose(future, predictor(seen, ids, torch.tensor([[4, 5]]), (3, 2, 2)))


@pytest.mark.parametrize("interpolate", [False, True])
def test_interpolated_positions_have_an_effect(interpolate: bool) -> None:
    torch.manual_seed(0)
    base = Encoder(EncoderConfig(embed_dim=48, depth=2, num_heads=2)).eval()
    other = Encoder(base.config.model_copy(update={"interpolate_rope": interpolate})).eval()
    other.load_state_dict(base.state_dict())
    clip = torch.randn(1, 3, 2, 48, 48)
    assert torch.allclose(base(clip), other(clip)) is not interpolate


@pytest.mark.parametrize("kept", [40, 3])
def test_projecting_only_the_kept_tubes_gives_the_same_tokens_and_gradients(
    encoder: Encoder, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = torch.randn(2, 3, 4, 96, 80)
    ids = torch.stack([torch.randperm(60)[:kept], torch.randperm(60)[:kept]])
    assert encoder.patch_embed.tubes(clip) == 120 >= encoder.patch_embed.FEW
    weight = encoder.patch_embed.proj.weight
    every = gather_tokens(encoder.patch_embed(clip), ids)
    with monkeypatch.context() as patch:
        patch.setattr(
            encoder.patch_embed.proj, "forward", lambda _: pytest.fail("the whole clip was projected for a few tubes")
        )
        few = encoder.patch_embed(clip, ids)
    torch.testing.assert_close(few, every, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(tokens.square().sum(), weight)[0] for tokens in (few, every)]
    torch.testing.assert_close(*gradients, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("levels", [False, True])
def test_several_masks_in_one_pass_are_the_masks_one_by_one(levels: bool) -> None:
    torch.manual_seed(0)
    encoder, predictor = Encoder(encoder_config("nano")), build_predictor(predictor_config("nano"))
    clip, grid = torch.randn(2, 3, 16, 96, 96), (8, 6, 6)
    order = torch.rand(2, 288).argsort(1)
    keeps, asked = [order[:, :90], order[:, 90:150]], [order[:, 90:], order[:, 150:]]

    def run(together: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        encoder.zero_grad()
        predictor.zero_grad()
        if together:
            tokens = encoder.several(clip, keeps, levels=levels)
        else:
            tokens = [encoder.levels(clip, keep) if levels else encoder(clip, keep) for keep in keeps]
        width = encoder.config.embed_dim
        seen = [part[..., -width:] for part in tokens]
        if together:
            answers = predictor.several(seen, keeps, asked, grid)
        else:
            answers = [predictor(a, b, c, grid) for a, b, c in zip(seen, keeps, asked)]
        torch.stack([part.square().mean() for part in answers]).sum().backward()
        found = [p.grad.clone() for p in (*encoder.parameters(), *predictor.parameters()) if p.grad is not None]
        return [part.detach() for part in (*tokens, *answers)], found  # type: ignore[union-attr]

    one, other = run(True), run(False)
    for mine, theirs in zip((*one[0], *one[1]), (*other[0], *other[1])):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


def test_tokens_of_one_mask_do_not_see_those_of_the_other() -> None:
    torch.manual_seed(0)
    encoder = Encoder(encoder_config("nano")).eval()
    clip = torch.randn(2, 3, 16, 96, 96)
    order = torch.rand(2, 288).argsort(1)
    first, _ = encoder.several(clip, [order[:, :90], order[:, 90:150]])
    again, _ = encoder.several(clip, [order[:, :90], order[:, 200:260]])
    torch.testing.assert_close(first, again, atol=1e-5, rtol=1e-4)


def test_the_gradient_of_the_rotation_is_that_of_its_formula() -> None:
    table = RotaryTables(24).at((2, 2, 2), None, torch.device("cpu"), torch.float64)
    heads = torch.randn(2, 8, 3, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, table), (heads,))


def test_attention_in_bf16_with_gradients_is_that_without() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 50, 32).bfloat16() for _ in range(3))
    plain = attend(q, k, v)
    with_gradient = attend(q.clone().requires_grad_(), k, v)
    assert with_gradient.requires_grad
    torch.testing.assert_close(with_gradient, plain, atol=0.03, rtol=0.03)
