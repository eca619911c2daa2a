"""Batches of clips for training and evaluation, from a manifest, by torch's DataLoader. The only module of surg.data with torch.

    B clips, T frames, S side in pixels, h w patches

Which clip stands at which position, and every random choice made for it, follow from the seed and the position alone: the number of
workers changes nothing, and a run that resumes at step n sees what an unbroken one would have seen.
"""

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surg.advice import quoted
from surg.config import Config
from surg.data.augment import AugmentConfig, augment
from surg.data.clips import ClipConfig, frame_times
from surg.data.manifest import SCHEMA, Clip, Manifest
from surg.data.preprocess import Prepared, PreprocessSpec, preprocess
from surg.data.sources import read_clip
from surg.errors import DataError

logger = logging.getLogger(__name__)

# Text columns that repeat stand in memory once per value: ten million rows open within 1.8 GB (benchmarks/manifest_rows_*.md).
REPEATING = ("video", "case", "split", "source", "licence", "labels", "zone", "masks", "meta")
# Below so many clips the share of unreadable ones says nothing yet.
FAILURES_COUNT_FROM = 200

Window = Callable[[Clip, ClipConfig, np.random.Generator], float]


class LoaderConfig(Config):
    batch_size: int = Field(16, gt=0)
    """Clips per batch, on each process."""
    workers: int = Field(2, ge=0)
    """Processes that decode; 0 decodes in the training process."""
    prefetch: int = Field(4, gt=0)
    """Batches that each worker prepares ahead."""
    seed: int = 0
    """Decides the order of clips and all random choices."""
    balance: str | None = None
    """Name of a label whose classes are drawn equally often; None takes every clip once per epoch."""
    max_failed_share: float = Field(0.01, ge=0, le=1)
    """The run stops when more than this share of clips cannot be read."""


@dataclass
class Batch:
    frames: Tensor
    """uint8 (B, T, S, S, 3), RGB."""
    zone: Tensor
    """float32 (B, h, w): share of each patch inside the sterile zone; ones where the clip has none."""
    end_s: Tensor
    """float64 (B): time of the last frame seen."""
    clips: list[Clip]
    """The rows of the manifest: labels, case and all."""
    failed: list[tuple[Clip, str]] = field(default_factory=list)
    """Clips that should be here but could not be read, and why. They make the batch smaller."""

    def pin_memory(self) -> "Batch":
        return Batch(self.frames.pin_memory(), self.zone.pin_memory(), self.end_s, self.clips, self.failed)

    def __len__(self) -> int:
        return len(self.clips)


def random_window(clip: Clip, config: ClipConfig, rng: np.random.Generator) -> float:
    """Any window inside the clip; for training."""
    return float(rng.uniform(min(clip.start_s + config.span_s, clip.end_s), clip.end_s))


def last_window(clip: Clip, config: ClipConfig, rng: np.random.Generator) -> float:  # noqa: ARG001 - one signature for all
    """The window that ends with the clip."""
    return clip.end_s


def centre_window(clip: Clip, config: ClipConfig, rng: np.random.Generator) -> float:  # noqa: ARG001 - one signature for all
    """The window in the middle of the clip; for evaluation."""
    return max(clip.end_s - max(clip.end_s - clip.start_s - config.span_s, 0.0) / 2, clip.start_s)


