"""What the Docker engine is asked for, with an engine that only takes notes: the real one is in test_containers.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound

from surg.cli import serve
from surg.errors import ServerError
from surg.serving import registry, repository
from surg.serving.engines import admin, docker, embedded
from surg.serving.repository import QueueConfig
from tests.serving.toy import toy_contract, toy_model, toy_repository


class Container:
    id, status = "c0", "running"

    def __init__(self, engine: "Engine", refusal: str | None) -> None:
        self.ports = {f"{port}/tcp": [{"HostPort": str(40000 + port)}] for port in (8000, 8001, 8002)}
        self.engine, self.refusal = engine, refusal

    def start(self) -> None:
        if self.refusal:
            raise APIError(self.refusal, explanation=self.refusal)

    def reload(self) -> None: ...

    def logs(self, tail: int) -> bytes:
        return b"exec: tritonserver: not found"

    def stop(self, timeout: int) -> None: ...

    def wait(self) -> dict[str, int]:
        return {"StatusCode": 1}

    def remove(self, force: bool = False) -> None:
        self.engine.left.remove(self)


class Engine:
    """Containers, images and info of docker-py's client."""

    def __init__(self, refusal: str | None = None, *, here: bool = True) -> None:
        self.refusal, self.here = refusal, here
        self.left: list[Container] = []
        self.asked: dict[str, Any] = {}
        self.pulled: list[str] = []
        self.more: dict[str, Any] = {}
        self.containers = self.images = self

    def info(self) -> dict[str, Any]:
        return {"Runtimes": {"runc": {}}, **self.more}

    def create(self, image: str, command: list[str], **asked: Any) -> Container:
        self.asked = {"image": image, "command": command, **asked}
        self.left.append(Container(self, self.refusal))
        return self.left[-1]

    def get(self, name: str) -> Any:
        if not self.here:
            raise ImageNotFound(name, explanation="No such image")
        return self.left[-1] if self.left else SimpleNamespace(attrs={})

    def pull(self, image: str) -> None:
        self.pulled.append(image)
        self.here = True


def start(monkeypatch: pytest.MonkeyPatch, engine: Engine, repo: Path, folder: Path) -> docker.DockerServer:
    monkeypatch.setattr(docker, "engine", lambda: engine)
    monkeypatch.setattr(docker, "_ready", lambda host: True)
    return docker.start(repo, folder=folder)


def test_a_container_that_does_not_start_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, _ = toy_repository(tmp_path)
    engine = Engine("port is already allocated")
    with pytest.raises(ServerError, match="port is already allocated"):
        start(monkeypatch, engine, repo, tmp_path / "state")
    assert not engine.left


def test_a_container_that_ends_at_once_is_removed_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, _ = toy_repository(tmp_path)
    engine, create = Engine(), Engine.create

    def ended(*call: Any, **asked: Any) -> Container:
        container = create(engine, *call, **asked)
        container.ports = {}
        return container

    monkeypatch.setattr(engine, "create", ended)
    with pytest.raises(ServerError, match="tritonserver: not found"):
        start(monkeypatch, engine, repo, tmp_path / "state")
    assert not engine.left


def test_engines_that_tensorrt_builds_are_kept_in_a_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    queue = QueueConfig(accelerator="tensorrt", engine_cache="/cache/trt")
    repository.publish(tmp_path / "repo", toy_contract(), {"surg_clip": {"model.onnx": toy_model(tmp_path / "m.onnx")}}, queue)
    engine = Engine()
    start(monkeypatch, engine, tmp_path / "repo", tmp_path / "state")
    (folder,) = (Path(host) for host, mount in engine.asked["volumes"].items() if mount == {"bind": "/cache/trt", "mode": "rw"})
    user = int(engine.asked["user"].split(":")[0])
    assert folder.stat().st_uid == user
    assert user != 0
    plain, _ = toy_repository(tmp_path)
    start(monkeypatch, engine := Engine(), plain, tmp_path / "state2")
    assert len(engine.asked["volumes"]) == 1


def test_only_the_holder_of_the_key_may_load_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, _ = toy_repository(tmp_path)
    engine = Engine()
    server = start(monkeypatch, engine, repo, tmp_path / "state")
    key = server.state["admin_key"]
    assert f"--http-restricted-api=model-repository:surg-admin={key}" in engine.asked["command"]
    assert f"--grpc-restricted-protocol=model-repository:surg-admin={key}" in engine.asked["command"]
    assert (tmp_path / "state" / "state.json").stat().st_mode & 0o077 == 0
    sent: list[tuple[str, ...]] = []
    monkeypatch.setattr(admin, "load_model", lambda *call: sent.append(call))
    server.reload()
    assert sent == [(server.http_url, "surg_clip", "surg-admin", key)]


def test_the_gpu_is_asked_for_however_docker_knows_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi" / "nvidia.yaml").touch()
    engine = Engine()
    by_driver, by_cdi = {"Count": -1, "Capabilities": [["gpu"]]}, {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}
    for more, wanted in (
        ({}, None),
        ({"CDISpecDirs": [str(tmp_path / "none")], "DiscoveredDevices": None}, None),
        ({"Runtimes": {"nvidia": {}}}, by_driver),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}, by_cdi),
        ({"CDISpecDirs": [str(tmp_path / "cdi")]}, by_cdi),
    ):
        engine.more = more
        asked = [{key: value for key, value in request.items() if value} for request in docker._gpus(engine)]
        assert asked == ([wanted] if wanted else []), more
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    engine.more = {}
    assert docker._gpus(engine)


def test_an_image_that_is_not_here_is_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, _ = toy_repository(tmp_path)
    start(monkeypatch, engine := Engine(here=False), repo, tmp_path / "state")
    assert engine.pulled == [docker.IMAGE]


def test_a_container_that_ended_by_itself_is_removed_by_stop_and_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path))
    repo, _ = toy_repository(tmp_path)
    engine = Engine()
    for remove in (serve.stop, lambda: registry.start(repo, engine="docker")):
        start(monkeypatch, engine, repo, registry.servers_folder() / "default")
        (ended,) = engine.left
        ended.status = "exited"
        remove()
        assert ended not in engine.left


def test_servers_are_listed_while_docker_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SURG_STATE_DIR", str(tmp_path))
    repo, _ = toy_repository(tmp_path)
    start(monkeypatch, Engine(), repo, registry.servers_folder() / "b")

    def off() -> None:
        raise ServerError("No Docker engine answers here")

    monkeypatch.setattr(docker, "engine", off)
    started: list[str] = []
    monkeypatch.setattr(embedded, "start", lambda *_, **__: started.append("embedded"))
    with pytest.raises(ServerError, match="No Docker engine"):
        registry.start(repo, "b", "docker")
    serve.list_()
    assert capsys.readouterr().out.split() == ["b", "unknown", "127.0.0.1:48001"]
    registry.start(repo, "b")  # what the message advises
    assert started == ["embedded"]
