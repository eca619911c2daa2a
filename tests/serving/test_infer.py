"""`surg infer` over many videos and many hours: what is done stays done, and nothing is asked for in vain."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surg.cli.infer import infer
from surg.data.video import write_video
from surg.demo.analysis import analyse
from surg.errors import ConfigError, DataError, ServerError
from surg.serving import inference, repository
from surg.serving.client import Client, connect
from surg.serving.follow import Cutter
from surg.serving.transport import TransportError
from tests.serving.toy import Clock, toy_contract, toy_model, toy_repository


@pytest.fixture
def server(tmp_path: Path) -> str:
    return f"local:{toy_repository(tmp_path)[0]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a and c can be read; b, between them, cannot."""
    for name in "ac":
        write_video(tmp_path / "in" / f"{name}.mp4", (np.full((64, 96, 3), 5 * time, np.uint8) for time in range(40)), 10)
    (tmp_path / "in" / "b.mp4").write_bytes(b"no video" * 100)
    return tmp_path / "in"


def test_a_video_that_cannot_be_read_does_not_stop_the_others(folder: Path, server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)1 of 3 videos.*b\.mp4"):
        infer([folder], server=server, out=tmp_path / "e.json")
    found = {Path(video["video"]).name: video for video in json.loads((tmp_path / "e.json").read_text())["videos"]}
    assert [len(found[name]["windows"]) for name in ("a.mp4", "b.mp4", "c.mp4")] == [4, 0, 4]
    assert "cannot be read" in found["b.mp4"]["stopped"]
    assert "stopped" not in found["a.mp4"]


def test_a_folder_goes_on_being_followed_after_a_video_that_cannot_be_read(
    folder: Path, server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "time", Clock(now=3600.0))
    for video in folder.iterdir():
        os.utime(video, (0, 0))  # an hour ago
    with pytest.raises(DataError, match="1 of 3"):
        infer(follow=str(folder), follow_for=1.5, server=server)
    assert "c.mp4: 4 windows" in capsys.readouterr().out


def test_a_video_that_comes_again_takes_the_place_of_its_first_half(
    folder: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arriving(_: Path, __: float | None) -> Iterator[Path]:
        yield folder / "b.mp4"
        (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes())
        yield folder / "b.mp4"

    monkeypatch.setattr(inference, "follow", arriving)
    infer(follow=str(folder), server=server, out=tmp_path / "e.json")
    (video,) = json.loads((tmp_path / "e.json").read_text())["videos"]
    assert len(video["windows"]) == 4


def test_a_name_that_is_no_text_or_a_formula_loses_no_hours_of_work(
    folder: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    odd, formula = Path(os.fsdecode(b"\xff\xe9t\xe9.mp4")), Path("=1+1.mp4")
    Path("a.mp4").rename(odd)
    Path("c.mp4").rename(formula)
    for out in (tmp_path / "e.json", tmp_path / "e.csv"):
        infer([odd, formula], server=server, out=out)
    assert [video["video"] for video in json.loads((tmp_path / "e.json").read_text())["videos"]] == [
        r"\xff\xe9t\xe9.mp4",
        "=1+1.mp4",
    ]
    assert {line.split(",")[0] for line in (tmp_path / "e.csv").read_text().splitlines()[1:]} == {
        r"\xff\xe9t\xe9.mp4",
        "./=1+1.mp4",
    }


def test_alarms_and_names_are_those_of_the_version_that_answers(folder: Path, server: str, tmp_path: Path) -> None:
    """What an operator reloads or rolls back reaches clients that are connected: with its threshold, and under its own name."""
    model = toy_model(tmp_path / "second.onnx")
    second = toy_contract("2" * 64).model_copy(update={"thresholds": {"breach": 0.9}})
    with connect(server) as client:
        reports = [inference.look(client, folder / "a.mp4")]
        repository.publish(Path(server.removeprefix("local:")), second, {"surg_clip": {"model.onnx": model}})
        reports.append(inference.look(client, folder / "c.mp4"))
        (analysis,) = {id(seen): seen for seen in analyse(client, folder / "a.mp4")}.values()
        written = inference.as_dict(client, reports)
    assert [len(report.events) for report in reports] == [1, 0]
    assert (written["model"]["version"], written["model"]["checkpoint_sha256"]) == (2, "2" * 64)
    assert [video.get("versions") for video in written["videos"]] == [{"1": f"{1:064d}"}, None]
    assert (analysis.threshold, analysis.model) == (0.9, "2" * 12)


def test_the_page_and_the_command_name_one_time_for_an_alarm(folder: Path, server: str) -> None:
    """An alarm begins when its first window was seen whole, and ends with the video of 4 s."""
    with connect(server) as client:
        report = inference.look(client, folder / "a.mp4", stride_s=0.75, threshold=0.0)
        *_, page = analyse(client, folder / "a.mp4", stride_s=0.75, threshold=0.0)
    assert report.windows[-1].end_s + 0.75 > 4.0
    assert [(event.start_s, event.end_s) for event in report.events] == [(report.windows[0].end_s, 4.0)]
    assert [(span.start_s, span.end_s) for span in page.alarms] == [(report.windows[0].end_s, 4.0)]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), ServerError("The server has gone.")])
