"""A camera is followed live: the windows of a file, the newest first, through broken connections, never queued."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surg.data.video import iter_frames, write_video
from surg.errors import DataError, ServerError
from surg.serving import follow, inference
from surg.serving.client import Client
from surg.serving.export import Exported
from surg.serving.results import Window
from surg.serving.stream import cuts
from surg.serving.transport import Answer, Request, TransportError
from tests.serving import cameras
from tests.serving.conftest import SPEC

ZONE = [[0.2, 0.2], [0.7, 0.2], [0.7, 0.8], [0.2, 0.8]]


@pytest.fixture(scope="module")
def pieces() -> list[tuple[float, bytes]]:
    return cameras.transport_stream(6)


def test_a_stream_is_cut_as_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "stripes.mp4"
    write_video(path, cameras.moving_stripes(6), 8)
    cutter = follow.Cutter(SPEC, ZONE, 0.5)
    found = [cut for time_s, frame in iter_frames(path) for cut in cutter.push(time_s, frame)]
    expected = list(cuts(path, SPEC, ZONE, 0.5))[: len(found)]
    assert len(found) >= 7
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.index, mine.start_s, mine.end_s, mine.box) == (theirs.index, theirs.start_s, theirs.end_s, theirs.box)
        np.testing.assert_array_equal(mine.frames, theirs.frames)
        np.testing.assert_array_equal(mine.zone, theirs.zone)


def test_no_window_reaches_across_a_hole_or_a_change_of_picture() -> None:
    cutter = follow.Cutter(SPEC, None, 0.25)
    picture = np.zeros((96, 96, 3), np.uint8)
    times = [*np.arange(0, 3, 0.25), *np.arange(9, 12, 0.25)]
    found = [cut for time_s in times for cut in cutter.push(float(time_s), picture)]
    assert {cut.start_s >= 9 for cut in found} == {True, False}
    assert all(cut.end_s - cut.start_s == pytest.approx(1.75) for cut in found)
    wide = np.zeros((96, 128, 3), np.uint8)
    assert not [cut for time_s in np.arange(12, 13.5, 0.25) for cut in cutter.push(float(time_s), wide)]


def test_an_rtsp_camera_is_followed_and_a_slow_model_sees_only_the_newest(pieces: list[tuple[float, bytes]]) -> None:
    with cameras.Camera(pieces, rtsp=True) as server:
        with follow.Camera(server.address, follow.Cutter(SPEC, None, 0.25)) as camera:
            seen = []
            for latest in camera.windows(60):
                seen.append(latest)
                if len(seen) >= 2 and latest.dropped:
                    break
                time.sleep(1.0)  # a model four times too slow
        assert server.requests[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
    assert seen[-1].dropped
    ends = [latest.cut.end_s for latest in seen]
    assert ends == sorted(ends)
    assert seen[-1].cut.frames.shape == (8, 64, 64, 3)
    assert np.ptp(seen[-1].cut.frames.astype(int), axis=0).max() > 50  # it moves


def test_a_broken_connection_is_opened_again(pieces: list[tuple[float, bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSES_S", (0.1, 0.2))
    with cameras.Camera(pieces, rtsp=False, breaks_at_s=4.5, speed=2.0) as server:
        cutter = follow.Cutter(SPEC, None, 0.25)
        with follow.Camera(server.address, cutter) as camera:
            seen = []
            for latest in camera.windows(60):
                seen.append(latest.cut)
                # Also the second caller must have come: on a slow machine a late window of the first stands here too.
                if camera.reconnects and server.calls >= 2 and latest.cut.start_s > seen[0].end_s:
                    break
    assert server.calls >= 2
    assert camera.reconnects >= 1
    assert all(cut.end_s - cut.start_s == pytest.approx(1.75) for cut in seen)
    starts = [cut.start_s for cut in seen]
    assert starts == sorted(starts)


def test_what_cannot_be_opened_is_explained_without_its_password() -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1 cannot be opened") as caught:
        follow.Camera("rtsp://viewer:hunter2@127.0.0.1:9/none", follow.Cutter(SPEC, None, 1.0))
    assert "hunter2" not in str(caught.value)
    assert follow.is_address("rtsp://camera/1")
    assert not follow.is_address("inbox")
    assert not follow.is_address("file:///tmp/a.mp4")


def test_a_playlist_from_the_network_cannot_name_files_of_this_machine(
    pieces: list[tuple[float, bytes]], tmp_path: Path
) -> None:
    film = tmp_path / "private.ts"
    film.write_bytes(b"".join(piece for _, piece in pieces))
    lines = "#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:9,", film.as_uri(), "#EXT-X-ENDLIST", ""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            caller, _ = listener.accept()
            with caller:
                caller.sendall("\n".join(lines).encode())

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(DataError, match="cannot be opened"):
            follow.open_stream(f"tcp://127.0.0.1:{listener.getsockname()[1]}/list.m3u8")


def test_alarms_begin_and_end_as_events_do() -> None:
    scores = [0.1, 0.6, 0.9, 0.2, 0.7]
    windows = [
        Window(i, i, i + 1.0, "", {}, {"0": score}, np.zeros(0, np.float32), np.zeros(0, np.float32))
        for i, score in enumerate(scores)
    ]
    alarms = inference.Alarms(lambda horizon: 0.5, 1.0)
    told = [(what, event) for window in windows for what, event in alarms.see(window)]
    assert [what for what, _ in told] == ["begins", "ends", "begins"]
    assert [told[1][1], *alarms.running.values()] == list(inference.events(windows, lambda horizon: 0.5, 1.0))


def test_events_that_run_when_the_stream_is_over_end_with_it() -> None:
    window = Window(0, 0, 1.0, "", {}, {"0": 0.9}, np.zeros(0, np.float32), np.zeros(0, np.float32))
    alarms = inference.Alarms(lambda horizon: 0.5, 1.0)
    ((_, begun),) = alarms.see(window)
    assert list(alarms.close()) == [("ends", begun)]
    assert list(alarms.close()) == []


def test_a_camera_is_followed_on_while_the_server_is_away(
    pieces: list[tuple[float, bytes]], local: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, asked = local._transport.infer, []

    def away_at_first(request: Request) -> Answer:
        asked.append(request)
        if len(asked) <= 2:
            raise TransportError("unreachable", "connection refused")
        if len(asked) > 4:
            raise TransportError("invalid", "another model")
        return answer(request)

    monkeypatch.setattr(local._transport, "infer", away_at_first)
    monkeypatch.setattr(local, "_patience_s", 0.0)
    seen: list[follow.Sight] = []
    with cameras.Camera(pieces, rtsp=False) as server, pytest.raises(ServerError, match="another model"):
        seen.extend(follow.follow_stream(local, server.address, stride_s=0.25, for_s=30))
    assert len(seen) == 2
    assert seen[0].dropped >= 2


def test_surg_infer_follows_a_camera_and_writes_as_it_goes(
    surg: Callable[..., subprocess.CompletedProcess[str]],
    exported: Exported,
    pieces: list[tuple[float, bytes]],
    local: Client,
    tmp_path: Path,
) -> None:
    # Three times as fast as its clock: the first window has come well before the following ends, on a slow machine too.
    with cameras.Camera(pieces, rtsp=True, speed=3.0) as server:
        call = ("infer", "--follow", server.address, "--server", f"local:{exported.repo}", "--threshold", 0, "--stride", 0.25)
        done = surg(*call, "--follow-for", 5, "--out", "live.jsonl")
    assert done.returncode == 0, done.stderr
    assert "breach begins" in done.stdout
    assert done.stdout.count("breach ends") == 1
    rows = [json.loads(line) for line in (tmp_path / "live.jsonl").read_text().splitlines()]
    assert rows
    assert rows[0]["stream"] == "127.0.0.1"
    assert set(rows[0]["action_probability"]) == set(local.contract.classes)
    assert f"{len(rows)} windows" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert "exists" in surg(*call, "--out", "live.jsonl").stderr
