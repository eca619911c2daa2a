"""The action-conditioned world model: causal, in steps and seconds, rebuilt from its checkpoint."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from surg.errors import ConfigError
from surg.model.checkpoint import load_bundle, save_bundle
from surg.model.config import WorldConfig
from surg.model.world import SurgicalActionConditionedWorldModel, WorldPredictor

PLANE = (2, 3)


@pytest.fixture
def world() -> WorldPredictor:
    torch.manual_seed(0)
    return WorldPredictor(WorldConfig(embed_dim=24, width=24, depth=2, num_heads=2, extrinsics_dim=6)).eval()


def inputs(steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(1, steps * 6, 24), torch.randn(1, steps, 7), torch.randn(1, steps, 7)


def test_it_has_the_size_of_the_released_predictor() -> None:
    """The released file holds 1317.4 M parameters in all, 1012.2 M of them the ViT-g."""
    with torch.device("meta"):
        world = WorldPredictor(WorldConfig(embed_dim=1408, extrinsics_dim=6))
    assert sum(parameter.numel() for parameter in world.parameters()) == pytest.approx(1317.4e6 - 1012.174e6, abs=5e4)


@torch.no_grad()
def test_later_frames_actions_and_states_cannot_change_the_prediction(world: WorldPredictor) -> None:
    tokens, actions, states = inputs(4)
    before = world(tokens, actions, states, PLANE)
    for changed in (tokens, actions, states):
        changed[:, changed.shape[1] * 2 // 4 :] += 1.0
    after = world(tokens, actions, states, PLANE)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


@torch.no_grad()
@pytest.mark.parametrize("which", [0, 1])
def test_actions_and_states_matter(world: WorldPredictor, which: int) -> None:
    tokens, *said = inputs(2)
    before = world(tokens, *said, PLANE)
    said[which] = said[which] + 1
    assert not torch.allclose(before, world(tokens, *said, PLANE))


def test_a_model_that_was_used_in_inference_mode_can_be_trained(world: WorldPredictor) -> None:
    given = inputs(2)
    with torch.inference_mode():
        before = world(*given, PLANE)
    after = world(*given, PLANE)
    after.sum().backward()
    assert torch.equal(before, after)


@torch.no_grad()
def test_the_camera_token_is_optional_and_matters(world: WorldPredictor) -> None:
    tokens, actions, states = inputs(2)
    without = world(tokens, actions, states, PLANE)
    assert not torch.allclose(without, world(tokens, actions, states, PLANE, torch.randn(1, 2, 6)))
    plain = WorldPredictor(WorldConfig(embed_dim=24, width=24, depth=1, num_heads=2))
    with pytest.raises(ConfigError, match="no camera token"):
        plain(tokens, actions, states, PLANE, torch.randn(1, 2, 6))


@torch.no_grad()
def test_a_roll_out_is_its_own_predictions_fed_back(world: WorldPredictor) -> None:
    tokens, actions, states = inputs(3)
    first = tokens[:, :6]
    future = world.roll_out(first, actions, states, PLANE, steps=3)
    assert future.shape == (1, 18, 24)
    seen = first
    for step in range(1, 4):
        new = world(seen, actions[:, :step], states[:, :step], PLANE)[:, -6:]
        seen = torch.cat((seen, F.layer_norm(new, (24,))), 1)
    torch.testing.assert_close(future, seen[:, 6:])
    with pytest.raises(ConfigError, match="takes 4 actions and states"):
        world.roll_out(first, actions, states, PLANE, steps=4)


def test_horizons_are_seconds(world: WorldPredictor) -> None:
    assert [world.steps_for(horizon) for horizon in (0.1, 0.25, 0.3, 1.0, 2.0)] == [1, 1, 2, 4, 8]
    with pytest.raises(ConfigError, match="not in the future"):
        world.steps_for(0.0)


def test_inputs_that_do_not_belong_together_are_refused(world: WorldPredictor) -> None:
    tokens, actions, states = inputs(3)
    with pytest.raises(ConfigError, match="one action, one state and 2 x 3 tokens"):
        world(tokens[:, :12], actions, states, PLANE)


@pytest.fixture
def model() -> SurgicalActionConditionedWorldModel:
    torch.manual_seed(0)
    encoder = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    return SurgicalActionConditionedWorldModel(24, 24, 2, 2, action_dim=5, state_dim=3, step_s=0.5, encoder=encoder).eval()


@torch.no_grad()
def test_it_rebuilds_from_its_checkpoint_alone(tmp_path: Path, model: SurgicalActionConditionedWorldModel) -> None:
    torch.save(model.checkpoint(), tmp_path / "world.pt")
    checkpoint = torch.load(tmp_path / "world.pt", weights_only=True)
    again = SurgicalActionConditionedWorldModel(**checkpoint["config"]).eval()
    again.load_state_dict(checkpoint["full_model_state_dict"])
    frames, actions, states = torch.randn(1, 3, 2, 32, 32), torch.randn(1, 4, 5), torch.randn(1, 4, 3)
    assert torch.equal(again.imagine(frames, actions, states, 1.0), model.imagine(frames, actions, states, 1.0))
    assert model.imagine(frames, actions, states, 1.0).shape == (1, 2 * 4, 24)


@torch.no_grad()
def test_it_goes_through_our_files(tmp_path: Path, model: SurgicalActionConditionedWorldModel) -> None:
    save_bundle(tmp_path / "world.safetensors", {"encoder": model.encoder, "world": model.world}, {}, {})
    bundle = load_bundle(tmp_path / "world.safetensors")
    tokens, actions, states = torch.randn(1, 8, 24), torch.randn(1, 2, 5), torch.randn(1, 2, 3)
    assert torch.equal(bundle.part("world")(tokens, actions, states, (2, 2)), model.world(tokens, actions, states, (2, 2)))


@torch.no_grad()
def test_a_frame_is_encoded_without_its_future(model: SurgicalActionConditionedWorldModel) -> None:
    frames = torch.randn(1, 3, 3, 32, 32)
    before, plane = model.encode(frames)
    frames[:, :, 2] += 1
    after, _ = model.encode(frames)
    assert plane == (2, 2)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_a_width_outside_the_zoo_asks_for_a_description() -> None:
    with pytest.raises(ConfigError, match="describe it"):
        SurgicalActionConditionedWorldModel(encoder_dim=100)
    with pytest.raises(ConfigError, match="is 48 wide"):
        SurgicalActionConditionedWorldModel(encoder_dim=24, encoder={"embed_dim": 48, "num_heads": 2, "depth": 1})
