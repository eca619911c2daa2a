"""Speed of the motion features, and what they alone can tell: the baseline that an encoder must beat.

    python benchmarks/motion.py --speed [VIDEO] [--write]
    surg data synth tissue --out /tmp/tissue --clips 800 --seed 0
    surg data motion /tmp/tissue/manifest.parquet --out /tmp/motion.parquet
    python benchmarks/motion.py --confusion /tmp/motion.parquet --manifest /tmp/tissue/manifest.parquet [--write]

--speed: 10 s at 16 frames a second, 400 x 224, on one core, decoding apart; and clips per second of two processes against one.
--confusion: logistic regression on the 23 numbers, learnt on train, scored on test.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recording import write_result

from surg.data.motion import MotionConfig, clip_features

FRAMES, HEIGHT, WIDTH = 160, 224, 400


def made_up_clip(seed: int = 0) -> list[np.ndarray]:
    """A textured picture that pans, with a patch that moves against it, under sensor noise."""
    rng = np.random.default_rng(seed)
    base = sum(
        strength
        * cv2.resize(rng.standard_normal((cells, cells * 2, 3)), (WIDTH + 200, HEIGHT + 200), interpolation=cv2.INTER_CUBIC)
        for cells, strength in ((8, 60.0), (40, 35.0), (120, 20.0))
    )
    picture = np.clip(base + 128, 0, 255)
    frames = []
    for index in range(FRAMES):
        x, y = int(100 + 60 * np.sin(index / 15)), int(100 + 60 * np.cos(index / 22))
        frame = picture[y : y + HEIGHT, x : x + WIDTH].copy()
        left = int(150 + 100 * np.sin(index / 9))
        frame[80:140, left : left + 60] = picture[20:80, 20:80]
        frames.append(np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8))
    return frames


def once(seed: int) -> float:
    """Seconds of one process's own time for one clip."""
    cv2.setNumThreads(1)
    frames = made_up_clip(seed)
    began = time.perf_counter()
    clip_features(frames, MotionConfig())
    return time.perf_counter() - began


def busy(clips: int) -> float:
    cv2.setNumThreads(1)
    frames = made_up_clip()
    began = time.process_time()
    for _ in range(clips):
        clip_features(frames, MotionConfig())
    return time.process_time() - began


def speed() -> dict[str, Any]:
    cv2.setNumThreads(1)
    frames = made_up_clip()
    clip_features(frames[:20], MotionConfig())
    wall, own = [], []
    for _ in range(5):
        began, cpu = time.perf_counter(), time.process_time()
        clip_features(frames, MotionConfig())
        wall.append(time.perf_counter() - began)
        own.append(time.process_time() - cpu)
    rates = {}
    for workers in (1, 2):
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(once, range(workers)))
            began = time.perf_counter()
            list(pool.map(busy, [3] * workers))
            rates[workers] = 3 * workers / (time.perf_counter() - began)
    load = float(Path("/proc/loadavg").read_text().split()[0])
    return {
        "seconds per clip, one core (wall, best of 5)": round(min(wall), 3),
        "seconds per clip, one core (processor time, median)": round(statistics.median(own), 3),
        "clips per second, 1 process": round(rates[1], 3),
        "clips per second, 2 processes": round(rates[2], 3),
        "two against one": round(rates[2] / rates[1], 2),
        "load of the machine meanwhile": load,
    }


def confusion(table: Path, manifest: Path) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import confusion_matrix
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from surg.data.classes import clip_key, vectors_by_clip
    from surg.data.manifest import Manifest

    vectors = vectors_by_clip(table)
    sides: dict[str, tuple[list[np.ndarray], list[str]]] = {"train": ([], []), "test": ([], [])}
    cases = set()
    for clip in Manifest.read(manifest):
        vector = vectors.get(clip_key(clip.video, clip.start_s, clip.end_s))
        if vector is not None and clip.split in sides:
            sides[clip.split][0].append(vector)
            sides[clip.split][1].append(str(clip.labels["action"]))
            cases.add((clip.split, clip.case))
    (x, y), (x_test, y_test) = sides["train"], sides["test"]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(np.array(x), y)
    names = sorted(set(y))
    return {
        "classes": names,
        "train clips": len(y),
        "test clips": len(y_test),
        "test cases": sum(split == "test" for split, _ in cases),
        "top-1": round(float(np.mean(model.predict(np.array(x_test)) == np.array(y_test))), 3),
        "majority": round(max(y_test.count(name) for name in names) / len(y_test), 3),
        "confusion (rows true)": confusion_matrix(y_test, model.predict(np.array(x_test)), labels=names).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--confusion", type=Path, metavar="MOTION.PARQUET")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--write", action="store_true", help="write benchmarks/motion_<what>_<hardware>_<yyyy-mm>.json")
    arguments = parser.parse_args()
    if arguments.speed:
        results = speed()
        print(results)
        if arguments.write:
            print("Wrote", write_result("motion_speed", results))
    if arguments.confusion:
        results = confusion(arguments.confusion, arguments.manifest)
        print(results)
        if arguments.write:
            print("Wrote", write_result("motion_confusion", results))


if __name__ == "__main__":
    main()
