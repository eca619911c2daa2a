"""The repository on disk: what Triton reads, versions, rollback, and publishing that is all or nothing."""

import errno
import fcntl
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surg.errors import ExportError, ServerError
from surg.serving import repository
from surg.serving.client import connect
from surg.serving.engine import start_server
from surg.serving.repository import QueueConfig
from tests.serving.toy import toy_contract, toy_model, toy_repository


def publish(repo: Path, folder: Path, scale: float, **settings: object) -> int:
    model = toy_model(folder / f"toy-{scale}.onnx", scale=scale)
    queue = QueueConfig.model_validate(settings)
    return repository.publish(repo, toy_contract(f"{int(scale):064d}"), {"surg_clip": {"model.onnx": model}}, queue)


def test_versions_count_up_and_the_newest_two_are_served(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    assert [publish(repo, tmp_path, scale) for scale in (1, 2, 3)] == [1, 2, 3]
    assert repository.served_versions(repo) == [2, 3]
    assert sorted(repository.contracts(repo)) == [1, 2, 3]


def test_two_exports_at_once_become_two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first copies its files."""
    repo, place, flock, second = tmp_path / "repo", repository._place, fcntl.flock, []
    waits_or_done = threading.Event()

    def ask(*call: Any) -> None:
        if second and threading.current_thread() is second[0]:
            waits_or_done.set()
        flock(*call)

    def publish_second() -> None:
        try:
            publish(repo, tmp_path, 2)
        finally:
            waits_or_done.set()

    def begin_second(*call: Any) -> None:
        if not second:
            second.append(threading.Thread(target=publish_second))
            second[0].start()
            assert waits_or_done.wait(60)
        place(*call)

    monkeypatch.setattr(fcntl, "flock", ask)
    monkeypatch.setattr(repository, "_place", begin_second)
    assert publish(repo, tmp_path, 1) == 1
    second[0].join(60)
    assert {version: found.checkpoint_sha256 for version, found in repository.contracts(repo).items()} == {
        1: f"{1:064d}",
        2: f"{2:064d}",
    }
    assert repository.served_versions(repo) == [1, 2]


def test_a_version_whose_folder_was_removed_to_make_room_is_not_served(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    for scale in (1, 2, 3):
        publish(repo, tmp_path, scale)
    shutil.rmtree(repo / "surg_clip" / "2")
    assert publish(repo, tmp_path, 4, keep_versions=3) == 4
    assert repository.served_versions(repo) == [1, 3, 4]


def test_rollback_goes_back_and_forth(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    for scale in (1, 2, 3):
        publish(repo, tmp_path, scale)
    assert repository.rollback(repo) == ([2, 3], [1, 2])
    assert repository.rollback(repo, to=1) == ([1, 2], [1])
    with pytest.raises(ServerError, match="no older one"):
        repository.rollback(repo)
    with pytest.raises(ServerError, match="no version 9; it holds 1, 2, 3"):
        repository.rollback(repo, to=9)
    assert repository.rollback(repo, to=3) == ([1], [2, 3])


def test_the_way_back_that_rollback_names_leads_to_the_same_repository(tmp_path: Path) -> None:
    from surg.cli.serve import app

    repo = tmp_path / "repo"
    for scale in (1, 2):
        publish(repo, tmp_path, scale)
    answer = CliRunner().invoke(app, ["rollback", "--repo", str(repo)])
    words = answer.output.partition("surg serve ")[2].split()
    assert repository.served_versions(repo) == [1]
    CliRunner().invoke(app, words)
    assert repository.served_versions(repo) == [1, 2]


@pytest.mark.triton
def test_rollback_reaches_a_running_server_and_a_client_that_is_connected(tmp_path: Path) -> None:
    repo, clip = toy_repository(tmp_path)
    publish(repo, tmp_path, 2)
    with start_server(repo, threads=1) as server, connect(server.grpc_url) as client:
        newer = client.clip(clip)
        server.rollback()
        older = client.clip(clip)
        assert client.version == 1
        assert client.contract.checkpoint_sha256 == f"{1:064d}"
        assert (newer.version, older.version) == (2, 1)
        assert newer.embedding[0, 0] == pytest.approx(2 * older.embedding[0, 0], rel=1e-5)
        publish(repo, tmp_path, 3)
        server.reload()
        assert client.clip(clip).version == 3
        assert (client.version, client.contract.checkpoint_sha256) == (3, f"{3:064d}")


def test_another_interface_is_refused_and_the_repository_stays(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    before = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()}
    other = toy_contract().model_copy(update={"horizons_s": (0.0, 1.0)})
    with pytest.raises(ExportError, match=r"(?s)horizons_s.*choose another --out"):
        repository.publish(repo, other, {"surg_clip": {"model.onnx": toy_model(tmp_path / "m.onnx")}})
    assert {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()} == before


def test_a_failed_publish_leaves_nothing_that_is_served(tmp_path: Path) -> None:
    repo, _ = toy_repository(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        repository.publish(repo, toy_contract(), {"surg_clip": {"model.onnx": tmp_path / "nowhere.onnx"}})
    assert repository.served_versions(repo) == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo", "toy-1.0.onnx"]


def test_a_repository_that_is_a_volume_of_its_own_is_published_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "volume"
    rename = Path.replace

    def within_one_disk(self: Path, target: Path) -> Path:
        if self.is_relative_to(repo) != Path(target).is_relative_to(repo):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", within_one_disk)
    assert [publish(repo, tmp_path, scale) for scale in (1, 2)] == [1, 2]
    assert sorted(path.name for path in (repo / "surg_clip").iterdir()) == ["1", "2", "config.pbtxt"]


def test_the_configuration_says_what_production_needs(tmp_path: Path) -> None:
    from tritonclient.grpc import model_config_pb2 as pb

    repo, _ = toy_repository(tmp_path, max_queue_size=7)
    config = repository.read_config(repo, "surg_clip")
    assert config.backend == "onnxruntime"
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_AUTO
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.timeout_action) == (7, pb.ModelQueuePolicy.REJECT)
    (tmp_path / "plain").mkdir()
    plain, _ = toy_repository(tmp_path / "plain")
    # Any policy at all makes Triton's batcher sleep over requests that overlap.
    assert not repository.read_config(plain, "surg_clip").dynamic_batching.HasField("default_queue_policy")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert not config.optimization.execution_accelerators.gpu_execution_accelerator


@pytest.mark.parametrize(
    ("setting", "value", "read"),
    [
        ("max_queue_size", 9, lambda c: c.dynamic_batching.default_queue_policy.max_queue_size),
        ("timeout_ms", 123, lambda c: c.dynamic_batching.default_queue_policy.default_timeout_microseconds // 1000),
        ("delay_us", 500, lambda c: c.dynamic_batching.max_queue_delay_microseconds),
        ("keep_versions", 1, lambda c: len(c.version_policy.specific.versions)),
        ("threads", 3, lambda c: int(c.parameters["intra_op_thread_count"].string_value)),
    ],
)
def test_every_setting_reaches_the_configuration(tmp_path: Path, setting: str, value: int, read: object) -> None:
    repo = tmp_path / "repo"
    publish(repo, tmp_path, 1)
    publish(repo, tmp_path, 2, **{setting: value})
    assert read(repository.read_config(repo, "surg_clip")) == value  # type: ignore[operator]


def test_the_tensorrt_accelerator_has_profiles_from_the_contract(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    publish(repo, tmp_path, 1, accelerator="tensorrt", engine_cache="/engines")
    (accelerator,) = repository.read_config(repo, "surg_clip").optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["trt_engine_cache_path"] == "/engines"
    assert accelerator.parameters["trt_profile_max_shapes"] == "frames:8x4x32x32x3,zone:8x2x2"
    assert "precision_mode" not in accelerator.parameters


@pytest.mark.triton
def test_a_real_triton_accepts_the_configuration_with_the_accelerator(tmp_path: Path) -> None:
    """Triton's core reads the whole file before any backend does; ours serves on the CPU all the same."""
    repo = tmp_path / "repo"
    publish(repo, tmp_path, 1, accelerator="tensorrt")
    with start_server(repo, threads=1) as server:
        assert "execution accelerators need NVIDIA's image" in server.log_tail(400)
