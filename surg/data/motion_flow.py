"""Dense optical flow behind one call: OpenCV's DIS (no weights needed) or torchvision's RAFT (weights by path)."""

import pickle
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from surg.errors import ConfigError, DataError

Gray = npt.NDArray[np.uint8]
Frames = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]
FlowName = Literal["dis", "dis-fine", "raft-small", "raft-large"]


class FlowBackend(Protocol):
    def __call__(self, earlier: Frames, later: Frames) -> Flow:
        """Flow between two RGB frames (H, W, 3).  Returns (H, W, 2): pixel (x, y) of `earlier` is at (x + u, y + v) in `later`."""
        ...


def flow_backend(name: FlowName, weights: Path | None = None) -> FlowBackend:
    """Build a back-end once and use it for many pairs. Raises ConfigError when RAFT has no weights."""
    if name in ("raft-small", "raft-large"):
        if weights is None:
            raise ConfigError(
                f"Flow `{name}` needs its weights and none were given.\n"
                "Download torchvision's raft_small or raft_large weights and pass --weights FILE, or use --flow dis, which needs none."
            )
        return RaftFlow(large=name == "raft-large", weights=weights)
    if weights is not None:
        raise ConfigError(
            f"Flow `{name}` takes no weights, but {weights} was given. Use --flow raft-small or raft-large with it."
        )
    return DisFlow(fine=name == "dis-fine")


class DisFlow:
    """Dense inverse search.

    `fine` takes longer a pair and errs less: it looks for detail at a finer scale and refines the field.
    """

    def __init__(self, *, fine: bool = False) -> None:
        if fine:
            self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            # Without spatial propagation the error at the borders of moving things falls by 40 %: 0.33 to 0.20 px.
            self._dis.setUseSpatialPropagation(False)
        else:
            self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
            self._dis.setGradientDescentIterations(8)
            # One refinement: three take a fifth longer and err as much (0.285 and 0.287 px on textures with a patch that moves).
            self._dis.setVariationalRefinementIterations(1)
        self._last: tuple[Frames, Gray] | None = None

    def __call__(self, earlier: Frames, later: Frames) -> Flow:
        first = self._last[1] if self._last is not None and self._last[0] is earlier else to_gray(earlier)
        second = to_gray(later)
        self._last = (later, second)  # the next pair usually starts with this frame
        if min(first.shape) < 16:
            raise DataError(
                f"Frames of {first.shape[1]} x {first.shape[0]} pixels are too small for optical flow; at least 16 x 16 is needed."
            )
        empty = np.zeros((*first.shape, 2), np.float32)  # DIS writes into it; zeros are its own start, too
        return np.asarray(self._dis.calc(first, second, empty), np.float32)


class RaftFlow:
    """torchvision's RAFT. Slower and finer than DIS; imports torch when it is built."""

    def __init__(self, *, large: bool, weights: Path, device: str = "cpu") -> None:
        import torch
        from torchvision.models.optical_flow import raft_large, raft_small

        from surg.errors import CheckpointError

        self._torch = torch
        self._device = device
        model = raft_large(weights=None) if large else raft_small(weights=None)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            model.load_state_dict(state, strict=True)
        except FileNotFoundError as error:
            raise CheckpointError(f"There are no RAFT weights at {weights}. Check --weights.") from error
        except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
            kind = "raft-large" if large else "raft-small"
            raise CheckpointError(
                f"{weights} does not hold torchvision's {kind} weights ({type(error).__name__}).\n"
                f"Expected the file of torchvision.models.optical_flow, loaded whole; is --flow {kind} the right size?"
            ) from error
        self._model = model.eval().to(device)

    def __call__(self, earlier: Frames, later: Frames) -> Flow:
        torch = self._torch
        height, width = earlier.shape[:2]
        # RAFT wants sides divisible by 8 and at least 128; the padding repeats the edge and is cut off again.
        pad_h, pad_w = max(128, -(-height // 8) * 8) - height, max(128, -(-width // 8) * 8) - width
        pair = np.stack([earlier, later])
        padded = np.pad(pair, ((0, 0), (0, pad_h), (0, pad_w), (0, 0)), mode="edge")
        batch = torch.from_numpy(padded).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(self._device)
        with torch.inference_mode():
            flow = self._model(batch[:1], batch[1:])[-1][0]
        result: Flow = flow.permute(1, 2, 0)[:height, :width].float().cpu().numpy()
        return result


def to_gray(frame: Frames) -> Gray:
    return frame if frame.ndim == 2 else np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
