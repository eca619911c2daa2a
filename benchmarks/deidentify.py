"""How often does de-identification err? Out-of-body views and burnt-in text. One core, a few minutes.

    surg data synth tissue --out A --clips 64 --seed 5 --family a      (B: --family b)      surg data synth room --out R --clips 48
    python benchmarks/deidentify.py --inside A B --outside R VIDEO … [--write]

Inside the body: the tissue simulator. Outside: the room simulator, and videos of anything that is no tissue. Nothing here is a
real endoscopy, so these rates say what the filter can do at best, and promise nothing.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recording import write_result

from surg.data.adapters.files import videos_under
from surg.data.out_of_body import Look, OutOfBodyConfig, look, stretches_outside
from surg.data.overlay import find_overlay
from surg.data.synth.version import SIMULATOR_VERSION
from surg.data.video import iter_frames

THRESHOLDS = (0.0, 0.15, 0.3, 0.45)
SECONDS_INSIDE, SECONDS_OUTSIDE = 20, 6
TEXT = "DOE JOHN 1961-04-12"


def looks_of(recordings: list[Path], every_s: float = 0.5) -> list[Look]:
    return [look(frame) for video in recordings for _, frame in iter_frames(video, 1 / every_s)]


def single_pictures(looks: dict[str, list[Look]]) -> list[dict[str, object]]:
    """Share of pictures on the wrong side, at each threshold."""
    rows = []
    for name, found in looks.items():
        seen = [one.score for one in found if not one.dark]
        inside = name.startswith("inside")
        wrong = {f"{limit:g}": float(np.mean([(score < limit) == inside for score in seen])) for limit in THRESHOLDS}
        rows.append({"set": name, "truth": "inside" if inside else "outside", "pictures": len(seen), "wrong_at": wrong})
    return rows


def operations(looks: dict[str, list[Look]], count: int = 200) -> dict[str, float]:
    """20 s inside, 6 s outside, 20 s inside, put together from looks: seconds that stay visible, seconds that are lost."""
    rng = np.random.default_rng(5)
    inside = [one for name, found in looks.items() if name.startswith("inside") for one in found]
    outside = [one for name, found in looks.items() if not name.startswith("inside") for one in found]
    shown = lost = whole = 0.0
    for _ in range(count):
        sequence = []
        for pool, seconds in ((inside, SECONDS_INSIDE), (outside, SECONDS_OUTSIDE), (inside, SECONDS_INSIDE)):
            start = int(rng.integers(0, len(pool) - 2 * seconds))
            sequence += pool[start : start + 2 * seconds]
        times = [0.5 * index for index in range(len(sequence))]
        dark = np.zeros(len(sequence), bool)
        for start_s, end_s in stretches_outside(times, sequence, OutOfBodyConfig()):
            dark[int(2 * start_s) : int(np.ceil(2 * end_s))] = True
        truth = slice(2 * SECONDS_INSIDE, 2 * (SECONDS_INSIDE + SECONDS_OUTSIDE))
        shown += float((~dark[truth]).sum()) / 2
        whole += float((~dark[truth]).any())
        lost += float(dark.sum() - dark[truth].sum()) / 2
    return {
        "operations": count,
        "outside_shown_share": shown / (count * SECONDS_OUTSIDE),
        "operations_with_any_outside_shown": whole / count,
        "inside_lost_share": lost / (count * 2 * SECONDS_INSIDE),
        "of_which_margin_share": 2 * OutOfBodyConfig().margin_s / (2 * SECONDS_INSIDE),
    }


def procedures(clips_of_all: list[Path], width: int = 640) -> list[list[np.ndarray]]:
    """Clips of one simulated procedure one after the other, at 2 pictures a second."""
    cases = defaultdict(list)
    for video in clips_of_all:
        cases[video.stem.rsplit("-", 1)[0]].append(video)
    return [
        [
            cv2.resize(frame, (width, width), interpolation=cv2.INTER_CUBIC)
            for clip in clips
            for _, frame in iter_frames(clip, 2.0)
        ]
        for clips in cases.values()
        if len(clips) == 8
    ][::2]


def burnt_in(clips: list[Path]) -> dict[str, object]:
    """Share of procedures whose text is covered to 95 %, by height of the letters; boxes where there is none."""
    cases = procedures(clips)
    clean = [find_overlay(frames) for frames in cases]
    recall = {}
    for height in (8, 16):
        hits = []
        for index, frames in enumerate(cases):
            colour = ((255, 255, 255), (255, 220, 60), (180, 255, 180))[index % 3]
            scale = height / 22
            place = ((12, 628), (12, 40), (330, 628), (200, 320))[index % 4]

            def stamp(
                frame: np.ndarray, colour: tuple[int, int, int] = colour, scale: float = scale, place: tuple[int, int] = place
            ) -> np.ndarray:
                return cv2.putText(
                    frame.copy(), TEXT, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, max(1, round(2 * scale)), cv2.LINE_AA
                )

            letters = stamp(np.zeros_like(frames[0]))[..., 1] > 100
            covered = np.zeros_like(letters)
            side = letters.shape[0]
            for x0, y0, x1, y1 in find_overlay([stamp(frame) for frame in frames]).boxes:
                covered[int(y0 * side) : int(np.ceil(y1 * side)), int(x0 * side) : int(np.ceil(x1 * side))] = True
            hits.append(float((letters & covered).sum() / letters.sum()))
        recall[f"{height} px"] = {"covered_95": float(np.mean(np.array(hits) >= 0.95)), "mean_covered": float(np.mean(hits))}
    return {
        "procedures": len(cases),
        "width_px": 640,
        "recall_by_letter_height": recall,
        "procedures_with_false_boxes": float(np.mean([bool(one.boxes) for one in clean])),
        "procedures_not_told": float(np.mean([not one.told for one in clean])),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "## Out of the body, single pictures: share on the wrong side",
        "",
        "| pictures of | truth | number | " + " | ".join(f"threshold {t:g}" for t in THRESHOLDS) + " |",
    ]
    lines += ["|---|---|---|" + "---|" * len(THRESHOLDS)]
    for row in result["single_pictures"]:
        lines.append(
            f"| {row['set']} | {row['truth']} | {row['pictures']} | "
            + " | ".join(f"{100 * value:.1f} %" for value in row["wrong_at"].values())
            + " |"
        )
    for title, key in (
        ("Whole operations at the default threshold", "operations"),
        ("Burnt-in text", "overlay"),
    ):
        lines += ["", f"## {title}", "", "```json", json.dumps(result[key], indent=1), "```"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", type=Path, nargs="+", required=True)
    parser.add_argument("--outside", type=Path, nargs="+", required=True)
    parser.add_argument("--write", action="store_true", help="write benchmarks/deidentify_<hardware>_<yyyy-mm>.json and .md")
    arguments = parser.parse_args()
    sets = {f"{side}: {path.name}": videos(path) for side in ("inside", "outside") for path in getattr(arguments, side)}
    looks = {name: looks_of(found) for name, found in sets.items()}
    print(json.dumps(single_pictures(looks)), flush=True)
    result: dict[str, object] = {
        "simulator": SIMULATOR_VERSION,
        "single_pictures": single_pictures(looks),
        "operations": operations({name: found for name, found in looks.items() if len(found) > 2 * SECONDS_INSIDE}),
        "overlay": burnt_in([path for name, found in sets.items() if name.startswith("inside") for path in found]),
    }
    note = f"Error rates of de-identification on simulator version {SIMULATOR_VERSION}, one process."
    print(note, table(result), sep="\n\n")
    if arguments.write:
        print("Wrote", write_result("deidentify", result, table(result), note))


def videos(path: Path) -> list[Path]:
    return videos_under(path) if path.is_dir() else [path]


if __name__ == "__main__":
    main()
