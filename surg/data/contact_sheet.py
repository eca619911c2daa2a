"""A contact sheet: a row of frames per clip, with its label and its zone, to see at a glance what a manifest holds."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.manifest import Clip, Manifest
from surg.data.preprocess import Frames, Polygon
from surg.data.sources import read_clip
from surg.errors import DataError
from surg.runs import atomic_file

MARGIN, CAPTION = 4, 22
INK, PAPER, ZONE = (230, 230, 230), 24, (255, 210, 0)


def pick(manifest: Manifest, count: int, seed: int, label: str | None = None) -> list[Clip]:
    """`count` clips at random, each as likely as another; with a label every class in turn. One pass over the rows."""
    rng = np.random.default_rng([seed, 5])
    kept: dict[str, list[tuple[float, int, Clip]]] = {}
    known: set[str] = set()
    for row, clip in enumerate(manifest.clips()):
        known.update(clip.labels)
        group = kept.setdefault(str(clip.labels.get(label, "")) if label else "", [])
        # The `count` smallest of random numbers are a fair sample of a stream.
        group.append((float(rng.random()), row, clip))
        if len(group) > 4 * count:
            group[:] = sorted(group)[:count]
    if label and kept and label not in known:
        raise DataError(f"No clip has the label `{label}`. The labels here: {', '.join(sorted(known)) or 'none'}.")
    groups = [sorted(kept[name])[:count] for name in sorted(kept)]
    turns = [group[turn] for turn in range(count) for group in groups if turn < len(group)]
    return [clip for _, _, clip in turns[:count]]


def contact_sheet(clips: list[Clip], *, frames: int = 8, height: int = 108, label: str | None = None) -> npt.NDArray[np.uint8]:
    """One picture (H, W, 3), RGB. A clip that cannot be read has a row that says so."""
    if not clips:
        raise DataError("There are no clips to show. Is the split that was asked for in the manifest? surg data check MANIFEST")
    rows = [_row(clip, frames, height, label) for clip in clips]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=PAPER) for row in rows])


def write_image(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """PNG or JPEG, by the name."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise DataError(f"{path} should end in .png or .jpg.")
    _, coded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic_file(path) as file:
        file.write(coded.tobytes())


def _row(clip: Clip, count: int, height: int, label: str | None) -> npt.NDArray[np.uint8]:
    length = clip.end_s - clip.start_s
    times = clip.start_s + length * (np.arange(count) + 0.5) / count
    try:
        frames, zone = read_clip(clip, times)
        strip = _strip(frames, zone, height)
    except DataError:
        strip = np.full((height, count * height, 3), PAPER, np.uint8)
        cv2.putText(strip, "cannot be read", (10, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 90, 90), 1, cv2.LINE_AA)
    caption = np.full((CAPTION, strip.shape[1], 3), PAPER, np.uint8)
    # The case and not the file name: names of patients' files do not belong on a sheet that is shown around.
    shown = f"{label}={clip.labels.get(label)}" if label else "  ".join(f"{key}={value}" for key, value in clip.labels.items())
    text = f"{clip.case}  {clip.split}  {clip.start_s:.1f}-{clip.end_s:.1f} s  {shown}"
    cv2.putText(caption, text.encode("ascii", "replace").decode(), (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
    return np.concatenate([caption, strip, np.full((MARGIN, strip.shape[1], 3), PAPER, np.uint8)])


def _strip(frames: Frames, zone: Polygon | None, height: int) -> npt.NDArray[np.uint8]:
    wide = max(1, round(frames.shape[2] * height / frames.shape[1]))
    cells = []
    for frame in frames:
        cell = np.ascontiguousarray(cv2.resize(frame, (wide, height), interpolation=cv2.INTER_AREA))
        if zone is not None:
            corners = np.round(np.asarray(zone) * (wide, height)).astype(np.int32)
            cv2.polylines(cell, [corners], True, ZONE, 1, cv2.LINE_AA)
        cells += [cell, np.full((height, MARGIN, 3), PAPER, np.uint8)]
    strip: npt.NDArray[np.uint8] = np.concatenate(cells, axis=1)
    return strip
