import json
import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from surg.data.manifest import Clip
from surg.demo.live import Ring, Stream, read, visitors_stream
from surg.demo.pages import Page, duration, parse_corners, sentence
from surg.demo.reference import Reference
from surg.demo.visits import GRACE_S, Visit, Visits
from surg.errors import DataError
from surg.serving.client import Client, connect

ZONE_TEXT = "0.25 0.25; 0.75 0.25; 0.75 0.75; 0.25 0.75"


@pytest.fixture(scope="module")
def client(repository: Path):
    with connect(f"local:{repository}", threads=1) as opened:
        yield opened


@pytest.fixture
def page(client: Client, video: Path) -> Page:
    clips = [Clip(str(video), 0.0, end, case="a", labels={"event": f"until {end}"}) for end in (1.0, 2.0, 3.0)]
    return Page(client, Reference.build(client, clips))


def finished(page: Page, video: Path, zone: str = "", **options: object) -> Visit:
    visit = Visit()
    page.open_video(visit, str(video))
    page.set_corners(visit, zone)
    list(page.analyse(visit, **{"stride_s": 0.5, "threshold": None, "compare": False, **options}))
    return visit


def test_the_zone_changes_what_the_model_is_shown_and_says(page: Page, video: Path) -> None:
    whole, zoned = finished(page, video), finished(page, video, ZONE_TEXT)
    assert whole.analysis.windows[-1].breach != zoned.analysis.windows[-1].breach
    assert zoned.analysis.windows[-1].box != whole.analysis.windows[-1].box


def test_reference_clips_are_seen_without_what_their_manifest_crops_away(client: Client, video: Path) -> None:
    clips = [Clip(str(video), 0.0, 1.0, case="a", meta=meta) for meta in ({}, {"crop": "0,0,1,0.5"})]
    one, other = (near.picture.shape for near in Reference.build(client, clips).nearest(np.ones(1, np.float32)))
    assert one[0] / one[1] != pytest.approx(other[0] / other[1], rel=0.1)


def test_stride_and_threshold_have_their_effect(page: Page, video: Path) -> None:
    few, many = finished(page, video, stride_s=1.0), finished(page, video, stride_s=0.25)
    assert len(many.analysis.windows) > 2 * len(few.analysis.windows)
    assert not finished(page, video, threshold=0.999).analysis.alarms
    assert finished(page, video, threshold=0.001).analysis.alarms


def test_a_second_model_is_shown_beside_the_first(page: Page, video: Path) -> None:
    page.other = page.client
    visit = finished(page, video, compare=True)
    assert len(visit.other.windows) == len(visit.analysis.windows)


def test_progress_rises_to_one(page: Page, video: Path) -> None:
    visit = Visit()
    page.open_video(visit, str(video))
    shares = [share for share, _ in page.analyse(visit, 0.5, None, False)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=0.15)


def test_clicks_become_corners_and_clear_forgets_them(page: Page, video: Path) -> None:
    visit = Visit()
    page.open_video(visit, str(video))
    for x, y in ((32, 32), (96, 32), (64, 96)):
        page.add_corner(visit, x, y)
    assert visit.zone == [[0.25, 0.25], [0.75, 0.25], [0.5, 0.75]]
    page.set_corners(visit, "")
    assert visit.zone is None


@pytest.mark.parametrize("text", ["0.1", "a b; c d; e f", "0.1 2; 0.5 0.5; 0.9 0.1"])
def test_corners_that_are_none_are_explained(text: str) -> None:
    with pytest.raises(DataError, match=r"0\.3; 0\.5|0 to 1"):
        parse_corners(text)


def test_two_corners_are_no_zone(page: Page, video: Path) -> None:
    visit = Visit()
    page.open_video(visit, str(video))
    page.set_corners(visit, "0.1 0.1; 0.9 0.9")
    with pytest.raises(DataError, match="needs three"):
        list(page.analyse(visit, 0.5, None, False))


