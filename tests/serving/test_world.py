"""The action-conditioned world model, served: it equals the training code's roll-out, and it reads its actions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from surg.errors import ServerError
from surg.model.bundle import load_bundle
from surg.model.config import WorldConfig
from surg.model.world import WorldPredictor
from surg.serving.client import Client, connect
from surg.serving.export import export_repository
from surg.serving.models import ServedConfig, prepare
from tests.serving.conftest import make_bundle

SMALL = ServedConfig(max_batch_size=2, horizon_tubelets=3)


def world_bundle(path: Path, *, without: tuple[str, ...] = ("head.action", "head.sterility")) -> Path:
    torch.manual_seed(3)
    world = WorldPredictor(WorldConfig(embed_dim=48, width=48, depth=2, num_heads=2, action_dim=3, state_dim=2))
    with torch.no_grad():  # freshly made, it hardly looks at what is said to it
        world.action_encoder.weight.mul_(30)
    said = {"names": ["grip"], "widths": {"grip": 3}, "classes": {"grip": ["closed", "open", "turning"]}}
    return make_bundle(path, world=world, without=without, actions=said, states={"names": ["where"], "widths": {"where": 2}})


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    bundle = world_bundle(folder / "bundle.safetensors", without=("head.action", "head.sterility", "predictor"))
    # The gate inside compares every batch size with WorldPredictor.roll_out.
    done = export_repository(bundle, folder / "repo", served=SMALL, clips=4, through_server=False)
    assert {row.output for row in done.rows if row.model == "surg_world"} == {"future", "surprise", "surprise_map", "present"}
    return done.repo


def test_what_is_done_changes_the_future_and_nothing_else(acting: Path, frames: np.ndarray) -> None:
    with connect(f"local:{acting}", threads=1) as client:
        shape = client.contract.model("surg_world").input("actions").shape
        assert shape == (4 + 3 - 1, 3)
        rng = np.random.default_rng(0)
        actions, states = rng.standard_normal(shape), rng.standard_normal((6, 2))
        one = client.world(frames[0], actions=actions, states=states)
        other = actions.copy()
        other[-1] += 3.0  # what is done last shows in the last step alone
        two = client.world(frames[0], actions=other, states=states)
        assert one.present is not None
        np.testing.assert_array_equal(one.future[:, :2], two.future[:, :2])
        assert np.abs(one.future[:, 2] - two.future[:, 2]).max() > 1e-3
        np.testing.assert_array_equal(one.present, two.present)
        np.testing.assert_array_equal(one.surprise, two.surprise)
        silent = client.world(frames[0])
        zeros = client.world(frames[0], actions=np.zeros(shape), states=np.zeros((6, 2)))
        np.testing.assert_array_equal(silent.future, zeros.future)


def test_the_contract_says_what_the_numbers_are(acting: Path, frames: np.ndarray) -> None:
    with connect(f"local:{acting}", threads=1) as client:
        said = client.contract.actions
        assert said is not None
        assert said.classes["grip"] == ("closed", "open", "turning")
        with pytest.raises(
            ServerError, match=r"`actions` of surg_world has shape \(1, 2, 3\); expected FP32 of shape \(B, 6, 3\)"
        ):
            client.world(frames[0], actions=np.zeros((1, 2, 3)))


def test_a_predictor_beside_it_keeps_the_surprise(tmp_path: Path, frames: np.ndarray) -> None:
    with_both = load_bundle(world_bundle(tmp_path / "both.safetensors"))
    alone = load_bundle(make_bundle(tmp_path / "alone.safetensors"))
    both, plain = (prepare(bundle, SMALL).modules["surg_world"] for bundle in (with_both, alone))
    clip = torch.from_numpy(frames[:1])
    with torch.inference_mode():
        _, surprise, places, _ = both(clip, torch.zeros(1, 6, 3), torch.zeros(1, 6, 2))
        _, expected, expected_places = plain(clip)
    torch.testing.assert_close(surprise, expected)
    torch.testing.assert_close(places, expected_places)


def test_a_model_without_actions_refuses_them(local: Client, frames: np.ndarray) -> None:
    with pytest.raises(ServerError, match="takes no actions"):
        local.world(frames[0], actions=np.zeros((6, 3)))
