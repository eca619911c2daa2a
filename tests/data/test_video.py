"""Decoding: the right frame for a time, whatever the container says or leaves out."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from surg.data import video
from surg.data.video import Limits, iter_frames, probe, read_frames, write_video
from surg.errors import DataError
from tests.data import painted

X264 = {"preset": "veryfast", "g": "30", "crf": "20"}
KINDS = {
    "plain.mp4": {"options": X264},
    "no_b_frames.mp4": {"options": {**X264, "bf": "0"}},
    "deep_b_pyramid.mp4": {"options": {**X264, "bf": "16", "x264-params": "b-pyramid=normal:b-adapt=0:keyint=200"}},
    "open_gop.mkv": {"options": {**X264, "x264-params": "open-gop=1:keyint=20"}},
    "intra_only.mp4": {"options": {**X264, "g": "1"}},
    "stream.ts": {"options": X264, "format": "mpegts"},
    "hevc.mp4": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=30"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "g": "30"}},
    "fragmented.mp4": {"options": X264, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "endless.mkv": {"options": X264, "format": "matroska", "container_options": {"live": "1"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_at_a_time_is_the_one_shown_then(kind: str, tmp_path: Path) -> None:
    path = painted.write(tmp_path / kind, 100, 25, **KINDS[kind])
    rng = np.random.default_rng(0)
    for _ in range(12):
        # A quarter of a frame inside: which frame a time on the very edge belongs to depends on the container's clock.
        numbers = np.sort(rng.integers(0, 100, rng.integers(1, 17)))
        assert painted.numbers_of(read_frames(path, (numbers + rng.uniform(0.25, 0.75)) / 25)) == numbers.tolist()


@pytest.mark.parametrize("threads", [1, 2])
def test_every_frame_comes_once_and_in_order(threads: int, tmp_path: Path) -> None:
    path = painted.write(tmp_path / "a.mp4", 100, 25, options={**X264, "bf": "3"})
    seen = list(iter_frames(path, threads=threads))
    assert [painted.number_of(frame) for _, frame in seen] == list(range(100))
    assert [time for time, _ in seen] == pytest.approx(np.arange(100) / 25, abs=1e-3)


def test_times_in_any_order_and_repeated_give_frames_in_that_order(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "a.mp4", 100, 25, options=X264)
    assert painted.numbers_of(read_frames(path, [3.0, 0.0, 3.0, 1.02, 3.99])) == [75, 0, 75, 25, 99]


def test_times_far_apart_search_anew_and_stay_exact(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "a.mp4", 200, 5, options={**X264, "g": "10"})
    assert painted.numbers_of(read_frames(path, [0.1, 15.1, 15.3, 39.9])) == [0, 75, 76, 199]


def test_variable_rate_is_read_by_time_stamp_not_by_counting(tmp_path: Path) -> None:
    stamps = np.cumsum(np.random.default_rng(1).integers(20, 300, 60))
    stamps -= stamps[0]
    path = painted.write(tmp_path / "vfr.mp4", stamps=stamps.tolist(), options=X264)
    middles = (stamps[:-1] + stamps[1:]) / 2000
    assert painted.numbers_of(read_frames(path, middles)) == list(range(59))
    by_time = {painted.number_of(frame): time for time, frame in iter_frames(path)}
    assert [by_time[index] for index in range(60)] == pytest.approx(stamps / 1000, abs=2e-3)


def test_a_time_between_frames_shows_the_earlier_one_never_the_later(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "a.mp4", 20, 1, options=X264)
    assert painted.numbers_of(read_frames(path, [4.999, 5.001])) == [4, 5]


@pytest.mark.parametrize(("degrees", "size"), [(90, (96, 128)), (180, (128, 96)), (270, (96, 128))])
def test_rotation_metadata_turns_the_picture_upright(degrees: int, size: tuple[int, int], tmp_path: Path) -> None:
    path = painted.write(tmp_path / "a.mp4", 10, 25, options=X264)
    plain = read_frames(path, [0.2])[0]
    info = probe(painted.turn(path, degrees))
    assert (info.width, info.height) == size
    turned = read_frames(path, [0.2])[0]
    # The matrix says how a player turns the stored picture clockwise.
    assert np.array_equal(turned, np.rot90(plain, -degrees // 90))
    assert np.array_equal(next(iter_frames(path, start_s=0.2))[1], turned)


@pytest.mark.parametrize("kind", ["plain.mp4", "endless.mkv", "stream.ts", "fragmented.mp4", "mpeg4.avi"])
def test_probe_finds_length_and_rate_also_where_the_container_is_silent(kind: str, tmp_path: Path) -> None:
    info = probe(painted.write(tmp_path / kind, 100, 25, **KINDS[kind]))
    assert info.duration_s == pytest.approx(4.0, abs=0.09)
    assert info.frames == pytest.approx(100, abs=1)
    assert info.fps == pytest.approx(25, rel=0.02)
    assert (info.width, info.height, info.rotation) == (128, 96, 0)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_cover_before_the_film_is_not_taken_for_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"covered.{suffix}"
    with av.open(str(path), "w") as container:
        cover, film = container.add_stream("mjpeg", rate=25), container.add_stream("libx264", rate=25)
        for stream, size, pixels in ((cover, 32, "yuvj420p"), (film, 64, "yuv420p")):
            stream.width, stream.height, stream.pix_fmt = size, size, pixels
        for stream, count, size in ((cover, 1, 32), (film, 50, 64)):
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 4 * index, np.uint8), format="rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    info = probe(path)
    assert (info.width, info.duration_s) == (64, pytest.approx(2.0, abs=0.05))
    assert [round(float(frame.mean()) / 4) for frame in read_frames(path, [0.0, 1.0])] == [0, 25]
    assert len(list(iter_frames(path, 5.0))) == 10


@pytest.mark.parametrize("suffix", ["mkv", "flv", "mp4", "avi", "ts"])
def test_sound_that_outlasts_the_picture_makes_no_longer_video(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"talks.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        voice = container.add_stream("aac", rate=44100)
        for index in range(100):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(painted.paint(index), format="rgb24")))
        container.mux(stream.encode())
        for start in range(0, 9 * 44100, 1024):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 44100, start
            container.mux(voice.encode(sound))
        container.mux(voice.encode())
    assert probe(path).duration_s == pytest.approx(4.0, abs=0.1)
    assert painted.numbers_of(read_frames(path, [probe(path).duration_s])) == [99]


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_stamps_that_begin_late_make_no_longer_video(suffix: str, tmp_path: Path) -> None:
    """A recorder's second piece, whose clock goes on where the first one's ended."""
    path = painted.write(tmp_path / f"b.{suffix}", stamps=[100_000 + 40 * index for index in range(100)])
    assert probe(path).duration_s == pytest.approx(4.0, abs=0.1)
    assert painted.numbers_of(read_frames(path, [1.0])) == [25]


def test_a_percent_sign_in_a_name_makes_no_pattern_of_a_video(tmp_path: Path) -> None:
    for name in ("Fundus 50%_a.mp4", "5%d.mp4"):
        path = painted.write(tmp_path / name, 10, 25)
        assert painted.numbers_of(read_frames(path, [0.2])) == [5]


def test_a_raw_stream_without_time_stamps_is_read(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "raw.h264", 50, 25, format="h264", options={**X264, "bf": "0"})
    assert probe(path).frames == 50
    assert painted.numbers_of([frame for _, frame in iter_frames(path)]) == list(range(50))


@pytest.mark.parametrize("kind", ["plain.mp4", "deep_b_pyramid.mp4", "stream.ts", "mpeg4.avi"])
def test_naming_the_times_ahead_gives_the_frames_shown_then(kind: str, tmp_path: Path) -> None:
    path = painted.write(tmp_path / kind, 100, 25, **KINDS[kind])
    # Up to a given end the times are known ahead and frames between them may be skipped.
    seen = list(iter_frames(path, 3.7, start_s=0.51, end_s=3.5))
    times = 0.51 + np.arange(12) / 3.7
    assert [time for time, _ in seen] == pytest.approx(times[times < 3.5])
    assert painted.numbers_of([frame for _, frame in seen]) == [int(time * 25) for time, _ in seen]


def test_a_slow_video_repeats_its_frames(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "slow.mp4", 5, 1, options=X264)
    frames = read_frames(path, np.arange(8) / 4)
    assert painted.numbers_of(frames) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [painted.number_of(frame) for _, frame in iter_frames(path, fps=2)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_video_of_one_frame_repeats_it(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "one.mp4", 1, 25, options=X264)
    assert painted.numbers_of(read_frames(path, [0.0, 1.0, 5.0])) == [0, 0, 0]


def test_a_time_beyond_the_end_is_an_error_but_for_rounding(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "a.mp4", 50, 25, options=X264)
    assert painted.numbers_of(read_frames(path, [2.0, 2.3])) == [49, 49]
    with pytest.raises(DataError, match="asked for a frame at 9"):
        read_frames(path, [1.0, 9.0])


def test_a_cut_off_video_is_an_error_where_frames_are_missing(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "a.mkv", 100, 25, options=X264)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.5)])
    assert painted.numbers_of(read_frames(path, [0.5, 1.0])) == [12, 25]
    with pytest.raises(DataError, match=r"last that can be decoded|no frame that can be decoded"):
        read_frames(path, [3.0, 3.9])


def test_gif_is_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    pictures = [Image.fromarray(painted.paint(index)) for index in range(10)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    assert probe(path).duration_s == pytest.approx(1.0, abs=0.11)
    assert painted.numbers_of(read_frames(path, [0.05, 0.55, 0.95])) == [0, 5, 9]


def test_write_video_keeps_what_was_written(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", (painted.paint(index) for index in range(40)), 29.97)
    info = probe(tmp_path / "a.mp4")
    assert info.fps == pytest.approx(29.97, rel=1e-3)
    assert painted.numbers_of([frame for _, frame in iter_frames(tmp_path / "a.mp4")]) == list(range(40))
    sizes = []
    for crf in (10, 40):
        write_video(tmp_path / "b.mp4", np.random.default_rng(0).integers(0, 255, (10, 97, 129, 3), np.uint8), 10, crf=crf)
        sizes.append((tmp_path / "b.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]
    assert probe(tmp_path / "b.mp4").width == 128
    with pytest.raises(DataError, match="no frames"):
        write_video(tmp_path / "none.mp4", [], 10)
    assert not (tmp_path / "none.mp4").exists()


def test_limits_refuse_what_would_fill_the_memory(tmp_path: Path) -> None:
    path = painted.write(tmp_path / "a.mp4", 50, 25, options=X264)
    with pytest.raises(DataError, match=r"expected 1 to 1000 in all|cannot be read"):
        read_frames(path, [0.0], limits=Limits(pixels=1000))
    with pytest.raises(DataError, match="lasts"):
        probe(path, limits=Limits(duration_s=1.0))
    with pytest.raises(DataError, match="at most 10"):
        read_frames(path, np.arange(11) / 25, limits=Limits(frames=10))
    with pytest.raises(DataError, match="GiB"):
        read_frames(path, [0.0, 0.1], limits=Limits(bytes=50_000))


def test_what_is_no_video_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no video"):
        read_frames(tmp_path / "absent.mp4", [0.0])
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DataError, match="cannot be read as a video"):
        read_frames(tmp_path / "empty.mp4", [0.0])
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
    with pytest.raises(DataError, match="no video in it"):
        probe(tmp_path / "sound.wav")
    for times in ([], [-1.0], [np.nan]):
        with pytest.raises(DataError, match="expected times in seconds"):
            read_frames(tmp_path / "empty.mp4", times)


def test_real_videos_decode_the_same_by_search_as_from_the_start(real_videos: list[Path]) -> None:
    for path in real_videos:
        info = probe(path)
        every = [(time, frame[::16, ::16].copy()) for time, frame in iter_frames(path, end_s=3.0)]
        assert len(every) > 5, path.name
        starts = np.array([time for time, _ in every])
        assert (np.diff(starts) > 0).all(), path.name
        wanted = np.linspace(starts[0], min(2.8, info.duration_s - 0.2), 7)
        for time, frame in zip(wanted, read_frames(path, wanted)):
            shown = int(np.searchsorted(starts, time + 1e-6, side="right")) - 1
            assert np.array_equal(frame[::16, ::16], every[max(shown, 0)][1]), (path.name, time)


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_a_playlist_is_no_video_and_leads_nowhere(text: str, tmp_path: Path) -> None:
    write_video(tmp_path / "other.mp4", np.zeros((8, 64, 64, 3), np.uint8), 8)
    (tmp_path / "list.m3u8").write_text(text.format("other.mp4"))
    with pytest.raises(DataError, match=r"is a playlist|cannot be read"):
        probe(tmp_path / "list.m3u8")


def test_recordings_joined_in_one_stream_are_refused_and_not_half_seen(tmp_path: Path) -> None:
    piece = painted.write(tmp_path / "a.ts", 60, 25, options=X264, format="mpegts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(piece.read_bytes() * 2)

    assert probe(piece).frames == 60
    with pytest.raises(DataError, match=r"begins again after 2\.\d s"):
        probe(joined)
    for rate in (None, 25.0):
        with pytest.raises(DataError, match="several recordings"):
            list(iter_frames(joined, rate))


def test_a_file_without_a_stated_length_is_walked_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = painted.write(tmp_path / "a.mkv", 50, 25, options=X264)
    first = probe(path)
    with monkeypatch.context() as patch:
        patch.setattr(video, "demux", lambda *_: pytest.fail("walked again"))
        assert probe(path) == first
    painted.write(path, 75, 25, options=X264)
    assert (first.frames, probe(path).frames) == (50, 75)


def test_a_recording_stamped_in_milliseconds_has_the_rate_of_its_frames(tmp_path: Path) -> None:
    # 40 ms and 60 ms in turn: 20 frames a second, while the file says 1000.
    stamps = [50 * number + 10 * (number % 2) for number in range(40)]
    path = painted.write(tmp_path / "browser.webm", fps=1000, codec="libvpx", stamps=stamps)
    info = probe(path)
    assert info.frames == 40
    assert info.fps == pytest.approx(20, rel=0.05)
