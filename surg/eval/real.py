"""Real video with intervals marked by hand: JSON files beside the tests, turned into a manifest of takes.

The clips are OpenCV's samples: no operating room, but real cameras, real hands and people entering a polygon. They show whether a
zone-conditioned score means anything outside the simulator.
"""

import gzip
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from surg.data.manifest import Clip, Label, Manifest, write_manifest
from surg.errors import DataError


def build_manifest(markings: Iterable[Path], videos: Iterable[Path], out: Path) -> Manifest:
    """A manifest at `out` with one take per marked zone. `videos` are folders to look in; .gz files are unpacked beside `out`."""
    folders = list(videos)
    return write_manifest(out, _clips(sorted(markings), folders, out.parent))


def _clips(markings: list[Path], folders: list[Path], scratch: Path) -> Iterator[Clip]:
    for marking in markings:
        try:
            body = json.loads(marking.read_text())
        except ValueError as error:
            raise DataError(f"{marking} is not JSON: {error}") from error
        video = _find(body["file"], folders, scratch)
        for zone in body["zones"]:
            name: dict[str, Label] = {"event": zone["name"], "camera": marking.stem}
            polygon = zone["polygon"]
            for start, end in zone["events"]:
                labels: dict[str, Label] = {"breach": 1, "breach_t0": start, "breach_t1": end, **name}
                yield _clip(video, start, end, marking.stem, polygon, labels)
            yield _clip(video, 0.0, float(body["duration_s"]), marking.stem, polygon, {"breach": 0, **name})


def _clip(video: Path, start_s: float, end_s: float, case: str, zone: list[list[float]], labels: dict[str, Label]) -> Clip:
    licence = "see the Debian package opencv-doc"
    return Clip(str(video), start_s, end_s, case, "test", "opencv-doc", licence, labels, zone)


def _find(name: str, folders: list[Path], scratch: Path) -> Path:
    for folder in folders:
        for path in sorted(folder.rglob(name)):
            return path
        for packed in sorted(folder.rglob(f"{name}.gz")):
            scratch.mkdir(parents=True, exist_ok=True)
            with gzip.open(packed) as source, (scratch / name).open("wb") as target:
                shutil.copyfileobj(source, target)
            return scratch / name
    raise DataError(f"{name} was found in none of {', '.join(map(str, folders))}. On Debian: apt-get install opencv-doc")
