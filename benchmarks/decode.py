"""How fast 16 frames at 4 per second come out of a 10-second 720p clip with a keyframe every 30 frames: surg, OpenCV, decord.

Every reader opens the file anew for each window, as a training loader does, and must return the same frames. Rounds are interleaved.

    python benchmarks/decode.py [--write]          (decord takes part when it can be imported)
"""

import argparse
import importlib.metadata
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from recording import write_result

from surg.data.clips import ClipConfig, frame_times
from surg.data.video import read_frames, write_video

FPS, SECONDS, HEIGHT, WIDTH = 30, 10, 720, 1280
CLIP = ClipConfig(num_frames=16, fps=4.0)
WARM_UP = 1
Reader = Callable[[str, np.ndarray], np.ndarray]


def make_clip(path: Path, preset: str) -> None:
    """Soft tissue-like clouds that drift and breathe under sensor noise: bits are spent on motion as in real video."""
    rng = np.random.default_rng(0)
    cloud = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT + 400, WIDTH + 400, 3)), (0, 0), 25)
    cloud = ((cloud - cloud.min()) / np.ptp(cloud) * 235).astype(np.uint8)
    # Noise from a new place of one tile for every frame: fresh, as a sensor has it, and quickly drawn.
    noise = rng.normal(8, 2, (HEIGHT + 64, WIDTH + 64, 1)).clip(0, 20).astype(np.uint8).repeat(3, 2)

    def frames():
        for index in range(FPS * SECONDS):
            x, y = int(200 + 150 * np.sin(index / 20)), int(200 + 150 * np.cos(index / 31))
            up, left = rng.integers(0, 64, 2)
            frame = cv2.add(cloud[y : y + HEIGHT, x : x + WIDTH], noise[up : up + HEIGHT, left : left + WIDTH])
            # The frame's number, so that readers can be compared.
            for bit in range(9):
                frame[:40, bit * 40 : (bit + 1) * 40] = 255 if index >> bit & 1 else 0
            yield frame

    write_video(path, frames(), FPS, crf=23, preset=preset, gop=30)


def by_surg(threads: int) -> Reader:
    return lambda path, times: read_frames(path, times, threads=threads)


def by_opencv(path: str, times: np.ndarray) -> np.ndarray:
    video = cv2.VideoCapture(path)
    wanted = [int(time * FPS + 1e-6) for time in times]
    video.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
    out = np.empty((len(wanted), HEIGHT, WIDTH, 3), np.uint8)
    for index in range(wanted[0], wanted[-1] + 1):
        video.grab()
        for place in (place for place, number in enumerate(wanted) if number == index):
            cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB, dst=out[place])
    video.release()
    return out


def by_decord(threads: int) -> Reader:
    import decord

    def read(path: str, times: np.ndarray) -> np.ndarray:
        video = decord.VideoReader(path, num_threads=threads)
        return video.get_batch([int(time * FPS + 1e-6) for time in times]).asnumpy()

    return read


def numbers(frames: np.ndarray) -> list[int]:
    return [sum(int(frame[20, bit * 40 + 20, 0] > 128) << bit for bit in range(9)) for frame in frames]


def measure(readers: dict[str, Reader], path: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """name -> (wall ms, CPU ms) of every round."""
    rng = np.random.default_rng(1)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for turn in range(rounds + WARM_UP):
        times = frame_times(rng.uniform(CLIP.span_s, SECONDS - 0.1), CLIP) + 0.3 / FPS
        for name, reader in readers.items():
            began, busy = time.perf_counter(), time.process_time()
            frames = reader(str(path), times)
            if turn >= WARM_UP:
                taken[name].append(((time.perf_counter() - began) * 1000, (time.process_time() - busy) * 1000))
            expected = [int(moment * FPS) for moment in times]
            if numbers(frames) != expected:
                raise SystemExit(f"{name} returned frames {numbers(frames)}, expected {expected}")
    return taken


def summary(values: list[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = np.array(values).T
    return {name: round(float(value), 1) for name, value in
            (("p50_ms", np.median(wall)), ("p95_ms", np.percentile(wall, 95)), ("cpu_p50_ms", np.median(cpu)))}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--presets", nargs="+", default=["medium", "ultrafast"], help="x264's; ultrafast makes no B-frames")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--write", action="store_true", help="write benchmarks/decode_<hardware>_<yyyy-mm>.json and .md")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    readers: dict[str, Reader] = {"surg": by_surg(0), "opencv": by_opencv}
    decord = importlib.metadata.version("decord") if importlib.util.find_spec("decord") else None
    if decord:
        readers[f"decord, {cores} threads"] = by_decord(cores)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            make_clip(Path(folder) / "clip.mp4", preset)
            taken = measure(readers, Path(folder) / "clip.mp4", options.rounds)
            found[preset] = {name: summary(values) for name, values in taken.items()}
    results = {
        "clip": f"{SECONDS} s, {WIDTH}x{HEIGHT}, {FPS} fps, H.264 crf 23, GOP 30; {CLIP.num_frames} frames at {CLIP.fps:g} fps",
        "rounds": options.rounds, "cores": cores, "load_average": round(os.getloadavg()[0], 1), "decord": decord, "presets": found,
    }  # fmt: skip
    note = (
        f"{results['clip']}. Milliseconds for one window; the file is opened anew and frames are RGB. CPU is the time of all cores together, "
        f"which does not depend on what else the machine was doing. {options.rounds} rounds on {cores} cores, load average "
        f"{results['load_average']}" + (f", decord {decord}." if decord else ".")
    )
    lines = ["| encoder preset | reader | wall p50 | wall p95 | CPU p50 | CPU by surg's |", "|---|---|---|---|---|---|"]
    for preset, of_preset in found.items():
        ours = of_preset["surg"]["cpu_p50_ms"]
        for name, row in of_preset.items():
            cpu = row["cpu_p50_ms"]
            lines.append(f"| {preset} | {name} | {row['p50_ms']} | {row['p95_ms']} | {cpu} | {cpu / ours:.2f} |")
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    if options.write:
        print("Wrote", write_result("decode", results, table, note))


if __name__ == "__main__":
    main()
