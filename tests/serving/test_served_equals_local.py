"""The served model answers what the model answers: over every protocol, batch size and version."""

import numpy as np
import pytest

from surg.errors import ServerError
from surg.serving.client import Client, connect
from surg.serving.engine import Server
from surg.serving.export import Exported

pytestmark = pytest.mark.triton


def same(a: object, b: object, names: tuple[str, ...], tolerance: float = 1e-6) -> None:
    for name in names:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=tolerance, rtol=0)


@pytest.mark.parametrize("scheme", ["grpc", "http", "grpc without shared memory"])
def test_server_equals_in_process_over_every_protocol(
    server: Server, local: Client, frames: np.ndarray, zone: np.ndarray, scheme: str
) -> None:
    url = f"http://{server.http_url}" if scheme == "http" else server.grpc_url
    with connect(url, shared_memory=False if "without" in scheme else None) as client:
        same(client.clip(frames, zone), local.clip(frames, zone), ("embedding", "action", "breach", "breach_map"))
        same(client.embed(frames), local.embed(frames), ("tokens", "levels", "pooled"))
        same(client.world(frames), local.world(frames), ("future", "surprise", "surprise_map"))


def test_shared_memory_is_used_with_a_server_on_this_machine(server: Server, frames: np.ndarray) -> None:
    with connect(server.grpc_url) as client:
        client.clip(frames)
        shared = client._transport._shared  # type: ignore[attr-defined]
        assert shared is not None
        assert len(shared._all) == 1


def test_a_single_clip_and_its_place_in_a_batch_give_the_same_answer(client: Client, frames: np.ndarray) -> None:
    batch = client.clip(frames)
    for index in range(len(frames)):
        np.testing.assert_allclose(client.clip(frames[index]).embedding[0], batch.embedding[index], atol=1e-5)


def test_all_ones_zone_means_the_whole_picture(client: Client, frames: np.ndarray) -> None:
    same(client.clip(frames), client.clip(frames, np.ones((3, 4, 4), np.float32)), ("breach", "breach_map"), 0)


def test_the_zone_changes_the_breach_and_not_the_embedding(client: Client, frames: np.ndarray, zone: np.ndarray) -> None:
    whole, part = client.clip(frames), client.clip(frames, zone)
    same(whole, part, ("embedding", "action"), 0)
    assert np.abs(whole.breach - part.breach).max() > 1e-4


def test_two_checkpoints_are_served_side_by_side(client: Client, local: Client, frames: np.ndarray) -> None:
    older, newer = client.clip(frames, version=1), client.clip(frames, version=2)
    assert (older.version, newer.version, client.clip(frames).version) == (1, 2, 2)
    same(older, local.clip(frames, version=1), ("embedding", "breach"))
    assert np.abs(older.embedding - newer.embedding).max() > 1e-2
    assert client.contracts[1].checkpoint_sha256 != client.contracts[2].checkpoint_sha256


def test_the_contract_read_back_is_the_one_exported(client: Client, exported: Exported) -> None:
    assert client.contract == exported.contract
    assert client.contract.classes[1] == "cut"
    assert client.contract.thresholds == {"breach": 0.3}
    assert client.contract.horizons_s == (0, 1, 2, 5)


def test_many_clips_come_back_in_order(client: Client, frames: np.ndarray) -> None:
    clips = [(frames[index % 3], None) for index in range(20)]
    results = list(client.clip_many(clips))
    one = [client.clip(frames[index]).embedding for index in range(3)]
    for index, result in enumerate(results):
        np.testing.assert_allclose(result.embedding, one[index % 3], atol=1e-5)


def test_requests_of_many_sizes_at_once_each_get_their_own_rows(client: Client, frames: np.ndarray) -> None:
    """The server puts them together and spreads the rows over the cores."""
    alone = client.clip(frames)
    sizes = [1, 3, 2, 1, 1, 3, 2, 2, 1]
    picks = [np.arange(place, place + size) % 3 for place, size in enumerate(sizes)]
    for pick, result in zip(picks, client.map(lambda pick: client.clip(frames[pick]), picks)):
        np.testing.assert_allclose(result.breach, alone.breach[pick], atol=1e-5)


@pytest.mark.parametrize("outputs", [("breach",), ("action", "breach"), ("embedding",)])
def test_only_what_is_asked_for_comes_back(
    client: Client, local: Client, frames: np.ndarray, zone: np.ndarray, outputs: tuple[str, ...]
) -> None:
    everything = client.clip(frames, zone)
    for answering in (client, local):
        asked = answering.clip(frames, zone, outputs=outputs)
        assert len(asked) == 3
        for name in ("embedding", "action", "breach", "breach_map"):
            assert (getattr(asked, name).size > 0) == (name in outputs)
        same(asked, everything, outputs, 1e-5)


def test_requests_that_ask_for_different_outputs_share_a_batch(client: Client, frames: np.ndarray) -> None:
    wanted = [("breach",), ("embedding",), ("action",)] * 4
    found = list(client.map(lambda outputs: client.clip(frames[0], outputs=outputs), wanted))
    for outputs, result in zip(wanted, found):
        assert [name for name in ("embedding", "action", "breach") if getattr(result, name).size] == list(outputs)


def test_a_session_in_this_process_leaves_its_arithmetic_alone(local: Client, frames: np.ndarray) -> None:
    local.clip(frames)
    assert (np.full(8, 1e-40, np.float32) * np.float32(1.0) > 0).all()
    assert float.fromhex("0x1p-1074") * 1.0 > 0.0


def test_an_output_that_does_not_exist_is_named(client: Client, frames: np.ndarray) -> None:
    with pytest.raises(ServerError, match="asked for breech; it gives embedding, action, breach, breach_map"):
        client.clip(frames, outputs=("breech",))


def test_ids_and_probabilities_are_typed(client: Client, frames: np.ndarray) -> None:
    result = client.clip(frames)
    assert len(result) == 3
    assert len(result.request_id) == 16
    np.testing.assert_allclose(result.action_probability.sum(1), 1, atol=1e-5)
    assert ((result.breach_probability > 0) & (result.breach_probability < 1)).all()
