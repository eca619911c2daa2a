"""What a page does when something is pressed. One Page a server; everything that belongs to a visitor lives in a Visit."""

import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surg.data.preprocess import Polygon, zone_bounds
from surg.data.video import probe, read_frames
from surg.demo.analysis import Analysis, analyse
from surg.demo.exports import as_json
from surg.demo.overlay import draw_boxes, draw_heat, draw_zone
from surg.demo.reference import Neighbour, Reference
from surg.demo.timeline import clock
from surg.demo.tracking import boxes_at
from surg.demo.visits import Visit, Visits, is_upload, uploads_folder
from surg.errors import DataError, SurgError
from surg.serving.client import Client

logger = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]
MAX_CORNERS = 40
MIN_STRIDE_S, MAX_STRIDE_S = 0.5, 2.0


def uploaded(payload: Any) -> Path:
    """The file behind what `handle_file` sent. Only uploads are read: a caller cannot name other files of this machine."""
    path = Path(str(payload.get("path", ""))) if isinstance(payload, dict) else Path(str(payload))
    if not is_upload(path) or not path.is_file():
        raise DataError('Send the video as a file: client.predict(handle_file("clip.mp4"), "", 0.5, api_name="/analyse")')
    return path


def refuse_lists(video: Path) -> None:
    """Raises DataError for what names pictures that lie elsewhere: a visitor's list would show files of this machine."""
    if video.suffix.lower() == ".txt" or video.is_dir():
        raise DataError("That is a list of pictures, and no video. Upload the video itself.")


