"""What `surg infer` writes: per video its windows and the events found in them.  No torch."""

import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from surg.data.adapters.files import VIDEO_SUFFIXES, videos_under
from surg.data.video import probe
from surg.errors import ConfigError, DataError, SurgError
from surg.metrics.detection import AlarmRule, alarms
from surg.runs import check_place, write_text
from surg.serving.client import Client
from surg.serving.results import Window


@dataclass(frozen=True)
class Event:
    kind: str
    """`breach`, or `breach in 2 s` for an early warning."""
    start_s: float
    end_s: float
    peak: float
    """Highest probability in it."""


@dataclass(frozen=True)
class Report:
    video: Path
    windows: list[Window]
    """Their large arrays are left out: those of a day's videos would fill the memory."""
    events: list[Event]
    stopped: BaseException | None = None
    """What ended it before the end of the video; what was seen until then is here."""


def find_videos(paths: Iterable[Path]) -> list[Path]:
    """Files as given, folders searched. Raises DataError when there is nothing to look at."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += videos_under(path)
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"There is no {path}.")
    if not found:
        raise DataError(f"No video in {', '.join(map(str, paths))}. Known endings: {', '.join(sorted(VIDEO_SUFFIXES))}.")
    return found


def look(
    client: Client,
    video: Path,
    zone: list[list[float]] | None = None,
    *,
    stride_s: float = 1.0,
    threshold: float | None = None,
    surprise: bool = False,
    on_server: bool = False,
    progress: Callable[[Window], None] | None = None,
) -> Report:
    """Watch one video to its end and gather events. What ends it earlier is in the report, Ctrl-C too: hours of windows are kept."""
    windows: list[Window] = []
    stopped: BaseException | None = None
    nothing, duration_s = np.zeros(0, np.float32), 0.0
    try:
        duration_s = probe(video).duration_s
        for window in client.watch(video, zone, stride_s=stride_s, surprise=surprise, on_server=on_server):
            windows.append(replace(window, breach_map=nothing, embedding=nothing))
            if progress:
                progress(window)
    except (SurgError, KeyboardInterrupt) as error:
        stopped = error
    contract = client.contract
    rule = lambda h: contract.threshold(h) if threshold is None else threshold  # noqa: E731
    found = list(events(windows, rule, stride_s, duration_s))
    return Report(video, windows, found, stopped)


def events(
    windows: list[Window], threshold: Callable[[float], float], stride_s: float = 0.0, duration_s: float = math.inf
) -> Iterator[Event]:
    """Spans in which a breach probability stays at or above the threshold of its horizon: from the moment that the first window was
    seen whole to the next window below it, or to the end of the video."""
    if not windows:
        return
    times = [window.end_s for window in windows]
    last_s = max(duration_s, times[-1])  # a container may name a shorter time than its frames take
    for horizon in windows[0].breach_probability:
        scores = [window.breach_probability[horizon] for window in windows]
        for start, end in alarms(times, scores, AlarmRule(threshold(float(horizon)))):
            peak = max(score for time, score in zip(times, scores) if start <= time <= end)
            # The last window of an event stands for the time up to the next one; after the video there is nothing to speak of.
            yield Event(_kind(horizon), start, min(max(end, start + stride_s), last_s), peak)


def _kind(horizon: str) -> str:
    return "breach" if float(horizon) == 0 else f"breach in {horizon} s"


@dataclass
class Alarms:
    """Events of a stream as they begin and end: the same rule as `events`, one window at a time."""

    threshold: Callable[[float], float]
    """By horizon."""
    stride_s: float
    running: dict[str, Event] = field(default_factory=dict)

    def see(self, window: Window) -> Iterator[tuple[Literal["begins", "ends"], Event]]:
        for horizon, probability in window.breach_probability.items():
            event = self.running.get(horizon)
            if probability >= self.threshold(float(horizon)):
                if event is None:
                    event = Event(_kind(horizon), window.end_s, window.end_s + self.stride_s, probability)
                    yield "begins", event
                self.running[horizon] = replace(event, end_s=window.end_s + self.stride_s, peak=max(event.peak, probability))
            elif event is not None:
                yield "ends", self.running.pop(horizon)

    def close(self) -> Iterator[tuple[Literal["ends"], Event]]:
        """The stream is over, and with it the events that still run."""
        while self.running:
            yield "ends", self.running.pop(next(iter(self.running)))


@contextmanager
def recorder(path: Path, client: Client, name: str) -> Iterator[Callable[[Window], None]]:
    """Write windows of a stream as they come, each whole at once: rows of CSV, or one JSON object a line."""
    if path.exists():
        raise DataError(f"{path} exists, and a stream's windows are added line by line. Choose another --out, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", buffering=1, newline="") as file:
        if path.suffix.lower() == ".csv":
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(_header(client))
            yield lambda window: rows.writerow(_csv_row(client, name, window))
        else:
            yield lambda window: print(json.dumps({"stream": name, **_row(window)}, ensure_ascii=False), file=file)


def follow(folder: Path, for_s: float | None = None, *, every_s: float = 1.0, settle_s: float = 5.0) -> Iterator[Path]:
    """Videos as they arrive in a folder: those there already, then each new one once it has not changed for `settle_s`. One that
    grows after that, an upload that had paused, comes again."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder to watch.")
    deadline = time.monotonic() + for_s if for_s is not None else None
    done: dict[Path, int] = {}
    seen: dict[Path, tuple[int, float]] = {}
    """Size, and since when."""
    while True:
        for path in videos_under(folder):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # renamed or moved on since it was listed
            size, now = found.st_size, time.monotonic()
            if path not in seen or seen[path][0] != size:
                seen[path] = size, now
                continue
            # What lay here before has its own time; the clock of another machine's disk may run ahead of ours.
            quiet_s = max(now - seen[path][1], time.time() - found.st_mtime)
            if size and done.get(path) != size and quiet_s >= settle_s:
                done[path] = size
                yield path
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(every_s)


