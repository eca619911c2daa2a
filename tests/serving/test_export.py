"""What is published equals PyTorch; what does not is not published."""

import errno
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import surg
from surg.config import known_keys, load_config
from surg.errors import CheckpointError, ExportError
from surg.model import zoo
from surg.model.bundle import load_bundle, save_bundle
from surg.model.config import FactorizedConfig, PredictorConfig
from surg.model.encoder import build_encoder
from surg.model.predictor import build_predictor
from surg.serving import parity
from surg.serving.client import Client, connect
from surg.serving.export import ExportConfig, Exported, ExportedFiles, export_files, export_repository
from surg.serving.graph import lay_out
from surg.serving.local import session
from surg.serving.models import ServedConfig, prepare
from surg.serving.onnx import Precision, export_onnx
from surg.serving.repository import QueueConfig, model_config
from tests.serving.conftest import CLASSES, SPEC, make_bundle
from tests.serving.toy import toy_repository

SMALL = ServedConfig(max_batch_size=2)


def test_the_gate_compares_every_output_of_every_model_in_every_batch_size(exported: Exported) -> None:
    assert {(row.model, row.output) for row in exported.rows} >= {
        ("surg_clip", "embedding"), ("surg_clip", "action"), ("surg_clip", "breach"), ("surg_clip", "breach_map"),
        ("surg_encoder", "tokens"), ("surg_encoder", "levels"), ("surg_world", "future"), ("surg_world", "surprise"),
    }  # fmt: skip
    assert all(row.relative < 1e-4 and row.cosine > 0.999999 and row.decisions.flips == 0 for row in exported.rows)
    assert set(exported.rows[0].batches) == {1, 2, 3, 4}
    kept = json.loads((exported.repo / "surg_clip" / "2" / "parity.json").read_text())
    assert len(kept) == len(exported.rows)


@pytest.mark.parametrize("command", [export_repository, export_files])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    command: Callable[..., object], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surg.serving.export.load_bundle", lambda _: pytest.fail("the work began"))
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "repo"):
        with pytest.raises(ExportError, match="cannot be written"):
            command(bundle, out)


