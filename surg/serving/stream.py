"""Watching a video of any length: frames are decoded and prepared once, windows share them, several requests are under way.

T frames of a window, S side
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from surg.data.clips import ClipConfig, frame_times
from surg.data.preprocess import Box, Polygon, PreprocessSpec, crop_box, preprocess, resize_box, zone_map
from surg.data.video import iter_frames, probe, read_frames
from surg.errors import ConfigError
from surg.serving.contract import Contract
from surg.serving.results import ClipResult, Window, softmax

if TYPE_CHECKING:
    from surg.serving.client import Client

Frames = npt.NDArray[np.uint8]
SUBSTEPS = 10
"""A stride may be this fraction of the model's frame interval, and any multiple of that."""
SERVER_FRAMES = 256
"""Frames per request to surg_video: 20 MB at 160 pixels."""


@dataclass(frozen=True)
class Cut:
    """One window, ready to send."""

    index: int
    start_s: float
    end_s: float
    frames: Frames
    zone: npt.NDArray[np.float32]
    box: Box


def watch(
    client: "Client",
    video: Path,
    zone: Polygon | None,
    *,
    stride_s: float,
    start_s: float = 0.0,
    end_s: float | None = None,
    surprise: bool = False,
    surprise_every: int = 1,
    on_server: bool = False,
) -> Iterator[Window]:
    """See Client.watch."""
    contract = client.contract
    if surprise:
        contract.model("surg_world")
    if surprise and on_server:
        raise ConfigError(
            "The server slides windows for surg_clip alone: surprise and on_server cannot be had together. Leave one out."
        )
    if on_server:
        yield from _watch_on_server(client, video, zone, stride_s, start_s, end_s)
        return

    def ask(cut: Cut) -> Window:
        found = client.clip(cut.frames, cut.zone)
        surprised = float(client.world(cut.frames).surprise[0]) if surprise and cut.index % surprise_every == 0 else None
        return window_of(contract, found, cut.index, cut.start_s, cut.end_s, cut.box, surprised, mean_change(cut.frames))

    yield from client.map(ask, cuts(video, contract.preprocess, zone, stride_s, start_s, end_s))


def cuts(
    video: Path, spec: PreprocessSpec, zone: Polygon | None, stride_s: float, start_s: float = 0.0, end_s: float | None = None
) -> Iterator[Cut]:
    """Windows of a video in order, prepared; holds one window of frames."""
    substeps, stride = steps(stride_s, spec.fps)
    span = (spec.num_frames - 1) * substeps + 1
    rate = spec.fps * substeps
    ring: deque[tuple[float, Frames]] = deque(maxlen=span)
    box: Box | None = None
    occupancy: npt.NDArray[np.float32] | None = None
    index = 0
    sampled = iter_frames(video, rate, start_s=start_s, end_s=math.inf if end_s is None else end_s + 1e-6)
    for seen, (time_s, frame) in enumerate(sampled, start=1):
        if box is None or occupancy is None:
            box = crop_box(frame.shape[1], frame.shape[0], spec, zone)
            occupancy = zone_map(zone, box, frame.shape[1], frame.shape[0], spec)
        ring.append((time_s, resize_box(frame[None], box, spec.size)[0]))
        if seen >= span and (seen - span) % stride == 0:
            picked = list(ring)[::substeps]
            yield Cut(index, picked[0][0], time_s, np.stack([picture for _, picture in picked]), occupancy, box)
            index += 1
    if index == 0:
        yield _only(video, spec, zone, start_s, end_s)


def _only(video: Path, spec: PreprocessSpec, zone: Polygon | None, start_s: float, end_s: float | None) -> Cut:
    """A video too short for one window gets one, whose first frame stands in for what came before."""
    duration = probe(video).duration_s
    end = duration if end_s is None else min(end_s, duration)
    times = np.maximum(frame_times(end, ClipConfig(num_frames=spec.num_frames, fps=spec.fps)), min(start_s, end))
    prepared = preprocess(read_frames(video, times), spec, zone)
    return Cut(0, float(times[0]), end, prepared.frames, prepared.zone, prepared.box)


