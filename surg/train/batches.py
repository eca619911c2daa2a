"""From a draw to tensors: window, crop, colours, labels.

B clips, T frames, S side, h w patches, t = T / 2 time steps, H horizons.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surg.data.augment import AugmentConfig, change_colours, random_box
from surg.data.manifest import Clip
from surg.data.motion import FEATURES
from surg.data.preprocess import PreprocessSpec, resize_box, zone_map
from surg.train.breach import SLACK_S, breach_targets, place_map
from surg.train.config import DataConfig
from surg.train.flow import token_flow
from surg.train.shown import Region, Shown
from surg.train.sources import Draw, Source

Box = tuple[int, int, int, int]
MOTION_FEATURES = len(FEATURES)
# What a mirror turns around.
SIDED = np.array([name == "camera_dx" or "left" in name or "right" in name for name in FEATURES])
# Second views differ in colour as well, or matching them would be a matter of colour alone.
VIEW_COLOURS = AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3)


@dataclass
class Batch:
    """Clips with everything that a loss may want. Missing labels are -1 (classes) or NaN."""

    frames: Tensor
    """uint8 (B, T, S, S, 3)."""
    zone: Tensor
    """float (B, h, w)."""
    action: Tensor
    """int64 (B,), -1: none."""
    breach: Tensor
    """float (B, H), NaN: not known."""
    place: Tensor
    """float (B, t, h, w): share of the patch where the breach is; NaN: not known."""
    acting: Tensor
    """float (B, t, h, w): share of the patch that shows the instrument that acts; NaN: not known."""
    unsterile: Tensor
    """float (B, t, h, w): share of the patch that shows who is not sterile; NaN: not known."""
    motion: Tensor
    """float (B, 23), NaN: not known."""
    tasks: dict[str, Tensor]
    """Task -> bool (B,): whether the clip takes part."""
    views: Tensor | None = None
    """A second view, cropped and timed independently: uint8 (B, T, S, S, 3)."""
    flow: Tensor | None = None
    """Motion between time steps in patches: float (B, t, h, w, 2)."""
    stored: Tensor | None = None
    """CLEAR: features of the starting encoder, NaN where none: float (B, D)."""
    actions: Tensor | None = None
    """What is done at each time step, for the world model: float (B, t, A)."""
    states: Tensor | None = None
    """What is known at each time step: float (B, t, S)."""
    tokens: Tensor | None = None
    """A frozen encoder's tokens, in place of what `frames` (then all zero) would give: float (B, N, D)."""
    ids: Tensor | None = None
    """int64 (B, 2): source number and clip number."""

    @classmethod
    def unlabelled(cls, frames: Tensor, *tasks: str) -> "Batch":
        """Clips of which nothing is known; all take part in `tasks`."""
        unknown, count = torch.full((len(frames), 1), torch.nan), len(frames)
        taking_part = {task: torch.ones(count, dtype=torch.bool) for task in tasks}
        return cls(frames, unknown, torch.full((count,), -1), unknown, unknown, unknown, unknown, unknown, taking_part)

    def __len__(self) -> int:
        return len(self.frames)

    def to(self, device: torch.device) -> "Batch":
        # Not non_blocking: MPS then reads the source when it gets to it, and the source is gone by then (pytorch#189690). CUDA gains nothing
        # from it either, as this memory is not pinned.
        return self._map(lambda tensor: tensor.to(device))

    def __getitem__(self, part: slice) -> "Batch":
        return self._map(lambda tensor: tensor[part])

    def answers(self) -> dict[str, int]:
        """How many answers its clips have, for the losses that are means over those and not over clips."""
        found: dict[str, Tensor] = {}
        if (rows := self.tasks.get("sterility")) is not None:
            found["breach"] = torch.isfinite(self.breach[rows])
        if (rows := self.tasks.get("motion_aux")) is not None:
            found |= {"motion_class": self.action[rows] >= 0, "motion": torch.isfinite(self.motion[rows])}
        return {name: int(known.sum()) for name, known in found.items()}

    def _map(self, function: Any) -> "Batch":
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                values[field.name] = {name: function(tensor) for name, tensor in value.items()}
            else:
                values[field.name] = None if value is None else function(value)
        return Batch(**values)


@dataclass(frozen=True)
class Reading:
    """How draws become batches."""

    data: DataConfig
    patch: int
    tubelet: int
    classes: tuple[str, ...]
    horizons_s: tuple[float, ...]
    positive_share: float | None
    num_frames: int
    training: bool = True
    second_view: bool = False
    with_flow: bool = False
    features: int = 0
    """Width of the stored features; 0: none."""
    cached: bool = False
    """Read the frozen encoder's tokens and no pictures."""

    def longer(self, num_frames: int) -> "Reading":
        return replace(self, num_frames=num_frames)


