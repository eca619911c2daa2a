"""Decoded clips on disk: each video is decoded once, cropped and made small, and then read through a memory map.

A step of a small encoder takes less time than decoding its batch; after the first epoch of decoding, a batch costs a copy.
The picture is kept somewhat larger than the encoder's, so that crops can still vary.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from surg.config import Config
from surg.data.factor_clips import factor_frames, factor_kind
from surg.data.manifest import Clip
from surg.data.preprocess import Polygon, PreprocessSpec, crop_box, resize_box
from surg.data.sources import kept_zone, read_clip
from surg.errors import DataError, RunError
from surg.runs import write_json, write_text

logger = logging.getLogger(__name__)
Frames = npt.NDArray[np.uint8]
CHUNK = 512
SAVED_EVERY_S = 20.0
"""A killed run loses this much of decoding."""


class StoreSpec(Config):
    size: int
    """Side of the stored square."""
    fps: float
    """Frames a second that are kept."""
    zone_crop: float = 0.0
    """Crop to this many times the zone's box; 0 is the largest centred square."""


@dataclass(frozen=True)
class Stored:
    """Where one clip's frames lie in the file, and what of the picture they show."""

    offset: int
    count: int
    """0: the clip could not be decoded."""
    zone: list[list[float]] | None
    """The zone's corners in 0..1 of the stored picture."""
    box: tuple[float, float, float, float]
    """The stored part of the source picture: x0, y0, x1, y1 in 0..1."""
    error: str = ""


class ClipStore:
    """Frames of clips by number. Build it with `open_store`."""

    def __init__(self, path: Path, spec: StoreSpec, entries: list[Stored]) -> None:
        self.path, self.spec, self.entries = path, spec, entries
        self.frames = np.memmap(path, np.uint8, "r").reshape(-1, spec.size, spec.size, 3)

    def __len__(self) -> int:
        return len(self.entries)

    def window(self, index: int, end: int, count: int) -> Frames:
        """`count` frames up to and including frame `end` of a clip; before its start the first one repeats."""
        entry = self.entries[index]
        first = end - count + 1
        taken = self.frames[entry.offset + max(first, 0) : entry.offset + end + 1]
        if first < 0:
            taken = np.concatenate([np.repeat(taken[:1], -first, axis=0), taken])
        return np.asarray(taken)


