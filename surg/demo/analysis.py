"""What the model says about one video, gathered window by window, and the spans a person would read off it."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from surg.data.preprocess import Polygon
from surg.data.video import VideoInfo, probe
from surg.demo import metrics
from surg.serving.client import Client
from surg.serving.results import Window

MANY_WINDOWS = 30


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
    stride_s: float
    """From one window to the next."""
    windows: list[Window] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        return self.info.duration_s

    @property
    def motion(self) -> list[float | None]:
        """How much moved within each window: what surprise must be compared with."""
        return [window.motion for window in self.windows]

    @property
    def progress(self) -> float:
        """Share of the video that has been seen."""
        return min(self.windows[-1].end_s / self.duration_s, 1.0) if self.windows and self.duration_s > 0 else 0.0

    @property
    def alarms(self) -> list[Span]:
        """Runs of windows whose breach score reaches the threshold. A window alarms when its last frame is seen, and stands until the
        next one is: before, nobody was warned. `surg infer` and the evaluation count so too."""
        return [
            Span("breach", "breach", self.windows[run[0]].end_s, self.until(run[-1]), max(self.windows[i].breach for i in run))
            for name, run in self._runs(lambda window: "breach" if window.breach >= self.threshold else "")
            if name
        ]

    @property
    def actions(self) -> list[Span]:
        """Runs of windows of one action. It names what was seen: a window speaks for the time since the one before, the first for all
        that it saw."""
        return [
            Span(
                "action",
                name,
                self.since(run[0]),
                self.windows[run[-1]].end_s,
                max(self.windows[i].action_probability.get(name, 0.0) for i in run),
            )
            for name, run in self._runs(lambda window: window.action)
            if name
        ]

    @property
    def most_telling(self) -> int:
        """Index of the window to show first: the highest breach score; without a sterility head the first window."""
        scores = [window.breach for window in self.windows]
        return int(np.argmax(scores)) if scores and scores[0] == scores[0] else 0

    def since(self, index: int) -> float:
        """Where the stretch of time begins that window `index` adds to what was seen."""
        return self.windows[index - 1].end_s if index else self.windows[0].start_s

    def until(self, index: int) -> float:
        """Until when window `index` is the newest: the next one's last frame, or the end of the video."""
        if index + 1 < len(self.windows):
            return self.windows[index + 1].end_s
        end_s = self.windows[index].end_s
        return max(min(end_s + self.stride_s, self.duration_s), end_s)

    def _runs(self, name_of: Callable[[Window], str]) -> Iterator[tuple[str, list[int]]]:
        for name, group in groupby(range(len(self.windows)), key=lambda index: name_of(self.windows[index])):
            yield name, list(group)


def analyse(
    client: Client, video: Path, zone: Polygon | None = None, *, stride_s: float = 0.5, threshold: float | None = None
) -> Generator[Analysis, None, None]:
    """Watch a video and yield the same growing Analysis after every window.

    threshold: breach probability of an alarm; None takes the one that the checkpoint carries from validation data.
    """
    with metrics.analysis() as progress:
        for analysis in _windows(client, video, zone, stride_s, threshold):
            progress.window(analysis.windows[-1].end_s)
            yield analysis
            progress.go_on()


def _windows(client: Client, video: Path, zone: Polygon | None, stride_s: float, threshold: float | None) -> Iterator[Analysis]:
    contract = client.contract
    chosen = contract.threshold(0) if threshold is None else threshold
    analysis = Analysis(video, probe(video), zone, chosen, contract.checkpoint_sha256[:12], contract.classes, stride_s)
    # Surprise costs twice what the rest costs; on a long timeline every third window draws the same curve.
    every = 3 if analysis.duration_s > MANY_WINDOWS * stride_s else 1
    surprise = contract.has("surg_world")
    for window in client.watch(video, zone, stride_s=stride_s, surprise=surprise, surprise_every=every):
        analysis.windows.append(window)
        # The operator may have changed versions since, or on the way.
        analysis.model = client.contract.checkpoint_sha256[:12]
        if threshold is None:
            analysis.threshold = client.contract.threshold(0)
        yield analysis


def scaled(values: Sequence[float | None]) -> list[float | None]:
    """Values over their median of those known: two curves of different units on one axis, 1 being usual."""
    known = [value for value in values if value is not None]
    middle = float(np.median(known)) if known else 0.0
    return [None if value is None or middle <= 0 else value / middle for value in values]
