"""How well the weightless segmenter, the tracks and the agent rule do, against the simulators' true masks and paths.

    surg data synth tissue --out /tmp/tissue --clips 80 --seed 11
    surg data synth room --out /tmp/room --clips 40 --seed 11
    python benchmarks/segment.py --tissue /tmp/tissue/manifest.parquet --room /tmp/room/manifest.parquet

Any manifests may be given, each as NAME=MANIFEST, so that scenes that something was tuned on and others stand side by side:
    python benchmarks/segment.py --set "room, tuned on=/tmp/tuned/manifest.parquet" --set "room=/tmp/unseen/manifest.parquet" --write

--tracks FILE.csv writes a line for every track, --pictures FOLDER a strip for every clip with a wrong decision: above the true outlines
(agents yellow, layout blue), below the tracks with their numbers and A for agent. What is counted:
  iou        a true agent on a frame against the predicted mask that overlaps it most, mean over frames, then over agents
  purity     share of all tracks' frames on which most of the mask is the thing that the track stands for (background counts as wrong)
  fragments  tracks that stand for one true agent
  decision   share of tracks called agent or layout as the true path of their thing says (moved 0.05 of the width for 4 frames, camera
             taken off; a jaw that opens moves its end), over the whole clip; beside it `layout`, what calling every track layout would score
  decision while seen   the same, but the true path counts on the frames of the track alone: all that can be known of it
  camera     distance in pixels between the estimated and the true movement of the picture's centre, per pair of frames
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recording import write_result

from surg.data.manifest import Clip, Manifest
from surg.data.segment.build import SegmentConfig, segment
from surg.data.synth.tissue_tools import CLOSED, JAWS, OPEN
from surg.data.tracks import Tracks
from surg.data.video import read_frames

MIN_PIXELS = 100
WORKER = 2
"""Instance of the tool that does the action on tissue."""
JAW_PIXELS = min(jaw["length"] for jaw in JAWS.values()) / 224
"""The shortest jaw, in picture widths."""


def true_things(clip: Clip) -> tuple[np.ndarray, dict[int, np.ndarray], list[np.ndarray] | None, np.ndarray]:
    """Ids (T, H, W), the true path (T, P, 2) in still pixels of each thing's points, the camera (2, 3) per frame if it moves, and times."""
    with np.load(str(clip.masks)) as file:
        truth = {name: file[name] for name in file.files}
    ids = truth["ids"]
    if "tips" in truth:
        back = [np.linalg.inv(np.vstack([matrix, (0, 0, 1)])) for matrix in truth["camera"]]
        paths = {k + 1: np.array([m @ (*tip, 1) for m, tip in zip(back, truth["tips"][:, k])])[:, None, :2] for k in range(2)}
        # The tip is where closed jaws would end. A jaw's own end turns around the neck; the working tool alone opens and closes.
        angle = CLOSED + (OPEN - CLOSED) * truth["jaw"]
        turned = JAW_PIXELS * ids.shape[2] * np.stack([np.sin(angle), np.cos(angle) - 1], axis=-1)
        paths[WORKER] = np.concatenate([paths[WORKER], turned[:, None]], axis=1)
        return ids, paths, list(truth["camera"]), np.arange(len(ids)) / float(clip.meta["fps"])
    if "centres" not in truth:
        raise SystemExit(
            f"{clip.masks} does not say where everybody is; expected `centres`. Simulate the rooms again: surg data synth room"
        )
    things = {}
    for place, number in enumerate(truth["instances"].tolist()):
        path = truth["centres"][:, place, None].astype(float) * ids.shape[2]
        # Not the middle of what is seen: that moves when somebody passes in front of it.
        path[~(ids == number).any(axis=(1, 2))] = np.nan
        things[number] = path
    return np.where(np.isin(ids, truth["instances"]), ids, 0), things, None, truth["times"]


def is_agent(path: np.ndarray, width: int) -> bool:
    """Has one of its points been 0.05 of the width from where it started, for 4 frames?  path (T, P, 2), NaN where it is not seen."""
    seen = path[~np.isnan(path[:, 0, 0])]
    if len(seen) < 4:
        return False
    distance = np.linalg.norm(seen - seen[0], axis=2) / width
    return bool(np.lib.stride_tricks.sliding_window_view(distance, 4, axis=0).min(axis=2).max() >= 0.05)