def open_store(
    clips: Sequence[Clip], spec: StoreSpec, folder: Path, name: str, workers: int = 0, max_bad: float = 0.05
) -> ClipStore:
    """Decode what is not decoded yet. Raises DataError when more than `max_bad` of the clips cannot be read."""
    key = hashlib.sha256(json.dumps([spec.model_dump(mode="json"), [_identity(clip) for clip in clips]]).encode()).hexdigest()[
        :16
    ]
    path, index = folder / f"{name}-{key}.frames", folder / f"{name}-{key}.json"
    if not (path.is_file() and index.is_file()):
        # Runs that share the folder may ask for the same clips at once: one decodes, the others wait for it.
        lock = FileLock(path.with_suffix(".lock"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held = lock.acquire(blocking=False)
            except Timeout:
                logger.info("another run decodes %s into %s; waiting for it", name, folder)
                held = lock.acquire()
        except OSError as error:
            raise RunError(
                f"{folder} cannot be written ({error.strerror}).\nSet another folder: --set data.cache=DIR"
            ) from error
        with held:
            if not (path.is_file() and index.is_file()):
                _write_store(clips, spec, path, index, workers)
    entries = [Stored(**{**entry, "box": tuple(entry["box"])}) for entry in json.loads(index.read_text())["entries"]]
    bad = [(number, entry.error) for number, entry in enumerate(entries) if not entry.count]
    if bad:
        logger.warning(
            "%d of %d clips of %s cannot be read and are left out; clip %d: %s", len(bad), len(entries), name, *bad[0]
        )
    if len(bad) > max_bad * len(entries):
        raise DataError(
            f"{len(bad)} of {len(entries)} clips of {name} cannot be read (at most {max_bad:.0%} may fail). The first, clip {bad[0][0]}: "
            f"{bad[0][1]}\nCheck them with `surg data check`, or allow more with --set data.max_bad=0.5"
        )
    return ClipStore(path, spec, entries)


def _identity(clip: Clip) -> list[object]:
    """Path, size and time of change stand for the content: hashing hours of video would take longer than decoding the clips."""
    try:
        stat = Path(clip.video).stat()
    except OSError:
        return [clip.video, clip.start_s, clip.end_s, clip.zone]
    return [clip.video, stat.st_size, stat.st_mtime_ns, clip.start_s, clip.end_s, clip.zone, clip.masks, clip.meta]


def _write_store(clips: Sequence[Clip], spec: StoreSpec, path: Path, index: Path, workers: int) -> None:
    # Both ends count: a clip from 0 to 1.875 s at 8 frames/s has 16 frames.
    counts = [int((clip.end_s - clip.start_s) * spec.fps + 1e-6) + 1 for clip in clips]
    total = sum(counts)
    size_mb = total * spec.size**2 * 3 / 2**20
    logger.info(
        "decoding %d clips (%d frames at %g/s, %d px, %.0f MB) into %s",
        len(clips),
        total,
        spec.fps,
        spec.size,
        size_mb,
        path.name,
    )
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".done")
    try:
        if path.is_file() and journal.is_file():
            path.replace(partial)  # killed when only the index was missing
        kept = _kept(partial, journal, total * spec.size**2 * 3)
        # A mapped file takes its room page by page; where there is none left, the system ends the process without a word.
        taken = getattr(partial.stat(), "st_blocks", 0) * 512 if kept else 0
        if (free_mb := (shutil.disk_usage(path.parent).free + taken) / 2**20) < size_mb:
            raise RunError(
                f"{path.parent} has {free_mb:.0f} MB left; {size_mb:.0f} MB are needed for the decoded clips.\n"
                "Set another folder: --set data.cache=DIR; or take fewer or smaller clips: --set data.sources.NAME.limit=500, "
                "--set data.size=..."
            )
        frames = np.memmap(partial, np.uint8, "r+" if kept else "w+", shape=(max(total, 1), spec.size, spec.size, 3))
    except OSError as error:
        raise RunError(
            f"{partial} cannot be written ({error.strerror}); {size_mb:.0f} MB are needed.\nSet another folder: --set data.cache=DIR"
        ) from error
    offsets = np.concatenate([[0], np.cumsum(counts)])

    def one(number: int) -> Stored:
        try:
            return _decode(clips[number], spec, frames[offsets[number] : offsets[number + 1]], int(offsets[number]))
        except DataError as error:
            return Stored(int(offsets[number]), 0, None, (0.0, 0.0, 1.0, 1.0), str(error).splitlines()[0])

    if kept:
        logger.info("going on with what an earlier run decoded: %d of %d clips are there", len(kept), len(clips))
    entries, fresh = dict(kept), list[int]()
    saved = time.monotonic()

    def save() -> None:
        frames.flush()  # the pictures first: what the journal names must be there
        with journal.open("a") as file:
            file.writelines(json.dumps({"number": number, **asdict(entries[number])}) + "\n" for number in fresh)
            file.flush()
            os.fsync(file.fileno())
        fresh.clear()

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        missing = [number for number in range(len(clips)) if number not in entries]
        try:
            for number, entry in zip(missing, pool.map(one, missing)):
                entries[number] = entry
                fresh += [number] if entry.count else []
                if time.monotonic() - saved > SAVED_EVERY_S:
                    save()
                    saved = time.monotonic()
                if len(entries) % 200 == 0:
                    logger.info("decoded %d of %d clips", len(entries), len(clips))
        finally:
            save()
    partial.replace(path)
    # The index is written last: without it the frames are not used.
    listed = [asdict(entries[number]) for number in range(len(clips))]
    write_json(index, {"spec": spec.model_dump(mode="json"), "entries": listed})
    journal.unlink()


def _kept(partial: Path, journal: Path, size: int) -> dict[int, Stored]:
    """What a killed run has decoded already, by clip. Both files bear the hash of clips and spec in their names: they fit or are not found.

    Clips that could not be read are tried again.
    """
    entries: dict[int, Stored] = {}
    if journal.is_file() and partial.is_file() and partial.stat().st_size == size:
        whole, cut, _ = journal.read_text(errors="replace").rpartition("\n")
        try:
            for line in whole.splitlines():
                entry = json.loads(line)
                number = entry.pop("number")
                entries[number] = Stored(**{**entry, "box": tuple(entry["box"])})
        except (ValueError, TypeError, KeyError):
            entries = {}  # not written by a run
        write_text(journal, whole + cut)  # without the line that the kill cut short
    if not entries:
        for path in (partial, journal):
            path.unlink(missing_ok=True)
    return entries


def _decode(clip: Clip, spec: StoreSpec, out: Frames, offset: int) -> Stored:
    times = clip.start_s + np.arange(len(out)) / spec.fps
    box: tuple[int, int, int, int] | None = None
    zone: Polygon | None = None
    width = height = 0
    for first in range(0, len(times), CHUNK):
        frames, zone = _frames(clip, times[first : first + CHUNK])
        if box is None:
            height, width = frames.shape[1:3]
            shape = PreprocessSpec(size=spec.size, patch_size=spec.size, zone_crop=spec.zone_crop)
            box = crop_box(width, height, shape, zone if spec.zone_crop else None)
        out[first : first + len(frames)] = resize_box(frames, box, spec.size)
    assert box is not None
    x0, y0, x1, y1 = box
    shown = None
    if zone is not None and spec.zone_crop:
        shown = [[(x * width - x0) / (x1 - x0), (y * height - y0) / (y1 - y0)] for x, y in zone]
    return Stored(offset, len(out), shown, (x0 / width, y0 / height, x1 / width, y1 / height))


def _frames(clip: Clip, times_s: npt.NDArray[np.float64]) -> tuple[Frames, Polygon | None]:
    """A factor clip is composed from its masks on the way in; any other is decoded as it is."""
    if factor_kind(clip) is not None:
        return factor_frames(clip, times_s), kept_zone(clip)
    return read_clip(clip, times_s)
