"""Tags of a clip of a manifest, and how well tags agree with masks."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from surg.config import Config
from surg.data.manifest import Clip
from surg.data.segment.build import sample_times
from surg.data.segment.given import read_masks
from surg.data.sources import read_clip
from surg.data.tags.measured import MeasuredConfig, measure
from surg.data.tags.schema import Tag, Tags, matches
from surg.data.tags.vlm import VlmConfig, VlmTagger


class TagConfig(Config):
    backend: Literal["measured", "vlm"] = "measured"
    """measured needs no weights and fills what statistics can; vlm asks a vision-language model."""
    fps: float = Field(8.0, gt=0)
    """Frames per second looked at."""
    frames: int = Field(64, ge=2)
    """Most frames looked at, from the start of the clip."""
    measured: MeasuredConfig = MeasuredConfig()
    vlm: VlmConfig = VlmConfig()


def tag_clip(clip: Clip, config: TagConfig) -> dict[str, Any]:
    """The work of `surg data tag` on one clip: a row with its identity and its tags."""
    times_s = sample_times(clip, config.fps, 1_000_000)
    if config.backend == "vlm":
        times_s = times_s[np.unique(np.linspace(0, len(times_s) - 1, config.frames).round().astype(int))]
    frames, _ = read_clip(clip, times_s[: config.frames], threads=1)
    tags = _vlm(config.vlm)(frames) if config.backend == "vlm" else measure(frames, config.measured)
    return {"video": clip.video, "start_s": clip.start_s, "end_s": clip.end_s, **tags.to_row()}


def mask_recall(pairs: Iterable[tuple[Clip, Tags]], min_area: float = 0.003) -> dict[str, dict[str, float]]:
    """How often a thing that the masks show is among the tagged instruments: per name, and over all ("").

    A thing counts when it fills `min_area` of at least one frame. Clips without masks are left out.
    """
    seen: dict[str, int] = {}
    told: dict[str, int] = {}
    for clip, tags in pairs:
        if clip.masks is None:
            continue
        masks = read_masks(Path(clip.masks), clip)
        for name in {masks.names[number] for number in masks.names if _fills(masks.ids, number) >= min_area}:
            seen[name] = seen.get(name, 0) + 1
            told[name] = told.get(name, 0) + matches(Tag((name.lower(),), 1.0), tags["instruments"])
    report = {name: {"clips": float(seen[name]), "recall": told[name] / seen[name]} for name in sorted(seen)}
    if seen:
        report[""] = {"clips": float(sum(seen.values())), "recall": sum(told.values()) / sum(seen.values())}
    return report


def _fills(ids: Any, number: int) -> float:
    return float((ids == number).mean(axis=(1, 2)).max(initial=0.0))


@lru_cache(maxsize=1)
def _vlm(config: VlmConfig) -> VlmTagger:
    return VlmTagger(config)
