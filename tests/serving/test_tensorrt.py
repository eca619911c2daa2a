"""TensorRT without a GPU: its ONNX parser and builder take every graph; plans that do not fit are refused."""

import json
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from surg.cli.export import Format, Numbers, export
from surg.errors import ConfigError, ExportError, ServerError
from surg.model.bundle import load_bundle
from surg.serving import plans, repository, tensorrt
from surg.serving.contract import ModelSpec
from surg.serving.engine import start_server
from surg.serving.engines import docker
from surg.serving.export import Exported, ExportedFiles, export_repository
from surg.serving.models import ServedConfig, prepare
from surg.serving.onnx import export_onnx
from tests.serving.test_world import world_bundle
from tests.serving.toy import toy_contract, toy_model

trt_rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu12 is made for Linux x86_64")


@pytest.mark.parametrize("model", ["surg_clip", "surg_encoder", "surg_world"])
def test_tensorrt_takes_every_exported_graph(standard: ExportedFiles, model: str) -> None:
    path = next(path for path in standard.paths if path.parent.name == model)
    plan = tensorrt.build_plan(path, standard.contract.model(model), trt_rtx, compute_capability="SM89")
    assert len(plan) > 100_000


def test_tensorrt_takes_an_action_conditioned_world(tmp_path: Path) -> None:
    ready = prepare(load_bundle(world_bundle(tmp_path / "bundle.safetensors")), ServedConfig(max_batch_size=2))
    spec = ready.contract.model("surg_world")
    export_onnx(ready.modules["surg_world"], spec, tmp_path / "model.onnx")
    assert len(tensorrt.build_plan(tmp_path / "model.onnx", spec, trt_rtx, compute_capability="SM89")) > 100_000


def test_the_parsers_own_words_reach_the_user(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"TensorRT does not take model\.onnx of surg_clip"):
        tensorrt.build_plan(tmp_path / "model.onnx", exported.contract.model("surg_clip"), trt_rtx)


def test_profiles_span_the_contracts_batches(exported: Exported) -> None:
    shapes = tensorrt.profiles(exported.contract.model("surg_clip"))
    assert shapes["frames"] == {"min": [1, 8, 64, 64, 3], "opt": [2, 8, 64, 64, 3], "max": [4, 8, 64, 64, 3]}
    assert shapes["zone"]["max"] == [4, 4, 4]


def test_without_tensorrt_it_says_what_is_missing_and_what_works_now() -> None:
    with pytest.raises(ExportError, match=r"(?s)Missing: .*accelerator=tensorrt.*--engine docker"):
        tensorrt.require_tensorrt()


@pytest.mark.parametrize(
    ("served", "said"),
    [
        ({"tensorrt": "10.9.0", "sm": "90"}, "built by TensorRT 11.4.0, served by 10.9.0"),
        ({"tensorrt": "11.4.2", "sm": "89"}, r"built for SM 90 \(H200\), this GPU is SM 89"),
    ],
)
def test_a_plan_for_another_place_is_refused(tmp_path: Path, served: dict[str, str], said: str) -> None:
    _sidecar(tmp_path, onnx=b"graph")
    plans.check_deploy(tmp_path, tensorrt="11.4.7", sm="90")
    with pytest.raises(ServerError, match=f"(?s){said}.*surg export RUN --format tensorrt"):
        plans.check_deploy(tmp_path, **served)


def test_a_plan_of_another_graph_is_refused(tmp_path: Path) -> None:
    _sidecar(tmp_path, onnx=b"graph")
    (tmp_path / "model.onnx").write_bytes(b"newer graph")
    with pytest.raises(ServerError, match=r"another model\.onnx"):
        plans.check_deploy(tmp_path, tensorrt="11.4.0", sm="90")


def test_a_plan_without_papers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="unknown origin"):
        plans.check_deploy(tmp_path, tensorrt="11.4.0", sm="90")


