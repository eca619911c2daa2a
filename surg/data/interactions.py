"""What agents do with one another, with the tissue and with a zone: stretches of frames, each with the box the two need together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.motion_camera import CameraMotion
from surg.data.tracks import Track, Tracks, still_frame

Kind = Literal["proximity", "approach", "crossing", "following", "tissue_contact", "zone_contact"]
Box = tuple[float, float, float, float]


class InteractionConfig(Config):
    distance: float = Field(0.2, gt=0)
    """Gap between two masks, in picture widths, below which they are near. The gap and not the distance of centres: two shafts whose
    tips touch have their centres half a picture apart."""
    min_frames: int = Field(4, ge=1)
    """Frames in a row that any interaction must last."""
    approach: float = Field(0.1, gt=0)
    """By how much, in picture widths, a gap must shrink to be an approach."""
    crossing_deg: float = Field(45.0, gt=0, le=90)
    """Angle between two paths that meet, from which they cross."""
    follow_deg: float = Field(30.0, gt=0, le=90)
    """Largest angle between two headings of which one follows the other."""
    min_speed: float = Field(0.004, ge=0)
    """Picture widths per frame below which a thing has no heading."""
    tissue_px: float = Field(0.5, gt=0)
    """Movement in pixels per frame, of the surface beside an agent and in the agent's direction, that shows contact."""


@dataclass(frozen=True)
class Interaction:
    kind: Kind
    track: int
    other: int
    """The second track; 0 for tissue and zone."""
    first: int
    last: int
    """Frames, both included."""


def find_interactions(
    tracks: Tracks,
    config: InteractionConfig,
    cameras: Sequence[CameraMotion] | None = None,
    flows: Sequence[npt.NDArray[np.floating[Any]]] | None = None,
    zone: Sequence[Sequence[float]] | None = None,
) -> list[Interaction]:
    """All interactions in which at least one agent takes part, in order of time.

    `flows` (frame i to i + 1 in pixels of `tracks.ids`, camera taken off, at its size or at every 2nd, 4th … pixel) are needed for contact
    with tissue, `zone` (x, y in 0..1) for contact with it.
    """
    found: list[Interaction] = []
    stand = still_frame(cameras, len(tracks.ids))
    for one, other in combinations(tracks.items, 2):
        if one.is_agent or other.is_agent:
            found += _between(tracks, one, other, stand, config)
    agents = [track for track in tracks.items if track.is_agent]
    if zone is not None:
        inside = zone_mask(zone, tracks.ids.shape[1:])
        for track in agents:
            touching = [
                bool((inside & (tracks.ids[index] == track.id)).any()) and track.is_agent_at(index) for index in track.frames
            ]
            found += _stretches("zone_contact", track.id, 0, track.frames, touching, config)
    if flows is not None:
        for track in agents:
            moving = [_drags_tissue(tracks, track, index, flows, config) for index in track.frames]
            found += _stretches("tissue_contact", track.id, 0, track.frames, moving, config)
    return sorted(found, key=lambda item: (item.first, item.last, item.kind, item.track, item.other))


def zone_mask(zone: Sequence[Sequence[float]], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    corners = np.array(zone, np.float64) * (shape[1], shape[0])
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
    filled: npt.NDArray[np.bool_] = mask.astype(bool)
    return filled


def _between(
    tracks: Tracks, one: Track, other: Track, stand: Sequence[npt.NDArray[np.float64]], config: InteractionConfig
) -> Iterator[Interaction]:
    common = [index for index in one.frames if index in set(other.frames)]
    if len(common) < config.min_frames:
        return
    width = tracks.ids.shape[2]
    gaps = np.array([mask_gap(tracks.ids[index] == one.id, tracks.ids[index] == other.id) for index in common]) / width
    agent = np.array([one.is_agent_at(index) or other.is_agent_at(index) for index in common])
    near = (gaps < config.distance) & agent
    yield from _stretches("proximity", one.id, other.id, common, near.tolist(), config)
    yield from _approaches(one, other, common, gaps, config)
    paths = [_steady_path(track, common, stand) / width for track in (one, other)]
    yield from _crossings(one, other, common, paths, config)
    headings = [_headings(path) for path in paths]
    for (leader, lead), (follower, follow) in (((one, 0), (other, 1)), ((other, 1), (one, 0))):
        behind = _is_behind(paths[follow], paths[lead], headings[follow], headings[lead], config) & near
        yield from _stretches("following", follower.id, leader.id, common, behind.tolist(), config)


def _approaches(
    one: Track, other: Track, common: Sequence[int], gaps: npt.NDArray[np.float64], config: InteractionConfig
) -> Iterator[Interaction]:
    """Stretches over which the gap falls, noise of a tenth of the wanted approach forgiven."""
    start = 0
    slack = 0.1 * config.approach
    for end in range(1, len(common) + 1):
        if end == len(common) or gaps[end] > gaps[start:end].min() + slack:
            low = start + int(np.argmin(gaps[start:end]))
            long_enough = low - start + 1 >= config.min_frames
            if long_enough and gaps[start] - gaps[low] >= config.approach:
                yield Interaction("approach", one.id, other.id, common[start], common[low])
            start = min(end, len(common) - 1)


def _crossings(
    one: Track, other: Track, common: Sequence[int], paths: Sequence[npt.NDArray[np.float64]], config: InteractionConfig
) -> Iterator[Interaction]:
    """Paths that intersect at an angle above `crossing_deg`; the stretch runs from the one's passage to the other's."""
    first, second = paths
    step = max(1, config.min_frames // 2)
    for i in range(0, len(first) - step, step):
        for j in range(0, len(second) - step, step):
            a, b, c, d = first[i], first[i + step], second[j], second[j + step]
            if _speed(b - a, step) < config.min_speed or _speed(d - c, step) < config.min_speed or not _intersect(a, b, c, d):
                continue
            if _angle_deg(b - a, d - c) > config.crossing_deg:
                begin, end = min(i, j), min(max(i, j) + step, len(common) - 1)
                end = max(end, min(begin + config.min_frames - 1, len(common) - 1))
                yield Interaction("crossing", one.id, other.id, common[begin], common[end])
                return


def _is_behind(
    path: npt.NDArray[np.float64],
    leader: npt.NDArray[np.float64],
    heading: npt.NDArray[np.float64],
    leading: npt.NDArray[np.float64],
    config: InteractionConfig,
) -> npt.NDArray[np.bool_]:
    """Frames on which both move, the same way, and the leader is ahead of the follower."""
    speed, lead_speed = np.linalg.norm(heading, axis=1), np.linalg.norm(leading, axis=1)
    moving = (speed >= config.min_speed) & (lead_speed >= config.min_speed)
    along = np.sum(heading * leading, axis=1) / np.maximum(speed * lead_speed, 1e-9)
    ahead = np.sum((leader - path) * heading, axis=1) > 0
    behind: npt.NDArray[np.bool_] = moving & (along > np.cos(np.radians(config.follow_deg))) & ahead
    return behind


def _drags_tissue(
    tracks: Tracks, track: Track, index: int, flows: Sequence[npt.NDArray[np.floating[Any]]], config: InteractionConfig
) -> bool:
    """Whether the surface beside an agent moves with it: seen motion is the only sign of contact that a flat picture gives."""
    if index >= len(flows) or not track.is_agent_at(index):
        return False
    flow = flows[index].astype(np.float32)
    step = max(1, tracks.ids.shape[1] // flow.shape[0])
    ids = tracks.ids[index, ::step, ::step][: flow.shape[0], : flow.shape[1]]
    mask = (ids == track.id).astype(np.uint8)
    # From 3 to 10 pixels beside it: nearer, the flow is still the tool's own.
    ring = (_grown(mask, -(-10 // step)) > 0) & (_grown(mask, -(-3 // step)) == 0) & (ids == 0)
    if ring.sum() * step * step < 80 or not mask.any():
        return False
    own = flow[mask > 0].mean(axis=0)
    speed = float(np.linalg.norm(own))
    if speed < config.tissue_px:
        return False
    along = flow[ring] @ (own / speed)
    # A tenth of the ring is what a tip touches.
    return float(np.quantile(along, 0.9)) >= config.tissue_px


def _grown(mask: npt.NDArray[np.uint8], pixels: int) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.dilate(mask, np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)), np.uint8)


def mask_gap(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Pixels between two masks; 0 when they touch."""
    distance = cv2.distanceTransform((~one).astype(np.uint8), cv2.DIST_L2, 3)
    return max(0.0, float(distance[other].min()) - 1.5)


def _steady_path(track: Track, common: Sequence[int], stand: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Centres (n, 2) with the camera's motion taken off."""
    centres = dict(zip(track.frames, track.centres))
    return np.array([stand[index] @ (*centres[index], 1.0) for index in common])


def _headings(path: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Movement per frame, over four frames where there are so many."""
    ahead, back = np.minimum(np.arange(len(path)) + 2, len(path) - 1), np.maximum(np.arange(len(path)) - 2, 0)
    heading: npt.NDArray[np.float64] = (path[ahead] - path[back]) / np.maximum(ahead - back, 1)[:, None]
    return heading


def _stretches(
    kind: Kind, track: int, other: int, frames: Sequence[int], holds: Sequence[bool], config: InteractionConfig
) -> Iterator[Interaction]:
    start: int | None = None
    for position, (index, holding) in enumerate([*zip(frames, holds), (-1, False)]):
        broken = start is not None and (not holding or index != frames[position - 1] + 1)
        if start is not None and broken:
            if position - start >= config.min_frames:
                yield Interaction(kind, track, other, frames[start], frames[position - 1])
            start = None
        if holding and start is None:
            start = position


def _speed(step: npt.NDArray[np.float64], frames: int) -> float:
    return float(np.linalg.norm(step)) / frames


def _angle_deg(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Angle between two lines, 0..90."""
    cosine = abs(float(one @ other)) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12)
    return float(np.degrees(np.arccos(min(1.0, cosine))))


def _intersect(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], c: npt.NDArray[np.float64], d: npt.NDArray[np.float64]
) -> bool:
    side: Callable[..., float] = lambda p, q, r: float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))  # noqa: E731
    return side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0
