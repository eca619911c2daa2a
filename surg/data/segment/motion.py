"""The segmenter that needs no weights: colour in endoscopic pictures, a background model in rooms."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from surg.config import Config
from surg.data.segment.endoscopic import EndoscopicConfig, instruments, is_endoscopic
from surg.data.segment.masks import Frames, Segmentation, paint
from surg.data.segment.room import RoomConfig, people

Scene = Literal["auto", "endoscopic", "room"]


class MotionSegmenterConfig(Config):
    scene: Scene = "auto"
    """What is looked at. auto: endoscopic when red is the strongest channel in most of the picture."""
    endoscopic: EndoscopicConfig = EndoscopicConfig()
    room: RoomConfig = RoomConfig()


class MotionSegmenter:
    """Segment by what a picture itself shows. A baseline for when no model's weights are at hand, measured in benchmarks/segment.py."""

    def __init__(self, config: MotionSegmenterConfig) -> None:
        self.config = config

    def __call__(self, frames: Frames, times_s: npt.NDArray[np.float64]) -> Segmentation:
        scene = self.scene_of(frames)
        found = instruments(frames, self.config.endoscopic) if scene == "endoscopic" else people(frames, self.config.room)
        return paint(found, frames.shape[1:3], times_s)

    def scene_of(self, frames: Frames) -> Literal["endoscopic", "room"]:
        if self.config.scene != "auto":
            return self.config.scene
        return "endoscopic" if is_endoscopic(frames) else "room"
