"""Factor clips: the same video with only its layout (D_L), only its agents (D_A), or only what two things do together (D_I).

The public original crops every frame anew around its pair and so cancels the pair's own motion; here a tube has one crop.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.interactions import Box, Interaction, InteractionConfig, find_interactions, zone_mask
from surg.data.segment.masks import Frames, Ids
from surg.data.tracks import Track, Tracks, agent_mask
from surg.errors import DataError

Kind = Literal["D_L", "D_A", "D_I"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REFERENCE_SIZE = 224


class FactorConfig(Config):
    blur_sigma: float = Field(15.0, gt=0)
    """Blur of the agents in D_L, in pixels of a picture whose short side is 224; larger pictures get as much more."""
    feather: float = Field(3.0, ge=0)
    """Softness of the mask's edge, in the same pixels. A hard edge would be a silhouette that says as much as the agent did."""
    background: float = Field(0.1, ge=0, le=1)
    """Brightness of what is not an agent in D_A."""
    max_agents: float = Field(0.7, gt=0, le=1)
    """A clip with more of its pixels in agents has no layout to show: no D_L."""
    min_agents: float = Field(0.003, ge=0, lt=1)
    """A clip with less has no agent to show: no D_A."""
    margin: float = Field(0.15, ge=0)
    """Room around a D_I tube, as a share of its box, on each side."""
    square: bool = True
    """Widen a tube's box to a square where the picture allows, so that resizing to a square does not stretch it."""
    min_tube: float = Field(0.15, ge=0, le=1)
    """Shortest side of a tube, as a share of the picture's short side: less would be blown up to mush."""
    max_tubes: int = Field(4, ge=1)
    """Most tubes of one clip, longest first."""


@dataclass(frozen=True)
class Tube:
    """One crop, fixed over a stretch of frames."""

    kind: str
    tracks: tuple[int, int]
    first: int
    last: int
    box: Box
    """x0, y0, x1, y1 in 0..1 of the picture."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Tube":
        raw = json.loads(text)
        return cls(raw["kind"], tuple(raw["tracks"]), raw["first"], raw["last"], tuple(raw["box"]))


def apply(
    kind: Kind,
    frames: Frames,
    masks: Ids,
    tracks: Sequence[Track],
    config: FactorConfig,
    *,
    indices: Sequence[int] | None = None,
    tube: Tube | None = None,
) -> Frames:
    """The factor clip of some frames: a pure function, the same in a training loader and when writing to disk.

    frames: uint8 (T, H, W, 3); masks: the track ids on them (T, H, W). indices[t] is the track-time frame that frames[t] shows
    (0..T-1 if not given). D_I takes its `tube`, or else the longest that the tracks hold, and returns (T, h, w, 3).
    Raises DataError for D_I without a tube.
    """
    assert frames.shape[:3] == masks.shape, (frames.shape, masks.shape)
    if kind == "D_I":
        tube = tube or _longest_tube(masks, tracks, config)
        x0, y0, x1, y1 = pixel_box(tube.box, frames.shape[1:3])
        return np.ascontiguousarray(frames[:, y0:y1, x0:x1])
    agents = agent_mask(masks, tracks, indices)
    edit = _blur_agents if kind == "D_L" else _dim_background
    return np.stack([edit(frame, mask, config) for frame, mask in zip(frames, agents)])


def why_not(kind: Kind, tracks: Tracks, tubes: Sequence[Tube], config: FactorConfig) -> str | None:
    """Why a clip gives no factor clip of this kind, or None when it does."""
    if kind == "D_I":
        return None if tubes else "no interaction"
    share = float(tracks.agents().mean())
    if kind == "D_L" and share > config.max_agents:
        return f"agents fill {share:.0%}, more than {config.max_agents:.0%}"
    if kind == "D_A" and share < config.min_agents:
        return f"agents fill {share:.2%}, less than {config.min_agents:.2%}"
    return None


def find_tubes(
    tracks: Tracks, interactions: Sequence[Interaction], config: FactorConfig, zone: Sequence[Sequence[float]] | None = None
) -> list[Tube]:
    """One tube per pair of things: the union of their boxes over the whole of their interactions, longest first.

    Contact with a zone joins the zone to the box, contact with tissue needs the agent alone.
    """
    by_pair: dict[tuple[int, int], list[Interaction]] = {}
    for item in interactions:
        by_pair.setdefault((item.track, item.other) if item.other == 0 else _ordered(item), []).append(item)
    items = {track.id: track for track in tracks.items}
    height, width = tracks.ids.shape[1:]
    tubes = []
    for pair, found in by_pair.items():
        first, last = min(item.first for item in found), max(item.last for item in found)
        boxes = [_box_over(items[number], first, last) for number in pair if number]
        if pair[1] == 0 and zone is not None and any(item.kind == "zone_contact" for item in found):
            ys, xs = np.nonzero(zone_mask(zone, (height, width)))
            boxes.append((float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)))
        union = (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))
        kind = max(found, key=lambda item: item.last - item.first).kind
        tubes.append(Tube(kind, pair, first, last, _roomy(union, (height, width), config)))
    tubes.sort(key=lambda tube: (tube.first - tube.last, tube.tracks))
    return tubes[: config.max_tubes]


def pixel_box(box: Box, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 in whole pixels; even sides, which video codecs want."""
    height, width = shape[:2]
    x0, y0 = int(box[0] * width), int(box[1] * height)
    w, h = max(2, round((box[2] - box[0]) * width) // 2 * 2), max(2, round((box[3] - box[1]) * height) // 2 * 2)
    x0, y0 = min(x0, max(0, width - w)), min(y0, max(0, height - h))
    return x0, y0, min(width, x0 + w), min(height, y0 + h)


def _blur_agents(frame: Frames, mask: npt.NDArray[np.bool_], config: FactorConfig) -> Frames:
    scale = min(frame.shape[:2]) / REFERENCE_SIZE
    return _blend(_strong_blur(frame, config.blur_sigma * scale), frame, soft_matte(mask, config.feather * scale))


def _dim_background(frame: Frames, mask: npt.NDArray[np.bool_], config: FactorConfig) -> Frames:
    scale = min(frame.shape[:2]) / REFERENCE_SIZE
    dim = np.round(frame.astype(np.float32) * config.background).astype(np.uint8)
    return _blend(frame, dim, soft_matte(mask, config.feather * scale))


def soft_matte(mask: npt.NDArray[np.bool_], feather: float) -> npt.NDArray[np.float32]:
    """The mask with an edge that falls off over `feather` pixels outside of it; inside it stays nearly whole."""
    matte = mask.astype(np.float32)
    if feather <= 0:
        return matte
    radius = max(1, round(feather))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.GaussianBlur(cv2.dilate(matte, kernel), (0, 0), feather / 2), np.float32)


