"""How much of a tool's own motion an interaction clip (D_I) keeps, against crops that follow the tool frame by frame.

    surg data synth tissue --out /tmp/tissue --clips 32 --seed 302
    python benchmarks/factors.py --tissue /tmp/tissue/manifest.parquet [--write] [--picture docs/pictures/factors-tube.png]

For every tube that D_I finds in the simulator's own clips and every agent in it, flow is measured at the agent's tip from frame to frame:
  whole      in the whole picture
  D_I        in the tube's one crop
  follow     in crops of the same size that are centred anew on the agent's box on every frame
  pair       in crops of the same size that are centred anew on the box of both things on every frame
A figure is the sum of what was measured along the tip's true way (from the simulator), over the sum of the true ways.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recording import write_result

from surg.data.factors import FactorConfig, Tube, find_tubes, pixel_box, saved_interactions
from surg.data.manifest import Clip, Manifest
from surg.data.motion_flow import flow_backend
from surg.data.segment.build import SegmentConfig, segment
from surg.data.tracks import Track, Tracks
from surg.data.video import read_frames

WAYS = ("whole", "D_I", "follow", "pair")
MIN_STEP_PX = 1.0
AROUND_TIP = 0.1
"""Flow is read from the agent's pixels within this share of the picture's height of its tip."""


@dataclass
class Kept:
    """Sums over pairs of frames: true way in pixels, and what was measured along it."""

    true: float
    seen: dict[str, float]
    pairs: int


def motion_kept(clip: Clip, config: SegmentConfig, factors: FactorConfig) -> Kept:
    saved = segment(clip, config)
    tracks = Tracks.of(saved)
    frames = read_frames(clip.video, saved.times_s, fps=float(clip.meta["fps"]))
    with np.load(str(clip.masks)) as file:
        truth = {name: file[name] for name in ("ids", "tips")}
    items = {track.id: track for track in tracks.items}
    total = Kept(0.0, dict.fromkeys(WAYS, 0.0), 0)
    for tube in find_tubes(tracks, saved_interactions(saved.extra), factors, clip.zone):
        for number in tube.tracks:
            if number and items[number].is_agent:
                _add(total, frames, tracks, tube, items[number], items.get(tube.tracks[1]), truth)
    return total


def _add(
    total: Kept, frames: np.ndarray, tracks: Tracks, tube: Tube, agent: Track, other: Track | None, truth: dict[str, np.ndarray]
) -> None:
    owner = _owner(truth["ids"], tracks.ids == agent.id)
    if owner is None:
        return
    views = crops(frames, tube, agent, other)
    flow = flow_backend("dis")
    for index in range(tube.first, tube.last):
        tip, later = truth["tips"][index, owner], truth["tips"][index + 1, owner]
        step = later - tip
        length = float(np.linalg.norm(step))
        ys, xs = np.nonzero(tracks.ids[index] == agent.id)
        near = np.hypot(xs - tip[0], ys - tip[1]) < AROUND_TIP * frames.shape[1]
        if length < MIN_STEP_PX or near.sum() < 20 or index not in views["follow"] or index + 1 not in views["follow"]:
            continue
        seen = {}
        for name in WAYS:
            (one, (x, y)), (two, _) = views[name][index], views[name][index + 1]
            inside = near & (xs >= x) & (ys >= y) & (xs < x + one.shape[1]) & (ys < y + one.shape[0])
            if inside.sum() >= 20:
                seen[name] = float(np.median(flow(one, two)[ys[inside] - y, xs[inside] - x], axis=0) @ step) / length
        if len(seen) == len(WAYS):
            total.true += length
            total.pairs += 1
            for name, value in seen.items():
                total.seen[name] += value


Views = dict[str, dict[int, tuple[np.ndarray, tuple[int, int]]]]


def crops(frames: np.ndarray, tube: Tube, agent: Track, other: Track | None) -> Views:
    """For each way and frame of the tube the crop and its upper left corner in the picture."""
    height, width = frames.shape[1:3]
    x0, y0, x1, y1 = pixel_box(tube.box, (height, width))
    size = (x1 - x0, y1 - y0)
    boxes = {track.id: dict(zip(track.frames, track.boxes)) for track in (agent, other) if track is not None}
    views: Views = {name: {} for name in WAYS}
    for index in range(tube.first, tube.last + 1):
        views["whole"][index] = frames[index], (0, 0)
        views["D_I"][index] = np.ascontiguousarray(frames[index, y0:y1, x0:x1]), (x0, y0)
        own = boxes[agent.id].get(index)
        if own is None:
            continue
        views["follow"][index] = _centred(frames[index], [own], size)
        pair = [box for at in boxes.values() if (box := at.get(index)) is not None]
        views["pair"][index] = _centred(frames[index], pair, size)
    return views


def _centred(
    frame: np.ndarray, boxes: Sequence[tuple[float, float, float, float]], size: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """A crop around the middle of the boxes' union; what lies outside of the picture repeats its edge."""
    union = np.array(boxes)
    middle = (np.concatenate([union[:, :2].min(axis=0), union[:, 2:].max(axis=0)]).reshape(2, 2)).mean(axis=0)
    left, top = (round(float(middle[axis]) - size[axis] / 2) for axis in range(2))
    pad = max(size)
    wide = cv2.copyMakeBorder(frame, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(wide[top + pad : top + pad + size[1], left + pad : left + pad + size[0]]), (left, top)


def _owner(ids: np.ndarray, mask: np.ndarray) -> int | None:
    """0 or 1: which of the simulator's two tools a track mostly is."""
    counts = np.bincount(ids[mask], minlength=3)[1:3]
    return int(counts.argmax()) if counts.any() else None


def summary(results: Sequence[Kept]) -> dict[str, Any]:
    used = [kept for kept in results if kept.pairs]
    true = sum(kept.true for kept in used)
    out: dict[str, Any] = {
        "clips": len(results),
        "clips with a moving tool in a tube": len(used),
        "pairs of frames": sum(k.pairs for k in used),
    }
    if used:
        sums = {name: sum(kept.seen[name] for kept in used) for name in WAYS}
        out |= {f"{name}, share of the true motion": round(value / true, 3) for name, value in sums.items()}
        out |= {f"{name}, share of the whole picture's": round(sums[name] / sums["whole"], 3) for name in WAYS[1:]}
    return out


def picture(clip: Clip, path: Path) -> None:
    """Five moments of a clip's first tube: the picture with the tube, D_I's crop, and the crops that follow the agent."""
    saved = segment(clip, SegmentConfig(segmenter="given"))
    tracks = Tracks.of(saved)
    frames = read_frames(clip.video, saved.times_s, fps=float(clip.meta["fps"]))
    tube = find_tubes(tracks, saved_interactions(saved.extra), FactorConfig(), clip.zone)[0]
    items = {track.id: track for track in tracks.items}
    agent = next(items[number] for number in tube.tracks if number and items[number].is_agent)
    views = crops(frames, tube, agent, items.get(tube.tracks[1]))
    x0, y0, x1, y1 = pixel_box(tube.box, frames.shape[1:3])
    columns = []
    for index in np.linspace(tube.first, tube.last, 5).round().astype(int).tolist():
        drawn = frames[index].copy()
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), (80, 255, 120), 2)
        tiles = [drawn, views["D_I"][index][0], views["follow"][index][0]]
        columns.append(np.concatenate([cv2.resize(tile, (192, 192), interpolation=cv2.INTER_AREA) for tile in tiles]))
    sheet = np.concatenate(columns, axis=1)
    for row, text in enumerate(("the clip, its tube in green", "D_I: one crop", "a crop anew on every frame")):
        cv2.putText(sheet, text, (6, 192 * row + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(sheet, text, (6, 192 * row + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    cv2.imwrite(str(path), sheet[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tissue", type=Path, required=True)
    parser.add_argument("--clips", type=int, help="only so many")
    parser.add_argument("--picture", type=Path, help="draw the clip in which D_I keeps most")
    parser.add_argument("--write", action="store_true", help="write benchmarks/factors_<hardware>_<yyyy-mm>.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    clips = list(Manifest.read(arguments.tissue))[: arguments.clips]
    results: dict[str, Any] = {}
    for segmenter in ("given", "motion"):
        kept = [motion_kept(clip, SegmentConfig(segmenter=segmenter), FactorConfig()) for clip in clips]
        results[f"tissue, {segmenter}"] = summary(kept)
        print(f"tissue, {segmenter}: {results[f'tissue, {segmenter}']}", flush=True)
        if segmenter == "given" and arguments.picture is not None:
            picture(clips[int(np.argmax([one.true for one in kept]))], arguments.picture)
            print("Wrote", arguments.picture)
    if arguments.write:
        print("Wrote", write_result("factors", results))


if __name__ == "__main__":
    main()
