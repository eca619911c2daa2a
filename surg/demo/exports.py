"""What a person takes away: events as JSON or CSV, label files for CVAT and Label Studio, an annotated video."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from surg.data.video import iter_frames, write_video
from surg.demo.analysis import Analysis, Span
from surg.demo.overlay import annotate
from surg.runs import write_text

NOTICE = "Research software, not a medical device."
ANNOTATED_FPS = 12.0
ANNOTATED_WIDTH = 854


def as_json(analysis: Analysis) -> str:
    """Events, and the scores of every window. No file name: names of videos may name patients."""
    windows = [
        {
            "start_s": round(window.start_s, 3),
            "end_s": round(window.end_s, 3),
            "action": {name: round(value, 4) for name, value in window.action_probability.items()},
            "breach": {f"{horizon} s": round(value, 4) for horizon, value in window.breach_probability.items()},
            "surprise": window.surprise,
            "motion": motion,
        }
        for window, motion in zip(analysis.windows, analysis.motion)
    ]
    return json.dumps(
        {
            "notice": NOTICE,
            "model": analysis.model,
            "duration_s": analysis.duration_s,
            "threshold": analysis.threshold,
            "zone": analysis.zone,
            "events": [_event(span) for span in _events(analysis)],
            "windows": windows,
        },
        indent=1,
    )


def as_csv(analysis: Analysis) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, ["kind", "name", "start_s", "end_s", "score"], lineterminator="\n")
    table.writeheader()
    table.writerows(_event(span) for span in _events(analysis))
    return text.getvalue()


def as_cvat(analysis: Analysis) -> str:
    """CVAT for video 1.1: one tag a frame for each event, and the zone as a polygon that stays."""
    fps = analysis.info.fps or 25.0
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    if analysis.zone is not None:
        width, height = analysis.info.width, analysis.info.height
        track = ElementTree.SubElement(root, "track", id="0", label="sterile zone", source="manual")
        points = ";".join(f"{x * width:.2f},{y * height:.2f}" for x, y in analysis.zone)
        ElementTree.SubElement(track, "polygon", frame="0", keyframe="1", outside="0", occluded="0", points=points, z_order="0")
    for number, span in enumerate(_events(analysis), start=1):
        track = ElementTree.SubElement(root, "track", id=str(number), label=span.name, source="auto")
        last = max(round(span.end_s * fps), round(span.start_s * fps) + 1)
        edges = {"xtl": "0.00", "ytl": "0.00", "xbr": f"{analysis.info.width:.2f}", "ybr": f"{analysis.info.height:.2f}"}
        for frame, outside in ((round(span.start_s * fps), "0"), (last, "1")):
            place = {"frame": str(frame), "outside": outside, "occluded": "0", "keyframe": "1", "z_order": "0"}
            ElementTree.SubElement(track, "box", {**place, **edges})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def as_label_studio(analysis: Analysis) -> str:
    """One Label Studio task whose prediction marks the events on the video's timeline."""
    fps = analysis.info.fps or 25.0
    results = [
        {
            "id": f"event-{number}",
            "from_name": "events",
            "to_name": "video",
            "type": "timelinelabels",
            "score": round(span.score, 4),
            "value": {
                "ranges": [
                    {"start": round(span.start_s * fps) + 1, "end": max(round(span.end_s * fps), round(span.start_s * fps) + 1)}
                ],
                "timelinelabels": [span.name],
            },
        }
        for number, span in enumerate(_events(analysis))
    ]
    task = {
        "data": {"video": "REPLACE-WITH-YOUR-VIDEO-URL"},
        "predictions": [{"model_version": analysis.model, "result": results}],
    }
    return json.dumps([task], indent=1)


def write_all(analysis: Analysis, folder: Path) -> list[Path]:
    """The four text files; returns their paths."""
    files = {
        "events.json": as_json(analysis),
        "events.csv": as_csv(analysis),
        "cvat.xml": as_cvat(analysis),
        "label-studio.json": as_label_studio(analysis),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]


def write_annotated(analysis: Analysis, path: Path) -> Path:
    """The video with zone, heat map, action and alarms drawn in, at most ANNOTATED_FPS frames a second. Streams."""
    fps = min(analysis.info.fps or ANNOTATED_FPS, ANNOTATED_FPS)

    def pictures() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        for time_s, frame in iter_frames(analysis.video, fps=fps):
            if time_s > analysis.windows[-1].end_s + 1.0:
                return
            yield annotate(frame, analysis, time_s, width=ANNOTATED_WIDTH)

    write_video(path, pictures(), fps)
    return path


def _events(analysis: Analysis) -> list[Span]:
    return sorted([*analysis.alarms, *analysis.actions], key=lambda span: (span.start_s, span.kind))


def _event(span: Span) -> dict[str, str | float]:
    return {
        "kind": span.kind,
        "name": span.name,
        "start_s": round(span.start_s, 3),
        "end_s": round(span.end_s, 3),
        "score": round(span.score, 4),
    }
