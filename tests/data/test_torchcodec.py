"""torchcodec behind the seam of `read_frames`: the same frames, and clear words where it is not there."""

import sys
from pathlib import Path

import numpy as np
import pytest

from surg.data.video import read_frames
from surg.errors import ConfigError, DataError
from tests.data import painted

X264 = {"crf": "18", "g": "12", "bf": "2"}


def installed() -> bool:
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return False
    return True


# Slow, so that CI, which has no FFmpeg beside PyAV's, leaves them out.
needs_torchcodec = pytest.mark.skipif(not installed(), reason="needs torchcodec and FFmpeg's libraries")


@pytest.mark.slow
@needs_torchcodec
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_frames_are_those_of_pyav(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = painted.write(tmp_path / name, options=X264 if name != "a.avi" else {})
    times = [0.9, 0.0, 0.31, 0.31, 1.0]
    plain = read_frames(path, times)
    monkeypatch.setenv("SURG_DECODER", "torchcodec")
    assert np.abs(read_frames(path, times).astype(int) - plain).max() <= 2


@pytest.mark.slow
@needs_torchcodec
def test_a_time_beyond_the_end_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURG_DECODER", "torchcodec")
    path = painted.write(tmp_path / "a.mp4", options=X264)
    with pytest.raises(DataError, match="clip ends beyond the video"):
        read_frames(path, [500.0])


def test_without_it_the_words_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = painted.write(tmp_path / "a.mp4", options=X264)
    monkeypatch.setenv("SURG_DECODER", "torchcodec")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match="pip install torchcodec"):
        read_frames(path, [0.0])


def test_an_unknown_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURG_DECODER", "ffmpeg")
    with pytest.raises(ConfigError, match="'ffmpeg'; expected one of: pyav, torchcodec, torchcodec-cuda"):
        read_frames(painted.write(tmp_path / "a.mp4", options=X264), [0.0])
