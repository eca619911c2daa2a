"""What moves around one moment: tracks over the two seconds before it, found without weights."""

from pathlib import Path

import cv2
import numpy as np

from surg.data.segment.motion import MotionSegmenter, MotionSegmenterConfig
from surg.data.tracks import TrackConfig, link
from surg.data.video import read_frames

SECONDS, FPS, SIDE = 2.0, 8.0, 224

Boxes = list[tuple[int, bool, tuple[float, float, float, float]]]


def boxes_at(video: Path, time_s: float) -> Boxes:
    """Number, whether it has moved of itself, and box (0..1) of everything tracked up to `time_s`. Later frames are not read."""
    times = np.maximum(time_s - np.arange(int(SECONDS * FPS), -1, -1) / FPS, 0.0)
    frames = read_frames(video, times.tolist())
    scale = SIDE / min(frames.shape[1:3])
    small = np.stack(
        [np.asarray(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8) for frame in frames]
    )
    height, width = small.shape[1:3]
    found = MotionSegmenter(MotionSegmenterConfig())(small, times)
    last = len(times) - 1
    boxes: Boxes = []
    for track in link(found, TrackConfig()).items:
        if last in track.frames:
            x0, y0, x1, y1 = track.boxes[track.frames.index(last)]
            boxes.append((track.id, track.is_agent_at(last), (x0 / width, y0 / height, x1 / width, y1 / height)))
    return boxes