def test_a_checkpoint_that_may_not_be_read_is_not_said_to_be_a_folder_that_cannot_be_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("surg.serving.export.load_bundle", locked)
    with pytest.raises(PermissionError, match="nano"):
        export_repository(bundle, tmp_path / "repo")


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "No space left on device"), (errno.EFBIG, "File too large")])
def test_a_disk_that_fills_up_is_an_error_of_one_sentence(
    number: int, words: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, words)

    monkeypatch.setattr("surg.serving.repository._place", full)
    with pytest.raises(ExportError, match=words):
        export_repository(bundle, tmp_path / "repo", served=SMALL, clips=2, through_server=False)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_interface_is_refused_before_the_work(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, _ = toy_repository(tmp_path)
    monkeypatch.setattr("surg.serving.export.export_onnx", lambda *_, **__: pytest.fail("the work began"))
    with pytest.raises(ExportError, match="choose another --out"):
        export_repository(bundle, repo, served=SMALL, clips=2, through_server=False)


def test_an_export_that_differs_is_not_kept(bundle: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    with pytest.raises(ExportError, match=r"(?s)does not equal the model.*nothing was kept.*surg_clip"):
        export_repository(bundle, repo, served=SMALL, clips=2, tolerance=1e-12, through_server=False)
    assert not repo.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_exports_place_is_noticed_before_the_work(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for export in (export_repository, export_files):
        with pytest.raises(ExportError, match="it is a file"):
            export(bundle, tmp_path / "notes.txt")


def test_the_gate_sees_a_wrong_graph(bundle: Path, local: Client) -> None:
    """PyTorch of another checkpoint against this repository: every kind of row must object."""
    other = load_bundle(make_bundle(bundle.with_name("other.safetensors"), seed=5))
    with pytest.raises(ExportError, match=r"(?s)surg_clip.embedding.*surg_encoder.tokens.*surg_world.future"):
        parity.check(other, local.contract, [("onnxruntime", local)], clips=4)


def test_a_repository_fuses_attention_and_files_alone_keep_to_the_standard(exported: Exported, standard: ExportedFiles) -> None:
    fused = onnx.load(exported.repo / "surg_encoder" / "2" / "model.onnx").graph
    plain = onnx.load(next(path for path in standard.paths if path.parent.name == "surg_encoder")).graph
    assert {node.op_type for node in fused.node if node.domain} == {"MultiHeadAttention"}
    assert not {"Softmax", "MatMul"} & {node.op_type for node in fused.node}
    assert {node.domain for node in plain.node} == {""}
    for graph in (fused, plain):
        order = [node.op_type for node in graph.node]
        assert not set(order) & {"Neg", "Slice", "ScatterND", "GatherND", "Expand", "Conv"}
        assert order.count("Split") == 4  # queries from keys, once a block
        assert order.index("Cast") < order.index("Transpose")


def test_a_repository_for_tensorrt_keeps_to_the_standard(bundle: Path, tmp_path: Path) -> None:
    queue = QueueConfig(accelerator="tensorrt")
    done = export_repository(bundle, tmp_path / "repo", served=SMALL, queue=queue, clips=2, through_server=False)
    graph = onnx.load(done.repo / "surg_clip" / "1" / "model.onnx").graph
    assert {node.domain for node in graph.node} == {""}


def test_no_value_of_two_checkpoints_of_one_shape_has_the_same_name(bundle: Path, tmp_path: Path) -> None:
    """By these names onnxruntime finds a TensorRT engine in its cache: a shared one would serve the other checkpoint's weights."""
    named = []
    for index, checkpoint in enumerate((bundle, make_bundle(tmp_path / "other.safetensors", seed=1), bundle)):
        ready = prepare(load_bundle(checkpoint), ServedConfig(max_batch_size=2))
        path = tmp_path / str(index) / "model.onnx"
        export_onnx(ready.modules["surg_clip"], ready.contract.model("surg_clip"), path)
        graph = onnx.load(str(path)).graph
        named.append({name for node in graph.node for name in node.output} - {value.name for value in graph.output})
    assert not named[0] & named[1]
    assert named[0] == named[2]


def test_weights_beside_the_graph_keep_the_name_recorded_in_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surg.serving.onnx.EMBED_BELOW_BYTES", 0)
    done = export_repository(bundle, tmp_path / "repo", served=SMALL, clips=2, through_server=False)
    folder = done.repo / "surg_clip" / "1"
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    named = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
    assert named == {"model.onnx.data"}
    assert (folder / "model.onnx.data").stat().st_size > (folder / "model.onnx").stat().st_size
    with connect(f"local:{done.repo}", threads=1) as client:
        assert np.isfinite(client.clip(np.zeros((8, 64, 64, 3), np.uint8)).embedding).all()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_numbers_keep_every_decision(bundle: Path, tmp_path: Path, precision: str) -> None:
    done = export_repository(bundle, tmp_path / "repo", served=SMALL, clips=6, precision=precision, through_server=False)
    assert done.contract.precision == precision
    assert all(row.decisions.flips == 0 for row in done.rows)
    full = export_repository(bundle, tmp_path / "full", served=SMALL, clips=2, through_server=False)
    sizes = [(repo.repo / "surg_world" / "1" / "model.onnx").stat().st_size for repo in (done, full)]
    assert sizes[0] < 0.75 * sizes[1]


def test_int8_takes_pixels_as_the_whole_numbers_that_they_are(bundle: Path, tmp_path: Path) -> None:
    served = prepare(load_bundle(bundle), SMALL)
    module, spec, path = served.modules["surg_encoder"], served.contract.model("surg_encoder"), tmp_path / "int8.onnx"
    export_onnx(module, spec, path, "int8", fused=True)
    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    product = next(node for node in graph.node if node.op_type == "MatMulInteger")
    way, name = [], product.input[0]
    while name != "frames":
        way.append(made_by[name].op_type)
        name = made_by[name].input[0]
    assert way == ["Reshape", "Transpose", "Reshape"]
    assert "Gemm" not in {node.op_type for node in graph.node}
    weights = {tensor.name for tensor in graph.initializer}
    assert not [node for node in graph.node if node.op_type == "MatMul" and weights & set(node.input)]
    # Weights of 8 bits are all that is lost on the way to the first tokens.
    frames = torch.randint(0, 256, (2, *spec.inputs[0].shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    patches = module.encoder.patches
    whole = patches(frames)
    lay_out(module)
    exact = patches(frames)
    assert not torch.equal(whole, exact)
    assert float((whole - exact).norm() / exact.norm()) < 0.01


def test_int8_scores_are_whole_number_products_where_they_fit_in_memory(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = prepare(load_bundle(bundle), SMALL)
    spec, depth = made.contract.model("surg_encoder"), len(made.modules["surg_encoder"].encoder.blocks)
    attention = made.modules["surg_encoder"].encoder.blocks[0].attn
    frames = np.random.default_rng(0).integers(0, 256, (2, *spec.inputs[0].shape), dtype=np.uint8)
    scores = 4 * attention.heads * attention.tokens**2
    tokens, kinds = {}, {}
    for bound in (scores, scores - 1):
        monkeypatch.setattr("surg.serving.graph.SCORES_BELOW_BYTES", bound)
        path = tmp_path / f"{bound}.onnx"
        export_onnx(prepare(load_bundle(bundle), SMALL).modules["surg_encoder"], spec, path, "int8", fused=True)
        graph = onnx.load(path).graph
        weights = {tensor.name for tensor in graph.initializer}
        kinds[bound] = [node.op_type for node in graph.node if not weights & set(node.input[1:2])]
        tokens[bound] = session(path, 1).run(["tokens"], {"frames": frames})[0]
    assert kinds[scores].count("MatMulInteger") == depth
    assert "MultiHeadAttention" not in kinds[scores]
    assert kinds[scores - 1].count("MultiHeadAttention") == depth
    assert "MatMulInteger" not in kinds[scores - 1]
    assert not np.array_equal(*tokens.values())
    assert np.linalg.norm(np.subtract(*tokens.values())) / np.linalg.norm(tokens[scores]) < 0.01
    assert "Warning" not in capfd.readouterr().err


def test_fp16_decides_as_fp32_on_500_clips(bundle: Path, tmp_path: Path) -> None:
    """Windows of simulated clips, decoded and prepared as in use; benchmarks/precision.py does the same with `tiny`."""
    from surg.serving.stream import cuts

    spec = prepare(load_bundle(bundle), SMALL).contract.model("surg_clip")
    sessions = {}
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{precision}.onnx"
        export_onnx(prepare(load_bundle(bundle), SMALL).modules["surg_clip"], spec, path, precision)  # type: ignore[arg-type]
        sessions[precision] = session(path, 1)
    found: dict[str, list[list[np.ndarray]]] = {"fp32": [], "fp16": []}
    videos = sorted((Path(surg.__file__).parent / "demo" / "clips").glob("room-*.mp4"))
    zones = [None, [[0.3, 0.3], [0.7, 0.3], [0.7, 0.8], [0.3, 0.8]]]
    prepared = (cut for zone in zones for video in videos for cut in cuts(video, SPEC, zone, 1 / SPEC.fps))
    for _ in range(20):
        batch = [next(prepared) for _ in range(25)]
        feed = {"frames": np.stack([cut.frames for cut in batch]), "zone": np.stack([cut.zone for cut in batch])}
        for precision, outputs in found.items():
            outputs.append(sessions[precision].run(["action", "breach"], feed))
    for number, output in enumerate(("action", "breach")):
        full, half = (np.concatenate([batch[number] for batch in found[precision]]) for precision in ("fp32", "fp16"))
        assert not np.array_equal(full, half)
        decided = parity.decisions(output, full, half, [0.3] * 4, parity.FENCE["fp16"])
        assert decided.flips == 0
        assert len(full) == 500


def test_a_decision_that_turns_away_from_the_fence_is_a_flip() -> None:
    line = float(np.log(0.3 / 0.7))
    wanted = np.array([[line + 0.2], [line + 0.01], [line - 0.2], [2.0]])
    found = np.array([[line - 0.2], [line - 0.01], [line - 0.1], [2.5]])
    assert parity.decisions("breach", wanted, found, [0.3], 0.01) == parity.Decisions(0.01, near=1, changed_near=1, flips=1)
    two = np.array([[1.0, 0.0], [0.001, 0.0]])
    assert parity.decisions("action", two, two[:, ::-1], [0.5], 0.01) == parity.Decisions(0.01, near=1, changed_near=1, flips=1)
    assert parity.decisions("embedding", wanted, found, [0.3], 0.01).flips == 0


def test_a_bundle_without_heads_serves_what_it_can(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "encoder.safetensors"
    save_bundle(path, {"encoder": build_encoder(zoo.encoder_config("nano"))}, {}, {"preprocess": SPEC.model_dump(mode="json")})
    done = export_repository(path, tmp_path / "repo", served=SMALL, clips=2, through_server=False)
    assert [spec.name for spec in done.contract.models] == ["surg_clip", "surg_encoder", "surg_video"]
    assert any("surg_world is left out" in note for note in done.notes)
    with connect(f"local:{done.repo}") as client:
        result = client.clip(np.zeros((8, 64, 64, 3), np.uint8))
        assert result.embedding.shape == (1, 48)
        assert result.action.size == result.breach.size == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_factorised_encoder_is_served_with_its_positions(precision: Precision, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = FactorizedConfig(embed_dim=48, spatial_depth=2, temporal_depth=1, num_heads=2)
    encoder = build_encoder(shape)
    with torch.no_grad():
        for block in (*encoder.spatial_blocks, *encoder.temporal_blocks):  # type: ignore[union-attr]
            block.attn.qkv.weight.mul_(10)  # attention that looks somewhere, as trained ones do
    parts = {"encoder": encoder, "predictor": build_predictor(PredictorConfig(embed_dim=48, width=24, depth=1, num_heads=2))}
    path = tmp_path / "factorised.safetensors"
    save_bundle(path, parts, {}, {"preprocess": SPEC.model_dump(mode="json")})
    done = export_repository(path, tmp_path / "repo", served=SMALL, clips=3, precision=precision, through_server=False)
    assert {row.output for row in done.rows} >= {"embedding", "tokens"}
    # It has a predictor: that is not why.
    assert "a factorised encoder has no graph that looks ahead: surg_world is left out" in done.notes


def test_class_names_that_do_not_fit_the_head_stop_the_export(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b.safetensors", classes=CLASSES[:3])
    with pytest.raises(ExportError, match="names 3 classes"):
        export_repository(path, tmp_path / "repo", served=SMALL, clips=2, through_server=False)


def test_what_is_no_checkpoint_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        export_repository(tmp_path, tmp_path / "repo")
    with pytest.raises(CheckpointError, match="There are no weights"):
        export_repository(tmp_path / "none.safetensors", tmp_path / "repo")


def test_served_settings_shape_the_models(bundle: Path, tmp_path: Path) -> None:
    config = ServedConfig(max_batch_size=3, horizon_tubelets=2, newest_tubelets=1)
    contract = prepare(load_bundle(bundle), config).contract
    assert contract.model("surg_clip").max_batch_size == 3
    assert contract.model("surg_world").output("future").shape == (2, 16, 48)
    assert contract.model("surg_world").output("surprise_map").shape == (1, 4, 4)
    assert contract.world_step_s == 0.5


SETTINGS: list[str | tuple[str, ...]] = [
    "served.max_batch_size=3", "served.horizon_tubelets=2", "served.newest_tubelets=1", "queue.max_queue_size=5",
    "queue.timeout_ms=7", "queue.delay_us=9", "queue.keep_versions=4", "queue.threads=2", "queue.accelerator=tensorrt",
    ("queue.accelerator=tensorrt", "queue.engine_cache=/elsewhere"),
]  # fmt: skip


@pytest.mark.parametrize("change", SETTINGS)
def test_every_export_setting_moves_something(bundle: Path, change: str | tuple[str, ...]) -> None:
    def published(*changes: str) -> list[str]:
        settings = load_config(ExportConfig, overrides=changes)
        contract = prepare(load_bundle(bundle), settings.served).contract
        return [str(model_config(spec, {1: contract}, [1], settings.queue)) for spec in contract.models]

    *base, last = [change] if isinstance(change, str) else change
    assert published(*base, last) != published(*base)


def test_the_table_above_has_every_export_setting() -> None:
    tried = {(change if isinstance(change, str) else change[-1]).partition("=")[0] for change in SETTINGS}
    assert tried == {key for key in known_keys(ExportConfig) if "." in key}


def test_surprise_predicts_the_newest_tubelets_without_seeing_them(bundle: Path) -> None:
    world = prepare(load_bundle(bundle), SMALL).modules["surg_world"]
    frames = torch.randint(0, 256, (1, 8, 64, 64, 3), dtype=torch.uint8)
    changed = frames.clone()
    changed[:, -4:] = 255 - changed[:, -4:]
    seen: list[torch.Tensor] = []
    world.newest.register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[operator,union-attr]
    with torch.no_grad():
        first, second = world(frames), world(changed)
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(first[1], second[1])


def test_the_command_prints_the_table_and_the_next_command(
    surg: Callable[..., subprocess.CompletedProcess[str]], bundle: Path, tmp_path: Path
) -> None:
    done = surg("export", bundle, "--format", "onnx", "--out", "files", "--clips", 3, "--set", "served.max_batch_size=2")
    assert done.returncode == 0, done.stderr
    assert "PyTorch = onnxruntime" in done.stdout
    assert "Serve them too: surg export" in done.stdout
    assert (tmp_path / "files" / "surg_clip" / "model.onnx").is_file()
    assert json.loads((tmp_path / "files" / "contract.json").read_text())["architecture"] == "nano"
    refused = surg("export", bundle, "--format", "tensorrt")
    assert refused.returncode == 2
    assert "queue.accelerator=tensorrt" in refused.stderr