class Page:
    """The demo behind its layout: all methods take and return plain values, so that tests call them without a browser."""

    def __init__(self, client: Client, reference: Reference, other: Client | None = None) -> None:
        self.client, self.other, self.reference = client, other, reference
        self.visits = Visits()

    @property
    def threshold(self) -> float:
        """Where the checkpoint's own alarm threshold stands."""
        return self.client.contract.threshold(0)

    @property
    def about(self) -> str:
        """Which model this is, and what it looks at, in one line."""
        contract = self.client.contract
        spec = contract.preprocess
        span = (spec.num_frames - 1) / spec.fps
        return (
            f"Model {contract.architecture} · checkpoint {contract.checkpoint_sha256[:12]} · "
            f"sees {spec.num_frames} frames over {span:g} s at {spec.size} x {spec.size} pixels"
        )

    def events(self, video: Path, zone: str, stride_s: float) -> dict[str, Any]:
        """The whole analysis as plain values, for callers without a page. An upload is deleted after it."""
        with self.visits.hold(video):
            refuse_lists(video)
            growing = deque(analyse(self.client, video, parse_corners(zone) or None, stride_s=stride_s), maxlen=1)
        if not growing:
            raise DataError("The video ended before one window could be read. Is it cut off?")
        return dict(json.loads(as_json(growing[0])))

    def open_video(self, visit: Visit, path: str | None, zone: Polygon | None = None) -> Frame | None:
        """A new video: forget what was known, return the picture for the zone. Raises DataError for a broken one."""
        visit.begin()
        visit.analysis = visit.other = visit.frame = None
        visit.corners = [list(corner) for corner in zone or []]
        self.visits.show(visit, None if path is None else Path(path))
        if visit.video is None:
            return None
        try:
            refuse_lists(visit.video)
            info = probe(visit.video)
            visit.frame = read_frames(visit.video, [min(0.5, info.duration_s / 2)])[0]
        except SurgError:
            visit.corners = []
            self.visits.show(visit, None)
            raise
        return self.zone_picture(visit)

    def usual_stride(self, visit: Visit) -> float:
        """Seconds between windows for about sixty of them, but at least half a second and at most two: a breach is short."""
        if visit.video is None:
            return MIN_STRIDE_S
        return min(max(math.ceil(2 * probe(visit.video).duration_s / 60) / 2, MIN_STRIDE_S), MAX_STRIDE_S)

    def zone_picture(self, visit: Visit) -> Frame | None:
        return None if visit.frame is None else draw_zone(visit.frame, visit.corners, corners=True)

    def add_corner(self, visit: Visit, x: int, y: int) -> Frame | None:
        """A click at pixel (x, y) of the picture."""
        if visit.frame is None:
            return None
        if len(visit.corners) >= MAX_CORNERS:
            raise DataError(f"A zone has at most {MAX_CORNERS} corners; press Clear to draw it again.")
        height, width = visit.frame.shape[:2]
        visit.corners.append([round(x / width, 4), round(y / height, 4)])
        return self.zone_picture(visit)

    def set_corners(self, visit: Visit, text: str) -> Frame | None:
        """Corners as text, `0.2 0.3; 0.8 0.3; 0.5 0.9`: the same by keyboard."""
        visit.corners = parse_corners(text)
        return self.zone_picture(visit)

    def analyse(self, visit: Visit, stride_s: float, threshold: float | None, compare: bool) -> Iterator[tuple[float, str]]:
        """Watch the video; yields (share done, a sentence) while visit.analysis grows. Ends early when `visit.stop` is set."""
        # This run's own event: what was stopped before stays stopped, even if it notices only now.
        stop = visit.stop
        if visit.video is None:
            raise DataError("There is no video yet. Upload one, or choose an example below.")
        if 0 < len(visit.corners) < 3:
            raise DataError(
                f"The zone has {len(visit.corners)} corner(s); a polygon needs three. Add corners, or press Clear for the whole picture."
            )
        if visit.zone is not None:
            zone_bounds(visit.zone)
        clients = [self.client, *([self.other] if compare and self.other is not None else [])]
        visit.analysis = visit.other = None
        visit.running, began = True, time.monotonic()
        try:
            for number, client in enumerate(clients):
                for analysis in analyse(client, visit.video, visit.zone, stride_s=stride_s, threshold=threshold):
                    if stop.is_set():
                        return
                    if number == 0:
                        visit.analysis = analysis
                    else:
                        visit.other = analysis
                    share = (number + analysis.progress) / len(clients)
                    left = (time.monotonic() - began) * (1 - share) / max(share, 1e-3)
                    seen = f"{clock(analysis.windows[-1].end_s)} of {clock(analysis.duration_s)} seen"
                    yield share, f"{seen}, about {duration(left)} left"
        finally:
            if visit.stop is stop:
                visit.running = False
        if visit.analysis is None:
            raise DataError("The video ended before one window could be read. Is it cut off?")

    def outcome(self, visit: Visit) -> str:
        """What an analysis that has ended found; of one that was cancelled, what it found until then."""
        if not visit.stop.is_set():
            return f"{self.verdict(visit.analysis)} {self.agreement(visit)}".strip()
        if visit.analysis is None or not visit.analysis.windows:
            return "Cancelled before the first result."
        seen = f"{clock(visit.analysis.windows[-1].end_s)} of {clock(visit.analysis.duration_s)}"
        return f"Cancelled after {seen}. What was found until then stays below. {self.verdict(visit.analysis)}"

    def agreement(self, visit: Visit) -> str:
        """How far two models say the same of one video, or nothing when there is one."""
        first, second = visit.analysis, visit.other
        if first is None or second is None or not second.windows:
            return ""
        pairs = list(zip(first.windows, second.windows))
        parts = []
        if first.classes and second.classes:
            same = sum(one.action == two.action for one, two in pairs) / len(pairs)
            parts.append(f"name the same motion in {same:.0%} of {len(pairs)} windows")
        gaps = [abs(one.breach - two.breach) for one, two in pairs if one.breach == one.breach and two.breach == two.breach]
        if gaps:
            parts.append(f"differ by {sum(gaps) / len(gaps):.2f} in breach score on average, by {max(gaps):.2f} at most")
        return f"The two models {' and '.join(parts)}." if parts else ""

    def verdict(self, analysis: Analysis | None) -> str:
        """The result in a sentence or two, as HTML."""
        if analysis is None or not analysis.windows:
            return "Nothing analysed yet."
        parts = []
        if analysis.windows[0].breach == analysis.windows[0].breach:
            alarms = analysis.alarms
            peak = max(window.breach for window in analysis.windows)
            where = ", ".join(f"{span.start_s:.1f} to {span.end_s:.1f} s" for span in alarms[:6])
            many = " and more" if len(alarms) > 6 else ""
            parts.append(
                f"<strong>{len(alarms) or 'No'} alarm{'s' if len(alarms) != 1 else ''}</strong>"
                f"{': ' + where + many if alarms else f' (highest breach score {peak:.2f}, alarm at {analysis.threshold:.2f})'}."
            )
        if analysis.classes:
            total: dict[str, float] = {}
            for span in analysis.actions:
                total[span.name] = total.get(span.name, 0.0) + span.end_s - span.start_s
            parts.append(
                "Motion: "
                + ", ".join(
                    f"{escape(name)} {seconds:.1f} s" for name, seconds in sorted(total.items(), key=lambda item: -item[1])[:4]
                )
                + "."
            )
        parts.append("Research software, not a medical device.")
        return " ".join(parts)

    def moment(
        self, visit: Visit, index: int, heat: bool, tracks: bool = False
    ) -> tuple[Frame, str, dict[str, float], list[Neighbour]]:
        """Picture with heat map, a sentence, class probabilities and nearest moments of window `index`."""
        analysis = visit.analysis
        if analysis is None or visit.video is None or not 0 <= index < len(analysis.windows):
            raise DataError("That moment is not analysed yet.")
        window = analysis.windows[index]
        frame_time = min(window.end_s, max(analysis.duration_s - 1e-3, 0.0))
        frame = read_frames(visit.video, [frame_time])[0]
        if heat and window.breach_map.size:
            frame = draw_heat(frame, window.breach_map[-1], window.box)
        if tracks:
            frame = draw_boxes(frame, boxes_at(visit.video, frame_time))
        words = [f"At {window.end_s:.1f} s: {window.action}" if window.action else f"At {window.end_s:.1f} s"]
        words += [
            f"breach {f'in {name} s' if float(name) else 'now'} {value:.2f}"
            for name, value in window.breach_probability.items()
        ]
        return (
            draw_zone(frame, analysis.zone),
            ", ".join(words),
            window.action_probability,
            self.reference.nearest(window.embedding),
        )


