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

ZONE_LABEL = "sterile zone"
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
    """CVAT for video 1.1: a track for each event, a box of the whole frame while it lasts, and the zone as a polygon that stays.

    The task's labels must exist before the file is imported: `as_cvat_labels`.
    """
    fps, frames = analysis.info.fps or 25.0, max(analysis.info.frames, 1)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    if analysis.zone is not None:
        width, height = analysis.info.width, analysis.info.height
        track = ElementTree.SubElement(root, "track", id="0", label=ZONE_LABEL, source="manual")
        points = ";".join(f"{x * width:.2f},{y * height:.2f}" for x, y in analysis.zone)
        ElementTree.SubElement(track, "polygon", frame="0", keyframe="1", outside="0", occluded="0", points=points, z_order="0")
    for number, span in enumerate(_events(analysis), start=1):
        track = ElementTree.SubElement(root, "track", id=str(number), label=span.name, source="auto")
        first = min(round(span.start_s * fps), frames - 1)
        last = max(round(span.end_s * fps), first + 1)
        edges = {"xtl": "0.00", "ytl": "0.00", "xbr": f"{analysis.info.width:.2f}", "ybr": f"{analysis.info.height:.2f}"}
        # A track that goes on to the last frame has no frame at which it is outside.
        for frame, outside in ((first, "0"), (last, "1"))[: 2 if last < frames else 1]:
            place = {"frame": str(frame), "outside": outside, "occluded": "0", "keyframe": "1", "z_order": "0"}
            ElementTree.SubElement(track, "box", {**place, **edges})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def as_cvat_labels(analysis: Analysis) -> str:
    """What CVAT's "Raw" tab takes when a task is made: the labels of `as_cvat`."""
    zone = [{"name": ZONE_LABEL, "type": "polygon", "attributes": []}] if analysis.zone is not None else []
    return json.dumps([*zone, *({"name": name, "type": "rectangle", "attributes": []} for name in _names(analysis))], indent=1)


def as_label_studio_config(analysis: Analysis) -> str:
    """The labelling interface of a Label Studio project that shows what `as_label_studio` marks."""
    view = ElementTree.Element("View")
    labels = ElementTree.SubElement(view, "TimelineLabels", name="events", toName="video")
    for name in _names(analysis):
        ElementTree.SubElement(labels, "Label", value=name)
    ElementTree.SubElement(view, "Video", name="video", value="$video", frameRate=f"{analysis.info.fps or 25.0:g}")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def as_label_studio(analysis: Analysis) -> str:
    """One Label Studio task whose prediction marks the events on the video's timeline; frames count from one."""
    fps, frames = analysis.info.fps or 25.0, max(analysis.info.frames, 1)

    def frame(time_s: float) -> int:
        return min(round(time_s * fps) + 1, frames)

    results = [
        {
            "id": f"event-{number}",
            "from_name": "events",
            "to_name": "video",
            "type": "timelinelabels",
            "score": round(span.score, 4),
            "value": {
                "ranges": [{"start": frame(span.start_s), "end": max(frame(span.end_s) - 1, frame(span.start_s))}],
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
    """Events and label files; returns their paths."""
    files = {
        "events.json": as_json(analysis),
        "events.csv": as_csv(analysis),
        "cvat.xml": as_cvat(analysis),
        "cvat-labels.json": as_cvat_labels(analysis),
        "label-studio.json": as_label_studio(analysis),
        "label-studio.xml": as_label_studio_config(analysis),
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


def _names(analysis: Analysis) -> list[str]:
    """Every label that events of this model can have: a breach is one only where there is a sterility head."""
    breach = ["breach"] if analysis.windows[0].breach == analysis.windows[0].breach else []
    return [*breach, *(name for name in analysis.classes if name not in breach)]


def _event(span: Span) -> dict[str, str | float]:
    return {
        "kind": span.kind,
        "name": span.name,
        "start_s": round(span.start_s, 3),
        "end_s": round(span.end_s, 3),
        "score": round(span.score, 4),
    }