def steps(stride_s: float, fps: float) -> tuple[int, int]:
    """(samples per model frame, samples per stride), so that windows stand exactly `stride_s` apart."""
    for substeps in range(1, SUBSTEPS + 1):
        samples = stride_s * fps * substeps
        if samples >= 1 - 1e-9 and abs(samples - round(samples)) < 1e-6:
            return substeps, round(samples)
    raise ConfigError(
        f"A stride of {stride_s:g} s cannot be cut evenly at {fps:g} frames/s. Use a multiple of {1 / fps:g} s, or of a tenth of that."
    )


def _watch_on_server(
    client: "Client", video: Path, zone: Polygon | None, stride_s: float, start_s: float, end_s: float | None
) -> Iterator[Window]:
    contract, spec = client.contract, client.contract.preprocess
    substeps, stride = steps(stride_s, spec.fps)
    if substeps != 1:
        raise ConfigError(
            f"The server slides by whole frames: with on_server the stride must be a multiple of {1 / spec.fps:g} s."
        )
    per_request = max(1, (SERVER_FRAMES - spec.num_frames) // stride + 1)
    frames: list[Frames] = []
    times: list[float] = []
    box: Box | None = None
    occupancy: npt.NDArray[np.float32] | None = None
    done = between = 0

    def send(count: int) -> Iterator[Window]:
        nonlocal done, between
        assert occupancy is not None
        chunk = np.stack(frames[: spec.num_frames + (count - 1) * stride])
        for answer in client.stream("surg_video", {"frames": chunk, "zone": occupancy, "stride": np.array([stride], np.int32)}):
            out = answer.outputs
            at = int(out["window"][0]) * stride
            nothing = np.zeros((1, 0), np.float32)
            found = ClipResult(
                out["embedding"][None],
                out["action"][None] if "action" in out else nothing,
                out["breach"][None] if "breach" in out else nothing,
                out["breach_map"][None] if "breach_map" in out else np.zeros((1, 0, 0, 0), np.float32),
                answer.version,
            )
            seen = chunk[at : at + spec.num_frames]
            yield window_of(contract, found, done, times[at], times[at + spec.num_frames - 1], box, None, mean_change(seen))
            done += 1
        # Windows further apart than they are long leave frames between them, which may still be to come.
        between = max(count * stride - len(frames), 0)
        del frames[: count * stride], times[: count * stride]

    for time_s, frame in iter_frames(video, spec.fps, start_s=start_s, end_s=math.inf if end_s is None else end_s + 1e-6):
        if box is None:
            box = crop_box(frame.shape[1], frame.shape[0], spec, zone)
            occupancy = zone_map(zone, box, frame.shape[1], frame.shape[0], spec)
        if between:
            between -= 1
            continue
        frames.append(resize_box(frame[None], box, spec.size)[0])
        times.append(time_s)
        if len(frames) >= spec.num_frames + (per_request - 1) * stride:
            yield from send(per_request)
    if len(frames) >= spec.num_frames:
        yield from send((len(frames) - spec.num_frames) // stride + 1)
    elif done == 0:
        cut = _only(video, spec, zone, start_s, end_s)
        found = client.clip(cut.frames, cut.zone)
        yield window_of(contract, found, 0, cut.start_s, cut.end_s, cut.box, None, mean_change(cut.frames))


def mean_change(frames: Frames) -> float:
    """Mean absolute difference of neighbouring frames, 0..1, of their green values at half the resolution."""
    small = frames[:, ::2, ::2, 1].astype(np.int16)
    return float(np.abs(np.diff(small, axis=0)).mean() / 255) if len(small) > 1 else 0.0


def window_of(
    contract: Contract,
    found: ClipResult,
    index: int,
    start_s: float,
    end_s: float,
    box: Box | None,
    surprise: float | None,
    motion: float,
) -> Window:
    action = softmax(found.action)[0]
    return Window(
        index=index,
        start_s=start_s,
        end_s=end_s,
        action=contract.classes[int(action.argmax())] if action.size else "",
        action_probability=dict(zip(contract.classes, map(float, action))),
        breach_probability={f"{second:g}": float(p) for second, p in zip(contract.horizons_s, found.breach_probability[0])},
        breach_map=found.breach_map_probability[0],
        embedding=found.embedding[0],
        surprise=surprise,
        motion=motion,
        box=box,
        version=found.version,
    )