def publish(repo: Path, folder: Path, *, plan: bool) -> int:
    files: dict[str, Path | str] = {"model.onnx": toy_model(folder / "toy.onnx")}
    if plan:
        (folder / "model.plan").write_bytes(b"plan")
        _sidecar(folder, onnx=(folder / "toy.onnx").read_bytes(), beside=False)
        files |= {"model.plan": folder / "model.plan", plans.SIDECAR: folder / plans.SIDECAR}
    return repository.publish(repo, toy_contract(), {"surg_clip": files})


def test_plans_and_graphs_in_one_repository_are_never_served_by_each_others_backend(tmp_path: Path) -> None:
    from tritonclient.grpc import model_config_pb2 as pb

    repo, kinds = tmp_path / "repo", pb.ModelInstanceGroup

    def served() -> tuple[list[int], str, str, int]:
        config = repository.read_config(repo, "surg_clip")
        return repository.served_versions(repo), config.backend, config.default_model_filename, config.instance_group[0].kind

    onnx, tensorrt = ("onnxruntime", "model.onnx", kinds.KIND_AUTO), ("tensorrt", "model.plan", kinds.KIND_GPU)
    publish(repo, tmp_path, plan=False)
    publish(repo, tmp_path, plan=True)
    assert served() == ([2], *tensorrt)
    publish(repo, tmp_path, plan=True)
    assert served() == ([2, 3], *tensorrt)
    repository.rollback(repo, to=1)
    assert served() == ([1], *onnx)
    repository.rollback(repo, to=3)
    assert served() == ([2, 3], *tensorrt)
    publish(repo, tmp_path, plan=False)
    assert served() == ([3, 4], *onnx)


def test_a_plan_that_cannot_be_built_leaves_nothing_behind(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("surg.serving.tensorrt.require_tensorrt", lambda: trt_rtx)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "L40S")

    def refuse(onnx: Path, spec: ModelSpec, *_: object, **__: object) -> bytes:
        if spec.name == "surg_world":
            raise ExportError("TensorRT could not build an engine for surg_world")
        return b"plan"

    monkeypatch.setattr("surg.serving.tensorrt.build_plan", refuse)
    settings: dict[str, Any] = {"served": ServedConfig(max_batch_size=2), "clips": 2, "through_server": False, "plans": True}
    with pytest.raises(ExportError, match="surg_world"):
        export_repository(bundle, tmp_path / "repo", **settings)
    assert not (tmp_path / "repo").exists()
    monkeypatch.setattr("surg.serving.tensorrt.build_plan", lambda *_, **__: b"plan")
    export_repository(bundle, tmp_path / "repo", **settings)
    assert repository.read_config(tmp_path / "repo", "surg_world").backend == "tensorrt"
    assert plans.check_deploy(tmp_path / "repo" / "surg_world" / "1", tensorrt=trt_rtx.__version__, sm="89").gpu == "L40S"


def test_engines_refuse_plans_that_do_not_fit_before_they_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "repo"
    publish(repo, tmp_path, plan=True)
    with pytest.raises(ServerError, match=r"surg serve start .* --engine docker"):
        start_server(repo)

    class Image:
        attrs: ClassVar = {"Config": {"Env": ["PATH=/bin", "TRT_VERSION=10.9.0.34+cuda12.8"]}}

    engine = types.SimpleNamespace(images=types.SimpleNamespace(get=lambda image: Image()))
    monkeypatch.setattr(docker, "engine", lambda: engine)
    with pytest.raises(ServerError, match=r"built by TensorRT 11\.4\.0, served by 10\.9\.0"):
        start_server(repo, "docker")


def test_a_graph_that_tensorrt_cannot_take_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--precision fp16"):
        export(tmp_path / "run", format=Format.tensorrt, precision=Numbers.int8)


def _sidecar(folder: Path, onnx: bytes, *, beside: bool = True) -> None:
    import hashlib

    if beside:
        (folder / "model.onnx").write_bytes(onnx)
    facts = plans.Sidecar("11.4.0", "H200", "90", hashlib.sha256(onnx).hexdigest(), "fp16", {})
    (folder / plans.SIDECAR).write_text(json.dumps(facts.__dict__))
