"""Whole recordings through the server: a score for every window of every take, with what is true at that time beside it.

A take is one video seen through one zone. Its true events are the breaches that rows of the manifest name (labels `breach`,
`breach_t0`, `breach_t1`, or a list `breaches`); it is judged where rows cover it, and nowhere between. Scores go to one Parquet table piece by piece, so that a run
whose server died goes on in the middle of the take where it stopped.
"""

import itertools
import json
import logging
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pydantic import Field

from surg.advice import quoted
from surg.config import Config
from surg.data.breach_spans import breach_spans
from surg.data.executor import Parts, Progress, item_key
from surg.data.feature_table import VideoNames
from surg.data.manifest import Clip, Manifest
from surg.data.preprocess import Prepared, PreprocessSpec, preprocess
from surg.data.sources import kept_part
from surg.data.stills import is_stills
from surg.data.video import iter_frames
from surg.errors import DataError, ServerError
from surg.eval.backends import Backend
from surg.metrics.detection import Span, Take, merge

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
SLACK_S = 1e-3
GAP_S = 2.0
"""Rows of a take further apart than this leave something between them that nobody annotated."""
PIECE = 120
"""Windows that are kept together: so many are lost at most when the server dies, two minutes of a take at a stride of 1 s."""
FORMAT = 2
"""Of the table of scores; a table of another format is made anew."""


class WatchConfig(Config):
    stride_s: float = Field(1.0, gt=0)
    """Seconds from one window to the next."""
    action: bool = False
    """Also ask the action head: the official scores of a side table are judged by it."""
    surprise: bool = False
    """Also ask the world model, as a baseline: one more encoder pass a window."""
    event_gap_s: float = Field(0.5, ge=0)
    """True events closer than this are one: two alarms cannot be asked for within it."""


@dataclass(frozen=True)
class TakeTruth:
    """What is known about one take."""

    key: str
    video: str
    case: str
    split: str
    zone: list[list[float]] | None
    start_s: float
    end_s: float
    events: tuple[Span, ...]
    rows: tuple[Clip, ...]
    """The manifest's clips of this take."""
    fps: float | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    @property
    def camera(self) -> str:
        return str(self.labels.get("camera", ""))

    @property
    def stretches(self) -> list[Span]:
        """What the rows cover; what lies between them is unknown, not a no."""
        return merge(((clip.start_s, clip.end_s) for clip in self.rows), GAP_S) or [(self.start_s, self.end_s)]

    @property
    def seconds(self) -> float:
        return sum(end - start for start, end in self.stretches)


@dataclass(frozen=True)
class Scored:
    """One take with its scores.  W windows, H horizons."""

    truth: TakeTruth
    times_s: npt.NDArray[np.float64]
    breach: npt.NDArray[np.float64]
    """(W, H) probabilities."""
    motion: npt.NDArray[np.float64]
    """(W,): change of the picture within the zone, the baseline without a model."""
    surprise: npt.NDArray[np.float64] | None
    action: npt.NDArray[np.int64] | None = None
    """(W,): the most probable class of the action head, where the model has one and it was asked."""

    def targets(self, horizons_s: tuple[float, ...]) -> npt.NDArray[np.float64]:
        """(W, H): is there a breach at some moment of [t, t + h]; NaN where what is annotated ends before."""
        columns, reach = [], self._reach()
        for horizon in horizons_s:
            hit = np.zeros(len(self.times_s), bool)
            for start, end in self.truth.events:
                hit |= (start <= self.times_s + horizon + SLACK_S) & (end >= self.times_s - SLACK_S)
            known = np.isfinite(reach) & (hit | (self.times_s + horizon <= reach + SLACK_S))
            columns.append(np.where(known, hit.astype(np.float64), np.nan))
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.times_s), 0))

    def watched(self, scores: npt.NDArray[np.float64]) -> Take:
        """Scores as events are judged by them: no alarm and no time where nobody annotated."""
        return Take(self.times_s, np.where(np.isfinite(self._reach()), scores, -np.inf), self.truth.events)

    def _reach(self) -> npt.NDArray[np.float64]:
        """(W,): until when it is known what happens after a window; -inf where nobody annotated."""
        reach = np.full(len(self.times_s), -np.inf)
        for start, end in self.truth.stretches:
            reach[(self.times_s >= start - SLACK_S) & (self.times_s <= end + SLACK_S)] = end
        return reach