def test_a_moment_has_picture_words_and_neighbours(page: Page, video: Path) -> None:
    visit = finished(page, video, ZONE_TEXT)
    frame, words, probabilities, neighbours = page.moment(visit, 2, heat=True)
    without, *_ = page.moment(visit, 2, heat=False)
    assert frame.shape == (128, 128, 3)
    assert "breach now" in words
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert [neighbour.similarity for neighbour in neighbours] == sorted((n.similarity for n in neighbours), reverse=True)
    assert not np.array_equal(frame, without) or visit.analysis.windows[2].breach_map.max() < 0.15


def test_a_broken_video_gives_a_sentence(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"<html>not a video</html>" * 50)
    with pytest.raises(DataError) as caught:
        page.open_video(Visit(), str(bad))
    assert "Traceback" not in sentence(caught.value)


def test_a_bug_is_an_apology_without_details() -> None:
    assert "secret" not in sentence(RuntimeError("secret"))


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which Gradio would keep uploads."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def upload(uploads: Path, video: Path, name: str = "clip.mp4") -> Path:
    path = uploads / "0123456789abcdef0123" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(video.read_bytes())
    return path


def test_what_a_visit_brought_and_made_goes_with_it(page: Page, video: Path, uploads: Path) -> None:
    visit = page.visits.of("one")
    path = upload(uploads, video)
    page.open_video(visit, str(path))
    list(page.analyse(visit, 1.0, None, False))
    (visit.folder / "events.json").write_text("{}")
    page.visits.leave("one")
    assert not path.exists()
    assert not visit.folder.exists()
    assert len(page.visits) == 0


def test_a_file_that_was_not_uploaded_is_never_deleted(page: Page, video: Path, uploads: Path) -> None:
    page.open_video(page.visits.of("one"), str(video))
    page.visits.leave("one")
    assert video.exists()


def test_the_next_upload_deletes_the_one_before(page: Page, video: Path, uploads: Path) -> None:
    visit = page.visits.of("one")
    first, second = upload(uploads, video), upload(uploads, video, "second.mp4")
    page.open_video(visit, str(first))
    page.open_video(visit, str(second))
    assert not first.exists()
    assert second.exists()


def test_two_visitors_with_the_same_file_do_not_lose_it(page: Page, video: Path, uploads: Path) -> None:
    path = upload(uploads, video)
    for name in ("one", "two"):
        page.open_video(page.visits.of(name), str(path))
    page.visits.leave("one")
    assert path.exists()
    page.visits.leave("two")
    assert not path.exists()


def test_a_broken_upload_is_not_kept_and_its_folder_not_told(page: Page, video: Path, uploads: Path) -> None:
    path = upload(uploads, video, "bad.mp4")
    path.write_bytes(b"no video")
    with pytest.raises(DataError) as caught:
        page.open_video(page.visits.of("one"), str(path))
    assert not path.exists()
    assert "bad.mp4" in sentence(caught.value)
    assert str(uploads) not in sentence(caught.value)


def test_the_upload_of_a_program_is_deleted_after_its_answer(page: Page, video: Path, uploads: Path) -> None:
    path = upload(uploads, video)
    assert page.events(path, "", 1.0)["windows"]
    assert not path.exists()