def as_dict(client: Client, reports: Iterable[Report]) -> dict[str, Any]:
    contract = client.contract
    return {
        "model": {
            "checkpoint_sha256": contract.checkpoint_sha256,
            "architecture": contract.architecture,
            "precision": contract.precision,
            "version": client.version,
            "classes": list(contract.classes),
            "horizons_s": list(contract.horizons_s),
        },
        "videos": [
            {
                "video": name_of(report.video),
                "events": [event.__dict__ for event in report.events],
                "windows": [_row(window) for window in report.windows],
                **_other_versions(client, report),
                **({} if report.stopped is None else {"stopped": _reason(report.stopped)}),
            }
            for report in reports
        ],
    }


def _other_versions(client: Client, report: Report) -> dict[str, Any]:
    """Checkpoints by version where it was not, or not only, the one named above: versions may change between videos, and within."""
    seen = {window.version for window in report.windows} - {0}
    if seen <= {client.version}:
        return {}
    known = client.contracts
    return {"versions": {str(v): known[v].checkpoint_sha256 if v in known else "" for v in sorted(seen)}}


def write(path: Path, client: Client, reports: list[Report]) -> None:
    """JSON with everything, or for a name that ends in .csv one row per window."""
    if path.suffix.lower() != ".csv":
        write_text(path, json.dumps(as_dict(client, reports), indent=1, ensure_ascii=False) + "\n")
        return
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_header(client))
    rows.writerows(_csv_row(client, _cell(report.video), window) for report in reports for window in report.windows)
    write_text(path, text.getvalue())


def check_out(path: Path, kinds: Sequence[str] = (".json", ".csv")) -> None:
    """Raise RunError or ConfigError when `path` cannot become a file, or none of these kinds: before hours of work, not after."""
    check_place(path)
    if path.is_dir():
        raise ConfigError(f"{path} cannot be written: it is a folder.\nGive --out a file, for example events{kinds[0]}")
    if path.suffix.lower() not in kinds:
        raise ConfigError(
            f"{path} names no kind of file that is written here; expected a name that ends in {' or '.join(kinds)}."
        )


def _reason(stopped: BaseException) -> str:
    return name_of(str(stopped).splitlines()[0]) if isinstance(stopped, SurgError) else "interrupted"


def name_of(path: Path | str) -> str:
    """A name as text: bytes of it that are no UTF-8, as of old cameras and archives, are shown as \\xff. A file takes no others."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _cell(path: Path) -> str:
    """A name in a table. Spreadsheets take what begins with one of these signs for a formula; it names the same file with ./ before it."""
    name = name_of(path)
    return f"./{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _header(client: Client) -> list[str]:
    horizons = (f"breach_{second:g}s" for second in client.contract.horizons_s)
    return ["video", "start_s", "end_s", "action", "confidence", *horizons, "surprise"]


def _csv_row(client: Client, video: str, window: Window) -> list[Any]:
    confidence = window.action_probability.get(window.action, "")
    breach = [round(window.breach_probability[f"{second:g}"], 5) for second in client.contract.horizons_s]
    surprise = "" if window.surprise is None else window.surprise
    return [video, window.start_s, window.end_s, window.action, confidence, *breach, surprise]


def _row(window: Window) -> dict[str, Any]:
    return {
        "start_s": round(window.start_s, 3),
        "end_s": round(window.end_s, 3),
        "action": window.action,
        "action_probability": {name: round(value, 5) for name, value in window.action_probability.items()},
        "breach_probability": {name: round(value, 5) for name, value in window.breach_probability.items()},
        "surprise": window.surprise,
        "box": window.box,
    }
