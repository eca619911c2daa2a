"""The 23-d motion vector of a clip: how much moves, whereto, and what is left of it once the camera is taken off."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from surg.config import Config
from surg.data.manifest import Clip
from surg.data.motion_camera import CameraMotion, fit_camera
from surg.data.motion_flow import DisFlow, Flow, FlowBackend, FlowName, Frames, Gray, flow_backend, to_gray
from surg.data.sources import probe_clip, read_clip
from surg.errors import DataError

# On the screen, y down. A bin is centred on its direction, so that a movement exactly to the right does not sit on a border.
DIRECTIONS = ("right", "down_right", "down", "down_left", "left", "up_left", "up", "up_right")
FEATURES = (
    "flow_mean",
    "flow_std",
    "flow_max",
    *(f"flow_{name}" for name in DIRECTIONS),
    "camera_dx",
    "camera_dy",
    "foreground_mean",
    "foreground_max",
    *(f"foreground_{name}" for name in DIRECTIONS),
)
SAMPLE_STEP = 2


class MotionConfig(Config):
    flow: FlowName = "dis"
    """dis needs no weights and is quick; dis-fine has half the error at seven times the cost; raft-* need `weights`."""
    weights: Path | None = None
    """RAFT's weights, as torchvision publishes them."""
    fps: float = Field(16.0, gt=0)
    """Rate at which frames are compared. At 16 a tool at 1 picture width per second moves 25 px at 224: DIS still follows; at 4 it does not."""
    frames: int = Field(160, ge=2)
    """Most frames looked at, spread evenly over the clip: 160 is 10 s at 16 fps. A longer clip is looked at in pairs 1/fps apart."""
    size: int = Field(224, ge=64)
    """Short side in pixels at which flow is computed. All magnitudes are pixels per frame at this size."""
    weighted: bool = True
    """Direction histograms weighted by magnitude. Without it the noise of the still background, which points everywhere, fills them."""
    min_px: float = Field(0.25, ge=0)
    """Flow below this is noise and is left out of the histograms; 0.25 px is the error of DIS."""
    camera_threshold_px: float = Field(1.0, gt=0)
    """A point within this of the camera's motion counts for it."""

    @model_validator(mode="after")
    def _raft_has_weights(self) -> "MotionConfig":
        if self.flow.startswith("raft") and self.weights is None:
            raise ValueError(f"flow={self.flow} needs weights=FILE (torchvision's weights); flow=dis needs none")
        return self


def pair_features(flow: Flow, camera: CameraMotion, config: MotionConfig) -> npt.NDArray[np.float64]:
    """23 numbers of one pair of frames; the two histograms are sums and not yet shares.  flow: (H, W, 2)."""
    height, width = flow.shape[:2]
    # Every second pixel: a quarter of the time, and DIS' finest level is coarser.
    step = SAMPLE_STEP if min(height, width) >= 128 else 1
    # One contiguous plane for each axis: numpy and OpenCV are several times quicker on them than on interleaved pairs.
    across, down = (np.ascontiguousarray(flow[::step, ::step, axis]) for axis in range(2))
    still_across, still_down = camera.flow_planes(height, width, step)
    mean, spread, peak, histogram = _polar(across, down, config)
    own_mean, _, own_peak, own_histogram = _polar(across - still_across, down - still_down, config)
    return np.concatenate(
        [(mean, spread, peak), histogram, camera.shift, (own_mean, own_peak), own_histogram],
    )