def measure(clip: Clip, config: SegmentConfig, pictures: Path | None = None) -> dict[str, Any]:
    ids, paths, cameras, times_s = true_things(clip)
    saved = segment(clip, config)
    tracks = Tracks.of(saved)
    positions = np.abs(saved.times_s[None] - times_s[:, None]).argmin(axis=1)
    seen = tracks.ids[positions]
    agents = [number for number, path in paths.items() if is_agent(path, ids.shape[2])]
    ious: list[float] = []
    fragments: list[int] = []
    owner = {track.id: _owner(ids, seen == track.id) for track in tracks.items}
    for number in agents:
        per_frame = [
            _best(ids[index] == number, seen[index]) for index in range(len(ids)) if (ids[index] == number).sum() >= MIN_PIXELS
        ]
        if len(per_frame) < 4:
            continue
        ious.append(float(np.mean([overlap for overlap, _ in per_frame])))
        fragments.append(sum(1 for main, _ in owner.values() if main == number))
    out: dict[str, Any] = {"iou": ious, "fragments": fragments, "table": []}
    for track in tracks.items:
        main, purity = owner[track.id]
        if main:
            path = np.full_like(paths[main], np.nan)
            shown = [index for index, frame in enumerate(positions.tolist()) if frame in set(track.frames)]
            path[shown] = paths[main][shown]
            truth, while_seen = main in agents, is_agent(path, ids.shape[2])
            pixels = int(np.median([(tracks.ids[index] == track.id).sum() for index in track.frames]))
            out["table"].append(
                {
                    "clip": Path(clip.video).stem, "track": track.id, "frames": len(track.frames), "pixels": pixels, "thing": main,
                    "purity": round(purity, 3), "moved": round(track.moved, 3), "agent": track.is_agent, "true": truth,
                    "true while seen": while_seen,
                }
            )  # fmt: skip
    out["decision"] = [row["agent"] == row["true"] for row in out["table"]]
    out["layout"] = [not row["true"] for row in out["table"]]
    out["decision while seen"] = [row["agent"] == row["true while seen"] for row in out["table"]]
    # Weighted by length: a track of 3 frames is not worth one of 30.
    out["purity"] = [
        purity for number, (_, purity) in owner.items() for _ in range(int((seen == number).any(axis=(1, 2)).sum()))
    ]
    if cameras is not None:
        out["camera"] = _camera_errors(clip, cameras, times_s)
    if pictures is not None and not all(out["decision"]):
        frames = read_frames(clip.video, times_s)
        strip(frames, ids, agents, tracks, positions, pictures / f"{Path(clip.video).stem}-{config.segmenter}.png")
    return out


def strip(
    frames: np.ndarray, ids: np.ndarray, agents: Sequence[int], tracks: Tracks, positions: np.ndarray, path: Path, most: int = 8
) -> None:
    """Moments of a clip: above with the true outlines, below with the tracks."""
    colours = np.random.default_rng(1).integers(60, 255, (len(tracks.items) + 1, 3))
    columns = []
    for index in np.linspace(0, len(ids) - 1, most).round().astype(int).tolist():
        above = cv2.resize(frames[index], ids.shape[:0:-1], interpolation=cv2.INTER_AREA)
        below = above // 2
        for number in (int(value) for value in np.unique(ids[index]) if value):
            lines, _ = cv2.findContours((ids[index] == number).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(above, lines, -1, (255, 255, 0) if number in agents else (0, 200, 255), 1)
        for track in tracks.items:
            mask = tracks.ids[positions[index]] == track.id
            if mask.any():
                below[mask] = (below[mask] + colours[track.id]) // 2
                ys, xs = np.nonzero(mask)
                text = f"{track.id}{'A' if track.is_agent else ''}"
                cv2.putText(
                    below,
                    text,
                    (int(xs.mean()), int(ys.mean())),
                    cv2.FONT_HERSHEY_SIMPLEX,
                    0.45,
                    (255, 255, 255),
                    1,
                    cv2.LINE_AA,
                )
        columns.append(np.concatenate([above, below]))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(columns, axis=1)[..., ::-1])