def test_what_was_seen_before_the_end_came_is_kept(
    end: BaseException,
    folder: Path,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = Client.watch

    def cut_short(self: Client, *call: Any, **settings: Any) -> Iterator[Any]:
        for window in whole(self, *call, **settings):
            if window.index == 2:
                raise end
            yield window

    monkeypatch.setattr(Client, "watch", cut_short)
    with pytest.raises(type(end)):
        infer([folder / "a.mp4"], server=server, out=tmp_path / "e.json")
    (video,) = json.loads((tmp_path / "e.json").read_text())["videos"]
    assert len(video["windows"]) == 2
    assert video["events"]
    assert video["stopped"] in ("interrupted", "The server has gone.")
    assert f"wrote {tmp_path / 'e.json'}" in capsys.readouterr().out
    if isinstance(end, KeyboardInterrupt):
        assert "e.json holds 1 of 1 videos, the last as far as it was seen" in " ".join(end.__notes__)
    with pytest.raises(type(end)):
        infer([folder / "a.mp4"], server=server, as_json=True)
    assert json.loads(capsys.readouterr().out)["videos"] == [video]


def test_a_folder_goes_on_being_followed_while_the_server_is_away(
    folder: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is away twice in the middle of the first video, which is looked at again; what is no video of ours ends it."""
    monkeypatch.setattr(inference, "time", Clock(time.time() + 60))
    whole, times = Client.watch, iter(range(2))

    def away(self: Client, *call: Any, **settings: Any) -> Iterator[Any]:
        for window in whole(self, *call, **settings):
            if window.index == 2 and next(times, None) is not None:
                raise ServerError("The server is away.") from TransportError("unreachable", "refused")
            yield window

    monkeypatch.setattr(Client, "watch", away)
    with pytest.raises(DataError, match="1 of 3 videos"):
        infer(follow=str(folder), follow_for=30, server=server, out=tmp_path / "e.json")
    found = {Path(video["video"]).name: video for video in json.loads((tmp_path / "e.json").read_text())["videos"]}
    assert [len(found[name]["windows"]) for name in ("a.mp4", "b.mp4", "c.mp4")] == [4, 0, 4]
    assert "stopped" not in found["a.mp4"]
    assert capsys.readouterr().err.count("The folder is followed on") == 2


def test_reports_hold_no_maps_and_embeddings(folder: Path, server: str) -> None:
    with connect(server) as client:
        (first, *_) = inference.look(client, folder / "a.mp4").windows
    assert first.breach_map.size == first.embedding.size == 0


def test_a_name_that_cannot_be_written_is_refused_before_the_work(
    folder: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ConfigError, match="it is a folder"):
        infer([folder / "a.mp4"], server=server, out=tmp_path / "out.csv")
    with pytest.raises(ConfigError, match=r"ends in \.json or \.csv"):
        infer([folder / "a.mp4"], server=server, out=tmp_path / "out.txt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("zone", ["0.3,0.4", "0.1,0.1 0.2 0.3,0.3", "400,300 700,300 700,600"])
def test_a_zone_that_is_none_is_refused_before_the_work(folder: Path, server: str, zone: str) -> None:
    with pytest.raises(ConfigError, match="--zone"):
        infer([folder / "a.mp4"], server=server, zone=zone)
    with pytest.raises(DataError, match="zone"):
        Cutter(toy_contract().preprocess, [[0.3, 0.4]], 1.0)


def test_options_that_would_have_no_effect_are_refused(folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--follow-for"):
        infer([folder / "a.mp4"], server=server, follow_for=5)
    with connect(server) as client:
        world = toy_contract().models[0].model_copy(update={"name": "surg_world"})
        monkeypatch.setattr(client, "contract", client.contract.model_copy(update={"models": (*client.contract.models, world)}))
        with pytest.raises(ConfigError, match="surprise and on_server"):
            next(client.watch(folder / "a.mp4", surprise=True, on_server=True))


def test_a_file_that_moves_on_while_a_folder_is_followed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "time", Clock())
    (tmp_path / "part.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "a.mp4").write_bytes(b"12")
    assert list(inference.follow(tmp_path, for_s=0.2, every_s=0.05, settle_s=0)) == [tmp_path / "a.mp4"]