def read_takes(manifest: Manifest, config: WatchConfig) -> list[TakeTruth]:
    """Group the clips that say something about breaches by video and zone. DataError when there are none."""
    groups: dict[tuple[str, str], list[Clip]] = {}
    for clip in manifest.clips():
        if "breach" in clip.labels:
            groups.setdefault((clip.video, json.dumps(clip.zone)), []).append(clip)
    if not groups:
        raise DataError(f"No clip of {manifest.path} carries the label `breach` (0 or 1); sterility cannot be judged on it.")
    names = VideoNames.of(clip for clips in groups.values() for clip in clips)
    takes = []
    for (video, zone), clips in groups.items():
        spans = [span for clip in clips for span in events_of(clip)]
        splits = {clip.split for clip in clips}
        if len(splits) > 1:
            raise DataError(
                f"One video stands in several splits ({', '.join(sorted(splits))}): split by case, surg data split {quoted(manifest.path)}"
            )
        labels = {name: value for clip in clips for name, value in clip.labels.items()}
        # Scores of other pictures, of a crop or of none, are not taken up again.
        crop = clips[0].meta.get("crop")
        key = item_key([names(video, clips[0].case), zone, clips[0].case, *([crop] if crop else [])])
        fps = float(clips[0].meta["fps"]) if "fps" in clips[0].meta else None
        takes.append(
            TakeTruth(
                key, video, clips[0].case, clips[0].split, clips[0].zone,
                min(clip.start_s for clip in clips), max(clip.end_s for clip in clips),
                tuple(merge(spans, config.event_gap_s)), tuple(clips), fps, labels,
            )
        )  # fmt: skip
    return takes


def score_takes(
    backend: Backend, takes: list[TakeTruth], out: Path, config: WatchConfig, *, resume: bool = True
) -> list[Scored]:
    """Score every window of every take and keep them in `out`, piece by piece.

    ServerError when the server is gone: what is scored stays, and the next call goes on behind it.
    """
    contract = backend.client.contract
    if not contract.horizons_s:
        raise ServerError("The model has no sterility head: train one (surg train multitask …), or give another --checkpoint.")
    parts = Parts(out)
    content = [FORMAT, contract.checkpoint_sha256, contract.preprocess.model_dump(mode="json"), config.model_dump(mode="json")]
    stamp, note = item_key(content), out.with_name(out.name + ".stamp")
    if not resume or (note.is_file() and note.read_text() != stamp):
        parts.forget()
    finished = parts.keys()
    parts.folder.mkdir(parents=True, exist_ok=True)
    note.write_text(stamp)
    windows = 0
    with Progress(len(takes), sum(take.key in finished for take in takes)) as progress:
        for take in takes:
            if take.key in finished:
                continue
            begun = next(piece for piece in itertools.count() if _piece(take, piece) not in finished)
            number, rows = begun, []
            try:
                for row in watch(backend, take, config, first=begun * PIECE):
                    rows.append({"take": take.key, **row})
                    windows += 1
                    if len(rows) == PIECE:
                        parts.add(_piece(take, number), rows)
                        number, rows = number + 1, []
            except ServerError as error:
                parts.flush()
                raise ServerError(
                    f"{error}\n{windows - len(rows)} windows were scored and are kept, {progress.count} of {len(takes)} takes are whole; "
                    "run the same command again to go on."
                ) from error
            except BaseException:
                parts.flush()
                raise
            # The last piece carries the take's own name: with it the take is whole.
            parts.add(take.key, rows)
            progress.step(failed=False)
    parts.flush()
    parts.join([name for take in takes for name in _names(take, parts.written)])
    found = read_scores(out, takes, len(contract.horizons_s))
    backend.kept(sum(len(scored.times_s) for scored in found) - windows)
    return found


def _piece(take: TakeTruth, number: int) -> str:
    return f"{take.key}/{number:05d}"


def _names(take: TakeTruth, written: set[str]) -> list[str]:
    return [*sorted(name for name in written if name.startswith(f"{take.key}/")), take.key]


def read_scores(path: Path, takes: list[TakeTruth], horizons: int) -> list[Scored]:
    table = pq.read_table(path)
    if "take" not in table.column_names:
        return []
    keys = np.array(table.column("take").to_pylist())
    times = table.column("time_s").to_numpy()
    breach = np.asarray(table.column("breach").combine_chunks().flatten()).reshape(-1, horizons)
    motion = table.column("motion").to_numpy()
    surprise, action = (
        table.column(name).to_numpy() if name in table.column_names else None for name in ("surprise", "action")
    )
    found = []
    for take in takes:
        rows = np.flatnonzero(keys == take.key)
        rows = rows[np.argsort(times[rows])]
        if len(rows):
            more = (None if column is None else column[rows] for column in (surprise, action))
            found.append(Scored(take, times[rows], breach[rows], motion[rows], *more))
    return found


