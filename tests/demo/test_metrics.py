"""What Prometheus reads of the demo, over HTTP, and that the dashboard and the alerts ask for nothing else."""

import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from surg.demo import launch, metrics
from surg.demo.analysis import analyse
from surg.demo.live import Ring, read
from surg.demo.visits import Visits
from surg.errors import DataError, ServerError
from surg.serving.client import Client, connect

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[Client]:
    with connect(f"local:{repository}", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with metrics.served("127.0.0.1", port):
        yield f"http://127.0.0.1:{port}/metrics"


def scrape(page: str) -> dict[str, float]:
    lines = urllib.request.urlopen(page, timeout=10).read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("surg_demo_"))}


def change(page: str, before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in scrape(page).items() if value != before[name]}


def test_an_analysis_is_counted_with_its_windows_and_seconds(page: str, client: Client, video: Path) -> None:
    before = scrape(page)
    (*_, last) = analyse(client, video, stride_s=0.5)
    found = change(page, before)
    assert found['surg_demo_analyses_total{outcome="done"}'] == 1
    assert found["surg_demo_windows_total"] == found["surg_demo_window_wait_seconds_count"] == len(last.windows)
    assert found["surg_demo_video_seconds_total"] == pytest.approx(last.windows[-1].end_s)
    assert "surg_demo_analyses_running" not in found


def test_one_that_is_left_or_refused_is_told_apart(page: str, client: Client, video: Path, tmp_path: Path) -> None:
    before = scrape(page)
    going_on = analyse(client, video, stride_s=0.5)
    next(going_on)
    assert change(page, before)["surg_demo_analyses_running"] == 1
    going_on.close()
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DataError):
        list(analyse(client, tmp_path / "bad.mp4"))
    found = change(page, before)
    assert found['surg_demo_analyses_total{outcome="cancelled"}'] == 1
    assert found['surg_demo_analyses_total{outcome="refused"}'] == 1
    assert 'surg_demo_analyses_total{outcome="failed"}' not in found
    assert "surg_demo_analyses_running" not in found


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), ServerError("The server has gone.")])
def test_a_bug_and_a_lost_server_count_as_failures(
    error: Exception, page: str, client: Client, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Client, "watch", watch)
    before = scrape(page)
    with pytest.raises(type(error)):
        list(analyse(client, video))
    assert change(page, before)['surg_demo_analyses_total{outcome="failed"}'] == 1


def test_visits_and_live_pictures_are_counted(page: str, client: Client) -> None:
    before, visits = scrape(page), Visits()
    visits.of("a")
    visits.of("b")
    visits.of("a")
    assert scrape(page)["surg_demo_visits"] == 2
    for session in "ab":
        visits.leave(session)
    spec = client.contract.preprocess
    ring = Ring(spec)
    for number in range(3):
        ring.put(np.zeros((spec.size, spec.size, 3), np.uint8), 0.01 * number)
    assert read(client, ring) is not None
    found = change(page, before)
    assert found["surg_demo_live_dropped_frames_total"] == 2
    assert found["surg_demo_live_age_seconds_count"] == 1
    assert scrape(page)["surg_demo_visits"] == 0


def test_the_dashboard_and_the_alerts_ask_for_what_there_is_and_nothing_names_a_video(
    page: str, client: Client, video: Path
) -> None:
    list(analyse(client, video))
    text = "".join((DEPLOY / name).read_text() for name in ("grafana/dashboards/serving.json", "prometheus/alerts.yaml"))
    offered = {re.split(r"[{ ]", name)[0] for name in scrape(page)}
    used = set(re.findall(r"surg_demo_\w+", text))
    assert len(used) > 4
    assert used <= offered, used - offered
    assert video.stem not in urllib.request.urlopen(page, timeout=10).read().decode()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_of_ipv6_gets_a_free_port_and_stands_in_brackets_in_the_url() -> None:
    try:
        port = launch._free_port("::1")
    except OSError:
        pytest.skip("this machine has no loopback of IPv6")
    launch._require_free("::1", port, "The page", "--port")
    assert [launch._in_url(host) for host in ("::1", "127.0.0.1")] == ["[::1]", "127.0.0.1"]