def duration(seconds: float) -> str:
    """8 s, 3 min, 2 h 5 min: as one says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def parse_corners(text: str) -> Polygon:
    """`x y; x y; …` in 0..1. Raises DataError that shows the form."""
    corners: Polygon = []
    for part in text.replace("\n", ";").split(";"):
        if not part.strip():
            continue
        try:
            x, y = (float(word) for word in part.replace(",", " ").split())
        except ValueError as error:
            raise DataError(
                f"{part.strip()!r} is no corner. Write x and y in 0..1 of the picture, corners apart by semicolons: 0.2 0.3; 0.8 0.3; 0.5 0.9"
            ) from error
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise DataError(f"Corner {x:g} {y:g} lies outside the picture; x and y go from 0 to 1.")
        corners.append([x, y])
    return corners


def sentence(error: Exception) -> str:
    """What a visitor reads when something failed: our errors as they are, a bug as a plain apology (its traceback goes to the log)."""
    if isinstance(error, SurgError):
        folder = uploads_folder()
        # Where uploads lie on this machine is none of a visitor's business.
        return re.sub(rf"{re.escape(str(folder))}/(?:[0-9a-f]{{16,}}/)?", "", str(error)) if folder else str(error)
    logger.error("a page failed", exc_info=error)
    return "Something broke on our side; the server's log has the details. Your video was not kept."
