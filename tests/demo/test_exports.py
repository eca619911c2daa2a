import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from surg.data.video import probe, read_frames
from surg.demo.analysis import Analysis
from surg.demo.exports import as_csv, as_cvat, as_json, as_label_studio, write_all, write_annotated
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
    assert all([box.get("outside") for box in track.findall("box")] == ["0", "1"] for track in tracks[1:])


def test_label_studio_ranges_are_frames_from_one(analysis: Analysis) -> None:
    (task,) = json.loads(as_label_studio(analysis))
    ranges = [result["value"]["ranges"][0] for result in task["predictions"][0]["result"]]
    assert all(1 <= part["start"] <= part["end"] <= analysis.info.frames for part in ranges)


def test_all_files_are_written(analysis: Analysis, tmp_path: Path) -> None:
    assert [path.name for path in write_all(analysis, tmp_path)] == [
        "events.json",
        "events.csv",
        "cvat.xml",
        "label-studio.json",
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
