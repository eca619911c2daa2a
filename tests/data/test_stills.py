"""Pictures as video: folders, patterns, lists, single images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surg.data.video import Limits, iter_frames, probe, read_frames
from surg.errors import DataError
from tests.data import painted


def save(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(painted.paint(number)).save(path)
    return path


def test_a_folder_is_read_at_its_rate(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / "VID01" / f"{number:06d}.png", number)
    info = probe(tmp_path / "VID01", fps=2)
    assert (info.frames, info.duration_s, info.fps, info.width, info.height) == (12, 6.0, 2, 128, 96)
    assert painted.numbers_of(read_frames(tmp_path / "VID01", [0, 0.6, 5.5], fps=2)) == [0, 1, 11]
    assert painted.numbers_of(read_frames(tmp_path / "VID01", [0, 0.6, 11])) == [0, 0, 11]
    assert [time for time, _ in iter_frames(tmp_path / "VID01", fps=2, start_s=4)] == [4.0, 4.5, 5.0, 5.5]
    with pytest.raises(DataError, match="asked for an image"):
        read_frames(tmp_path / "VID01", [9.0], fps=2)


def test_a_folder_counts_img2_before_img10(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        save(tmp_path / "f" / f"img{number}.jpg", number)
    assert painted.numbers_of(read_frames(tmp_path / "f", [0, 1, 2])) == [1, 2, 10]


def test_what_a_mac_and_a_windows_editor_leave_is_no_picture(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / "f" / f"img{number}.png", number)
    (tmp_path / "f/._img1.png").write_bytes(b"finder")
    assert painted.numbers_of(read_frames(tmp_path / "f", [0, 1])) == [1, 2]
    (tmp_path / "list.txt").write_text("\ufefff/img2.png\r\nf/img1.png\r\n", "utf-8", newline="")
    assert painted.numbers_of(read_frames(tmp_path / "list.txt", [0, 1])) == [2, 1]


def test_a_pattern_picks_one_camera_out_of_a_folder_and_forgives_gaps(tmp_path: Path) -> None:
    for number in (3, 4, 9):
        save(tmp_path / f"camera01_colorimage-{number:06d}.png", number)
        save(tmp_path / f"camera02_colorimage-{number:06d}.png", 100 + number)
    assert painted.numbers_of(read_frames(tmp_path / "camera02_colorimage-%06d.png", [0, 1, 2])) == [103, 104, 109]


def test_a_list_gives_images_from_anywhere_with_their_times(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "elsewhere" / f"{number}.png", number)
    frames = tmp_path / "frames.txt"
    frames.write_text("elsewhere/2.png\t0\nelsewhere/0.png\t0.5\nelsewhere/1.png\t4\n")
    assert painted.numbers_of(read_frames(frames, [0.2, 3.9, 4.0])) == [2, 0, 1]
    frames.write_text("elsewhere/1.png\nelsewhere/1.png\n")
    assert probe(frames, fps=4).duration_s == 0.5
    for wrong in ("", "elsewhere/1.png\t3\nelsewhere/2.png\t1\n", "elsewhere/1.png\nelsewhere/2.png\t1\n", "/etc/passwd\n"):
        frames.write_text(wrong)
        with pytest.raises(DataError, match=r"frames\.txt"):
            read_frames(frames, [0.0])


def test_one_image_stands_for_as_long_as_is_asked(tmp_path: Path) -> None:
    path = save(tmp_path / "one.png", 77)
    assert painted.numbers_of(read_frames(path, [0, 3, 100])) == [77, 77, 77]


def test_an_image_is_shown_upright(tmp_path: Path) -> None:
    picture = Image.fromarray(painted.paint(5))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    assert read_frames(tmp_path / "turned.png", [0]).shape == (1, 128, 96, 3)
    assert (probe(tmp_path / "turned.png").width, probe(tmp_path / "turned.png").height) == (96, 128)


def test_bad_images_are_named_and_never_replaced(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "f" / f"{number}.png", number)
    broken = tmp_path / "f" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert painted.numbers_of(read_frames(tmp_path / "f", [0, 2])) == [0, 2]
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image"):
        read_frames(tmp_path / "f", [0, 1])
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(broken)
    with pytest.raises(DataError, match="different sizes"):
        read_frames(tmp_path / "f", [0, 1])
    with pytest.raises(DataError, match="holds no images"):
        (tmp_path / "none").mkdir()
        probe(tmp_path / "none")


def test_an_image_whose_header_claims_too_much_is_refused_before_decoding(tmp_path: Path) -> None:
    path = save(tmp_path / "bomb.png", 1)
    with pytest.raises(DataError, match="128 x 96 pixels"):
        read_frames(path, [0], limits=Limits(pixels=1000))


def test_grey_pictures_of_16_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
        read = read_frames(tmp_path / name, [0.0])[0]
        assert read.shape == (48, 64, 3)
        assert np.array_equal(read[..., 0], ramp >> 8)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pictures_of_32_bits_are_refused_and_not_black_or_white(kind: type, tmp_path: Path) -> None:
    Image.fromarray((np.linspace(0, 1000, 64 * 48).reshape(48, 64)).astype(kind)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="32 bits"):
        read_frames(tmp_path / "a.tiff", [0.0])
