"""What the demo tells Prometheus of itself: counts and times of its work, and nothing of any video."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from surg.errors import ServerError, SurgError

SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

VISITS = Gauge("surg_demo_visits", "Visits that are open.")
RUNNING = Gauge("surg_demo_analyses_running", "Analyses under way.")
ANALYSES = Counter("surg_demo_analyses", "Analyses that have ended, by how.", ["outcome"])
WINDOWS = Counter("surg_demo_windows", "Windows of videos that the server has answered.")
VIDEO = Counter("surg_demo_video_seconds", "Seconds of video looked at.")
WAIT = Histogram("surg_demo_window_wait_seconds", "How long a visitor waited for the next window of a video.", buckets=SECONDS)
AGE = Histogram("surg_demo_live_age_seconds", "How old the newest live picture was when its answer came.", buckets=SECONDS)
DROPPED = Counter("surg_demo_live_dropped_frames", "Live frames that newer ones replaced.")

for outcome in ("done", "cancelled", "refused", "failed"):
    ANALYSES.labels(outcome)


class Progress:
    """Counts the windows of one analysis as they come."""

    def __init__(self) -> None:
        self._before, self._seen_s = time.monotonic(), 0.0

    def window(self, end_s: float) -> None:
        now = time.monotonic()
        WINDOWS.inc()
        WAIT.observe(now - self._before)
        VIDEO.inc(max(end_s - self._seen_s, 0.0))
        self._before, self._seen_s = now, end_s

    def go_on(self) -> None:
        """What the page did with a window is no time that the visitor waited for the next one."""
        self._before = time.monotonic()


@contextmanager
def analysis() -> Iterator[Progress]:
    """One analysis, from its start to whatever ends it; a generator that is closed was cancelled."""
    outcome = "failed"
    RUNNING.inc()
    try:
        yield Progress()
        outcome = "done"
    except GeneratorExit:
        outcome = "cancelled"
        raise
    except ServerError:
        raise  # no fault of what the visitor gave
    except SurgError:
        outcome = "refused"
        raise
    finally:
        RUNNING.dec()
        ANALYSES.labels(outcome).inc()


@contextmanager
def served(host: str, port: int) -> Iterator[None]:
    """Answer http://host:port/metrics while the block runs."""
    server, thread = start_http_server(port, host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
