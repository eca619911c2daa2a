"""Features of every clip of a manifest as one Arrow table, through any backend: what probes, kNN, retrieval and plots read.

The table's form is surg.data.feature_table's, its features float16; level, variant and checkpoint stand in its metadata. A killed run goes on where it
stopped: finished clips are in part files beside the table.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from surg.config import Config
from surg.data.clips import ClipConfig, windows
from surg.data.executor import Parts, Progress
from surg.data.feature_table import Features, VideoNames, clip_columns, describe_table, keyed, read_features, stamp_of
from surg.data.manifest import Clip, Manifest
from surg.data.preprocess import PreprocessSpec, preprocess
from surg.data.sources import read_clip
from surg.errors import DataError, ServerError
from surg.eval.backends import Backend
from surg.runs import write_text

logger = logging.getLogger(__name__)

Level = Literal["pooled", "tokens", "levels"]
Variant = Literal["plain", "single", "shuffled", "reversed"]
Array = npt.NDArray[Any]


class FeatureConfig(Config):
    level: Level = "pooled"
    """pooled: one vector; tokens: the last layer's; levels: tokens of four depths side by side, as Diving48's protocol has them."""
    pool: int = Field(1, ge=1)
    """Tokens are averaged over squares of so many patches a side: 2 leaves a quarter of them."""
    segments: int = Field(1, ge=1)
    """Windows per clip, spread evenly; probes see their tokens together."""
    views: int = Field(1, ge=1)
    """Square crops along the longer side: 1 is the centre, 3 are both ends and the centre."""
    stride_s: float | None = Field(None, gt=0)
    """Take windows this far apart over the whole clip instead of `segments`: for long videos."""
    variant: Variant = "plain"
    """What the model is shown: `single` repeats the last frame, `shuffled` and `reversed` change the order of frames."""
    use_zone: bool = True
    """Crop to the clip's zone where it has one."""
    failed_share: float = Field(0.02, ge=0, le=1)
    """More failed clips than this end the run."""

    @model_validator(mode="after")
    def _one_way_of_windows(self) -> "FeatureConfig":
        if self.stride_s is not None and self.segments > 1:
            raise ValueError(
                f"windows every {self.stride_s:g} s cannot also be {self.segments} segments a clip. Leave stride_s out, or make segments 1"
            )
        return self


def embed_manifest(
    backend: Backend, manifest: Manifest, out: Path, config: FeatureConfig, *, resume: bool = True, seed: int = 0
) -> Features:
    """Embed every clip and write `out` (Parquet). Raises DataError when too many clips cannot be read.

    A server that stops in the middle raises ServerError; what is done stays in `OUT.parts` and the next call goes on from there.
    """
    out = Path(out)
    stamp = _stamp(backend, manifest, config, seed)
    parts = Parts(out)
    if not resume or _stamp_of(parts.folder, out) not in ("", stamp["stamp"]):
        parts.forget()
    finished = parts.keys()
    backend.kept(len(finished))
    parts.folder.mkdir(parents=True, exist_ok=True)
    write_text(parts.folder / "stamp.json", json.dumps(stamp))
    names = VideoNames.of(manifest.clips())
    order: list[str] = []
    failed: list[str] = []

    def todo() -> Iterator[tuple[str, Clip]]:
        for key, clip in keyed(manifest.clips(), names):
            order.append(key)
            if key not in finished:
                yield key, clip

    def work(item: tuple[str, Clip]) -> tuple[str, list[dict[str, Any]], str]:
        try:
            return item[0], list(_rows(backend, item[1], item[0], config, seed, names)), ""
        except DataError as error:
            return item[0], [], str(error)

    with Progress(len(manifest), len(finished)) as progress:
        try:
            for key, rows, error in backend.client.map(work, todo()):
                if error:
                    failed.append(error)
                    logger.debug("clip %s: %s", key, error)
                else:
                    parts.add(key, rows)
                progress.step(failed=bool(error))
        except ServerError as error:
            parts.flush()
            raise ServerError(
                f"{error}\n{len(parts.written)} clips are embedded and kept; run the same command again to go on."
            ) from error
        except BaseException as stopped:
            parts.flush()
            if isinstance(stopped, KeyboardInterrupt) and parts.written:
                stopped.add_note(
                    f"{len(parts.written)} of {len(manifest)} clips are embedded and kept in {parts.folder}; the same command goes on from there."
                )
            raise
        parts.flush()
    if len(failed) > config.failed_share * max(1, len(order)):
        raise DataError(
            f"{len(failed)} of {len(order)} clips could not be read (allowed: {config.failed_share:.0%}). The first: {failed[0]}"
        )
    if failed:
        logger.warning("%d of %d clips could not be read and are left out", len(failed), len(order))
    parts.join(order)
    describe_table(out, stamp | {"failed": len(failed)})
    return read_features(out)


