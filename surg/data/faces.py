"""Faces, blurred past recognition, for the stretches of a room recording that must be kept. Needs a detector's weights.

The weights are YuNet's (`face_detection_yunet_*.onnx` of the OpenCV zoo), which OpenCV runs itself; this project ships none. A
detector misses faces that are masked, turned or small: look at the result before it leaves the house.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from surg.errors import DataError

Frame = npt.NDArray[np.uint8]
FaceBox = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels."""
Detector = Callable[[Frame], list[FaceBox]]
GROW = 0.35
"""A box is grown by this share of its size on every side: hair and ears tell people apart too."""
HOLD_FRAMES = 8
"""A face stays covered this many frames before and after it was seen."""
BLOCKS = 6
"""A face becomes this many blocks across: no detector and no person gets it back."""


def open_detector(model: Path, confidence: float = 0.5) -> Detector:
    """Raises DataError when the file is no YuNet model that OpenCV can run."""
    try:
        net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), confidence)
    except cv2.error as error:
        raise DataError(
            f"{model} is no face detector that OpenCV can run: {error.err if hasattr(error, 'err') else error}.\n"
            "Expected YuNet's ONNX file, face_detection_yunet_2023mar.onnx of the OpenCV model zoo."
        ) from error

    def detect(frame: Frame) -> list[FaceBox]:
        height, width = frame.shape[:2]
        net.setInputSize((width, height))
        _, faces = net.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        return [] if faces is None else [_grown(face[:4], width, height) for face in faces]

    return detect


def cover_faces(frames: Iterable[Frame], detect: Detector) -> Iterator[tuple[Frame, int]]:
    """Frames with their faces made into blocks, and how many boxes were covered, `HOLD_FRAMES` late."""
    waiting: deque[tuple[Frame, list[FaceBox]]] = deque()
    earlier: deque[list[FaceBox]] = deque(maxlen=HOLD_FRAMES)

    def finish() -> tuple[Frame, int]:
        frame, boxes = waiting.popleft()
        around = [box for seen in (*earlier, boxes, *(later for _, later in waiting)) for box in seen]
        earlier.append(boxes)
        return _covered(frame, around), len(around)

    for frame in frames:
        waiting.append((frame, detect(frame)))
        if len(waiting) > HOLD_FRAMES:
            yield finish()
    while waiting:
        yield finish()


def _covered(frame: Frame, boxes: Iterable[FaceBox]) -> Frame:
    out = frame.copy()
    for x0, y0, x1, y1 in boxes:
        face = frame[y0:y1, x0:x1]
        if face.size:
            blocks = cv2.resize(face, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
            out[y0:y1, x0:x1] = cv2.resize(blocks, (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST)
    return out


def _grown(box: npt.NDArray[np.float32], width: int, height: int) -> FaceBox:
    x, y, w, h = (float(number) for number in box)
    return (
        max(0, int(x - GROW * w)),
        max(0, int(y - GROW * h)),
        min(width, int(x + (1 + GROW) * w) + 1),
        min(height, int(y + (1 + GROW) * h) + 1),
    )
