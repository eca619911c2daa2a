"""A fresh small encoder that sees motion: its tokens tell which way a texture moves, and nothing else about the model changes."""

import numpy as np
import pytest
import torch

from surg.errors import ConfigError
from surg.model.encoder import Encoder, build_encoder
from surg.model.motion_energy import motion_filters, pink_noise, start_with_motion
from surg.model.zoo import encoder_config

SIDE = 64


def moving(texture: np.ndarray, dx: float, dy: float, frames: int = 4) -> torch.Tensor:
    """A texture that drifts by (dx, dy) pixels a frame: (1, 3, T, S, S)."""
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None]
    spectrum = np.fft.fft2(texture)
    pictures = [np.fft.ifft2(spectrum * np.exp(-2j * np.pi * t * (fx * dx + fy * dy))).real for t in range(frames)]
    return torch.from_numpy(np.stack(pictures)[None, None].repeat(3, 1)).float()


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    encoder = build_encoder(encoder_config("tiny"))
    start_with_motion(encoder)
    assert isinstance(encoder, Encoder)
    return encoder.eval()


def energies(encoder: Encoder, clip: torch.Tensor) -> torch.Tensor:
    """The channels that hold the opponent energies, averaged over tokens, after the first block's hidden layer alone."""
    block = encoder.blocks[0]
    with torch.no_grad():
        tokens = encoder.embed(clip)
        return block.mlp(block.norm2(tokens))[..., -len(set(motion_filters(16).places)) :].mean((0, 1))


@pytest.mark.parametrize(("axis", "step"), [(0, (1.0, 0.0)), (2, (0.0, 1.0)), (1, (0.7, 0.7)), (3, (-0.7, 0.7))])
def test_tokens_tell_the_direction_of_a_moving_texture(tiny: Encoder, axis: int, step: tuple[float, float]) -> None:
    texture = pink_noise(np.random.default_rng(3), 16, SIDE)[0, 0]
    forth = energies(tiny, moving(texture, *step))
    back = energies(tiny, moving(texture, -step[0], -step[1]))
    pairs = sorted(set(motion_filters(16).places))
    mine = [number for number, place in enumerate(pairs) if place[2] == axis]
    across = [number for number, place in enumerate(pairs) if place[2] == (axis + 2) % 4]
    assert (forth[mine] > 0).all(), "the filters along the motion prefer it"
    assert (back[mine] < 0).all(), "and dislike its reverse"
    assert forth[mine].mean() > 3 * forth[across].mean().abs(), "those across it do not care"


def test_faster_is_more(tiny: Encoder) -> None:
    texture = pink_noise(np.random.default_rng(4), 16, SIDE)[0, 0]
    answers = [energies(tiny, moving(texture, speed, 0.0))[-4].item() for speed in (0.0, 0.5, 1.0, 2.0)]
    assert abs(answers[0]) < 0.1 * answers[-1]
    assert answers == sorted(answers)


def test_same_seed_same_start() -> None:
    first, second = build_encoder(encoder_config("tiny")), build_encoder(encoder_config("tiny"))
    start_with_motion(first, 7)
    start_with_motion(second, 7)
    assert torch.equal(first.patch_embed.proj.weight, second.patch_embed.proj.weight)
    assert torch.equal(first.blocks[3].attn.qkv.weight[:192], second.blocks[3].attn.qkv.weight[192:384])


def test_an_encoder_that_is_too_narrow_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"width above 100.*model\.start=random"):
        start_with_motion(build_encoder(encoder_config("nano")))


def test_a_shallow_encoder_grows_and_says_what_it_said() -> None:
    from surg.train.build import grown

    torch.manual_seed(1)
    shallow = build_encoder(encoder_config("nano").model_copy(update={"depth": 2})).eval()
    deep = grown(shallow, 5).eval()
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(deep(clip), shallow(clip))
    assert deep.config.depth == 5
    deep(clip).square().mean().backward()
    gradient = deep.blocks[4].mlp.fc2.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0, "the new blocks can learn"
    with pytest.raises(ConfigError, match="at most 3"):
        grown(deep, 3)
