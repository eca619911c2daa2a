from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from surg.data.faces import HOLD_FRAMES, FaceBox, cover_faces, open_detector
from surg.errors import DataError

Frame = npt.NDArray[np.uint8]
SIDE = 64


def yunet(path: Path) -> Path:
    """A file with YuNet's inputs and outputs that finds one face of 16 x 16 pixels around (28, 28), whatever it is shown."""
    nodes, outputs, constants = [], [], []
    for stride in (8, 16, 32):
        cells = (SIDE // stride) ** 2
        for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            values = np.zeros((1, cells, width), np.float32)
            if stride == 8 and name in ("cls", "obj"):
                values[0, 3 * 8 + 3, 0] = 1.0
            if stride == 8 and name == "bbox":
                values[0, 3 * 8 + 3] = (0.5, 0.5, np.log(2.0), np.log(2.0))
            constants.append(numpy_helper.from_array(values, f"{name}_{stride}_value"))
            # Tied to the input, or the graph would be folded away.
            nodes.append(helper.make_node("Add", [f"{name}_{stride}_value", "nothing"], [f"{name}_{stride}"]))
            outputs.append(helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, [1, cells, width]))
    outputs.sort(key=lambda value: ["cls", "obj", "bbox", "kps"].index(value.name.split("_")[0]))
    constants.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    mean = helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0)
    nothing = helper.make_node("Mul", ["mean", "zero"], ["nothing"])
    graph = helper.make_graph(
        [mean, nothing, *nodes],
        "yunet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        outputs,
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def picture() -> Frame:
    return np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def test_opencv_runs_a_detector_of_yunets_form(tmp_path: Path) -> None:
    (box,) = open_detector(yunet(tmp_path / "yunet.onnx"))(picture())
    x0, y0, x1, y1 = box
    assert x0 <= 20 <= x1 - 16
    assert y0 <= 20 <= y1 - 16
    assert max(x1 - x0, y1 - y0) <= 30


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match="YuNet"):
        open_detector(tmp_path / "notes.onnx")


def seen_once(index: int) -> object:
    calls = iter(range(1000))

    def detect(frame: Frame) -> list[FaceBox]:
        return [(8, 8, 40, 40)] if next(calls) == index else []

    return detect


def test_a_face_is_past_recognition_and_the_rest_as_it_was() -> None:
    ((out, faces),) = cover_faces([picture()], lambda frame: [(8, 8, 40, 40)])
    assert faces == 1
    assert len(np.unique(out[8:40, 8:40].reshape(-1, 3), axis=0)) <= 36
    outside = np.ones((SIDE, SIDE), bool)
    outside[8:40, 8:40] = False
    assert (out[outside] == picture()[outside]).all()


def test_a_face_missed_for_a_moment_stays_covered() -> None:
    frames = [picture() for _ in range(40)]
    covered = [(out != picture()).any() for out, _ in cover_faces(frames, seen_once(20))]  # type: ignore[arg-type]
    assert len(covered) == 40
    assert [index for index, done in enumerate(covered) if done] == list(range(20 - HOLD_FRAMES, 21 + HOLD_FRAMES))


def test_frames_themselves_are_not_changed() -> None:
    frame = picture()
    list(cover_faces([frame], lambda _: [(0, 0, 64, 64)]))
    assert (frame == picture()).all()
