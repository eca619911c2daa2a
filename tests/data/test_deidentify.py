import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from subprocess import CompletedProcess

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from surg.data.deidentify import DeidentifyConfig, deidentified, deidentify
from surg.data.deidentify_run import deidentify_all
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.out_of_body import OutOfBodyConfig, is_dark, look, stretches_outside
from surg.data.overlay import crop_without, find_overlay
from surg.data.segment.given import read_masks
from surg.data.sources import probe_clip, read_clip
from surg.data.stills import open_stills
from surg.data.video import iter_frames, probe, read_frames, write_video
from surg.errors import ConfigError, DataError

Frame = npt.NDArray[np.uint8]
SIZE = (128, 192)
FPS = 8


def tissue(index: int, size: tuple[int, int] = SIZE) -> Frame:
    """Soft red noise that drifts: what an endoscope shows, as far as colour and motion go."""
    height, width = size
    noise = np.random.default_rng(1).random((height // 8 + 2, width // 8 + 40)).astype(np.float32)
    shifted = cv2.resize(np.roll(noise, -index, axis=1), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(index).random((height, width), np.float32)
    light = np.clip(90 + 130 * shifted + 12 * grain, 0, 255)
    return np.stack([light, 0.45 * light, 0.42 * light], axis=2).astype(np.uint8)


def room(index: int, size: tuple[int, int] = SIZE) -> Frame:
    """Grey walls, a green drape, somebody in blue who walks by."""
    frame = np.full((*size, 3), (150, 155, 158), np.uint8)
    cv2.rectangle(frame, (30, 70), (160, 128), (40, 120, 100), -1)
    cv2.rectangle(frame, (10 + 2 * index % 120, 20), (40 + 2 * index % 120, 100), (60, 80, 140), -1)
    return frame


def named(frame: Frame) -> Frame:
    out = frame.copy()
    cv2.putText(out, "DOE JOHN 1961", (6, SIZE[0] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    return out


def write(path: Path, frames: list[Frame], *, fps: int = FPS, sound: bool = False, **metadata: str) -> Path:
    """A recording as a device makes it: with a title, perhaps with sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update(metadata)
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast"}
        stream.metadata["title"] = metadata.get("title", "")
        voice = container.add_stream("aac", rate=16000) if sound else None
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        if voice is not None:
            for start in range(0, 16000, 1024):
                audio = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                audio.sample_rate, audio.pts = 16000, start
                container.mux(voice.encode(audio))
            container.mux(voice.encode())
    return path


def greys(path: Path) -> list[float]:
    return [float(frame.mean()) for _, frame in iter_frames(path)]


def dark_seconds(path: Path) -> list[int]:
    return [second for second in range(int(probe(path).duration_s)) if read_frames(path, [second + 0.5]).max() < 20]


# ------------------------------------------------------------------ metadata, sound, the original


def test_the_copy_has_no_metadata_and_no_sound(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.mp4", [tissue(i) for i in range(16)], sound=True, title="Doe, John", comment="MRN 0815", hospital="North"
    )
    with av.open(str(source)) as container:
        assert {container.metadata["title"], container.metadata["hospital"]} == {"Doe, John", "North"}
        assert len(container.streams) == 2
    copy, finding = deidentify(source, tmp_path / "out/a", DeidentifyConfig())
    with av.open(str(copy)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        text = str([container.metadata, *(stream.metadata for stream in container.streams)]).lower()
    assert not any(word in text for word in ("doe", "0815", "north", "creation_time"))
    assert b"Doe" not in copy.read_bytes()
    assert {"title", "comment", "hospital"} <= set(finding.metadata_removed)
    assert finding.streams_removed == 1


def test_the_original_is_never_changed(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mp4", [tissue(i) for i in range(16)], title="Doe")
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    deidentify(source, tmp_path / "out/a", DeidentifyConfig())
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    with pytest.raises(DataError, match="overwrite the original"):
        deidentify(source, source, DeidentifyConfig())


def test_times_stay_as_they_were(tmp_path: Path) -> None:
    frames = [tissue(i) for i in range(32)]
    source = write(tmp_path / "in.mp4", frames)
    copy, finding = deidentify(source, tmp_path / "a", DeidentifyConfig(overlay="keep"))
    assert finding.frames == len(frames)
    for time in (0.0, 1.3, 3.9):
        difference = read_frames(copy, [time]).astype(int) - read_frames(source, [time]).astype(int)
        assert np.abs(difference).mean() < 4


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    """A recorder's 1440 x 1080 that players show as 16:9."""
    write_video(tmp_path / "a.mp4", [tissue(index) for index in range(10)], FPS, pixel_aspect=Fraction(4, 3))
    copy, _ = deidentify(tmp_path / "a.mp4", tmp_path / "b", DeidentifyConfig())
    assert probe(tmp_path / "a.mp4").pixel_aspect == probe(copy).pixel_aspect == Fraction(4, 3)
    assert probe(write(tmp_path / "c.mp4", [tissue(0)])).pixel_aspect == 1


def test_quality_is_an_option(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mp4", [tissue(i) for i in range(16)])
    fine, _ = deidentify(source, tmp_path / "fine", DeidentifyConfig(crf=10))
    coarse, _ = deidentify(source, tmp_path / "coarse", DeidentifyConfig(crf=40))
    assert fine.stat().st_size > 2 * coarse.stat().st_size


# ------------------------------------------------------------------ out of the body


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s of tissue, 5 s of the room, 6 s of tissue."""
    frames = [tissue(i) for i in range(48)] + [room(i) for i in range(40)] + [tissue(i) for i in range(48)]
    return write(tmp_path_factory.mktemp("visit") / "in.mp4", frames)


def test_the_room_becomes_black_and_tissue_stays(visit: Path, tmp_path: Path) -> None:
    copy, finding = deidentify(visit, tmp_path / "a", DeidentifyConfig())
    assert dark_seconds(copy) == [5, 6, 7, 8, 9, 10, 11]
    assert finding.blanked == ((5.0, 12.0),)
    assert finding.blanked_s == 7.0


def test_recordings_of_rooms_keep_the_room(visit: Path, tmp_path: Path) -> None:
    copy, finding = deidentify(visit, tmp_path / "a", DeidentifyConfig(out_of_body="keep"))
    assert dark_seconds(copy) == []
    assert finding.blanked == ()


def test_the_margin_covers_the_way_in_and_out() -> None:
    looks = [look(tissue(0))] * 20 + [look(room(0))] * 10 + [look(tissue(0))] * 20
    times = [0.5 * index for index in range(50)]
    assert stretches_outside(times, looks, OutOfBodyConfig(margin_s=0.0)) == [(10.0, 15.0)]
    assert stretches_outside(times, looks, OutOfBodyConfig(margin_s=2.0)) == [(8.0, 17.0)]


def test_one_flash_does_not_blank() -> None:
    looks = [look(tissue(0))] * 10 + [look(room(0))] + [look(tissue(0))] * 10
    times = [0.5 * index for index in range(21)]
    assert stretches_outside(times, looks, OutOfBodyConfig()) == []
    assert stretches_outside(times, looks, OutOfBodyConfig(window_s=0.0, margin_s=0.0)) == [(5.0, 5.5)]


@pytest.mark.parametrize(("before", "outside", "after"), [(48, 8, 48), (0, 4, 64), (64, 4, 0)])
def test_a_short_view_of_the_room_does_not_stay(tmp_path: Path, before: int, outside: int, after: int) -> None:
    """A second in the middle, half a second at either end, at 8 pictures a second."""
    frames = [tissue(i) for i in range(before)] + [room(i) for i in range(outside)] + [tissue(i) for i in range(after)]
    copy, _ = deidentify(write(tmp_path / "in.mp4", frames), tmp_path / "a", DeidentifyConfig(overlay="keep"))
    shown = greys(copy)
    assert max(shown[before : before + outside], default=0.0) < 5
    assert sum(grey > 50 for grey in shown) >= len(frames) - outside - 20


def test_a_higher_threshold_blanks_more() -> None:
    pale = (0.5 * tissue(0) + 0.5 * room(0)).astype(np.uint8)
    looks = [look(pale)] * 10
    low, high = (stretches_outside(range(10), looks, OutOfBodyConfig(threshold=value)) for value in (-2.0, 2.0))
    assert (low, high) == ([], [(0.0, 11.0)])


def test_black_pictures_are_neither_inside_nor_outside() -> None:
    black = look(np.zeros((*SIZE, 3), np.uint8))
    assert black.dark
    assert stretches_outside(range(5), [black] * 5, OutOfBodyConfig()) == []


def test_every_picture_is_told_dark_or_not_as_by_a_whole_look() -> None:
    rng = np.random.default_rng(0)
    disc = np.hypot(*np.mgrid[-90:90, -160:160]) < 60
    for level in (5, 20, 30, 40, 90, 128, 140, 200, 255):
        for share in (0.01, 0.02, 0.03, 0.05, 0.2, 0.3, 1.0):
            frame = np.zeros((180, 320, 3), np.uint8)
            frame[: max(1, round(180 * share)), :, rng.integers(3) :] = level
            specks = (rng.random((180, 320, 1)) < share).astype(np.uint8) * np.full(3, level, np.uint8)
            red = disc[..., None] * np.array([level, level // 3, level // 4], np.uint8)
            for picture in (frame, specks, red):
                assert is_dark(picture) == look(picture).dark


def test_a_title_on_black_does_not_stay(tmp_path: Path) -> None:
    """A recorder begins with the patient's name: too few lit pixels to count as a view of anything."""
    title = np.zeros((*SIZE, 3), np.uint8)
    cv2.putText(title, "DOE JOHN", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
    assert look(title).dark
    source = write(tmp_path / "in.mp4", [title] * 24 + [tissue(i) for i in range(48)])
    copy, _ = deidentify(source, tmp_path / "a", DeidentifyConfig())
    assert read_frames(copy, [0.0, 1.0, 2.8]).max() < 20
    assert read_frames(copy, [3.1]).max() > 100
    kept, _ = deidentify(source, tmp_path / "b", DeidentifyConfig(out_of_body="keep"))
    assert read_frames(kept, [1.0]).max() > 100


# ------------------------------------------------------------------ burnt-in text


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("labelled") / "in.mp4", [named(tissue(2 * i)) for i in range(96)])


def test_text_is_found_where_it_stands_and_nothing_else(labelled: Path) -> None:
    found = find_overlay([frame for _, frame in iter_frames(labelled, 2.0)])
    assert found.told
    assert found.boxes
    assert all(box[1] > 0.8 for box in found.boxes)
    clean = find_overlay([tissue(8 * i) for i in range(24)])
    assert (clean.told, clean.boxes) == (True, ())


def test_text_is_cropped_away(labelled: Path, tmp_path: Path) -> None:
    copy, finding = deidentify(labelled, tmp_path / "a", DeidentifyConfig())
    assert finding.crop is not None
    assert finding.crop[:3] == (0.0, 0.0, 1.0)
    info = probe(copy)
    assert info.width == SIZE[1]
    assert info.height < 0.92 * SIZE[0]
    assert read_frames(copy, [3.0]).max() < 250


def test_text_can_be_painted_over(labelled: Path, tmp_path: Path) -> None:
    copy, finding = deidentify(labelled, tmp_path / "a", DeidentifyConfig(overlay="blank"))
    assert finding.crop is None
    assert probe(copy).height == SIZE[0]
    assert read_frames(copy, [3.0])[0, -16:-4, 8:100].max() < 60


def test_text_can_be_kept(labelled: Path, tmp_path: Path) -> None:
    copy, finding = deidentify(labelled, tmp_path / "a", DeidentifyConfig(overlay="keep"))
    assert (finding.overlay_boxes, finding.crop) == ((), None)
    assert read_frames(copy, [3.0]).max() > 230


def test_a_camera_that_stands_still_is_said_and_not_guessed() -> None:
    standing = [named(tissue(0))] * 24
    assert not find_overlay(standing).told
    assert not find_overlay([tissue(i) for i in range(5)]).told


def test_the_rim_of_an_endoscopes_disc_is_no_text() -> None:
    disc = np.zeros(SIZE, np.uint8)
    cv2.circle(disc, (96, 64), 62, 1, -1)
    found = find_overlay([tissue(8 * i) * disc[..., None] for i in range(24)])
    assert (found.told, found.boxes) == (True, ())


def test_the_crop_that_keeps_most_is_taken_and_too_small_a_crop_is_none() -> None:
    assert crop_without([(0.0, 0.9, 0.3, 1.0)]) == (0.0, 0.0, 1.0, 0.9)
    assert crop_without([(0.0, 0.9, 0.3, 1.0), (0.9, 0.0, 1.0, 0.1)]) in [(0.0, 0.1, 1.0, 0.9), (0.0, 0.0, 0.9, 0.9)]
    assert crop_without([(0.4, 0.4, 0.6, 0.6)]) is None or crop_without([(0.4, 0.4, 0.6, 0.6)]) == (0.6, 0.0, 1.0, 1.0)
    assert crop_without([(0.2, 0.2, 0.8, 0.8)]) is None
    assert crop_without([]) == (0.0, 0.0, 1.0, 1.0)


# ------------------------------------------------------------------ pictures


def test_folders_of_pictures_become_pictures_with_their_times(tmp_path: Path) -> None:
    listed = []
    for index in range(6):
        path = tmp_path / f"in/{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), tissue(index)[..., ::-1])
        listed.append(f"in/{index}.jpg\t{3 * index}")
    (tmp_path / "list.txt").write_text("\n".join(listed))
    copy, finding = deidentify(tmp_path / "list.txt", tmp_path / "out/a", DeidentifyConfig())
    assert [time for time, _ in iter_frames(copy)] == [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]
    assert finding.frames == 6


def test_pictures_without_times_keep_the_rate_of_their_manifest(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(40):
        cv2.imwrite(str(tmp_path / f"in/{index:04d}.png"), tissue(index)[..., ::-1])
    write_manifest(tmp_path / "m.parquet", [Clip(str(tmp_path / "in"), 0.0, 4.0, "doe", meta={"fps": "10"})])
    done = deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(overlay="keep"), workers=1)
    assert done.manifest is not None
    (copy,) = Manifest.read(done.manifest).clips()
    assert np.array_equal(read_clip(copy, [2.0])[0][0], tissue(20))
    assert probe_clip(copy).duration_s == pytest.approx(4.0)


def test_copies_of_pictures_can_be_handed_on_without_the_folder_they_were_made_in(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"in/{index}.png"), tissue(index)[..., ::-1])
    copy, _ = deidentify(tmp_path / "in", tmp_path / "out/a", DeidentifyConfig(overlay="keep"))
    assert str(tmp_path) not in copy.read_text()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert read_frames(tmp_path / "elsewhere/a.txt", [1.0]).shape[0] == 1


# ------------------------------------------------------------------ many videos


def collection(root: Path) -> Path:
    for name in ("doe_john", "roe_jane"):
        write(root / f"{name}.mp4", [tissue(i) for i in range(24)], title=name)
    return root


def test_copies_have_names_that_say_nothing_and_a_list_beside_them_that_does(tmp_path: Path) -> None:
    done = deidentify_all([collection(tmp_path / "in")], tmp_path / "out", DeidentifyConfig(), workers=1)
    inside = " ".join(str(path) for path in (tmp_path / "out").rglob("*")) + (tmp_path / "out/deidentify.json").read_text()
    assert "doe" not in inside
    assert "roe" not in inside
    assert done.names == tmp_path / "out.names.csv"
    assert {Path(row["original"]).stem for row in csv.DictReader(done.names.open())} == {"doe_john", "roe_jane"}
    assert len(list((tmp_path / "out/videos").glob("*.mp4"))) == 2


def test_another_run_gives_the_same_names(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        deidentify_all([collection(tmp_path / "in")], tmp_path / "out", DeidentifyConfig(), workers=1)
        names.append(sorted(path.name for path in (tmp_path / "out/videos").iterdir()))
    assert names[0] == names[1]


def test_a_run_that_is_broken_off_leaves_no_report_of_the_copies_that_it_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write_manifest(
        tmp_path / "m.parquet", [Clip(str(path), 0, 1, "c") for path in sorted(collection(tmp_path / "in").glob("*.mp4"))]
    )
    out = tmp_path / "out"
    deidentify_all([tmp_path / "m.parquet"], out, DeidentifyConfig(), workers=1)
    assert {"manifest.parquet", "deidentify.json"} <= {path.name for path in out.iterdir()}
    monkeypatch.setattr("surg.data.deidentify_run.deidentify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deidentify_all([tmp_path / "m.parquet"], out, DeidentifyConfig(overlay="keep"), workers=1)
    assert [path.name for path in out.iterdir()] == ["videos"]


def test_the_manifest_of_originals_is_not_written_over_by_that_of_the_copies(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_manifest(out / "manifest.parquet", [Clip(str(path), 0, 1, "c") for path in collection(tmp_path / "in").glob("*.mp4")])
    with pytest.raises(ConfigError, match="is where the manifest of the copies is written"):
        deidentify_all([out / "manifest.parquet"], out, DeidentifyConfig(), workers=1)
    assert len(Manifest.read(out / "manifest.parquet")) == 2


def test_names_can_be_kept_unless_two_are_the_same(tmp_path: Path) -> None:
    collection(tmp_path / "in/a")
    done = deidentify_all([tmp_path / "in"], tmp_path / "out", DeidentifyConfig(), keep_names=True, workers=1)
    assert set(done.findings) == {"doe_john", "roe_jane"}
    assert done.names is None
    collection(tmp_path / "in/b")
    with pytest.raises(ConfigError, match="same file name"):
        deidentify_all([tmp_path / "in"], tmp_path / "out", DeidentifyConfig(), keep_names=True, workers=1)


def test_names_with_dots_are_kept_whole(tmp_path: Path) -> None:
    for name in ("2026.05.12_a", "2026.05.13_b"):
        write(tmp_path / f"in/{name}.mp4", [tissue(i) for i in range(24)])
    deidentify_all([tmp_path / "in"], tmp_path / "out", DeidentifyConfig(), keep_names=True, workers=1)
    assert sorted(path.name for path in (tmp_path / "out/videos").iterdir()) == ["2026.05.12_a.mp4", "2026.05.13_b.mp4"]


def test_a_copy_of_an_earlier_run_does_not_outlive_a_failure(tmp_path: Path) -> None:
    collection(tmp_path / "in")
    deidentify_all([tmp_path / "in"], tmp_path / "out", DeidentifyConfig(out_of_body="keep", overlay="keep"), workers=1)
    (tmp_path / "in/doe_john.mp4").write_bytes(b"no video any more")
    with pytest.raises(DataError, match="have no copy"):
        deidentify_all([tmp_path / "in"], tmp_path / "out", DeidentifyConfig(), workers=1)
    assert len(list((tmp_path / "out/videos").iterdir())) == 1


def test_a_manifest_becomes_a_manifest_of_copies(tmp_path: Path) -> None:
    video = str(write(tmp_path / "in/doe.mp4", [named(tissue(2 * i)) for i in range(96)]))
    zone = [[0.2, 0.2], [0.8, 0.2], [0.8, 0.6]]
    clips = [Clip(video, 0.0, 2.0, "doe", "train", labels={"phase": "cut"}, zone=zone), Clip(video, 2.0, 3.0, "doe", "train")]
    write_manifest(tmp_path / "in/m.parquet", clips)
    done = deidentify_all([tmp_path / "in/m.parquet"], tmp_path / "out", DeidentifyConfig(), workers=1)
    assert done.manifest is not None
    copies = list(Manifest.read(done.manifest).clips())
    (finding,) = done.findings.values()
    assert finding.crop is not None
    assert [(clip.start_s, clip.end_s, clip.split, clip.labels) for clip in copies] == [
        (0.0, 2.0, "train", {"phase": "cut"}),
        (2.0, 3.0, "train", {}),
    ]
    assert {clip.case for clip in copies}.isdisjoint({"doe"})
    assert len({clip.case for clip in copies}) == 1
    assert copies[0].zone is not None
    assert copies[0].zone[0] == pytest.approx([0.2, 0.2 / finding.crop[3]])


def test_what_tells_the_case_goes_and_other_labels_stay(tmp_path: Path) -> None:
    clips = []
    for number, name in enumerate(("doe_john", "roe_jane")):
        video = str(write(tmp_path / f"in/{name}/1.mp4", [tissue(i) for i in range(24)]))
        labels: dict[str, str | float | int] = {"class": name, "person": f"{name}, 1961", "phase": "cut", "phase_id": number}
        clips += [Clip(video, second, second + 1.0, name, labels=labels, meta={"take": name, "room": "2"}) for second in (0, 1)]
    write_manifest(tmp_path / "m.parquet", clips)
    done = deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(), workers=1)
    assert done.manifest is not None
    copies = list(Manifest.read(done.manifest).clips())
    assert [clip.labels for clip in copies] == [{"phase": "cut", "phase_id": number} for number in (0, 0, 1, 1)]
    assert [clip.meta for clip in copies] == [{"room": "2"}] * 4


def test_labels_that_are_folders_of_the_originals_are_said(tmp_path: Path) -> None:
    video = str(write(tmp_path / "in/doe_john/1.mp4", [tissue(i) for i in range(24)]))
    write_manifest(tmp_path / "m.parquet", [Clip(video, 0.0, 1.0, "doe_john/1", labels={"class": "doe_john", "phase": "cut"})])
    done = deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(), workers=1)
    assert done.folders == ("class",)
    assert "class in the manifest still tell folders" in done.summary()


def test_a_number_of_the_patient_goes_with_the_case_that_it_is(tmp_path: Path) -> None:
    # As a CSV brings it: a number in a column is a number, the case is text.
    clips = []
    for number in (4711, 4712):
        video = str(write(tmp_path / f"in/{number}.mp4", [tissue(i) for i in range(24)]))
        labels: dict[str, str | float | int] = {"mrn": number, "id": float(number), "class": f"P{number}", "phase_id": 1}
        clips.append(Clip(video, 0.0, 1.0, str(number), labels=labels))
    write_manifest(tmp_path / "m.parquet", clips)
    done = deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(), workers=1)
    assert done.manifest is not None
    assert [clip.labels for clip in Manifest.read(done.manifest).clips()] == [{"phase_id": 1}] * 2
    assert done.folders == ()


def test_labels_that_may_name_a_patient_are_said(tmp_path: Path) -> None:
    clips = []
    for number, (case, person) in enumerate((("doe_4711", "John"), ("roe_4712", "Jane"), ("poe_4713", "Ann"))):
        video = str(write(tmp_path / f"in/{number}.mp4", [tissue(i) for i in range(24)]))
        labels: dict[str, str | float | int] = {
            "mrn": int(case[-4:]),
            "person": person,
            "phase": "cut",
            "phase_id": number // 2,
        }
        clips += [Clip(video, second, second + 1.0, case, labels=dict(labels)) for second in (0, 1)]
    clips[0].labels["note"], clips[1].labels["note"] = "DOE_4711 bleeds", "clear"
    write_manifest(tmp_path / "m.parquet", clips)
    done = deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(), workers=1)
    assert done.folders == ("mrn", "note", "person")
    assert "mrn, note, person in the manifest still tell" in done.summary()


def test_masks_that_are_not_there_are_said_before_the_first_video(tmp_path: Path) -> None:
    video = str(write(tmp_path / "in/doe.mp4", [tissue(i) for i in range(24)]))
    write_manifest(tmp_path / "m.parquet", [Clip(video, 0.0, 1.0, "doe", masks=str(tmp_path / "gone.npz"))])
    with pytest.raises(DataError, match=r"no masks .+gone\.npz"):
        deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(overlay="blank"), workers=1)
    (tmp_path / "list.txt").write_text("gone.png\t0\n")
    (tmp_path / "empty").mkdir()
    for masks, message in (("list.txt", r"no masks .+gone\.png"), ("empty", "has no pictures")):
        write_manifest(tmp_path / "m.parquet", [Clip(video, 0.0, 1.0, "doe", masks=str(tmp_path / masks))])
        with pytest.raises(DataError, match=message):
            deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(overlay="blank"), workers=1)
    assert not (tmp_path / "out/videos").exists()


def test_a_list_of_masks_is_copied_with_its_pictures(tmp_path: Path) -> None:
    video = str(write(tmp_path / "in/doe.mp4", [tissue(i) for i in range(24)]))
    cv2.imwrite(str(tmp_path / "in/doe_7.png"), np.ones(SIZE, np.uint8))
    (tmp_path / "in/doe.txt").write_text("doe_7.png\t1.5\n")
    write_manifest(tmp_path / "m.parquet", [Clip(video, 0.0, 1.0, "doe", masks=str(tmp_path / "in/doe.txt"))])
    done = deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(overlay="blank"), workers=1)
    assert done.manifest is not None
    (copy,) = Manifest.read(done.manifest).clips()
    stills = open_stills(Path(str(copy.masks)))
    assert stills.times_s.tolist() == [1.5]
    assert stills.files[0].is_relative_to(tmp_path / "out/masks")
    assert "doe" not in str(stills.files[0].relative_to(tmp_path / "out"))


@pytest.mark.parametrize("folder", [False, True])
def test_masks_are_copied_under_a_name_that_says_nothing(tmp_path: Path, folder: bool) -> None:
    video = str(write(tmp_path / "in/doe.mp4", [tissue(i) for i in range(24)]))
    masks = tmp_path / ("in/doe_masks" if folder else "in/doe.npz")
    if folder:
        masks.mkdir()
        for number in (1, 2, 10):
            cv2.imwrite(str(masks / f"doe_{number:02d}.png"), np.full(SIZE, number, np.uint8))
        (masks / "doe.json").write_text("{}")
    else:
        np.savez(masks, ids=np.ones((1, *SIZE), np.uint8))
    write_manifest(tmp_path / "m.parquet", [Clip(video, 0.0, 1.0, "doe", masks=str(masks))])
    for _ in range(2):
        done = deidentify_all([tmp_path / "m.parquet"], tmp_path / "out", DeidentifyConfig(overlay="blank"), workers=1)
    assert done.manifest is not None
    (copy,) = Manifest.read(done.manifest).clips()
    assert copy.masks is not None
    assert Path(copy.masks).parent == tmp_path / "out/masks"
    assert Path(copy.masks).is_dir() == folder
    assert Path(copy.masks).exists()
    assert not [path for path in (tmp_path / "out").rglob("*") if "doe" in path.name]
    if folder:
        assert [mask[0, 0] for mask in read_masks(Path(copy.masks), copy).ids] == [1, 2, 3]
        assert len(list(Path(copy.masks).iterdir())) == 3
    assert b"doe" not in done.manifest.read_bytes()


def test_a_crop_asked_for_before_follows_the_crop_that_was_done(labelled: Path, tmp_path: Path) -> None:
    copy, finding = deidentify(labelled, tmp_path / "a", DeidentifyConfig())
    assert finding.crop is not None
    bottom = finding.crop[3]
    asked = Clip(str(labelled), 0.0, 1.0, "p", meta={"crop": f"0.1,0,1,{bottom / 2}", "fps": "8"})
    left, top, right, new_bottom = (float(number) for number in deidentified(asked, copy, finding).meta["crop"].split(","))
    assert (left, top, right, new_bottom) == pytest.approx((0.1, 0.0, 1.0, 0.5))
    done = Clip(str(labelled), 0.0, 1.0, "p", meta={"crop": f"0,0,1,{bottom}"})
    assert deidentified(done, copy, finding).meta == {}


def test_masks_do_not_follow_a_crop_and_that_is_said(labelled: Path, tmp_path: Path) -> None:
    copy, finding = deidentify(labelled, tmp_path / "a", DeidentifyConfig())
    with pytest.raises(DataError, match="--overlay blank"):
        deidentified(Clip(str(labelled), 0.0, 1.0, "p", masks="masks"), copy, finding)


def test_a_video_that_fails_is_listed_and_the_others_are_done(tmp_path: Path) -> None:
    collection(tmp_path / "in")
    (tmp_path / "in/broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="1 of 3 videos failed"):
        deidentify_all([tmp_path / "in"], tmp_path / "out", DeidentifyConfig(), workers=1)
    done = deidentify_all([tmp_path / "in"], tmp_path / "out", DeidentifyConfig(), workers=1, max_failed=0.5)
    assert len(done.findings) == 2
    assert len(json.loads(done.report.read_text())["failed"]) == 1


def test_the_report_does_not_name_an_original_that_failed(tmp_path: Path) -> None:
    collection(tmp_path / "in")
    (tmp_path / "in/mueller_hans.mp4").write_bytes(b"no video")
    done = deidentify_all([tmp_path / "in"], tmp_path / "out", DeidentifyConfig(), workers=1, max_failed=0.5)
    assert "mueller" not in done.report.read_text()
    assert list(json.loads(done.report.read_text())["failed"].values()) == ["DataError"]


def test_copies_do_not_go_where_the_originals_are(tmp_path: Path) -> None:
    collection(tmp_path / "in")
    with pytest.raises(ConfigError, match="originals lie in"):
        deidentify_all([tmp_path / "in"], tmp_path, DeidentifyConfig(), workers=1)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(DataError, match="no video"):
        deidentify_all([tmp_path / "notes.txt"], tmp_path / "out", DeidentifyConfig())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no videos"):
        deidentify_all([tmp_path / "empty"], tmp_path / "out", DeidentifyConfig())


def test_the_command_says_what_it_did_and_what_is_left_to_do(
    surg: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    short = write(tmp_path / "doe.mp4", [room(i) for i in range(16)])
    done = surg("data", "deidentify", short, "--out", tmp_path / "out", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "1 videos, 2 s; 2 s outside the body made black" in done.stdout
    assert "BEWARE: 1 of 1 copies are black" in done.stdout
    assert "--out-of-body keep" in done.stdout
    assert "could not be told" in done.stdout
    assert "keep it apart" in done.stdout
    assert "look at the copies yourself" in done.stdout
    assert not list((tmp_path / "out").rglob("*doe*"))


def test_the_commands_options_have_their_effect(surg: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    short = write(tmp_path / "in.mp4", [room(i) for i in range(16)])
    options = ("--out-of-body", "keep", "--overlay", "keep", "--keep-names", "--workers", 1)
    kept = surg("data", "deidentify", short, "--out", tmp_path / "kept", *options)
    assert "0 s outside the body" in kept.stdout
    assert (tmp_path / "kept/videos/in.mp4").is_file()
    loose = surg("data", "deidentify", short, "--out", tmp_path / "loose", "--threshold=-2", "--workers", 1)
    assert "; 0 s outside the body made black" in loose.stdout


def test_frames_are_worked_on_one_at_a_time(visit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surg.data import deidentify as module

    alive = 0

    def counted(*arguments: object, **options: object) -> Iterator[tuple[float, Frame]]:
        nonlocal alive
        for item in iter_frames(*arguments, **options):
            alive += 1
            yield item

    written: list[int] = []

    def writer(path: Path, frames: Iterator[Frame], fps: float, **_: object) -> None:
        start = alive
        for number, _ in enumerate(frames, start=1):
            written.append(alive - start - number)
        write(path, [tissue(0)])

    monkeypatch.setattr(module, "iter_frames", counted)
    monkeypatch.setattr(module, "write_video", writer)
    deidentify(visit, tmp_path / "a", DeidentifyConfig())
    assert max(written) <= 1
