"""Factor clips written out as videos, without loss, so that they equal the ones composed while training."""

import json
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from surg.data.executor import item_key
from surg.data.factor_clips import ON_DISK, factor_frames, factor_kind
from surg.data.manifest import Clip
from surg.data.segment.build import sample_times
from surg.data.segment.masks import Frames
from surg.errors import DataError
from surg.runs import atomic_file

MAX_FRAMES = 4096


def render_factor(clip: Clip, fps: float, out: Path) -> dict[str, Any]:
    """Write one factor clip at `fps`; returns the manifest row that reads it (as JSON, for the executor's table)."""
    kind = factor_kind(clip)
    assert kind is not None, "only rows of plan_factors are rendered"
    times_s = sample_times(clip, fps, MAX_FRAMES)
    frames = factor_frames(clip, times_s, threads=1)
    own_fps = 1 / float(times_s[1] - times_s[0]) if len(times_s) > 1 else fps
    path = out / kind / f"{item_key(clip)}.mkv"
    write_lossless(path, frames, own_fps)
    # The crop is done.
    meta = {key: value for key, value in clip.meta.items() if key not in ("fps", "crop")} | {
        ON_DISK: "1",
        "from_start_s": f"{clip.start_s:g}",
    }
    written = replace(
        clip, video=str(path.absolute()), start_s=0.0, end_s=(len(frames) - 1) / own_fps, zone=None, masks=None, meta=meta
    )
    return {"clip": json.dumps(asdict(written))}


def write_lossless(path: Path, frames: Frames, fps: float) -> None:
    """FFV1 in Matroska, RGB: every pixel comes back as it was. About a third of the raw size."""
    if frames.ndim != 4 or not len(frames):
        raise DataError(f"A video of shape {frames.shape} cannot be written; expected (T, H, W, 3) with at least one frame.")
    with atomic_file(path) as file, av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
