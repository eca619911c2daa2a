"""What the model says about one video, gathered window by window, and the spans a person would read off it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from surg.data.preprocess import Polygon
from surg.data.video import VideoInfo, iter_frames, probe
from surg.serving.client import Client
from surg.serving.results import Window

MOTION_FPS = 4.0
MOTION_SIDE = 96


@dataclass(frozen=True)
class Span:
    """A stretch of a video with one meaning: an alarm, or an action that goes on."""

    kind: str
    """`breach` or `action`."""
    name: str
    start_s: float
    end_s: float
    score: float
    """Highest probability within it."""


@dataclass
class Analysis:
    """Grows while the server answers; every field is ready to draw at any time."""

    video: Path
    info: VideoInfo
    zone: Polygon | None
    threshold: float
    model: str
    """Which checkpoint answered, as a short fingerprint."""
    classes: tuple[str, ...]
    windows: list[Window] = field(default_factory=list)
    motion: list[float] = field(default_factory=list)
    """Mean change between frames within each window: what surprise must be compared with."""

    @property
    def duration_s(self) -> float:
        return self.info.duration_s

    @property
    def progress(self) -> float:
        """Share of the video that has been seen."""
        return min(self.windows[-1].end_s / self.duration_s, 1.0) if self.windows and self.duration_s > 0 else 0.0

    @property
    def alarms(self) -> list[Span]:
        """Runs of windows whose breach score reaches the threshold; each window speaks for the time since the one before."""
        return [span for span in self._spans(lambda window: "breach" if window.breach >= self.threshold else "") if span.name]

    @property
    def actions(self) -> list[Span]:
        return [span for span in self._spans(lambda window: window.action) if span.name]

    def nearest_window(self, time_s: float) -> int:
        """Index of the window whose prediction is for the time nearest to `time_s`."""
        return int(np.argmin([abs(window.end_s - time_s) for window in self.windows]))

    def since(self, index: int) -> float:
        """Where the stretch of time begins for which window `index` speaks."""
        return self.windows[index - 1].end_s if index else self.windows[0].start_s

    def _spans(self, name_of: Callable[[Window], str]) -> list[Span]:
        spans = []
        for name, group in groupby(range(len(self.windows)), key=lambda index: name_of(self.windows[index])):
            indices = list(group)
            kind = "breach" if name == "breach" else "action"
            scores = [
                self.windows[i].breach if kind == "breach" else self.windows[i].action_probability.get(name, 0.0)
                for i in indices
            ]
            spans.append(Span(kind, name, self.since(indices[0]), self.windows[indices[-1]].end_s, max(scores)))
        return spans


def analyse(
    client: Client, video: Path, zone: Polygon | None = None, *, stride_s: float = 0.5, threshold: float | None = None
) -> Iterator[Analysis]:
    """Watch a video and yield the same growing Analysis after every window.

    threshold: breach probability of an alarm; None takes the one that the checkpoint carries from validation data.
    """
    contract = client.contract
    chosen = contract.threshold(0) if threshold is None else threshold
    analysis = Analysis(video, probe(video), zone, chosen, contract.checkpoint_sha256[:12], contract.classes)
    changes = _Changes(video)
    for window in client.watch(video, zone, stride_s=stride_s, surprise=contract.has("surg_world")):
        analysis.windows.append(window)
        analysis.motion.append(changes.mean_between(window.start_s, window.end_s))
        yield analysis


class _Changes:
    """Mean absolute change between small grey frames, read along with the windows; memory does not grow with the video."""

    def __init__(self, video: Path) -> None:
        self._frames = iter_frames(video, fps=MOTION_FPS)
        self._times: list[float] = []
        self._values: list[float] = []
        self._last: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None

    def mean_between(self, start_s: float, end_s: float) -> float:
        while not self._times or self._times[-1] < end_s:
            item = next(self._frames, None)
            if item is None:
                break
            time_s, frame = item
            grey = cv2.cvtColor(cv2.resize(frame, (MOTION_SIDE, MOTION_SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
            small = grey.astype(np.float32) / 255.0
            self._values.append(0.0 if self._last is None else float(np.abs(small - self._last).mean()))
            self._times.append(time_s)
            self._last = small
        first = int(np.searchsorted(self._times, start_s - 1e-6))
        del self._times[:first], self._values[:first]
        seen = [value for time_s, value in zip(self._times, self._values) if time_s <= end_s]
        return float(np.mean(seen)) if seen else 0.0


def scaled(values: Sequence[float | None]) -> list[float | None]:
    """Values over their median of those known: two curves of different units on one axis, 1 being usual."""
    known = [value for value in values if value is not None]
    middle = float(np.median(known)) if known else 0.0
    return [None if value is None or middle <= 0 else value / middle for value in values]