def watch(backend: Backend, take: TakeTruth, config: WatchConfig, first: int = 0) -> Iterator[dict[str, Any]]:
    """One row a window from window `first` on, as the video is decoded: memory holds a few windows, whatever the take's length."""

    outputs = ("breach", "action") if config.action and backend.client.contract.classes else ("breach",)

    def ask(window: tuple[float, Prepared]) -> dict[str, Any]:
        time_s, prepared = window
        result = backend.clip(prepared.frames, prepared.zone, outputs=outputs)
        row = {"time_s": time_s, "breach": result.breach_probability[0].astype(np.float64), "motion": motion_in_zone(prepared)}
        if result.action.size:
            row["action"] = int(result.action[0].argmax())
        if config.surprise:
            row["surprise"] = float(backend.world(prepared.frames).surprise[0])
        return row

    return backend.client.map(ask, windows_of(take, backend.spec, config.stride_s, first))


def windows_of(take: TakeTruth, spec: PreprocessSpec, stride_s: float, first: int = 0) -> Iterator[tuple[float, Prepared]]:
    """(end time, prepared window), every `stride_s` from full window `first` on. Each frame is decoded and resized once."""
    every = max(1, round(stride_s * spec.fps))
    held: deque[tuple[float, Prepared]] = deque(maxlen=spec.num_frames)
    if is_stills(Path(take.video)):
        # Pictures come at their own rate.
        skipped, rate = first * every, take.fps or spec.fps
        frames = _thinned(iter_frames(take.video, rate, start_s=take.start_s, end_s=take.end_s), spec.fps, take.start_s)
    else:
        # A film is entered at the first frame wanted; times stay on the take's own grid.
        start_s, skipped = take.start_s + first * every / spec.fps, 0
        frames = iter_frames(take.video, spec.fps, start_s=start_s, end_s=take.end_s) if start_s < take.end_s else iter(())
    count = 0
    for time_s, frame in itertools.islice(frames, skipped, None):
        kept, zone = kept_part(frame[None], take.rows[0])
        held.append((time_s, preprocess(kept, spec, zone)))
        count += 1
        if count >= spec.num_frames and (count - spec.num_frames) % every == 0:
            yield time_s, _joined(held, spec)
    if first:
        return
    if count == 0:
        raise DataError("A take gave no frames between its start and its end.")
    if count < spec.num_frames:
        # A clip shorter than a window: the first frame stands in for what was before, as in training.
        while len(held) < spec.num_frames:
            held.appendleft(held[0])
        yield held[-1][0], _joined(held, spec)


def motion_in_zone(prepared: Prepared) -> float:
    """Mean change between the newest frames, weighted by the zone: 0..255.  Looks at the last half of the window."""
    newest = prepared.frames[len(prepared.frames) // 2 :]
    if len(newest) < 2:
        return 0.0
    h, w = prepared.zone.shape
    patches = (h, newest.shape[1] // h, w, newest.shape[2] // w * 3)
    changes = [cv2.absdiff(*pair).reshape(patches).mean(axis=(1, 3)) for pair in itertools.pairwise(newest)]
    change = np.mean(changes, axis=0)
    return float((change * prepared.zone).sum() / max(float(prepared.zone.sum()), 1e-6))


def _joined(held: deque[tuple[float, Prepared]], spec: PreprocessSpec) -> Prepared:
    newest = held[-1][1]
    return Prepared(
        np.concatenate([prepared.frames for _, prepared in itertools.islice(held, spec.num_frames)]), newest.zone, newest.box
    )


def _thinned(frames: Iterator[tuple[float, Array]], fps: float, start_s: float) -> Iterator[tuple[float, Array]]:
    """Image folders come at their own rate: repeat or drop to the model's."""
    wanted, last = start_s, None
    for time_s, frame in frames:
        if last is None and time_s > wanted + SLACK_S:
            # Nothing was there yet: a later frame must not stand in for an earlier moment.
            wanted += math.ceil((time_s - wanted - SLACK_S) * fps) / fps
        while last is not None and wanted < time_s - SLACK_S:
            yield wanted, last
            wanted += 1 / fps
        last = frame
    if last is not None:
        yield wanted, last


def events_of(clip: Clip) -> list[Span]:
    """Breaches that one row names: all of label `breaches` ([[start, end, …], …] as JSON), else `breach_t0` to `breach_t1`, else the row."""
    return breach_spans(clip) or []
