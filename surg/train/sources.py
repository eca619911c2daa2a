"""The training clips of a run: sources, their shares of a batch, and which clip stands where in which step.

What step s draws is a pure function of (seed, s): a run that was killed, or that runs on more processes, draws the same clips.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from surg.advice import quoted
from surg.data.manifest import Clip, Manifest
from surg.data.motion import FEATURES
from surg.errors import ConfigError, DataError
from surg.train.breach import Breaches, breaches_of
from surg.train.config import DataConfig, LossWeights, SourceConfig
from surg.train.shown import Shown, acting_of, unsterile_of
from surg.train.store import ClipStore, StoreSpec, open_store
from surg.train.worlds import ActionReader

logger = logging.getLogger(__name__)
# The stored picture is this much larger than the encoder's, so that crops can vary without being blown up.
MARGIN = 1.25


class NothingThereError(DataError):
    """A manifest has no clips for what was asked."""


@dataclass
class Source:
    """One source's clips of one split, decoded."""

    name: str
    config: SourceConfig
    clips: list[Clip]
    store: ClipStore
    usable: npt.NDArray[np.int64]
    """Numbers of the clips that could be decoded, in the order of the curriculum."""
    fingerprint: str
    breaches: dict[int, Breaches] = field(default_factory=dict)
    """What is known about breaches, by clip; sterility sources only."""
    acting: dict[int, Shown] = field(default_factory=dict)
    """Where the instrument that acts is, by clip; only where it is taught."""
    unsterile: dict[int, Shown] = field(default_factory=dict)
    """Where those are who are not sterile, likewise."""
    motion: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    """z-normed motion features by clip, from the table of `surg data motion`."""
    actions: ActionReader | None = None
    """What is done and known at each step; world sources only."""
    states: ActionReader | None = None
    features: dict[int, Any] = field(default_factory=dict)
    """CLEAR: what the starting encoder said about each clip."""
    tokens: dict[int, npt.NDArray[Any]] = field(default_factory=dict)
    """What a frozen encoder says about each clip, views of a mapped table; with data.cache_features only."""

    def count(self, index: int) -> int:
        return self.store.entries[index].count


@dataclass(frozen=True)
class Draw:
    """One place of a batch."""

    source: str
    index: int
    """Number of the clip in its source."""
    seed: tuple[int, ...]
    """Of everything random about it: window, crop, colour."""


def open_source(
    name: str,
    config: SourceConfig,
    data: DataConfig,
    cache: Path,
    *,
    split: str,
    classes_needed: bool,
    weights: LossWeights | None = None,
    like: Source | None = None,
) -> Source:
    """Read a manifest's split and decode it; `like` is the training side, whose classes count. Raises DataError with what to do when nothing is left."""
    if config.manifest is None:
        raise ConfigError(
            f"The source {name!r} has no manifest.\nGive one: --data {name}=MANIFEST.parquet (surg data index makes it)"
        )
    manifest = Manifest.read(config.manifest)
    selected = manifest.select(split=split)
    clips = [clip for clip in selected.clips() if matches(clip, config.where)]
    if not clips:
        splits = ", ".join(f"{key or '(none)'}: {n}" for key, n in manifest.counts("split").items())
        condition = f" with {config.where}" if config.where else ""
        raise NothingThereError(
            f"{config.manifest} has no clips of split {split!r}{condition}. Splits found: {splits or 'none'}.\n"
            f"Make splits by case: surg data split {quoted(config.manifest)}; or choose one: --set data.sources.{name}.split=NAME"
        )
    if classes_needed and not any(config.label in clip.labels for clip in clips):
        raise DataError(
            f"No clip of {config.manifest} has the label {config.label!r} that the action head learns.\n"
            f"Labels there: {sorted({key for clip in clips for key in clip.labels})}. Choose: --set data.sources.{name}.label=NAME"
        )
    clips = limited(clips, config.limit)
    varies = config.zone or data.augment.scale != (1.0, 1.0)
    size = round(data.size * MARGIN) if varies else data.size
    spec = StoreSpec(size=size, fps=data.fps, zone_crop=data.zone_crop * MARGIN if config.zone else 0.0)
    store = open_store(clips, spec, cache, f"{name}-{split}", data.workers, data.max_bad)
    usable = np.array([number for number, entry in enumerate(store.entries) if entry.count], np.int64)
    if data.order == "easy-first":
        usable = usable[np.argsort([float(clips[number].meta.get("motion", number)) for number in usable], kind="stable")]
    breaches = {}
    if "sterility" in config.tasks:
        breaches = {number: found for number, clip in enumerate(clips) if (found := breaches_of(clip)) is not None}
    source = Source(name, config, clips, store, usable, manifest.fingerprint, breaches)
    if weights is not None and weights.action_map and "action" in config.tasks:
        source.acting = {number: seen for number, clip in enumerate(clips) if (seen := acting_of(clip)) is not None}
    if weights is not None and weights.unsterile_map and "sterility" in config.tasks:
        source.unsterile = {number: seen for number, clip in enumerate(clips) if (seen := unsterile_of(clip)) is not None}
    if config.motion is not None:
        source.motion = motion_vectors(config.motion, clips)
        if not source.motion and like is None and split == config.split:
            raise DataError(
                f"{config.motion} has no row for any of the {len(clips)} clips of {config.manifest}: rows are found by video path and start.\n"
                f"Make it again, from this manifest: surg data motion {quoted(config.manifest)} --out {quoted(config.motion)}"
            )
    if "world" in config.tasks:
        learnt = like if like is not None else source
        source.actions = ActionReader(config.actions, config.manifest, clips, like=learnt.actions)
        source.states = ActionReader(config.states, config.manifest, clips, like=learnt.states)
    return source


