"""Pictures to judge factor clips by: original | D_L | D_A | D_I, with tracks drawn in."""

from collections.abc import Sequence

import cv2
import numpy as np

from surg.data.factor_clips import plan_factors
from surg.data.factors import KINDS, FactorConfig, Tube, apply, pixel_box
from surg.data.manifest import Clip
from surg.data.segment.masks import Frames, Segmentation
from surg.data.sources import read_clip
from surg.data.tracks import Track, Tracks

TILE = 192
AGENT, LAYOUT, TUBE_COLOUR = (255, 200, 40), (120, 200, 255), (80, 255, 120)


def factor_rows(clip: Clip, saved: Segmentation, config: FactorConfig, columns: int = 2) -> Frames:
    """A strip for one clip: for `columns` moments the original with tracks, D_L, D_A and D_I beside each other."""
    picked = np.linspace(0, len(saved.times_s) - 1, columns + 2).round().astype(int)[1:-1]
    frames, _ = read_clip(clip, saved.times_s[picked])
    tracks = Tracks.of(saved)
    plan = plan_factors(clip, KINDS, config)
    tubes = [Tube.from_json(row.meta["tube"]) for row in plan.clips if "tube" in row.meta]
    ids = saved.at(saved.times_s[picked], frames.shape[1:3])
    strips = []
    for position, index in enumerate(picked.tolist()):
        one, own = frames[position : position + 1], ids[position : position + 1]
        drawn = draw_tracks(one[0], tracks.items, index, saved.ids.shape[1:])
        if tubes:
            x0, y0, x1, y1 = pixel_box(tubes[0].box, drawn.shape)
            cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), TUBE_COLOUR, max(1, drawn.shape[0] // 200))
        tiles = [_tile(drawn)]
        for kind in KINDS:
            if kind in plan.dropped:
                tiles.append(_note(f"no {kind}: {plan.dropped[kind]}"))
            else:
                tube = tubes[0] if kind == "D_I" else None
                tiles.append(_tile(apply(kind, one, own, tracks.items, config, indices=[index], tube=tube)[0]))
        strips.append(np.concatenate(tiles, axis=1))
    return np.concatenate(strips, axis=1)


def draw_tracks(frame: Frames, tracks: Sequence[Track], index: int, shape: tuple[int, ...]) -> Frames:
    """Boxes (agents yellow, layout blue) with ids, and the path of each tip so far."""
    out = frame.copy()
    scale = np.array([frame.shape[1] / shape[1], frame.shape[0] / shape[0]])
    thin = max(1, frame.shape[0] // 200)
    for track in tracks:
        if index not in track.frames:
            continue
        at = track.frames.index(index)
        colour = AGENT if track.is_agent_at(index) else LAYOUT
        corners = (np.array(track.boxes[at]).reshape(2, 2) * scale).round().astype(int)
        cv2.rectangle(out, tuple(corners[0].tolist()), tuple(corners[1].tolist()), colour, thin)
        path = (np.array(track.tips[: at + 1]) * scale).round().astype(np.int32)
        cv2.polylines(out, [path.reshape(-1, 1, 2)], False, colour, thin, cv2.LINE_AA)
        place = (int(corners[0][0]) + 2, max(11 * thin, int(corners[0][1]) - 3))
        cv2.putText(out, f"{track.id}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thin, colour, thin, cv2.LINE_AA)
    return out


def headline(width: int, columns: int) -> Frames:
    """A line that names the columns."""
    line = np.full((18, width, 3), 24, np.uint8)
    for number in range(4 * columns):
        text = ("original", *KINDS)[number % 4]
        cv2.putText(line, text, (number * TILE + 6, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)
    return line


def _tile(frame: Frames) -> Frames:
    """Fitted into a square, on dark grey."""
    height, width = frame.shape[:2]
    scale = TILE / max(height, width)
    small = cv2.resize(frame, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    tile = np.full((TILE, TILE, 3), 24, np.uint8)
    top, left = (TILE - small.shape[0]) // 2, (TILE - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def _note(text: str) -> Frames:
    tile = np.full((TILE, TILE, 3), 24, np.uint8)
    words, line, y = text.split(), "", 80
    for word in [*words, ""]:
        if word and len(line) + len(word) < 26:
            line = f"{line} {word}".strip()
            continue
        cv2.putText(tile, line, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (200, 200, 200), 1, cv2.LINE_AA)
        line, y = word, y + 16
    return tile
