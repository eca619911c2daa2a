"""Whatever goes wrong has a sentence of its own that says what to do."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from surg.data.preprocess import PreprocessSpec
from surg.errors import ServerError
from surg.serving.client import Client, connect
from surg.serving.engine import Server, start_server
from surg.serving.export import Exported
from tests.serving.toy import toy_repository

pytestmark = pytest.mark.triton


def test_wrong_dtype_says_to_send_pixels(client: Client, frames: np.ndarray) -> None:
    with pytest.raises(ServerError, match=r"float32 .*expected UINT8.*\n.*normalises them itself"):
        client.clip(frames.astype(np.float32))


def test_wrong_size_shows_found_and_expected(client: Client, frames: np.ndarray) -> None:
    with pytest.raises(ServerError, match=r"shape \(3, 8, 32, 64, 3\); expected UINT8 of shape \(B, 8, 64, 64, 3\)"):
        client.clip(frames[:, :, :32])


def test_wrong_number_of_frames_points_to_preprocess(client: Client, frames: np.ndarray) -> None:
    with pytest.raises(ServerError, match=r"(?s)\(3, 4, 64.*surg.data.preprocess"):
        client.clip(frames[:, :4])


def test_more_clips_than_the_batch_says_how_many(client: Client, frames: np.ndarray) -> None:
    with pytest.raises(ServerError, match=r"(?s)9 clips in one request; surg_clip takes 1 to 4.*clip_many"):
        client.clip(np.repeat(frames, 3, axis=0))


def test_one_zone_per_clip(client: Client, frames: np.ndarray, zone: np.ndarray) -> None:
    with pytest.raises(ServerError, match="2 items for 3 clips"):
        client.clip(frames, zone[:2])


def test_the_server_itself_refuses_a_wrong_shape(client: Client, frames: np.ndarray) -> None:
    """Past our own check: what another client would be told."""
    from surg.serving.transport import Request, TransportError

    bad = Request("surg_clip", {"frames": frames[:, :4], "zone": np.ones((3, 4, 4), np.float32)}, ["embedding"], 0, "x", 5)
    with pytest.raises(TransportError, match="unexpected shape") as caught:
        client._transport.infer(bad)
    assert caught.value.kind == "invalid"


def test_unknown_version_lists_what_is_served(server: Server, client: Client, frames: np.ndarray) -> None:
    with pytest.raises(ServerError, match=r"(?s)does not serve version 9; it serves 1, 2.*rollback"):
        client.clip(frames, version=9)
    with pytest.raises(ServerError, match="version 7"):
        connect(server.grpc_url, version=7)


def test_unknown_model_lists_what_is_served(client: Client, frames: np.ndarray) -> None:
    with pytest.raises(ServerError, match=r"no model surg_depth; it serves surg_clip"):
        client.raw("surg_depth", {"frames": frames})


def test_another_contract_is_refused_with_the_difference(server: Server, exported: Exported) -> None:
    other = exported.contract.model_copy(update={"preprocess": PreprocessSpec(size=96, num_frames=8)})
    with pytest.raises(ServerError, match=r'(?s)another contract.*preprocess: expected .*"size": 96.*found .*"size": 64'):
        connect(server.grpc_url, expect=other)
    connect(server.grpc_url, expect=exported.contract).close()


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_nobody_there_says_how_to_start_one(scheme: str) -> None:
    with pytest.raises(ServerError, match=r"(?s)127.0.0.1:9.*surg serve start"):
        connect(f"{scheme}127.0.0.1:9", patience_s=0.2, timeout_s=2)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v2", "http://127.0.0.1:x", "127.0.0.1:80a0"])
def test_an_address_that_does_not_end_in_a_port_is_explained(url: str) -> None:
    with pytest.raises(ServerError, match="host:port"):
        connect(url)


def test_an_address_without_port_is_explained() -> None:
    with pytest.raises(ServerError, match="names no port"):
        connect("triton")


def test_a_full_queue_refuses_and_a_patient_client_gets_through(tmp_path: Path) -> None:
    """Queue of 1 on a slow model: eight at once are too many, unless they try again."""
    repo, clip = toy_repository(tmp_path, slow=True, max_queue_size=1)
    with start_server(repo, threads=1) as server:
        impatient = connect(server.grpc_url, patience_s=0.0, max_in_flight=8)
        outcomes = _all_at_once(impatient, clip, 8)
        assert any(isinstance(error, ServerError) and "queue is full" in str(error) for error in outcomes)
        patient = connect(server.grpc_url, patience_s=30, timeout_s=60, max_in_flight=8)
        assert all(outcome is None for outcome in _all_at_once(patient, clip, 8))
        with pytest.raises(ServerError, match=r"(?s)ran out of time.*timeout_s"):
            patient.clip(clip, timeout_s=0.001)
        impatient.close()
        patient.close()


def test_surg_infer_can_give_a_window_longer(tmp_path: Path) -> None:
    from surg.cli.infer import infer
    from surg.data.video import write_video

    repo, _ = toy_repository(tmp_path, slow=True)
    write_video(tmp_path / "a.mp4", (np.full((64, 96, 3), 5 * time, np.uint8) for time in range(20)), 10)
    with start_server(repo, threads=1) as server:
        with pytest.raises(ServerError, match=r"(?s)ran out of time.*--timeout"):
            infer([tmp_path / "a.mp4"], server=server.grpc_url, timeout=0.002)
        infer([tmp_path / "a.mp4"], server=server.grpc_url, timeout=60)


def test_without_a_time_out_in_the_queue_the_server_still_drops_requests_whose_callers_have_gone(tmp_path: Path) -> None:
    repo, clip = toy_repository(tmp_path, slow=True)
    with start_server(repo, threads=1) as server, connect(server.grpc_url, max_in_flight=200, patience_s=0) as client:
        client.clip(clip)
        took = []
        for _ in range(5):
            begun = time.perf_counter()
            client.clip(clip)
            took.append(time.perf_counter() - begun)
        # Eight fit into a batch, which takes as long as one alone: 25 times that, so most must run out of time on any machine. The
        # shortest of five: of one alone the machine may have taken a rest.
        outcomes = _all_at_once(client, clip, 200, timeout_s=max(0.1, 3 * min(took)))
        client.clip(clip)  # behind all that were left in the queue
        from surg.serving.engines.admin import statistics

        stats = statistics(server.http_url, "surg_clip")[0]
    assert any(isinstance(error, ServerError) and "ran out of time" in str(error) for error in outcomes)
    assert int(stats["inference_stats"]["fail"]["count"]) > 0


def test_one_bad_request_in_a_batch_hurts_only_itself(tmp_path: Path) -> None:
    """The toy looks up a table with the zone's first value: 9 lies outside it and fails inside onnxruntime."""
    repo, clip = toy_repository(tmp_path, slow=True)
    zone = np.zeros((2, 2), np.float32)
    with start_server(repo, threads=1) as server, connect(server.grpc_url, max_in_flight=8) as client:
        results: dict[int, object] = {}

        def call(index: int) -> None:
            try:
                results[index] = client.clip(clip, zone + (9 if index == 3 else index % 3))
            except ServerError as error:
                results[index] = error

        threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        from surg.serving.engines.admin import statistics

        stats = statistics(server.http_url, "surg_clip")[0]
    assert isinstance(results[3], ServerError)
    assert "could not run this request" in str(results[3])
    assert [index for index, result in results.items() if isinstance(result, ServerError)] == [3]
    assert stats["inference_count"] > stats["execution_count"], "nothing was batched, so nothing was shown"


def _all_at_once(client: Client, clip: np.ndarray, count: int, timeout_s: float | None = None) -> list[Exception | None]:
    outcomes: list[Exception | None] = [None] * count
    gate = threading.Barrier(count)

    def call(index: int) -> None:
        gate.wait()
        try:
            client.clip(clip, timeout_s=timeout_s)
        except ServerError as error:
            outcomes[index] = error

    threads = [threading.Thread(target=call, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_connecting_to_a_foreign_triton_model_says_whose_it_is(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    config = repo / "surg_clip" / "config.pbtxt"
    text = config.read_text()
    start = text.index('parameters {\n  key: "surg.contract.1"')
    config.write_text(text[:start] + text[text.index("\n}\n", start) + 3 :])
    with pytest.raises(ServerError, match="carries no contract"):
        connect(f"local:{repo}")