class ClipLoader:
    """Batches of a manifest. `train` repeats for ever in a new order each epoch; `once` goes through in the manifest's order.

    `window(clip, config, rng)` says at which time the frames seen end; it must be a module-level function or a partial of one.
    Unreadable clips are listed in `failed`, never replaced; above `max_failed_share` the loader raises DataError.
    """

    def __init__(
        self,
        manifest: Manifest,
        clip: ClipConfig,
        spec: PreprocessSpec,
        config: LoaderConfig,
        *,
        augment: AugmentConfig | None = None,
        window: Window = random_window,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.manifest, self.config = manifest, config
        self.failed: list[tuple[Clip, str]] = []
        self.seen = 0
        self._dataset = _ClipDataset(clip, spec, augment, window, config.seed)
        self._rank, self._world, self._pin = rank, world, pin_memory
        self._table = _table_of(manifest)
        if not self._table.num_rows:
            raise DataError(
                f"{manifest.path} has no clips of the wanted split. The splits it has: surg data check {quoted(manifest.path)}"
            )
        self._groups = _groups(self._table, config.balance) if config.balance else None

    @property
    def clips(self) -> int:
        return int(self._table.num_rows)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.clips // (self.config.batch_size * self._world))

    def train(self, start_step: int = 0, steps: int | None = None) -> Iterator[Batch]:
        """Batches from `start_step` on: `steps` of them, or for ever. All are full, but for unreadable clips."""
        yield from self._run(_Positions(self, start_step, steps))

    def once(self) -> Iterator[Batch]:
        """Every clip of this rank once, in order; the last batch may be short."""
        yield from self._run(_Positions(self, 0, None, once=True))

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Rows of an epoch, in the order in which they come."""
        rng = np.random.default_rng([self.config.seed, epoch, 1])
        if self._groups is None:
            return rng.permutation(self.clips)
        classes = rng.permutation(np.arange(self.clips) % len(self._groups))
        out = np.empty(self.clips, np.int64)
        for number, rows in enumerate(self._groups):
            places = np.flatnonzero(classes == number)
            rounds = -(-len(places) // len(rows))
            out[places] = np.concatenate([rng.permutation(rows) for _ in range(rounds)])[: len(places)]
        return out

    def clip_at(self, row: int) -> Clip:
        batch = self._table.slice(row, 1).to_batches()[0]
        return next(
            self.manifest.clips_of(
                pa.record_batch([column.cast(kind) for column, kind in zip(batch.columns, SCHEMA.types)], SCHEMA)
            )
        )

    def _run(self, positions: "_Positions") -> Iterator[Batch]:
        workers = self.config.workers
        # forkserver: a child forked from a process with threads (torch, OpenCV) can hang; its server imports torch only once.
        context = multiprocessing.get_context("forkserver") if workers else None
        if context is not None:
            context.set_forkserver_preload([__name__])
        loader: DataLoader[Any] = DataLoader(
            self._dataset,
            batch_sampler=positions,
            num_workers=workers,
            collate_fn=_collate,
            prefetch_factor=self.config.prefetch if workers else None,
            multiprocessing_context=context,
            worker_init_fn=_one_thread,
            pin_memory=self._pin,
        )
        for batch in loader:
            self._count(batch)
            yield batch

    def _count(self, batch: Batch) -> None:
        self.seen += len(batch) + len(batch.failed)
        self.failed.extend(batch.failed)
        for _, error in batch.failed:
            logger.debug("clip left out: %s", error)
        allowed = self.config.max_failed_share * max(self.seen, FAILURES_COUNT_FROM)
        if len(self.failed) > allowed or (batch.failed and not len(batch)):
            raise DataError(
                f"{len(self.failed)} of {self.seen} clips could not be read, more than the allowed {self.config.max_failed_share:.1%}. "
                f"The last: {self.failed[-1][1]}\nFind them all: surg data check {quoted(self.manifest.path)}"
            )


@dataclass(frozen=True)
class _Request:
    clip: Clip
    epoch: int
    position: int


class _Positions:
    """The batch sampler: it hands whole clips to the workers, so that they need no copy of the manifest."""

    def __init__(self, loader: ClipLoader, start_step: int, steps: int | None, *, once: bool = False) -> None:
        self.loader, self.start_step, self.steps, self.once = loader, start_step, steps, once

    def __iter__(self) -> Iterator[list[_Request]]:
        return self._in_order() if self.once else self._for_ever()

    def _in_order(self) -> Iterator[list[_Request]]:
        loader, size = self.loader, self.loader.config.batch_size
        rows = range(loader._rank, loader.clips, loader._world)
        for start in range(0, len(rows), size):
            yield [_Request(loader.clip_at(row), 0, row) for row in rows[start : start + size]]

    def _for_ever(self) -> Iterator[list[_Request]]:
        loader, size = self.loader, self.loader.config.batch_size
        epoch, order = -1, np.empty(0, np.int64)
        step = self.start_step
        while self.steps is None or step < self.start_step + self.steps:
            batch = []
            first = (step * loader._world + loader._rank) * size
            for position in range(first, first + size):
                if position // loader.clips != epoch:
                    epoch = position // loader.clips
                    order = loader.order(epoch)
                batch.append(_Request(loader.clip_at(int(order[position % loader.clips])), epoch, position))
            yield batch
            step += 1


class _ClipDataset(Dataset[tuple[Clip, float, Prepared | str]]):
    def __init__(
        self, clip: ClipConfig, spec: PreprocessSpec, augmentation: AugmentConfig | None, window: Window, seed: int
    ) -> None:
        self.clip, self.spec, self.augmentation, self.window, self.seed = clip, spec, augmentation, window, seed

    def __getitem__(self, request: _Request) -> tuple[Clip, float, Prepared | str]:
        rng = np.random.default_rng([self.seed, request.epoch, request.position, 2])
        clip = request.clip
        end_s = self.window(clip, self.clip, rng)
        # What came before the clip belongs to another label.
        times = np.maximum(frame_times(end_s, self.clip), clip.start_s)
        try:
            frames, zone = read_clip(clip, times, threads=1)
            if self.augmentation is None:
                return clip, end_s, preprocess(frames, self.spec, zone)
            return clip, end_s, augment(frames, self.spec, self.augmentation, rng, zone)
        except DataError as error:
            return clip, end_s, str(error)


def _collate(items: list[tuple[Clip, float, Prepared | str]]) -> Batch:
    good = [(clip, end_s, prepared) for clip, end_s, prepared in items if isinstance(prepared, Prepared)]
    failed = [(clip, prepared) for clip, _, prepared in items if isinstance(prepared, str)]
    if not good:
        return Batch(torch.empty(0), torch.empty(0), torch.empty(0), [], failed)
    return Batch(
        torch.from_numpy(np.stack([prepared.frames for _, _, prepared in good])),
        torch.from_numpy(np.stack([prepared.zone for _, _, prepared in good])),
        torch.tensor([end_s for _, end_s, _ in good], dtype=torch.float64),
        [clip for clip, _, _ in good],
        failed,
    )


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _table_of(manifest: Manifest) -> pa.Table:
    """The rows as Arrow, repeated text stored once."""
    kinds = [pa.dictionary(pa.int32(), pa.string()) if name in REPEATING else SCHEMA.field(name).type for name in SCHEMA.names]
    tables = []
    for batch in manifest.batches():
        columns = [batch.column(name).dictionary_encode() if name in REPEATING else batch.column(name) for name in SCHEMA.names]
        tables.append(pa.table(columns, schema=pa.schema(list(zip(SCHEMA.names, kinds)))))
    return pa.concat_tables(tables).unify_dictionaries() if tables else pa.table({name: [] for name in SCHEMA.names})


def _groups(table: pa.Table, label: str) -> list[npt.NDArray[np.int64]]:
    """Rows of each class of a label; rows without it belong to none."""
    column = table.column("labels").combine_chunks()
    texts = column.dictionary.to_pylist()
    found = [json.loads(text).get(label) for text in texts]
    classes = sorted({value for value in found if value is not None}, key=str)
    if not classes:
        raise DataError(
            f"No clip has the label `{label}`, so classes cannot be balanced by it. Labels: {sorted(json.loads(texts[0]))}"
        )
    number = {value: index for index, value in enumerate(classes)}
    of_code = np.array([number.get(value, -1) for value in found])
    of_row = of_code[column.indices.to_numpy(zero_copy_only=False)]
    return [np.flatnonzero(of_row == index) for index in range(len(classes))]