def summarise(pairs: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The vector of a clip.  pairs: (P, 23) from `pair_features`. Numbers are means over pairs; histograms are shares of all pairs together.

    A maximum is the mean over pairs of each pair's maximum, so that one bad pair (a cut, a lost frame) does not decide it.
    """
    if not len(pairs):
        return np.zeros(len(FEATURES), np.float32)
    vector = pairs.mean(axis=0)
    for start in (3, 15):
        total = vector[start : start + 8].sum()
        vector[start : start + 8] = vector[start : start + 8] / total if total > 0 else 0.0
    return np.asarray(vector, np.float32)


def clip_features(
    frames: Iterable[Frames], config: MotionConfig, backend: FlowBackend | None = None
) -> npt.NDArray[np.float32]:
    """The 23-d vector (order: FEATURES) of consecutive frames, each uint8 (H, W, 3) RGB."""
    return summarise(np.array([row for row, _ in _pairs(frames, config, backend)]).reshape(-1, len(FEATURES)))


def camera_path(frames: Iterable[Frames], config: MotionConfig, backend: FlowBackend | None = None) -> list[CameraMotion]:
    """The camera's motion between each two consecutive frames."""
    return [camera for _, camera in _pairs(frames, config, backend)]


def describe_clip(clip: Clip, config: MotionConfig) -> dict[str, Any]:
    """The work of `surg data motion` on one clip: a row with the clip's identity and its 23 numbers."""
    backend = flow_backend(config.flow, config.weights)
    with one_thread():
        vectors = [row for run in clip_runs(clip, config) for row, _ in _pairs(run, config, backend)]
    vector = summarise(np.array(vectors).reshape(-1, len(FEATURES)))
    row: dict[str, Any] = {
        "video": clip.video,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "case": clip.case,
        "split": clip.split,
    }
    return row | {"pairs": len(vectors)} | dict(zip(FEATURES, (float(value) for value in vector)))


def resize_short(frame: Frames, size: int) -> Frames:
    """Scale so that the short side has `size` pixels (area averaging, so that fine texture does not turn into false motion)."""
    height, width = frame.shape[:2]
    scale = size / min(height, width)
    if scale == 1:
        return frame
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(frame, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8)


def _pairs(
    frames: Iterable[Frames], config: MotionConfig, backend: FlowBackend | None
) -> Iterator[tuple[npt.NDArray[np.float64], CameraMotion]]:
    compute = backend or flow_backend(config.flow, config.weights)
    earlier: tuple[Frames, Gray] | None = None
    for raw in frames:
        frame = resize_short(raw, config.size)
        later = frame, to_gray(frame)
        if earlier is not None:
            # DIS sees grey only and takes it as it is, so that each frame is made grey once.
            which = 1 if isinstance(compute, DisFlow) else 0
            flow = compute(earlier[which], later[which])
            camera = fit_camera(flow, earlier[1], threshold_px=config.camera_threshold_px)
            yield pair_features(flow, camera, config), camera
        earlier = later


def _polar(
    across: npt.NDArray[np.float32], down: npt.NDArray[np.float32], config: MotionConfig
) -> tuple[float, float, float, npt.NDArray[np.float64]]:
    """Mean, standard deviation and maximum of the magnitudes, and the histogram of directions (8,)."""
    polar = cv2.cartToPolar(across, down)
    magnitude, angle = np.asarray(polar[0], np.float32), np.asarray(polar[1], np.float32)
    mean, spread = cv2.meanStdDev(magnitude)
    heard = magnitude > config.min_px
    # Full circle is 8: a cast to a byte cuts off the fraction, and the last three bits are the bin.
    bins = (angle * np.float32(8 / (2 * np.pi)) + np.float32(0.5)).astype(np.uint8) & 7
    weights = magnitude[heard] if config.weighted else None
    histogram = np.bincount(bins[heard], weights=weights, minlength=8).astype(np.float64)
    return float(mean[0, 0]), float(spread[0, 0]), float(magnitude.max()), histogram


def clip_runs(clip: Clip, config: MotionConfig) -> Iterator[Iterable[Frames]]:
    """Runs of consecutive frames: the whole clip when it is short enough, else pairs spread over it.

    A video slower than the wanted rate is read at its own: repeated frames would say that nothing moves.
    """
    duration_s = clip.end_s - clip.start_s
    if duration_s <= 0:
        raise DataError(f"The clip ends at {clip.end_s} s and starts at {clip.start_s} s; motion needs a stretch of video.")
    info = probe_clip(clip)
    step_s = 1 / min(config.fps, info.fps) if info.fps > 0 else 1 / config.fps
    # Up to the end, but not past the start of the last frame, which would be shown twice.
    last_s = min(clip.end_s, info.duration_s - 1 / info.fps) if info.fps > 0 else clip.end_s
    count = max(2, int((last_s - clip.start_s) / step_s + 1e-3) + 1)
    if count <= config.frames:
        yield read_clip(clip, [clip.start_s + i * step_s for i in range(count)], threads=1)[0]
        return
    for start_s in np.linspace(clip.start_s, clip.end_s - 2 * step_s, config.frames // 2):
        yield read_clip(clip, [float(start_s), float(start_s + step_s)], threads=1)[0]


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one core: the executor already gives every core a clip of its own, and more threads would only quarrel."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