def _strong_blur(frame: Frames, sigma: float) -> Frames:
    """A Gaussian of large sigma, taken at a smaller size: 16 times cheaper at sigma 15 and not to be told apart."""
    factor = max(1, int(sigma / 4))
    if factor == 1:
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8)
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / factor)
    return np.asarray(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _blend(front: Frames, back: Frames, matte: npt.NDArray[np.float32]) -> Frames:
    alpha = matte[..., None]
    mixed: Frames = np.round(front * alpha + back * (1 - alpha)).astype(np.uint8)
    return mixed


def _longest_tube(masks: Ids, tracks: Sequence[Track], config: FactorConfig) -> Tube:
    every = Tracks(masks, np.arange(len(masks), dtype=np.float64), tuple(tracks))
    tubes = find_tubes(every, find_interactions(every, InteractionConfig()), config)
    if not tubes:
        raise DataError("These tracks hold no interaction, so there is no D_I clip. `why_not` tells beforehand.")
    return tubes[0]


def _ordered(item: Interaction) -> tuple[int, int]:
    return min(item.track, item.other), max(item.track, item.other)


def _box_over(track: Track, first: int, last: int) -> Box:
    boxes = np.array([box for index, box in zip(track.frames, track.boxes) if first <= index <= last])
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _roomy(box: Box, shape: tuple[int, int], config: FactorConfig) -> Box:
    """The box with its margin, large enough and square where there is room, as shares of the picture."""
    height, width = shape
    x0, y0, x1, y1 = box
    w, h = (x1 - x0) * (1 + 2 * config.margin), (y1 - y0) * (1 + 2 * config.margin)
    least = config.min_tube * min(height, width)
    w, h = max(w, least), max(h, least)
    if config.square:
        w = h = max(w, h)
    w, h = min(w, width), min(h, height)
    left = min(max(0.0, (x0 + x1 - w) / 2), width - w)
    top = min(max(0.0, (y0 + y1 - h) / 2), height - h)
    return left / width, top / height, (left + w) / width, (top + h) / height


def saved_interactions(extra: dict[str, Any]) -> list[Interaction]:
    """Interactions as `surg data segment` keeps them beside the masks."""
    return [Interaction(**values) for values in extra.get("interactions", [])]
