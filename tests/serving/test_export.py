"""What is published equals PyTorch; what does not is not published."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from surg.errors import CheckpointError, ExportError
from surg.model.bundle import load_bundle
from surg.serving import parity
from surg.serving.client import Client, connect
from surg.serving.export import Exported, export_repository
from surg.serving.models import ServedConfig, prepare
from surg.serving.onnx import export_onnx
from tests.serving.conftest import CLASSES, SPEC, make_bundle

SMALL = ServedConfig(max_batch_size=2)


def test_the_gate_compares_every_output_of_every_model_in_every_batch_size(exported: Exported) -> None:
    assert {(row.model, row.output) for row in exported.rows} >= {
        ("surg_clip", "embedding"), ("surg_clip", "action"), ("surg_clip", "breach"), ("surg_clip", "breach_map"),
        ("surg_encoder", "tokens"), ("surg_encoder", "levels"), ("surg_world", "future"), ("surg_world", "surprise"),
    }  # fmt: skip
    assert all(row.relative < 1e-4 and row.cosine > 0.999999 and row.flips == 0 for row in exported.rows)
    assert set(exported.rows[0].batches) == {1, 2, 3, 4}
    kept = json.loads((exported.repo / "surg_clip" / "2" / "parity.json").read_text())
    assert len(kept) == len(exported.rows)


def test_an_export_that_differs_is_not_kept(bundle: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    with pytest.raises(ExportError, match=r"(?s)does not equal the model.*nothing was kept.*surg_clip"):
        export_repository(bundle, repo, served=SMALL, clips=2, tolerance=1e-12, through_server=False)
    assert not repo.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_gate_sees_a_wrong_graph(bundle: Path, local: Client) -> None:
    """PyTorch of another checkpoint against this repository: every kind of row must object."""
    other = load_bundle(make_bundle(bundle.with_name("other.safetensors"), seed=5))
    with pytest.raises(ExportError, match=r"(?s)surg_clip.embedding.*surg_encoder.tokens.*surg_world.future"):
        parity.check(other, local.contract, [("onnxruntime", local)], clips=4)


def test_only_standard_operators_and_no_rotary_clutter(exported: Exported) -> None:
    graph = onnx.load(exported.repo / "surg_encoder" / "2" / "model.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert {node.domain for node in graph.node} == {""}
    assert not kinds & {"Split", "Neg", "Slice", "ScatterND", "GatherND", "Expand", "Conv"}
    order = [node.op_type for node in graph.node]
    assert order.index("Cast") < order.index("Transpose")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_numbers_keep_every_decision(bundle: Path, tmp_path: Path, precision: str) -> None:
    done = export_repository(bundle, tmp_path / "repo", served=SMALL, clips=6, precision=precision, through_server=False)
    assert done.contract.precision == precision
    assert all(row.flips == 0 for row in done.rows)
    full = export_repository(bundle, tmp_path / "full", served=SMALL, clips=2, through_server=False)
    sizes = [(repo.repo / "surg_world" / "1" / "model.onnx").stat().st_size for repo in (done, full)]
    assert sizes[0] < 0.75 * sizes[1]


def test_fp16_decides_as_fp32_on_500_clips(bundle: Path, tmp_path: Path) -> None:
    """Clear decisions do not change; the few on the fence (within the gate's tolerance) are counted and may."""
    ready = prepare(load_bundle(bundle), SMALL)
    spec = ready.contract.model("surg_clip")
    paths = {}
    for precision in ("fp32", "fp16"):
        paths[precision] = tmp_path / f"{precision}.onnx"
        export_onnx(prepare(load_bundle(bundle), SMALL).modules["surg_clip"], spec, paths[precision], precision)  # type: ignore[arg-type]
    from surg.serving.local import session

    rng = np.random.default_rng(0)
    changed = 0
    sessions = {precision: session(path, 1) for precision, path in paths.items()}
    for _ in range(20):
        base = rng.integers(0, 256, (25, 1, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(16, 2).repeat(16, 3)
        frames = np.clip(base.astype(int) + rng.integers(-40, 40, base.shape), 0, 255).astype(np.uint8)
        feed = {"frames": frames, "zone": rng.random((25, 4, 4)).astype(np.float32)}
        full, half = (sessions[precision].run(["action", "breach"], feed) for precision in ("fp32", "fp16"))
        line = np.log(0.3 / 0.7)
        changed += int(((full[0].argmax(1) != half[0].argmax(1)) & (np.diff(np.sort(full[0]), axis=1)[:, -1] > 2e-3)).sum())
        changed += int((((full[1] > line) != (half[1] > line)) & (np.abs(full[1] - line) > 2e-3)).any(1).sum())
    assert changed == 0


def test_a_bundle_without_heads_serves_what_it_can(tmp_path: Path) -> None:
    from surg.model import zoo
    from surg.model.bundle import save_bundle
    from surg.model.encoder import build_encoder

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


def test_class_names_that_do_not_fit_the_head_stop_the_export(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b.safetensors", classes=CLASSES[:3])
    with pytest.raises(ExportError, match="names 3 classes"):
        export_repository(path, tmp_path / "repo", served=SMALL, clips=2, through_server=False)


def test_what_is_no_checkpoint_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        export_repository(tmp_path, tmp_path / "repo")
    with pytest.raises(CheckpointError, match="There is no"):
        export_repository(tmp_path / "none.safetensors", tmp_path / "repo")


def test_served_settings_shape_the_models(bundle: Path, tmp_path: Path) -> None:
    config = ServedConfig(max_batch_size=3, horizon_tubelets=2, newest_tubelets=1)
    contract = prepare(load_bundle(bundle), config).contract
    assert contract.model("surg_clip").max_batch_size == 3
    assert contract.model("surg_world").output("future").shape == (2, 16, 48)
    assert contract.model("surg_world").output("surprise_map").shape == (1, 4, 4)
    assert contract.world_step_s == 0.5


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
