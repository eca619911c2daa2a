"""Factor clips from manifest rows: composed while training, or read back from disk; the pixels are the same."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from surg.config import validate
from surg.data.factors import KINDS, FactorConfig, Kind, Tube, apply, find_tubes, saved_interactions, why_not
from surg.data.manifest import Clip
from surg.data.segment.masks import Frames, Segmentation
from surg.data.sources import kept_zone, read_clip
from surg.data.tracks import Tracks
from surg.errors import DataError

# What a manifest row of a factor clip says in `meta`.
FACTOR, TUBE, ON_DISK = "factor", "tube", "factor_on_disk"
LOOK = "factor_look"
"""Settings that are not the usual ones, as JSON: whoever composes the clip later has nothing but the row."""


@dataclass(frozen=True)
class Plan:
    """Which factor clips one clip gives, and why it does not give the others."""

    clips: list[Clip]
    dropped: dict[Kind, str]


def plan_factors(clip: Clip, kinds: Sequence[Kind], config: FactorConfig) -> Plan:
    """Rows for the factor clips of one segmented clip. Nothing is rendered yet: a row says how."""
    saved = _segmentation(_masks_of(clip))
    tracks = Tracks.of(saved)
    tubes = find_tubes(tracks, saved_interactions(saved.extra), config, kept_zone(clip))
    plan = Plan([], {})
    look = config.model_dump(mode="json", exclude_defaults=True)
    meta = clip.meta | ({LOOK: json.dumps(look)} if look else {})
    for kind in kinds:
        reason = why_not(kind, tracks, tubes, config)
        if reason is not None:
            plan.dropped[kind] = reason
        elif kind == "D_I":
            for tube in tubes:
                start_s, end_s = _stretch(clip, saved.times_s, tube)
                plan.clips.append(replace(clip, start_s=start_s, end_s=end_s, meta=meta | {FACTOR: kind, TUBE: tube.to_json()}))
        else:
            plan.clips.append(replace(clip, meta=meta | {FACTOR: kind}))
    return plan


def factor_frames(clip: Clip, times_s: Sequence[float] | npt.NDArray[np.float64], *, threads: int = 0) -> Frames:
    """The frames of a manifest row at `times_s`, factor composed if the row is one and not on disk already: what a loader calls.
    How it is composed, the row says.

    An ordinary row gives its ordinary frames, so that one loader serves a mix.
    """
    frames, _ = read_clip(clip, times_s, threads=threads)
    kind = factor_kind(clip)
    if kind is None or clip.meta.get(ON_DISK):
        return frames
    saved = _segmentation(_masks_of(clip))
    indices = np.abs(saved.times_s[None, :] - np.asarray(times_s, np.float64)[:, None]).argmin(axis=1).tolist()
    tube = Tube.from_json(clip.meta[TUBE]) if TUBE in clip.meta else None
    config = validate(FactorConfig, json.loads(clip.meta.get(LOOK, "{}")))
    return apply(kind, frames, saved.at(times_s, frames.shape[1:3]), Tracks.of(saved).items, config, indices=indices, tube=tube)


def factor_kind(clip: Clip) -> Kind | None:
    kind = clip.meta.get(FACTOR)
    if kind is None:
        return None
    for known in KINDS:
        if kind == known:
            return known
    raise DataError(
        f"A manifest row names the factor {kind!r}; expected D_L, D_A or D_I. Make it again: surg data factors make"
    )


def _stretch(clip: Clip, times_s: npt.NDArray[np.float64], tube: Tube) -> tuple[float, float]:
    """The tube's time, at least a second of it where the clip has that."""
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    start_s, end_s = float(times_s[tube.first]), float(times_s[tube.last]) + step_s
    lack_s = max(0.0, 1.0 - (end_s - start_s)) / 2
    return max(clip.start_s, start_s - lack_s), min(clip.end_s, end_s + lack_s)


def _masks_of(clip: Clip) -> str:
    if clip.masks is None:
        raise DataError(
            "A clip has no masks, which factor clips are made from.\nMake them: surg data segment MANIFEST --out FOLDER"
        )
    return clip.masks


# A loader draws several factor clips of one video after another.
@lru_cache(maxsize=16)
def _segmentation(path: str) -> Segmentation:
    return Segmentation.load(Path(path))
