"""Frames a second of the simulators at 224 px, H.264, truths and masks included.

    python benchmarks/synth_rate.py [--write]

Cases are rendered in this process on one thread. CPU seconds are counted, not the clock: other work on the machine then changes little,
and two cores render two cases at a time, so the rate of two cores is twice that of one.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np
from recording import write_result

from surg.data.synth import room, tissue
from surg.data.synth.room_scene import choose_renderer
from surg.data.synth.version import SIMULATOR_VERSION

FRAMES = {"tissue": tissue.CLIPS_PER_CASE * tissue.FRAMES, "room": int(room.CLIPS_PER_CASE * room.SECONDS * room.FPS)}


def rates(render: Callable[[dict[str, object]], object], item: dict[str, object], frames: int, cases: int) -> list[float]:
    """Frames per CPU second of each case after a first one that warms up."""
    found = []
    for case in range(cases + 1):
        begin = time.process_time()
        render(item | {"case": case})
        found.append(frames / (time.process_time() - begin))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--write", action="store_true", help="write benchmarks/synth_rate_<hardware>_<yyyy-mm>.json and .md")
    arguments = parser.parse_args()
    os.environ["LP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        base: dict[str, object] = {"out": folder, "seed": 1, "family": "a", "split": "train", "size": arguments.size}
        jobs: dict[str, tuple[Callable[..., object], dict[str, object]]] = {"tissue": (tissue.render_case, {"clips": 8})}
        for renderer in dict.fromkeys((choose_renderer("auto"), "painter")):
            jobs[f"room, {renderer}"] = (
                room.render_case,
                {"clips": 4, "cameras": 1, "seconds": room.SECONDS, "renderer": renderer},
            )
        for name, (render, more) in jobs.items():
            found = rates(render, base | more, FRAMES[name.split(",")[0]], arguments.cases)
            rows[name] = {"one_core": float(np.median(found)), "two_cores": 2 * float(np.median(found)), "all": found}
            print(f"{name:14s} {rows[name]['one_core']:6.1f} frames per CPU second, two cores {rows[name]['two_cores']:6.1f}")
    results = {"simulator": SIMULATOR_VERSION, "cases": arguments.cases, "size": arguments.size, "rates": rows}
    note = (
        f"Simulators, version {SIMULATOR_VERSION}: frames per CPU second at {arguments.size} px, drawing, H.264 and truths; "
        f"median of {arguments.cases} cases."
    )
    lines = ["| simulator | one core | two cores |", "|---|---|---|"]
    lines += [f"| {name} | {row['one_core']:.1f} | {row['two_cores']:.1f} |" for name, row in rows.items()]
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    if arguments.write:
        print("Wrote", write_result("synth_rate", results, table, note))


if __name__ == "__main__":
    main()