def window_ends(clip: Clip, spec: PreprocessSpec, config: FeatureConfig) -> list[float]:
    """End times of the windows looked at: the middle one of the clip, `segments` spread over it, or one every `stride_s`."""
    times = ClipConfig(num_frames=spec.num_frames, fps=spec.fps, size=spec.size, stride_s=config.stride_s or 1.0)
    if config.stride_s is not None:
        return windows(clip.end_s, times, clip.start_s)
    first = min(clip.start_s + times.span_s, clip.end_s)
    if config.segments == 1:
        return [(first + clip.end_s) / 2]
    return [float(end) for end in np.linspace(first, clip.end_s, config.segments)]


def window_times(end_s: float, start_s: float, spec: PreprocessSpec) -> npt.NDArray[np.float64]:
    """Times of one window's frames, none before the clip begins."""
    back = np.arange(spec.num_frames - 1, -1, -1) / spec.fps
    return np.maximum(end_s - back, start_s)


def show(frames: Array, variant: Variant, rng: np.random.Generator) -> Array:
    """The window as a baseline sees it.  frames: (T, …)."""
    if variant == "single":
        return np.repeat(frames[-1:], len(frames), axis=0)
    if variant == "reversed":
        return np.ascontiguousarray(frames[::-1])
    if variant == "shuffled":
        return frames[rng.permutation(len(frames))]
    return frames


def square_views(frames: Array, views: int) -> list[Array]:
    """Squares along the longer side, evenly spread; one view is the frames as they are (cropped later)."""
    if views == 1:
        return [frames]
    height, width = frames.shape[1:3]
    side = min(height, width)
    offsets = np.linspace(0, max(height, width) - side, views).round().astype(int)
    return [frames[:, o : o + side] if height > width else frames[:, :, o : o + side] for o in offsets]


def pool_tokens(tokens: Array, patches: int, size: int) -> Array:
    """Mean over squares of size x size patches.  (N, D) -> (N', D), N = t * patches^2; an odd rim makes smaller squares."""
    if size == 1:
        return tokens
    grid = tokens.reshape(-1, patches, patches, tokens.shape[-1]).astype(np.float32)
    starts = np.arange(0, patches, size)
    rows = np.add.reduceat(grid, starts, axis=1)
    sums = np.add.reduceat(rows, starts, axis=2)
    widths = np.diff(np.append(starts, patches))
    return np.asarray((sums / np.outer(widths, widths)[None, :, :, None]).reshape(-1, tokens.shape[-1]))


def _rows(
    backend: Backend, clip: Clip, key: str, config: FeatureConfig, seed: int, names: VideoNames
) -> Iterator[dict[str, Any]]:
    spec = backend.spec
    rng = np.random.default_rng([seed, int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)])
    common = clip_columns(clip, names)
    for segment, end_s in enumerate(window_ends(clip, spec, config)):
        times = window_times(end_s, clip.start_s, spec)
        frames, zone = read_clip(clip, times, threads=1)
        for view, square in enumerate(square_views(frames, config.views)):
            shown = show(preprocess(square, spec, zone if config.use_zone else None).frames, config.variant, rng)
            features = _features(backend, shown, config)
            yield common | {
                "start_s": float(times[0]), "end_s": end_s, "segment": segment, "view": view,
                "shape": json.dumps(features.shape), "features": features.astype(np.float16).ravel(),
            }  # fmt: skip


def _features(backend: Backend, frames: Array, config: FeatureConfig) -> Array:
    result = backend.embed(frames)
    patches = backend.spec.size // backend.spec.patch_size
    if config.level == "pooled":
        return np.asarray(result.pooled[0])
    if config.level == "tokens":
        return pool_tokens(result.tokens[0], patches, config.pool)
    # Levels are joined along the tokens, as the official probes take them.
    return np.concatenate([pool_tokens(level, patches, config.pool) for level in result.levels[0]])


def _stamp(backend: Backend, manifest: Manifest, config: FeatureConfig, seed: int) -> dict[str, Any]:
    """What the features depend on. Another backend of the same checkpoint gives the same features, so it is not part of it."""
    content = {
        "checkpoint_sha256": backend.client.contract.checkpoint_sha256,
        "preprocess": backend.spec.model_dump(mode="json"),
        "data_fingerprint": manifest.fingerprint,
        "config": config.model_dump(mode="json"),
        "seed": seed if config.variant == "shuffled" else 0,
    }
    stamp = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
    return content | {"stamp": stamp, "backend": backend.name}


def _stamp_of(parts: Path, out: Path) -> str:
    if (parts / "stamp.json").is_file():
        return str(json.loads((parts / "stamp.json").read_text()).get("stamp", ""))
    return stamp_of(out)