def takes_part(task: str, draw: Draw, sources: dict[str, Source], classes: tuple[str, ...]) -> bool:
    """Whether a drawn clip counts in a task's mean: its source has the task, and the clip has the label."""
    source = sources[draw.source]
    clip = source.clips[draw.index]
    if task == "clear":
        return draw.index in source.features
    if task not in source.config.tasks:
        return False
    if task == "action":
        return _class_of(clip, source, classes) >= 0
    if task == "sterility":
        return draw.index in source.breaches
    if task == "motion_aux":
        return _class_of(clip, source, classes) >= 0 or bool(np.isfinite(_motion_of(clip, source, draw.index)).any())
    return True


def read_batch(draws: Sequence[Draw], sources: dict[str, Source], reading: Reading, ends: Sequence[int] | None = None) -> Batch:
    """Read and stack the clips of some draws. `ends`: the last frame of each window, in place of what would be drawn."""
    chosen: Sequence[int | None] = [None] * len(draws) if ends is None else ends
    rows = [read_clip(draw, sources[draw.source], reading, end) for draw, end in zip(draws, chosen)]
    tasks = sorted({task for source in sources.values() for task in source.config.tasks})
    widths = next(
        ((s.actions.dim, s.states.dim) for s in sources.values() if s.actions is not None and s.states is not None), None
    )
    for row in rows:
        # Clips of a source without a world model stand beside those of one.
        for key, width in zip(("actions", "states"), widths or ()):
            row.setdefault(key, np.zeros((reading.num_frames // reading.tubelet, width), np.float32))
    stacked: dict[str, Any] = {}
    for name in rows[0]:
        stacked[name] = torch.from_numpy(np.stack([row[name] for row in rows]))
    if reading.cached:
        # No memory behind it: a stand-in that has the shape.
        size = reading.data.size
        stacked["frames"] = torch.zeros((), dtype=torch.uint8).expand(len(rows), reading.num_frames, size, size, 3)
    names = list(sources)
    stacked["tasks"] = {
        task: torch.tensor([takes_part(task, draw, sources, reading.classes) for draw in draws]) for task in tasks
    }
    stacked["ids"] = torch.tensor([(names.index(draw.source), draw.index) for draw in draws])
    return Batch(**stacked)


def read_clip(draw: Draw, source: Source, reading: Reading, end: int | None = None) -> dict[str, npt.NDArray[Any]]:
    """One clip as arrays. Everything random comes from the draw's own generator."""
    random = np.random.default_rng(draw.seed)
    clip, stored = source.clips[draw.index], source.store.entries[draw.index]
    # A replayed clip is always the same window: its stored features belong to that.
    vary = reading.training and not source.config.replay
    if end is None:
        end = _window_end(clip, source, draw.index, reading, None if source.config.replay else random)
    box = _crop(random, source, reading, vary, stored.zone is not None)
    size, side = reading.data.size, source.store.spec.size
    frames: npt.NDArray[Any] | None = None
    if not reading.cached:
        seen = source.store.window(draw.index, end, reading.num_frames)
        frames = seen if box == (0, 0, size, size) and side == size else resize_box(seen, box, size)
    zone = stored.zone
    time_s = clip.start_s + end / reading.data.fps
    spec = PreprocessSpec(size=size, patch_size=reading.patch)
    occupancy = zone_map(zone, box, side, side, spec) if zone else np.ones((size // reading.patch,) * 2, np.float32)
    # A token sees `tubelet` frames; the last of them is the moment it speaks for.
    steps = range(reading.num_frames // reading.tubelet)
    moments = [clip.start_s + max(end - (len(steps) - 1 - n) * reading.tubelet, 0) / reading.data.fps for n in steps]
    found = source.breaches.get(draw.index)
    place = place_map(found, moments, stored.box, box, side, size // reading.patch)
    acting, unsterile = (
        _shown_of(seen.get(draw.index), stored.box, moments, box, side, place.shape)
        for seen in (source.acting, source.unsterile)
    )
    flip = source.config.flip if source.config.flip is not None else reading.data.augment.flip
    action, motion = _class_of(clip, source, reading.classes), _motion_of(clip, source, draw.index)
    if vary and frames is not None:
        if random.random() < flip:
            motion = np.where(SIDED, np.float32(np.nan), motion)
            frames, occupancy, place = frames[:, :, ::-1], occupancy[:, ::-1], place[..., ::-1]
            acting, unsterile = acting[..., ::-1], unsterile[..., ::-1]
        frames = change_colours(frames, reading.data.augment, random)
    backwards = source.config.reverse.get(str(clip.labels.get(source.config.label)))
    if vary and frames is not None and backwards in reading.classes and random.random() < 0.5:
        frames, acting, unsterile = frames[::-1], acting[::-1], unsterile[::-1]
        action, motion = reading.classes.index(backwards), np.full_like(motion, np.nan)
    row: dict[str, npt.NDArray[Any]] = {
        "zone": np.ascontiguousarray(occupancy, np.float32),
        "action": np.array(action, np.int64),
        "breach": breach_targets(found, clip, time_s, reading.horizons_s),
        "place": np.ascontiguousarray(place, np.float32),
        "acting": np.ascontiguousarray(acting, np.float32),
        "unsterile": np.ascontiguousarray(unsterile, np.float32),
        "motion": motion,
    }
    if frames is None:
        row["tokens"] = source.tokens[draw.index].astype(np.float32)
    else:
        row["frames"] = np.ascontiguousarray(frames)
    if reading.second_view:
        other = np.random.default_rng((*draw.seed, 2))
        end = _window_end(clip, source, draw.index, reading, other)
        seen = source.store.window(draw.index, end, reading.num_frames)
        row["views"] = change_colours(
            resize_box(seen, _crop(other, source, reading, True, stored.zone is not None), size), VIEW_COLOURS, other
        )
    if reading.with_flow:
        row["flow"] = token_flow(row["frames"], reading.tubelet, reading.patch)
    if reading.features:
        row["stored"] = source.features.get(draw.index, np.full(reading.features, np.nan, np.float32))
    if source.actions is not None and source.states is not None:
        row["actions"], row["states"] = source.actions.read(clip, moments), source.states.read(clip, moments)
    return row


def _window_end(clip: Clip, source: Source, index: int, reading: Reading, random: np.random.Generator | None) -> int:
    """The last frame seen. Training windows end anywhere, those of a breach's clip often in the breach."""
    count = source.count(index)
    least, most = min(reading.num_frames, count) - 1, count - 1
    if random is None or reading.data.windows == "last":
        return most
    anywhere = int(random.integers(least, most + 1))
    found, inside = source.breaches.get(index), random.random()
    if found is None or not found.spans or reading.positive_share is None:
        return anywhere
    start, stop = found.spans[int(random.integers(len(found.spans)))]
    # The frames within the breach, as its answers count them; a short one may lie between two frames.
    first = int(np.ceil((start - SLACK_S - clip.start_s) * reading.data.fps))
    last = int(np.floor((stop + SLACK_S - clip.start_s) * reading.data.fps))
    first, last = max(first, min(reading.tubelet - 1, most)), min(last, most)
    if inside >= reading.positive_share or last < first:
        return anywhere
    return int(random.integers(first, last + 1))


def _crop(random: np.random.Generator, source: Source, reading: Reading, vary: bool, has_zone: bool) -> Box:
    """What part of the stored square is shown, as x0, y0, x1, y1 in its pixels."""
    stored = source.store.spec.size
    augment = reading.data.augment
    if source.config.zone:
        # The store keeps more around the zone than is shown, so that the crop can move and change its size.
        # Without a zone the whole square is shown, as it will be when the model is used.
        side = stored * reading.data.zone_crop / source.store.spec.zone_crop if has_zone else stored
        if vary and augment.zone_jitter:
            side *= 1 + random.uniform(-augment.zone_jitter, augment.zone_jitter)
        side = min(round(side), stored)
        slack = (stored - side) / 2
        shift = random.uniform(-1, 1, 2) * min(slack, augment.zone_jitter * side) if vary else np.zeros(2)
        x, y = (round(slack + s) for s in shift)
        return x, y, x + side, y + side
    if not vary or augment.scale == (1.0, 1.0):
        return 0, 0, stored, stored
    return random_box(stored, stored, augment, random)


def _class_of(clip: Clip, source: Source, classes: tuple[str, ...]) -> int:
    value = clip.labels.get(source.config.label)
    if value is None or ("action" not in source.config.tasks and "motion_aux" not in source.config.tasks):
        return -1
    return classes.index(str(value)) if str(value) in classes else -1


def _motion_of(clip: Clip, source: Source, index: int) -> npt.NDArray[np.float32]:
    """The 23 motion features: from the source's table, else labels motion_00 .. motion_22, else unknown."""
    if index in source.motion:
        return source.motion[index]
    return np.array([float(clip.labels.get(f"motion_{i:02d}", np.nan)) for i in range(MOTION_FEATURES)], np.float32)


def _shown_of(
    found: Shown | None, stored: Region, moments: Sequence[float], box: Box, size: int, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    return np.full(shape, np.nan, np.float32) if found is None else found.at(moments, stored, box, size, shape[-1])


class Ahead:
    """Makes the next batches in threads while the current one trains. The order is that of the draws."""

    def __init__(self, read: Any, steps: Iterator[int], depth: int, workers: int) -> None:
        self._read, self._steps, self._depth = read, steps, depth
        self._pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="batch")
        self._waiting: list[tuple[int, Future[Any]]] = []

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        try:
            while True:
                while len(self._waiting) < self._depth and (step := next(self._steps, None)) is not None:
                    self._waiting.append((step, self._pool.submit(self._read, step)))
                if not self._waiting:
                    return
                step, future = self._waiting.pop(0)
                yield step, future.result()
        finally:
            self.close()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()