def _owner(ids: np.ndarray, mask: np.ndarray) -> tuple[int, float]:
    """(the true thing a track stands for, share of its frames on which most of it is that thing); 0 is none."""
    winners = []
    for true, own in zip(ids, mask):
        if own.any():
            counts = np.bincount(true[own], minlength=1)
            winners.append(int(counts.argmax()))
    if not winners:
        return 0, 0.0
    things = [winner for winner in winners if winner]
    main = max(set(things), key=things.count) if things else 0
    return main, (winners.count(main) / len(winners) if main else 0.0)


def _best(true: np.ndarray, seen: np.ndarray) -> tuple[float, int]:
    best = (0.0, 0)
    for number in np.unique(seen[true]):
        if number:
            own = seen == number
            best = max(best, (float((own & true).sum() / (own | true).sum()), int(number)))
    return best


def _camera_errors(clip: Clip, cameras: list[np.ndarray], times_s: np.ndarray) -> list[float]:
    from surg.data.motion import MotionConfig, camera_path

    frames = read_frames(clip.video, times_s)
    centre = np.array([frames.shape[2] / 2, frames.shape[1] / 2, 1.0])
    errors = []
    for index, found in enumerate(camera_path(frames, MotionConfig(size=min(frames.shape[1:3])))):
        step = cameras[index + 1] @ np.linalg.inv(np.vstack([cameras[index], (0, 0, 1)]))
        errors.append(float(np.linalg.norm(np.array(found.shift) - ((np.vstack([step, (0, 0, 1)]) @ centre)[:2] - centre[:2]))))
    return errors


def walkers(video: Path) -> dict[str, Any]:
    """How long people are followed in a real video that nobody here made."""
    saved = segment(Clip(str(video), 0.0, 40.0, "walkers"), SegmentConfig())
    step_s = float(np.median(np.diff(saved.times_s)))
    lengths = [len(track.frames) * step_s for track in Tracks.of(saved).items if track.is_agent]
    return {"agents": len(lengths), "median_s": round(float(np.median(lengths)), 2), "longest_s": round(max(lengths), 2)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def pool(name: str) -> list[float]:
        return [value for row in rows for value in row.get(name, [])]

    out: dict[str, Any] = {"clips": len(rows), "agents": len(pool("iou")), "tracks": len(pool("decision"))}
    for name in ("iou", "purity", "fragments", "decision", "layout", "decision while seen", "camera"):
        values = pool(name)
        if values:
            out[name] = round(float(np.mean(values)), 3)
    if pool("camera"):
        out["camera_p95"] = round(float(np.quantile(pool("camera"), 0.95)), 3)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tissue", type=Path)
    parser.add_argument("--room", type=Path)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=MANIFEST", help="another set; may be given more than once"
    )
    parser.add_argument("--walkers", type=Path, help="a video of people who walk, such as vtest.avi of Debian's opencv-doc")
    parser.add_argument("--segmenters", default="motion,given", help="by comma")
    parser.add_argument("--tracks", type=Path, help="write a line for every track")
    parser.add_argument("--pictures", type=Path, help="folder for strips of the clips with a wrong decision")
    parser.add_argument("--write", action="store_true", help="write benchmarks/segment_<hardware>_<yyyy-mm>.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    results: dict[str, Any] = {}
    table: list[dict[str, Any]] = []
    sets = {name: getattr(arguments, name) for name in ("tissue", "room") if getattr(arguments, name) is not None}
    sets |= {name: Path(path) for name, path in (text.split("=", 1) for text in arguments.set)}
    for name, manifest in sets.items():
        for segmenter in arguments.segmenters.split(","):
            config = SegmentConfig(segmenter=segmenter)
            rows = [measure(clip, config, arguments.pictures) for clip in Manifest.read(manifest)]
            table += [{"set": name, "segmenter": segmenter, **line} for row in rows for line in row["table"]]
            results[f"{name}, {segmenter}"] = summary(rows)
            print(f"{name}, {segmenter}: {results[f'{name}, {segmenter}']}", flush=True)
    if arguments.tracks is not None and table:
        with arguments.tracks.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)
        print("Wrote", arguments.tracks)
    if arguments.walkers is not None:
        results["walkers"] = walkers(arguments.walkers)
        print(f"walkers: {results['walkers']}")
    if arguments.write:
        print("Wrote", write_result("segment", results))


if __name__ == "__main__":
    main()
