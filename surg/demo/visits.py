"""Who is visiting and what is kept of each visit: nothing, once it is over."""

import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from surg.data.preprocess import Polygon
from surg.demo import metrics
from surg.demo.analysis import Analysis

IDLE_S = 3600.0
"""A visit in which nothing was pressed for so long is over, even if its page is still open."""
GRACE_S = 60.0
"""A file so young may be an upload that is still on its way to its visit."""
SWEEP_EVERY_S = 20.0


def uploads_folder() -> Path | None:
    """Where Gradio keeps uploads, and the pictures that it sends to browsers; None outside the demo."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    return Path(folder).resolve() if folder else None


def is_upload(path: Path) -> bool:
    """Whether a file was uploaded, and may be deleted: uploads lie in Gradio's own folder, examples do not."""
    folder = uploads_folder()
    return folder is not None and folder in path.resolve().parents


def _private_folder() -> Path:
    folder = uploads_folder()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="visit-" if folder else "surg-demo-", dir=folder))


@dataclass
class Visit:
    """One visitor's video, zone and results."""

    folder: Path = field(default_factory=_private_folder)
    """For what is made of the video; goes with the visit."""
    video: Path | None = None
    frame: npt.NDArray[np.uint8] | None = None
    """The picture on which the zone is drawn."""
    corners: Polygon = field(default_factory=list)
    analysis: Analysis | None = None
    other: Analysis | None = None
    """The second model's view of the same video."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set to end an analysis that is under way."""
    stop_watching: threading.Event = field(default_factory=threading.Event)
    """Set to end a network stream that is watched."""
    running: bool = False
    over: bool = False
    began: float = field(default_factory=time.time)
    touched: float = field(default_factory=time.monotonic)

    @property
    def zone(self) -> Polygon | None:
        return self.corners if len(self.corners) >= 3 else None

    def begin(self) -> None:
        """End what is under way; what comes next has a stop of its own."""
        self.stop.set()
        self.stop = threading.Event()

    def watch(self) -> threading.Event:
        """What ends the stream that is watched from now on; one that was watched before ends."""
        self.stop_watching.set()
        self.stop_watching = threading.Event()
        return self.stop_watching

    def last_words(self, stop: threading.Event) -> str:
        """Why a stream that was watched under `stop` is watched no longer."""
        if self.over:
            return (
                "**Nobody watches any more**: nothing was pressed on this page for an hour. Press *Watch stream* to go on; "
                "`surg infer --follow` watches for as long as it takes."
            )
        return "Stopped." if stop.is_set() else "The stream has ended."

    def close(self) -> None:
        """End what is under way and delete what was made."""
        self.over = True
        self.stop.set()
        self.stop_watching.set()
        self.analysis = self.other = self.frame = self.video = None
        shutil.rmtree(self.folder, ignore_errors=True)


class Visits:
    """All visits by the browser's session, and which upload is still needed by whom."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visits: dict[str, Visit] = {}
        # Gradio names an upload by its content: two visitors with the same file share it.
        self._held: Counter[Path] = Counter()

    def __len__(self) -> int:
        return len(self._visits)

    def of(self, session: str) -> Visit:
        """The visit of a session, new at its first call."""
        with self._lock:
            visit = self._visits.get(session) or Visit()
            self._visits[session] = visit
            metrics.VISITS.set(len(self._visits))
            visit.touched = time.monotonic()
            return visit

    def show(self, visit: Visit, video: Path | None) -> None:
        """The visit now looks at `video`; the one before is deleted when nobody else looks at it."""
        if video is not None:
            with self._lock:
                self._held[video] += 1
        before, visit.video = visit.video, video
        self._drop(before)

    @contextmanager
    def hold(self, video: Path) -> Iterator[Path]:
        """Keep an upload for the time of a call, and delete it after."""
        with self._lock:
            self._held[video] += 1
        try:
            yield video
        finally:
            self._drop(video)

    def leave(self, session: str) -> None:
        """The visit is over: its work ends, its upload goes, and all that was made from it."""
        with self._lock:
            visit = self._visits.pop(session, None)
            metrics.VISITS.set(len(self._visits))
        if visit is not None:
            video = visit.video
            visit.close()
            self._drop(video)
        self.sweep()

    def sweep(self) -> None:
        """End forgotten visits; delete what lies in the uploads' folder and is older than every visit that is left, or than an hour.

        Gradio keeps pictures that it sent to a browser as files and does not say whose they are; their age does. The videos that
        visitors look at stay, and what was made of them: an analysis may take longer than that.
        """
        now = time.monotonic()
        with self._lock:
            forgotten = [name for name, visit in self._visits.items() if now - visit.touched > IDLE_S and not visit.running]
        for name in forgotten:
            self.leave(name)
        folder = uploads_folder()
        if folder is None:
            return
        with self._lock:
            oldest = min((visit.began for visit in self._visits.values()), default=time.time())
            kept = {video.resolve() for video in self._held} | {visit.folder.resolve() for visit in self._visits.values()}
        oldest = max(oldest, time.time() - IDLE_S)
        # Not rglob: before Python 3.13 it ends in an error when a folder goes while it looks, and another visit's may.
        for path in (Path(where, name) for where, _, names in os.walk(folder) for name in names):
            try:
                if (
                    path.is_file()
                    and path.stat().st_ctime < oldest - GRACE_S
                    and not kept & {path.resolve(), *path.resolve().parents}
                ):
                    path.unlink()
            except FileNotFoundError:
                continue

    @contextmanager
    def swept(self, every_s: float = SWEEP_EVERY_S) -> Iterator[None]:
        """Sweep from time to time while the block runs."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(every_s):
                self.sweep()

        sweeper = threading.Thread(target=go_on, name="surg-sweep", daemon=True)
        sweeper.start()
        try:
            yield
        finally:
            ended.set()
            sweeper.join(timeout=10)
            for name in list(self._visits):
                self.leave(name)

    def _drop(self, video: Path | None) -> None:
        if video is None:
            return
        with self._lock:
            self._held[video] -= 1
            free = self._held[video] <= 0
            if free:
                del self._held[video]
        if free and is_upload(video):
            video.unlink(missing_ok=True)