def test_a_video_that_is_looked_at_for_longer_than_an_hour_stays(
    page: Page, video: Path, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio's own schedule goes by age alone: three hours of surgery were gone after one, while they were analysed."""
    from gradio.route_utils import delete_files_created_by_app

    import surg.demo.visits
    from surg.demo.app import build

    blocks, visit, path = build(page), page.visits.of("one"), upload(uploads, video)
    page.open_video(visit, str(path))
    visit.running = True
    (visit.folder / "events.json").write_text("{}")
    (uploads / "frame.webp").write_bytes(b"pixels")
    blocks.upload_file_set.add(str(path))
    monkeypatch.setattr(surg.demo.visits, "IDLE_S", -GRACE_S - 2)  # all of this is older than an hour
    if blocks.delete_cache is not None:
        delete_files_created_by_app(blocks, -1)
    page.visits.sweep()
    assert path.exists()
    assert (visit.folder / "events.json").exists()
    assert not (uploads / "frame.webp").exists()


def test_pictures_older_than_every_visit_are_swept_and_younger_ones_stay(
    uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import surg.demo.visits

    visits = Visits()
    picture = uploads / "frame.webp"
    picture.write_bytes(b"pixels")
    visits.sweep()
    assert picture.exists()
    visit = visits.of("one")
    visit.began += GRACE_S + 2
    visits.sweep()
    assert not picture.exists()
    stop = visit.watch()
    assert visit.last_words(stop) == "The stream has ended."
    visit.touched -= surg.demo.visits.IDLE_S + 1
    visits.sweep()
    assert len(visits) == 0
    assert stop.is_set()
    assert "nothing was pressed on this page for an hour" in visit.last_words(stop)


def test_a_visit_that_ends_while_it_is_swept_keeps_nothing_of_the_others(
    uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits, look = Visits(), os.scandir
    leaving, picture = uploads / "visit-a", uploads / "z" / "frame.webp"
    for folder in (leaving, picture.parent):
        folder.mkdir()
    picture.write_bytes(b"pixels")
    visits.of("one").began += GRACE_S + 2

    def another_thread_is_first(where: str | Path) -> object:
        if Path(where) == leaving:
            leaving.rmdir()
        return look(where)

    monkeypatch.setattr(os, "scandir", another_thread_is_first)
    visits.sweep()
    assert not leaving.exists()
    assert not picture.exists()


def test_a_cancelled_analysis_ends_and_keeps_what_it_found(page: Page, video: Path) -> None:
    visit = Visit()
    page.open_video(visit, str(video))
    running = page.analyse(visit, 0.25, None, False)
    for _ in range(2):
        next(running)
    visit.stop.set()
    assert list(running) == []
    assert "stays below" in page.outcome(visit)
    assert 2 <= len(visit.analysis.windows) <= 3
    assert not visit.running
    visit.begin()
    list(page.analyse(visit, 0.25, None, False))
    assert len(visit.analysis.windows) > 5


def test_what_is_cancelled_while_it_waits_for_its_turn_does_not_begin(page: Page, video: Path) -> None:
    visit = Visit()
    page.open_video(visit, str(video))
    visit.stop.set()
    assert list(page.analyse(visit, 0.25, None, False)) == []
    assert page.outcome(visit) == "Cancelled before the first result."


def test_an_analysis_that_another_video_ends_leaves_the_next_one_alone(page: Page, video: Path) -> None:
    visit = Visit()
    page.open_video(visit, str(video))
    first = page.analyse(visit, 0.25, None, False)
    next(first)
    page.open_video(visit, str(video))
    second = page.analyse(visit, 0.25, None, False)
    next(second)
    assert list(first) == []
    assert visit.running
    assert len(list(second)) > 4


def test_two_models_are_compared_in_a_sentence(page: Page, video: Path) -> None:
    page.other = page.client
    visit = finished(page, video, compare=True)
    assert "same motion in 100%" in page.agreement(visit)
    assert "by 0.00 at most" in page.agreement(visit)
    assert page.agreement(finished(page, video)) == ""


def test_the_usual_stride_grows_with_the_video_up_to_two_seconds(
    page: Page, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    import surg.demo.pages

    visit = Visit()
    assert page.usual_stride(visit) == 0.5
    page.open_video(visit, str(video))
    for seconds, stride in ((4, 0.5), (60, 1.0), (600, 2.0), (7200, 2.0)):
        monkeypatch.setattr(surg.demo.pages, "probe", lambda _, length=seconds: SimpleNamespace(duration_s=length))
        assert page.usual_stride(visit) == stride


def test_the_time_left_is_said_as_one_says_it() -> None:
    assert [duration(value) for value in (8.4, 89, 100, 5300, 7500)] == ["8 s", "89 s", "2 min", "88 min", "2 h 5 min"]


def test_the_api_gives_events_as_plain_values(page: Page, video: Path) -> None:
    body = page.events(video, ZONE_TEXT, 0.5)
    assert json.dumps(body)
    assert len(body["windows"]) > 3
    assert body["zone"][0] == [0.25, 0.25]


def test_live_frames_never_queue_up(client: Client) -> None:
    ring = Ring(client.contract.preprocess)
    frame = np.zeros((64, 80, 3), np.uint8)
    assert read(client, ring) is None
    taken = [ring.put(frame, now / 100) for now in range(200)]
    assert 6 <= sum(taken) <= 10
    reading = read(client, ring)
    assert reading.dropped == 200 - sum(taken)
    assert ring.clip().shape == (8, 64, 80, 3)


def test_another_camera_starts_the_ring_anew(client: Client) -> None:
    ring = Ring(client.contract.preprocess)
    ring.put(np.zeros((64, 80, 3), np.uint8), 0.0)
    ring.put(np.ones((32, 32, 3), np.uint8), 1.0)
    assert ring.clip().shape == (8, 32, 32, 3)


def test_a_stream_gives_its_newest_frames_and_ends(video: Path) -> None:
    with Stream(str(video)) as stream:
        seen = [frame.shape for _, frame in stream.frames(patience_s=5)]
    assert 3 <= len(seen) <= 60
    assert set(seen) == {(128, 128, 3)}


@pytest.mark.parametrize("form", ["{}", " {}", "file://{}", "concat:{}", "subfile,,start,0,end,0,,:{}"])
def test_a_visitor_cannot_watch_a_file_of_this_machine(video: Path, form: str) -> None:
    with pytest.raises(DataError, match="no address of a stream") as caught:
        visitors_stream(form.format(video))
    assert video.name not in str(caught.value)


def test_a_stream_that_cannot_be_opened_does_not_repeat_its_password() -> None:
    with pytest.raises(DataError) as caught:
        Stream("rtsp://user:hunter2@127.0.0.1:9/none")
    assert "hunter2" not in str(caught.value)


def test_tracks_are_drawn_from_frames_up_to_the_moment(page: Page, tmp_path: Path) -> None:
    from surg.demo.examples import shipped
    from surg.demo.tracking import boxes_at

    example = next(example for example in shipped() if example.label == "withdraw")
    boxes = boxes_at(example.path, 1.6)
    assert boxes
    visit = finished(page, example.path)
    plain, *_ = page.moment(visit, len(visit.analysis.windows) - 1, heat=False)
    drawn, *_ = page.moment(visit, len(visit.analysis.windows) - 1, heat=False, tracks=True)
    assert not np.array_equal(plain, drawn)


def test_every_example_that_ships_can_be_opened(page: Page) -> None:
    from surg.demo.examples import shipped

    examples = shipped()
    assert {example.title.split(":")[0] for example in examples} == {"Tissue", "Room"}
    assert all((example.zone is not None) == example.title.startswith("Room") for example in examples)
    for example in examples:
        assert page.open_video(Visit(), str(example.path), example.zone) is not None


def test_the_api_reads_uploads_alone(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surg.demo.pages import uploaded

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    inside = tmp_path / "uploads" / "clip.mp4"
    inside.parent.mkdir()
    inside.write_bytes(video.read_bytes())
    assert uploaded({"path": str(inside)}) == inside
    for payload in ({"path": str(video)}, {"path": str(inside.parent / ".." / video.name)}, {}, str(video)):
        with pytest.raises(DataError, match="handle_file"):
            uploaded(payload)


@pytest.mark.parametrize("name", ["list.txt", "playlist.m3u8"])
def test_an_upload_cannot_show_files_of_this_machine(name: str, page: Page, video: Path, uploads: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.ts"
    with av.open(secret, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width = stream.height = 64
        for _ in range(25):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    picture = tmp_path / "secret.png"
    cv2.imwrite(str(picture), np.zeros((64, 64, 3), np.uint8))
    texts = {
        "list.txt": f"{picture}\t0\n{picture}\t1\n",
        "playlist.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
    }
    for look in (page.open_video, page.events):
        sent = uploads / name
        sent.write_text(texts[name])
        with pytest.raises(DataError) as caught:
            look(*((Visit(), str(sent)) if look == page.open_video else (sent, "", 0.5)))
        assert "list" in str(caught.value)
        assert "secret" not in str(caught.value)
