import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from surg.data.video import probe, read_frames
from surg.demo.analysis import Analysis
from surg.demo.exports import (
    as_csv,
    as_cvat,
    as_cvat_labels,
    as_json,
    as_label_studio,
    as_label_studio_config,
    write_all,
    write_annotated,
)
from surg.demo.overlay import annotate, draw_heat, draw_zone


def test_json_and_csv_tell_the_same_events_and_no_file_name(analysis: Analysis) -> None:
    body = json.loads(as_json(analysis))
    rows = list(csv.DictReader(io.StringIO(as_csv(analysis))))
    assert [(event["name"], event["start_s"]) for event in body["events"]] == [
        (row["name"], float(row["start_s"])) for row in rows
    ]
    assert "not a medical device" in body["notice"]
    assert analysis.video.name not in as_json(analysis)


def test_cvat_holds_the_zone_in_pixels_and_a_track_per_event(analysis: Analysis) -> None:
    tree = ElementTree.fromstring(as_cvat(analysis))
    tracks = tree.findall("track")
    assert tracks[0].find("polygon").get("points").startswith("32.00,32.00;96.00,32.00")
    assert len(tracks) == 1 + len(analysis.alarms) + len(analysis.actions)
    ends = {track.get("label"): [box.get("outside") for box in track.findall("box")] for track in tracks[1:]}
    assert ends == {"approach": ["0", "1"], "breach": ["0", "1"], "close": ["0"]}


def test_cvat_would_take_the_file(analysis: Analysis) -> None:
    """CVAT's page on its XML format 1.1: for videos a version, then tracks of shapes; what each must say, in which form."""
    tree = ElementTree.fromstring(as_cvat(analysis))
    frames, width, height = analysis.info.frames, analysis.info.width, analysis.info.height
    labels = {label["name"]: label["type"] for label in json.loads(as_cvat_labels(analysis))}
    assert tree.tag == "annotations"
    assert tree.findtext("version") == "1.1"
    assert {part.tag for part in tree} == {"version", "track"}
    assert len({track.get("id") for track in tree.iter("track")}) == len(tree.findall("track"))
    for track in tree.iter("track"):
        assert set(track.attrib) == {"id", "label", "source"}
        assert track.get("source") in {"manual", "auto"}
        numbers = [int(shape.get("frame")) for shape in track]
        assert numbers == sorted(set(numbers))
        assert 0 <= numbers[0] <= numbers[-1] < frames
        for shape in track:
            assert {"rectangle": "box", "polygon": "polygon"}[labels[track.get("label")]] == shape.tag
            assert all(shape.get(name) in {"0", "1"} for name in ("keyframe", "outside", "occluded"))
            if shape.tag == "box":
                points = [(float(shape.get(f"x{end}")), float(shape.get(f"y{end}"))) for end in ("tl", "br")]
            else:
                points = [tuple(map(float, pair.split(","))) for pair in shape.get("points").split(";")]
                assert len(points) >= 3
            assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_label_studio_would_take_the_task(analysis: Analysis) -> None:
    """Its guide on pre-annotated data: `data` names what the interface shows; every result names a control and an object of it."""
    view = ElementTree.fromstring(as_label_studio_config(analysis))
    (control,), (shown,) = view.findall("TimelineLabels"), view.findall("Video")
    (task,) = json.loads(as_label_studio(analysis))
    assert set(task) == {"data", "predictions"}
    assert shown.get("value") == "$" + next(iter(task["data"]))
    assert float(shown.get("frameRate")) == analysis.info.fps
    assert control.get("toName") == shown.get("name")
    results = task["predictions"][0]["result"]
    assert len({result["id"] for result in results}) == len(results)
    allowed = {label.get("value") for label in control}
    for result in results:
        assert (result["from_name"], result["to_name"]) == (control.get("name"), shown.get("name"))
        assert result["type"] == control.tag.lower()
        assert 0 <= result["score"] <= 1
        assert set(result["value"]) == {"ranges", "timelinelabels"}
        assert set(result["value"]["timelinelabels"]) <= allowed
        for part in result["value"]["ranges"]:
            assert isinstance(part["start"], int)
            assert 1 <= part["start"] <= part["end"] <= analysis.info.frames


def test_a_label_with_special_letters_stays_a_label(analysis: Analysis) -> None:
    analysis.classes = ('cut & "tie" <1>', *analysis.classes[1:])
    for window in analysis.windows[:4]:
        object.__setattr__(window, "action", analysis.classes[0])
    names = {label.get("value") for label in ElementTree.fromstring(as_label_studio_config(analysis)).iter("Label")}
    assert {track.get("label") for track in ElementTree.fromstring(as_cvat(analysis)).iter("track")} - {"sterile zone"} <= names


def test_all_files_are_written(analysis: Analysis, tmp_path: Path) -> None:
    assert [path.name for path in write_all(analysis, tmp_path)] == [
        "events.json",
        "events.csv",
        "cvat.xml",
        "cvat-labels.json",
        "label-studio.json",
        "label-studio.xml",
    ]


def test_the_annotated_video_plays_and_shows_the_zone(analysis: Analysis, tmp_path: Path) -> None:
    path = write_annotated(analysis, tmp_path / "out.mp4")
    info = probe(path)
    assert abs(info.duration_s - analysis.duration_s) < 0.3
    plain, drawn = read_frames(analysis.video, [0.2])[0], read_frames(path, [0.2])[0]
    edge = drawn[32, 40:90].astype(int).mean(0) - plain[32, 40:90].astype(int).mean(0)
    assert edge[1] > 40


def test_what_is_drawn_at_a_moment_comes_from_the_past_alone(analysis: Analysis) -> None:
    frame = np.zeros((128, 128, 3), np.uint8)
    before = annotate(frame, analysis, 1.9)
    for window in analysis.windows[3:]:
        window.breach_map[:] = 1.0
    assert np.array_equal(annotate(frame, analysis, 1.9), before)
    assert not np.array_equal(annotate(frame, analysis, 2.1), before)


def test_heat_stays_inside_the_part_that_was_seen() -> None:
    frame = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_heat(frame, np.ones((4, 4)), (20, 10, 60, 50))
    assert drawn[10:50, 20:60].any()
    drawn[10:50, 20:60] = 0
    assert not drawn.any()


def test_an_unfinished_zone_shows_its_corners() -> None:
    frame = np.zeros((60, 80, 3), np.uint8)
    assert not draw_zone(frame, []).any()
    assert draw_zone(frame, [[0.5, 0.5]], corners=True).any()
