"""From settings to a segmenter, and from a clip to its masks, tracks and interactions on disk."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.executor import item_key
from surg.data.interactions import InteractionConfig, find_interactions
from surg.data.manifest import Clip
from surg.data.motion import one_thread, resize_short
from surg.data.motion_camera import CameraMotion, fit_camera
from surg.data.motion_flow import Flow, flow_backend, to_gray
from surg.data.segment.endoscopic import is_endoscopic, lens
from surg.data.segment.given import GivenSegmenter
from surg.data.segment.masks import Frames, Mask, Segmentation, Segmenter
from surg.data.segment.motion import MotionSegmenter, MotionSegmenterConfig
from surg.data.segment.sam2 import Sam2Config
from surg.data.segment.sam3 import Sam3Config
from surg.data.sources import kept_zone, probe_clip, read_clip
from surg.data.tracks import TrackConfig, link
from surg.errors import DataError

FLOW_STEP = 4
ROOM_FRAMES = 8
"""The shortest track of the segmenter without weights in a room: found on rooms of 4 frames a second."""


class SegmentConfig(Config):
    segmenter: Literal["motion", "given", "sam3", "sam2"] = "motion"
    """motion needs no weights; given takes the manifest's mask files; sam3 and sam2 need weights by path."""
    fps: float = Field(8.0, gt=0)
    """Frames segmented per second. Slower than 8, a moving shaft no longer overlaps itself from frame to frame."""
    size: int = Field(224, ge=64)
    """Short side of the masks in pixels."""
    anchor_frames: int = Field(64, ge=4)
    """Frames given to the segmenter at once; tracks go on across these anchors. Bounds memory."""
    max_frames: int = Field(2400, ge=4)
    """Longest clip: 5 minutes at 8 fps. Cut longer ones into windows."""
    instances: bool = True
    """given: whether a number in the mask file is one thing (true) or a class whose connected parts are things (false)."""
    motion: MotionSegmenterConfig = MotionSegmenterConfig()
    sam3: Sam3Config = Sam3Config()
    sam2: Sam2Config = Sam2Config()
    tracks: TrackConfig = TrackConfig()
    interactions: InteractionConfig = InteractionConfig()


def build_segmenter(config: SegmentConfig, clip: Clip) -> Segmenter:
    if config.segmenter == "given":
        return GivenSegmenter(clip, instances=config.instances)
    return _model(config)


# A worker segments many clips with one model.
@lru_cache(maxsize=1)
def _model(config: SegmentConfig) -> Segmenter:
    if config.segmenter == "sam3":
        from surg.data.segment.sam3 import Sam3Segmenter

        return Sam3Segmenter(config.sam3)
    if config.segmenter == "sam2":
        from surg.data.segment.sam2 import Sam2Segmenter

        return Sam2Segmenter(config.sam2, MotionSegmenter(config.motion))
    return MotionSegmenter(config.motion)


def segment_clip(clip: Clip, config: SegmentConfig, out: Path) -> dict[str, Any]:
    """The work of `surg data segment` on one clip: writes OUT/KEY.npz and returns a row about it."""
    with one_thread():
        saved = segment(clip, config)
    path = out / f"{item_key(clip)}.npz"
    saved.save(path)
    tracks, interactions = saved.extra["tracks"], saved.extra["interactions"]
    return {
        "video": clip.video,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "masks": str(path.absolute()),
        "frames": len(saved.ids),
        "tracks": len(tracks),
        "agents": sum(track["agent_from"] is not None for track in tracks),
        "interactions": len(interactions),
    }


def segment(clip: Clip, config: SegmentConfig) -> Segmentation:
    """Masks, tracks, agents and interactions of a clip."""
    segmenter = build_segmenter(config, clip)
    parts: list[Segmentation] = []
    cameras: list[CameraMotion] = []
    flows: list[npt.NDArray[np.float16]] = []
    visible: Mask | None = None
    endoscopic = True
    compute = flow_backend("dis")
    last: Frames | None = None
    for times_s, frames in _anchors(clip, config):
        parts.append(segmenter(frames, times_s))
        inside = lens(frames)
        endoscopic = is_endoscopic(frames) if last is None else endoscopic
        visible = inside if visible is None else visible | inside
        for frame in frames:
            if last is not None:
                flow = compute(last, frame)
                camera = fit_camera(flow, to_gray(last))
                cameras.append(camera)
                flows.append(_own_flow(flow, camera))
            last = frame
    tracks = link(parts, _rules(config, endoscopic), cameras, visible)
    interactions = find_interactions(tracks, config.interactions, cameras, flows, kept_zone(clip))
    return tracks.as_segmentation(interactions=[asdict(item) for item in interactions], settings=config.model_dump(mode="json"))


def _rules(config: SegmentConfig, endoscopic: bool) -> TrackConfig:
    """The rules of tracks, what they leave open settled by what is looked at."""
    settled: dict[str, Any] = {}
    if config.tracks.ends is None:
        settled["ends"] = endoscopic
    if config.tracks.min_frames is None and config.segmenter == "motion" and not endoscopic:
        settled["min_frames"] = ROOM_FRAMES
    return config.tracks.model_copy(update=settled)


def sample_times(clip: Clip, fps: float, most: int) -> npt.NDArray[np.float64]:
    """Times of the frames that are segmented: at `fps` or the video's own rate, the end included."""
    info = probe_clip(clip)
    step_s = 1 / min(fps, info.fps) if info.fps > 0 else 1 / fps
    last_s = min(clip.end_s, info.duration_s - 1 / info.fps) if info.fps > 0 else clip.end_s
    count = max(1, int((last_s - clip.start_s) / step_s + 1e-3) + 1)
    if count > most:
        raise DataError(
            f"A clip of {clip.end_s - clip.start_s:.0f} s has {count} frames to segment; at most {most} are kept in memory.\n"
            "Cut it into windows, or lower fps, or raise max_frames."
        )
    return np.asarray(clip.start_s + np.arange(count) * step_s, np.float64)


def _anchors(clip: Clip, config: SegmentConfig) -> Iterator[tuple[npt.NDArray[np.float64], Frames]]:
    times_s = sample_times(clip, config.fps, config.max_frames)
    for start in range(0, len(times_s), config.anchor_frames):
        chunk = times_s[start : start + config.anchor_frames]
        frames, _ = read_clip(clip, chunk, threads=1)
        yield chunk, np.stack([resize_short(frame, config.size) for frame in frames])


def _own_flow(flow: Flow, camera: CameraMotion) -> npt.NDArray[np.float16]:
    """What moves besides the camera, at every 4th pixel: 16 times less to keep."""
    height, width = flow.shape[:2]
    own: npt.NDArray[np.float16] = (flow[::FLOW_STEP, ::FLOW_STEP] - camera.flow(height, width, FLOW_STEP)).astype(np.float16)
    return own
