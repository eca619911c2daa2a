"""Nothing that runs here tells others that it runs."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN = "import sys; from pathlib import Path; from surg.serving.local import session; session(Path(sys.argv[1]), 1)"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    shape = (
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1]),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]),
    )
    body = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "same", [shape[0]], [shape[1]])
    path = tmp_path / "same.onnx"
    onnx.save(onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_onnxruntime_collects_no_events(graph: Path, tmp_path: Path) -> None:
    """Its wheel keeps a device's number and events to send under the home folder unless it was told not to."""
    home = tmp_path / "home"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_")) and name != "CI"}
    environment = {**inherited, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", RUN, str(graph)], env=environment, check=True, timeout=120)
    assert list(home.rglob("*")) == []


def test_a_person_may_decide_otherwise() -> None:
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0", "PYTHONPATH": str(ROOT)}
    told = "import os, surg; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['RAY_USAGE_STATS_ENABLED'])"
    done = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0", "0"]
