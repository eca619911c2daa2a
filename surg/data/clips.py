"""Windows over time: which frames a model sees for a prediction at time t. Every frame seen lies at or before t."""

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config


class ClipConfig(Config):
    num_frames: int = Field(16, gt=0)
    """Frames the encoder sees: 8, 16, 32 or 64."""
    fps: float = Field(4.0, gt=0)
    """Rate the frames are sampled at; a checkpoint carries the rate it was trained with."""
    stride_s: float = Field(1.0, gt=0)
    """Seconds from one window to the next."""
    size: int = Field(160, gt=0)
    """Side of the square picture, in pixels."""

    @property
    def span_s(self) -> float:
        """Seconds from the first frame seen to the last."""
        return (self.num_frames - 1) / self.fps


def frame_times(end_s: float, config: ClipConfig) -> npt.NDArray[np.float64]:
    """Times of the frames seen for a prediction at time `end_s`, oldest first, the last one at `end_s`.

    Before the start of the video the first frame stands in (time 0), so that a prediction can be made from the first second on.
    """
    back = np.arange(config.num_frames - 1, -1, -1, dtype=np.float64) / config.fps
    return np.maximum(end_s - back, 0.0)


def windows(duration_s: float, config: ClipConfig, start_s: float = 0.0) -> list[float]:
    """End times of the windows that fit between `start_s` and `duration_s`, `stride_s` apart.

    A video too short for one window gets one, which ends where the video ends.
    """
    first = start_s + config.span_s
    if first > duration_s:
        return [max(duration_s, 0.0)]
    # A millionth of a stride forgives rounding: 10 s at a stride of 0.1 s has its last window.
    count = int(np.floor((duration_s - first) / config.stride_s + 1e-6)) + 1
    return [min(first + index * config.stride_s, duration_s) for index in range(count)]
