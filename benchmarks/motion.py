"""Speed of the motion features, and what they alone can tell: the baseline that an encoder must beat.

    python benchmarks/motion.py --speed [--write]
    surg data synth tissue --out /tmp/tissue --clips 800 --seed 0
    python benchmarks/motion.py --confusion /tmp/tissue/manifest.parquet [--write] [--picture docs/pictures/motion-confusion.png]

--speed: 10 s at 16 frames a second, 400 x 224, on one core, decoding apart; and clips per second of two processes against one, a core and
one OpenCV thread each, the processes started and warm before the clock runs. Rounds of one and of two take turns.
--confusion: measures the 23 numbers of every train and test clip of a manifest with the default settings (again only what the table beside
it, OUT, lacks), learns a logistic regression on train and scores it on test. Nothing in it is drawn at random.
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recording import write_result

from surg.data.motion import MotionConfig, clip_features, describe_clip

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


def timed(rounds: int = 5) -> tuple[list[float], list[float]]:
    """Seconds by the clock and of processor time for one clip, each round anew."""
    frames = made_up_clip()
    clip_features(frames[:20], MotionConfig())
    wall, own = [], []
    for _ in range(rounds):
        began, cpu = time.perf_counter(), time.process_time()
        clip_features(frames, MotionConfig())
        wall.append(time.perf_counter() - began)
        own.append(time.process_time() - cpu)
    return wall, own


_frames: list[np.ndarray] = []


def warm(seconds: float) -> int:
    """Make a worker ready; it waits so long that every worker of the pool gets one of these calls."""
    cv2.setNumThreads(1)
    if not _frames:
        _frames.extend(made_up_clip())
        clip_features(_frames[:20], MotionConfig())
    time.sleep(seconds)
    return os.getpid()


def busy(clips: int) -> float:
    """Processor time that a ready worker takes for so many clips."""
    began = time.process_time()
    for _ in range(clips):
        clip_features(_frames, MotionConfig())
    return time.process_time() - began


def speed(clips: int = 8, rounds: int = 3) -> dict[str, Any]:
    cv2.setNumThreads(1)
    wall, own = timed()
    rates: dict[int, list[float]] = {1: [], 2: []}
    shares: list[float] = []
    with ProcessPoolExecutor(1) as one, ProcessPoolExecutor(2) as two:
        pools = {1: one, 2: two}
        for workers, pool in pools.items():
            while len(set(pool.map(warm, [0.5] * workers))) < workers:
                pass
        for _ in range(rounds):
            for workers, pool in pools.items():
                began = time.perf_counter()
                used = list(pool.map(busy, [clips] * workers))
                took = time.perf_counter() - began
                rates[workers].append(clips * workers / took)
                shares.append(sum(used) / (took * workers))
    load = float(Path("/proc/loadavg").read_text().split()[0])
    best = {workers: max(values) for workers, values in rates.items()}
    return {
        "seconds per clip, one core (wall, best of 5)": round(min(wall), 3),
        "seconds per clip, one core (processor time, median)": round(statistics.median(own), 3),
        "clips per second, 1 process (best round)": round(best[1], 3),
        "clips per second, 2 processes (best round)": round(best[2], 3),
        "two against one": round(best[2] / best[1], 2),
        "two against one, each round": [round(b / a, 2) for a, b in zip(rates[1], rates[2])],
        "share of a core that each process got, least": round(min(shares), 2),
        "load of the machine meanwhile": load,
    }


def confusion(manifest: Path, table: Path, workers: int | None) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import confusion_matrix
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from surg.cli.data_work import key_of
    from surg.data import executor
    from surg.data.classes import clip_key, vectors_by_clip
    from surg.data.manifest import Manifest
    from surg.metrics.bootstrap import case_sums, interval, ratio_of_sums

    config = MotionConfig()
    source = Manifest.read(manifest)
    clips = {side: list(source.select(split=side)) for side in ("train", "test")}
    report = executor.run(
        partial(describe_clip, config=config),
        clips["train"] + clips["test"],
        table,
        workers=workers,
        key=partial(key_of, config=config),
    )
    assert not report.failed, report.failed[:3]
    vectors = vectors_by_clip(table)
    x, x_test = (np.array([vectors[clip_key(c.video, c.start_s, c.end_s)] for c in clips[side]]) for side in ("train", "test"))
    y, y_test = (np.array([str(clip.labels["action"]) for clip in clips[side]]) for side in ("train", "test"))
    cases = [clip.case for clip in clips["test"]]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(x, y)
    names = sorted(set(y.tolist()))
    told = model.predict(x_test)
    sums, counts = case_sums(told == y_test, cases)
    found = interval(ratio_of_sums(sums, counts), len(sums), bounds=(0.0, 1.0))
    # What is predicted without a look at the clip is what train has most of.
    usual = max(names, key=lambda name: int((y == name).sum()))
    return {
        "simulator": sorted({clip.meta.get("simulator", "") for clip in clips["test"]}),
        "manifest": source.fingerprint,
        "classes": names,
        "train clips": len(y),
        "test clips": len(y_test),
        "test cases": len(set(cases)),
        "top-1": round(found.estimate, 3),
        "95 % over cases": [round(found.low, 3), round(found.high, 3)],
        "majority": round(float((y_test == usual).mean()), 3),
        "chance": round(1 / len(names), 3),
        "per class": {name: round(float((told[y_test == name] == name).mean()), 3) for name in names},
        "confusion (rows true)": confusion_matrix(y_test, told, labels=names).tolist(),
    }


def picture(results: dict[str, Any], path: Path) -> None:
    """The confusion as a grid, rows true, shares of each row."""
    names, counts = results["classes"], np.array(results["confusion (rows true)"], float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side, left, top = 56, 100, 60
    sheet = np.full((top + side * len(names) + 10, left + side * len(names) + 10, 3), 255, np.uint8)
    for row, true in enumerate(names):
        cv2.putText(sheet, true, (6, top + side * row + 32), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        cv2.putText(
            sheet,
            true,
            (left + side * row + 2, top - 8 - 14 * (row % 2)),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.36,
            (0, 0, 0),
            1,
            cv2.LINE_AA,
        )
        for column in range(len(names)):
            share = shares[row, column]
            corner = (left + side * column, top + side * row)
            shade = (round(255 - 75 * share), round(255 - 135 * share), round(255 - 225 * share))
            cv2.rectangle(sheet, corner, (corner[0] + side - 2, corner[1] + side - 2), shade, -1)
            if counts[row, column]:
                text = f"{share:.2f}"
                cv2.putText(
                    sheet, text, (corner[0] + 12, corner[1] + 32), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA
                )
    title = (
        f"23 motion numbers, logistic regression: {results['top-1']:.3f} of {results['test clips']} clips (rows: true action)"
    )
    cv2.putText(sheet, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.imwrite(str(path), sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--confusion", type=Path, metavar="MANIFEST")
    parser.add_argument("--out", type=Path, help="table of the 23 numbers; motion.parquet beside the manifest if not given")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--picture", type=Path, help="draw the confusion")
    parser.add_argument("--write", action="store_true", help="write benchmarks/motion_<what>_<hardware>_<yyyy-mm>.json")
    arguments = parser.parse_args()
    if arguments.speed:
        results = speed()
        print(results)
        if arguments.write:
            print("Wrote", write_result("motion_speed", results))
    if arguments.confusion:
        table = arguments.out or arguments.confusion.parent / "motion.parquet"
        results = confusion(arguments.confusion, table, arguments.workers)
        print(results)
        if arguments.picture:
            picture(results, arguments.picture)
            print("Wrote", arguments.picture)
        if arguments.write:
            print("Wrote", write_result("motion_confusion", results))


if __name__ == "__main__":
    main()
