"""TensorRT without a GPU: its ONNX parser and builder take every graph; plans that do not fit are refused."""

import json
from pathlib import Path

import pytest

from surg.errors import ExportError, ServerError
from surg.model.bundle import load_bundle
from surg.serving import repository, tensorrt
from surg.serving.export import Exported, ExportedFiles
from surg.serving.models import ServedConfig, prepare
from surg.serving.onnx import export_onnx
from tests.serving.test_world import world_bundle

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
    tensorrt.check_deploy(tmp_path, tensorrt="11.4.7", sm="90")
    with pytest.raises(ServerError, match=f"(?s){said}.*surg export RUN --format tensorrt"):
        tensorrt.check_deploy(tmp_path, **served)


def test_a_plan_of_another_graph_is_refused(tmp_path: Path) -> None:
    _sidecar(tmp_path, onnx=b"graph")
    (tmp_path / "model.onnx").write_bytes(b"newer graph")
    with pytest.raises(ServerError, match=r"another model\.onnx"):
        tensorrt.check_deploy(tmp_path, tensorrt="11.4.0", sm="90")


def test_a_plan_without_papers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="unknown origin"):
        tensorrt.check_deploy(tmp_path, tensorrt="11.4.0", sm="90")


def test_a_repository_of_plans_names_the_backend_and_the_gpu(tmp_path: Path) -> None:
    from tritonclient.grpc import model_config_pb2 as pb

    from tests.serving.toy import toy_repository

    repo, _ = toy_repository(tmp_path)
    repository.use_backend(repo, "surg_clip", "tensorrt", "model.plan")
    config = repository.read_config(repo, "surg_clip")
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU


def _sidecar(folder: Path, onnx: bytes) -> None:
    import hashlib

    (folder / "model.onnx").write_bytes(onnx)
    facts = tensorrt.Sidecar("11.4.0", "H200", "90", hashlib.sha256(onnx).hexdigest(), "fp16", {})
    (folder / tensorrt.SIDECAR).write_text(json.dumps(facts.__dict__))