def limited(clips: list[Clip], limit: int | None) -> list[Clip]:
    """At most so many clips: a spread over the file and not its head, which is often one case."""
    if limit is None:
        return clips
    return [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, min(limit, len(clips))).astype(int))]


def matches(clip: Clip, where: dict[str, Any]) -> bool:
    return all(str(clip.labels.get(key, clip.meta.get(key))) == str(value) for key, value in where.items())


def shares_to_counts(shares: dict[str, float], batch_size: int, step: int) -> dict[str, int]:
    """Split a batch by shares. What does not come out even is paid over the steps: every source gets its share on average."""
    names = [name for name, share in shares.items() if share > 0]
    return dict(zip(names, _counts(shares, batch_size, np.array([step]))[0].tolist()))


def _counts(shares: dict[str, float], batch_size: int, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The split of the batch at each of some steps, for the sources with a share: (steps, sources)."""
    wanted = np.array([share for share in shares.values() if share > 0])
    if not len(wanted):
        raise ConfigError("No source has a share of the batch above 0.")
    ends = np.cumsum(wanted / sum(shares.values()) * batch_size)
    # A golden-ratio offset spreads the rounding evenly over steps.
    offsets = steps * 0.6180339887498949 % 1.0
    edges = np.zeros((len(steps), len(wanted) + 1), np.int64)
    edges[:, 1:-1] = np.floor(ends[:-1] + offsets[:, None]).clip(0, batch_size)
    edges[:, -1] = batch_size
    return np.diff(np.maximum.accumulate(edges, axis=1), axis=1)


def motion_vectors(path: Path, clips: list[Clip]) -> dict[int, npt.NDArray[np.float32]]:
    """The clips' rows of a motion table, z-normed by the mean and spread of its train split."""
    try:
        table = pq.read_table(path).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is no motion table ({type(error).__name__}). Make one: surg data motion MANIFEST --out {quoted(path)}"
        ) from error
    missing = [name for name in (*FEATURES, "video", "start_s", "split") if name not in table]
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing[:4])}. Make it again: surg data motion MANIFEST --out {quoted(path)}"
        )
    values = np.array([table[name] for name in FEATURES], np.float64).T
    train = values[[split == "train" for split in table["split"]]]
    if not len(train):
        raise DataError(f"{path} has no train clips, so its features cannot be brought to one scale.")
    normed = ((values - train.mean(axis=0)) / np.maximum(train.std(axis=0), 1e-6)).astype(np.float32)
    rows = {(video, round(start, 3)): row for video, start, row in zip(table["video"], table["start_s"], normed)}
    keys = [(clip.video, round(clip.start_s, 3)) for clip in clips]
    return {number: rows[key] for number, key in enumerate(keys) if key in rows}


class Sampler:
    """Draws the batch of a step out of the sources."""

    def __init__(
        self, sources: dict[str, Source], batch_size: int, seed: int, *, order: str = "uniform", steps: int = 1
    ) -> None:
        self.sources, self.batch_size, self.seed, self.order, self.steps = sources, batch_size, seed, order, steps
        self._permutations: dict[tuple[str, int, int, int], npt.NDArray[np.int64]] = {}
        self._before: dict[tuple[tuple[str, float], ...], npt.NDArray[np.int64]] = {}

    def draw(self, step: int, shares: dict[str, float] | None = None) -> list[Draw]:
        """The whole batch of `step` (from 1), over all processes; sources alternate so that every slice has its mix."""
        shares = shares or {name: source.config.share for name, source in self.sources.items()}
        counts = shares_to_counts(shares, self.batch_size, step)
        draws: list[tuple[float, Draw]] = []
        for number, (name, count) in enumerate(counts.items()):
            first = int(self._drawn_before(shares, step)[number])
            for place in range(count):
                index = self._clip(name, first + place, step)
                key = (place + 0.5) / count
                draws.append((key, Draw(name, index, (self.seed, step, number, place))))
        draws.sort(key=lambda entry: entry[0])
        return [draw for _, draw in draws]

    def _drawn_before(self, shares: dict[str, float], step: int) -> npt.NDArray[np.int64]:
        """How many clips of each source the steps before this one drew, had they all the same shares."""
        key = tuple(shares.items())
        if key not in self._before or len(self._before[key]) < step:
            counts = _counts(shares, self.batch_size, np.arange(1, max(self.steps, 2 * step)))
            self._before[key] = np.concatenate([np.zeros_like(counts[:1]), np.cumsum(counts, axis=0)])
        before: npt.NDArray[np.int64] = self._before[key][step - 1]
        return before

    def _clip(self, name: str, position: int, step: int) -> int:
        """Every clip once an epoch, each epoch in its own order."""
        usable = self.sources[name].usable
        if self.order == "easy-first":
            known = min(1.0, 0.25 + 1.5 * step / self.steps)
            usable = usable[: max(1, int(len(usable) * known))]
        epoch, place = divmod(position, len(usable))
        key = (name, epoch, len(usable), int(usable[0]))
        if key not in self._permutations:
            if len(self._permutations) > 32:
                self._permutations.clear()
            generator = np.random.default_rng([self.seed, epoch, *name.encode()])
            self._permutations[key] = generator.permutation(usable)
        return int(self._permutations[key][place])
