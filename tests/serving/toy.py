"""A model of five operators with surg_clip's interface: for behaviour of the server that no real model shows at will; and a clock
that goes on only while somebody sleeps by it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from surg.data.preprocess import PreprocessSpec
from surg.serving import repository
from surg.serving.contract import Contract, ModelSpec, TensorSpec
from surg.serving.repository import QueueConfig

SIDE, FRAMES = 32, 4


def toy_contract(sha256: str = "0" * 64) -> Contract:
    return Contract(
        checkpoint_sha256=sha256,
        architecture="toy",
        preprocess=PreprocessSpec(size=SIDE, num_frames=FRAMES),
        horizons_s=(0.0,),
        models=(
            ModelSpec(
                name="surg_clip",
                inputs=(
                    TensorSpec(name="frames", dtype="UINT8", shape=(FRAMES, SIDE, SIDE, 3)),
                    TensorSpec(name="zone", dtype="FP32", shape=(2, 2)),
                ),
                outputs=(
                    TensorSpec(name="embedding", dtype="FP32", shape=(3,)),
                    TensorSpec(name="breach", dtype="FP32", shape=(1,)),
                ),
            ),
        ),
    )


def toy_model(path: Path, *, scale: float = 1.0, slow: bool = False) -> Path:
    """embedding = mean colour * scale; breach = table[zone[0, 0]], a table of three: other values fail inside onnxruntime."""
    steps = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Slice", ["zone", "zero", "one", "axis1"], ["first_row"]),
        helper.make_node("Slice", ["first_row", "zero", "one", "axis2"], ["first"]),
        helper.make_node("Reshape", ["first", "column"], ["value"]),
        helper.make_node("Cast", ["value"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["breach"]),
    ]
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "axis1": np.array([1]), "axis2": np.array([2]), "column": np.array([-1, 1]),
        "table": np.array([0.1, 0.2, 0.3], np.float32), "scale": np.array(scale, np.float32),
    }  # fmt: skip
    last = "mean"
    if slow:
        # A product of 1500 x 1500 matrices per request, kept from being folded away by a value of the input.
        constants["big"] = np.full((1500, 1500), 1e-4, np.float32)
        steps += [
            helper.make_node("ReduceMax", ["mean"], ["top"], keepdims=0),
            helper.make_node("Mul", ["big", "top"], ["left"]),
            helper.make_node("MatMul", ["left", "big"], ["product"]),
            helper.make_node("ReduceMin", ["product"], ["tiny"], keepdims=0),
            helper.make_node("Mul", ["tiny", "nothing"], ["gone"]),
            helper.make_node("Add", ["mean", "gone"], ["late"]),
        ]
        constants["nothing"] = np.array(0, np.float32)
        last = "late"
    steps.append(helper.make_node("Mul", [last, "scale"], ["embedding"]))
    spec = toy_contract().model("surg_clip")
    kinds = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}
    graph = helper.make_graph(
        steps,
        "toy",
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], ["batch", *t.shape]) for t in spec.inputs],
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], ["batch", *t.shape]) for t in spec.outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def toy_repository(folder: Path, *, slow: bool = False, scale: float = 1.0, max_queue_size: int = 0) -> tuple[Path, np.ndarray]:
    """A published repository and one clip for it."""
    model = toy_model(folder / f"toy-{scale}.onnx", scale=scale, slow=slow)
    queue = QueueConfig(max_queue_size=max_queue_size)
    repository.publish(folder / "repo", toy_contract(f"{int(scale):064d}"), {"surg_clip": {"model.onnx": model}}, queue)
    return folder / "repo", np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)


class Clock:
    """In place of the module `time`: however slow the machine, what waits for a second wakes a second later."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds
