"""Tracks: the same thing on successive frames under one id, and whether it is an agent (it moves by itself) or layout."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.motion_camera import CameraMotion
from surg.data.segment.masks import Ids, Mask, Segmentation

Matrix = npt.NDArray[np.float64]
MIN_FRAMES = 4
"""The shortest track where the settings leave it open."""
MARGIN = 0.03
"""Share of the picture within which a thing's side is taken to be cut off by its border."""


class TrackConfig(Config):
    min_iou: float = Field(0.3, gt=0, le=1)
    """Overlap of masks from which two frames show the same thing."""
    max_gap: int = Field(1, ge=0)
    """Frames a thing may be missing and keep its id."""
    predict: bool = True
    """Move the earlier mask along with the camera and with its own last step before comparing: a thin shaft at 8 fps overlaps itself badly."""
    same_name: bool = True
    """A track keeps to one name; without, `hand` may become `person`."""
    min_frames: int | None = Field(None, ge=1)
    """Shorter tracks are taken for noise and left out. Left open: 4, below which none could be told agent from layout; 8 for what the
    segmenter without weights finds in a room, where shades and cloth that hands uncover come and go."""
    min_move: float = Field(0.05, gt=0)
    """An agent has moved this share of the picture's width, the camera's motion taken off."""
    ends: bool | None = None
    """Whether a tip or a single side counts as movement, or the whole thing must have moved: both of its sides. Left open, ends count in
    endoscopic pictures: a shaft slides in by its tip, but a nurse who reaches for a clamp stays where she stands."""
    move_frames: int = Field(4, ge=1)
    """For at least so many frames: one jump of a mask is a mistake of the segmenter."""


@dataclass(frozen=True)
class Track:
    id: int
    name: str
    frames: tuple[int, ...]
    """Indices of the frames that show it."""
    boxes: tuple[tuple[float, float, float, float], ...]
    """x0, y0, x1, y1 in pixels on each of them; the outer 1 % of the pixels left out."""
    centres: tuple[tuple[float, float], ...]
    tips: tuple[tuple[float, float], ...]
    """The end farthest from where it enters the picture; the centre when it enters nowhere."""
    score: float = 1.0
    agent_from: int | None = None
    """Index of the frame at which it begins to move by itself; None: layout throughout."""
    moved: float = 0.0
    """Largest distance from where it started, in picture widths, camera taken off."""

    @property
    def is_agent(self) -> bool:
        return self.agent_from is not None

    def is_agent_at(self, frame: int) -> bool:
        return self.agent_from is not None and frame >= self.agent_from


@dataclass(frozen=True)
class Tracks:
    ids: Ids
    """(T, H, W) with the id of the track; 0 is nothing."""
    times_s: npt.NDArray[np.float64]
    items: tuple[Track, ...]

    def agents(self) -> Mask:
        """(T, H, W): pixels of things that are agents at that time."""
        return agent_mask(self.ids, self.items)

    def as_segmentation(self, **extra: Any) -> Segmentation:
        """In the shape that is saved."""
        names = {track.id: track.name for track in self.items}
        scores = {track.id: track.score for track in self.items}
        return Segmentation(
            self.ids, self.times_s, names, scores, True, {"tracks": [asdict(track) for track in self.items], **extra}
        )

    @classmethod
    def of(cls, saved: Segmentation) -> "Tracks":
        """Read back from what `as_segmentation` made."""
        items = tuple(_track_from(values) for values in saved.extra.get("tracks", []))
        return cls(saved.ids, saved.times_s, items)


def agent_mask(ids: Ids, tracks: Sequence[Track], frames: Sequence[int] | None = None) -> Mask:
    """Pixels of agents.  ids: (T, H, W); `frames` are the track-time indices of the pictures in `ids` if they are not 0..T-1."""
    mask = np.zeros(ids.shape, bool)
    for position, index in enumerate(frames if frames is not None else range(len(ids))):
        wanted = [track.id for track in tracks if track.is_agent_at(index)]
        if wanted:
            mask[position] = np.isin(ids[position], wanted)
    return mask


def link(
    anchors: Segmentation | Iterable[Segmentation],
    config: TrackConfig,
    cameras: Sequence[CameraMotion] | None = None,
    visible: Mask | None = None,
) -> Tracks:
    """Link instances into tracks, across frames and across the anchors (chunks) a long video was segmented in.

    Anchors follow each other in time and have one picture size. cameras[i] is the camera's motion from frame i to i + 1 of all of them.
    `visible` (H, W) is the picture without the black around an endoscope's: where things enter.
    """
    parts = [anchors] if isinstance(anchors, Segmentation) else list(anchors)
    shape = parts[0].ids.shape[1:]
    linker = _Linker(config, border_distance(np.ones(shape, bool) if visible is None else visible))
    for number, part in enumerate(parts):
        for frame in part.ids:
            step = cameras[linker.index - 1].matrix if cameras is not None and 0 < linker.index <= len(cameras) else None
            linker.add(frame, part, number, step)
    times_s = np.concatenate([part.times_s for part in parts])
    return linker.finish(times_s, cameras)


@dataclass
class _Open:
    """A track while it is being made."""

    id: int
    name: str
    mask: Mask
    last: int
    step: tuple[float, float] = (0.0, 0.0)
    frames: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    centres: list[tuple[float, float]] = field(default_factory=list)
    tips: list[tuple[float, float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class _Linker:
    def __init__(self, config: TrackConfig, border: npt.NDArray[np.float32]) -> None:
        self.config = config
        self.border = border
        self.index = 0
        self.tracks: list[_Open] = []
        self.pictures: list[Ids] = []
        self._known: dict[tuple[int, int], _Open] = {}

    def add(self, ids: Ids, part: Segmentation, number: int, camera: Matrix | None) -> None:
        present = [int(value) for value in np.unique(ids) if value]
        masks = {value: ids == value for value in present}
        alive = [track for track in self.tracks if self.index - track.last <= self.config.max_gap + 1]
        for track in alive:
            if camera is not None:
                track.mask = _warp(track.mask, camera)
        assigned: dict[int, _Open] = {}
        if part.linked:
            assigned = {value: self._known[number, value] for value in present if (number, value) in self._known}
        self._match({value: masks[value] for value in present if value not in assigned}, alive, part, assigned)
        picture = np.zeros(ids.shape, np.uint16)
        for value in present:
            track = assigned.get(value) or self._open(part.names.get(value, ""), masks[value])
            if part.linked:
                self._known[number, value] = track
            self._extend(track, masks[value], part.scores.get(value, 1.0), camera)
            picture[masks[value]] = track.id
        self.pictures.append(picture)
        self.index += 1

    def _open(self, name: str, mask: Mask) -> _Open:
        self.tracks.append(_Open(len(self.tracks) + 1, name, mask, self.index))
        return self.tracks[-1]

    def _match(self, masks: dict[int, Mask], alive: list[_Open], part: Segmentation, assigned: dict[int, _Open]) -> None:
        """Greedy: the pair with the largest overlap first."""
        taken = {track.id for track in assigned.values()}
        pairs = []
        for track in alive:
            if track.id in taken:
                continue
            guesses = [track.mask]
            if self.config.predict and track.step != (0.0, 0.0):
                guesses.append(_shift(track.mask, track.step, self.index - track.last))
            for value, mask in masks.items():
                if self.config.same_name and part.names.get(value, "") != track.name:
                    continue
                overlap = max(_iou(guess, mask) for guess in guesses)
                if overlap >= self.config.min_iou:
                    pairs.append((overlap, track, value))
        for _, track, value in sorted(pairs, key=lambda pair: (-pair[0], pair[1].id, pair[2])):
            if track.id not in taken and value not in assigned:
                assigned[value] = track
                taken.add(track.id)

    def _extend(self, track: _Open, mask: Mask, score: float, camera: Matrix | None) -> None:
        box, centre = extent(mask)
        if track.frames:
            x, y = track.centres[-1]
            if camera is not None:
                x, y = camera @ (x, y, 1.0)
            gap = self.index - track.frames[-1]
            track.step = ((centre[0] - x) / gap, (centre[1] - y) / gap)
        track.mask, track.last = mask, self.index
        track.frames.append(self.index)
        track.boxes.append(box)
        track.centres.append(centre)
        track.tips.append(tip_of(mask, self.border) or centre)
        track.scores.append(score)

    def finish(self, times_s: npt.NDArray[np.float64], cameras: Sequence[CameraMotion] | None) -> Tracks:
        width = self.pictures[0].shape[1] if self.pictures else 1
        height = self.pictures[0].shape[0] if self.pictures else 1
        least = MIN_FRAMES if self.config.min_frames is None else self.config.min_frames
        kept = [track for track in self.tracks if len(track.frames) >= least]
        stand = still_frame(cameras, self.index)
        items = []
        for number, track in enumerate(kept, start=1):
            agent_from, moved = when_it_moves(
                track.frames, track.boxes, track.centres, track.tips, stand, (height, width), self.config
            )
            items.append(
                Track(
                    number,
                    track.name,
                    tuple(track.frames),
                    tuple(track.boxes),
                    tuple(track.centres),
                    tuple(track.tips),
                    float(np.mean(track.scores)),
                    agent_from,
                    moved,
                )
            )
        table = np.zeros(len(self.tracks) + 1, np.uint16)
        for number, track in enumerate(kept, start=1):
            table[track.id] = number
        pictures = np.stack(self.pictures) if self.pictures else np.zeros((0, 1, 1), np.uint16)
        return Tracks(table[pictures], times_s, tuple(items))


def still_frame(cameras: Sequence[CameraMotion] | None, count: int) -> list[Matrix]:
    """For each frame the matrix (2, 3) that takes its pixels to where they would be had the camera rested since frame 0."""
    total = np.eye(3)
    out = [total[:2].copy()]
    for index in range(count - 1):
        if cameras is not None and index < len(cameras):
            total = total @ np.linalg.inv(np.vstack([cameras[index].matrix, (0, 0, 1)]))
        out.append(total[:2].copy())
    return out


def when_it_moves(
    frames: Sequence[int],
    boxes: Sequence[tuple[float, float, float, float]],
    centres: Sequence[tuple[float, float]],
    tips: Sequence[tuple[float, float]],
    stand: Sequence[Matrix],
    shape: tuple[int, int],
    config: TrackConfig,
) -> tuple[int | None, float]:
    """(frame from which a thing moves by itself or None, largest distance moved in picture widths).

    A shaft that slides in from the border moves its mask's centre by half its own way or less: so with `ends` the tip counts too, and each
    side of the box that the picture never cuts off. Without, a thing has gone as far as the geometric mean of the side it goes to and the
    side it leaves behind: an arm that reaches out moves one side, and hands at work move each on its own.
    """
    if len(frames) < config.move_frames:
        return None, 0.0
    height, width = shape
    still = [stand[index] for index in frames]
    sides, middle = np.array(boxes, np.float64), np.array(centres, np.float64)
    centre = _way(middle, still)
    low, high = (
        # A side tells its own axis alone: its other coordinate is the centre's.
        np.stack([_way(np.stack([sides[:, at], middle[:, 1]], 1), still)[:, 0],
                  _way(np.stack([middle[:, 0], sides[:, at + 1]], 1), still)[:, 1]], axis=1)
        for at in (0, 2)
    )  # fmt: skip
    cut_low, cut_high = (
        sides[:, :2] < MARGIN * np.array([width, height]),
        sides[:, 2:] > (1 - MARGIN) * np.array([width, height]),
    )
    if config.ends is False:
        # What the picture cuts off, now or at the start, says nothing; the centre takes its place.
        one = np.where(cut_low | cut_low[0], centre, low)
        other = np.where(cut_high | cut_high[0], centre, high)
        both = np.sqrt(np.maximum(one * other, 0.0))
        distances = [np.linalg.norm(both, axis=1)]
    else:
        distances = [np.linalg.norm(centre, axis=1), np.linalg.norm(_way(np.array(tips, np.float64), still), axis=1)]
        for cut, way in ((cut_low, low), (cut_high, high)):
            distances += [np.abs(way[:, axis]) for axis in range(2) if not cut[:, axis].any()]
    paths = np.array(distances) / width
    steady = np.lib.stride_tricks.sliding_window_view(paths, config.move_frames, axis=1).min(axis=2).max(axis=0)
    far = float(steady.max())
    if far < config.min_move:
        return None, far
    crossed = int(np.argmax(steady >= config.min_move))
    rest = np.flatnonzero(paths.max(axis=0)[: crossed + 1] < 0.25 * config.min_move)
    return int(frames[rest[-1] if len(rest) else 0]), far


def _way(points: npt.NDArray[np.float64], stand: Sequence[Matrix]) -> npt.NDArray[np.float64]:
    """Offset of a path from its start (n, 2), the camera's motion taken off, single-frame jumps smoothed away."""
    path = np.array([matrix @ (x, y, 1.0) for matrix, (x, y) in zip(stand, points)])
    wide = np.pad(path, ((1, 1), (0, 0)), mode="edge")
    path = np.median(np.stack([wide[:-2], wide[1:-1], wide[2:]]), axis=0)
    return np.asarray(path - path[0])


def border_distance(visible: Mask) -> npt.NDArray[np.float32]:
    """Pixels from each visible pixel to where the picture ends."""
    padded = np.pad(visible, 1).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)


def tip_of(mask: Mask, border: npt.NDArray[np.float32]) -> tuple[float, float] | None:
    """The mean of the tenth of a mask that is farthest from where it enters the picture; None when it is free all around.

    A tenth: both jaws of an open grasper count, and one wrong pixel does not.
    """
    ys, xs = np.nonzero(mask)
    near = border[ys, xs]
    if not len(ys) or near.min() > 0.05 * mask.shape[0]:
        return None
    entry = np.argsort(near, kind="stable")[: max(5, len(near) // 30)]
    reach = np.hypot(xs - xs[entry].mean(), ys - ys[entry].mean())
    far = reach >= np.quantile(reach, 0.9)
    return float(xs[far].mean()), float(ys[far].mean())


def extent(mask: Mask) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    """Box (without the outer 1 % of the pixels on each side, so that one stray pixel does not move it) and centre of a mask."""
    columns, rows = mask.sum(axis=0), mask.sum(axis=1)
    total = max(1, int(columns.sum()))

    def span(counts: npt.NDArray[np.int_]) -> tuple[float, float]:
        share = np.cumsum(counts) / total
        return float(np.searchsorted(share, 0.01, side="right")), float(np.searchsorted(share, 0.99)) + 1.0

    (x0, x1), (y0, y1) = span(columns), span(rows)
    centre = (float(columns @ np.arange(len(columns)) / total), float(rows @ np.arange(len(rows)) / total))
    return (x0, y0, x1, y1), centre


def _iou(one: Mask, other: Mask) -> float:
    both = int(np.count_nonzero(one & other))
    return both / max(1, int(np.count_nonzero(one)) + int(np.count_nonzero(other)) - both)


def _warp(mask: Mask, matrix: Matrix) -> Mask:
    size = (mask.shape[1], mask.shape[0])
    return np.asarray(cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST), bool)


def _shift(mask: Mask, step: tuple[float, float], frames: int) -> Mask:
    return _warp(mask, np.array([[1, 0, step[0] * frames], [0, 1, step[1] * frames]]))


def _track_from(values: Mapping[str, Any]) -> Track:
    boxes = tuple(tuple(box) for box in values["boxes"])
    centres = tuple(tuple(centre) for centre in values["centres"])
    tips = tuple(tuple(tip) for tip in values["tips"])
    return Track(**{**values, "frames": tuple(values["frames"]), "boxes": boxes, "centres": centres, "tips": tips})
