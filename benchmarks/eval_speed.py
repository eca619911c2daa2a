"""How fast `surg eval sterility` goes through a long take, whether its memory stays flat, and how busy it keeps the server.

A short take is simulated, coded like a room camera's film (1280 x 720, 25 frames/s) and repeated packet by packet to the wanted length.
    python benchmarks/eval_speed.py MODEL [--write]
Busy is the share of the wall time in which Triton's own statistics say that it ran batches of surg_clip (input, inference, output).
On a machine that does other work besides, compare the CPU seconds, not the wall time.
"""

import argparse
import cProfile
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import tritonclient.grpc as grpc
from recording import write_result

from surg.data.manifest import Clip, Label, Manifest, write_manifest
from surg.data.synth.room import generate_takes
from surg.data.video import iter_frames, probe, write_video
from surg.eval.backends import open_backend
from surg.eval.takes import WatchConfig, read_takes, score_takes
from surg.serving.engine import start_server
from surg.serving.export import export_repository

MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--stride", type=float, default=1.0)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--precision", nargs="+", choices=["fp32", "fp16", "int8"], default=["fp32", "int8"])
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--video", type=Path, help="a film to repeat, instead of a simulated one")
    parser.add_argument("--profile", type=Path, help="also write the client's profile (cProfile) here")
    parser.add_argument("--write", action="store_true", help="write benchmarks/eval_speed_<hardware>_<yyyy-mm>.json and .md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        manifest = make_take(scratch, options)
        results = {}
        for precision in options.precision:
            repository = scratch / precision
            export_repository(options.model, repository, precision=precision)
            with start_server(repository) as server:
                results[precision] = measure(server, manifest, scratch / f"scores-{precision}.parquet", options)
    report(results, options)


def make_take(scratch: Path, options: argparse.Namespace) -> Path:
    """A manifest of one take of the wanted length."""
    clip = next(Manifest.read(generate_takes(scratch / "sim", 1, 0.5, 77, split="test", breaches_per_hour=120)).clips())
    short = options.video or film(Path(clip.video), scratch / "short.mp4", options.size, options.fps)
    long = scratch / "long.mp4"
    period = probe(short).duration_s
    repeat(short, long, options.minutes * 60)
    seconds = probe(long).duration_s
    spans = [
        [start + number * period, end + number * period]
        for number in range(int(seconds // period))
        for start, end, _ in json.loads(str(clip.labels["breaches"]))
    ]
    labels: dict[str, Label] = {"breach": int(bool(spans)), "breaches": json.dumps(spans)}
    take = Clip(str(long), 0.0, seconds, "speed", "test", clip.source, clip.licence, labels, clip.zone)
    return write_manifest(scratch / "long.parquet", [take]).path


def film(source: Path, target: Path, size: str, fps: int) -> Path:
    """The simulated take as a room camera would store it."""
    width, height = map(int, size.split("x"))

    def pictures() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _, frame in iter_frames(source, float(fps)):
            large = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
            # A camera's noise: without it a repeated frame would cost nothing to decode.
            yield np.clip(large + rng.integers(-2, 3, (height, width, 1), dtype=np.int16), 0, 255).astype(np.uint8)

    write_video(target, pictures(), float(fps), crf=26, gop=2 * fps)
    return target


def repeat(source: Path, target: Path, seconds: float) -> None:
    """The same packets again and again, until `seconds` are full."""
    with av.open(str(source)) as reader:
        stream = reader.streams.video[0]
        assert stream.time_base is not None
        packets = [packet for packet in reader.demux(stream) if packet.dts is not None]
        rate = Fraction(stream.average_rate or 25)
        period = round(len(packets) / rate / stream.time_base)
        with av.open(str(target), "w") as writer:
            copy = writer.add_stream_from_template(stream)
            times = [(packet.pts, packet.dts) for packet in packets]
            for number in range(int(np.ceil(seconds / float(period * stream.time_base)))):
                for packet, (pts, dts) in zip(packets, times):
                    packet.time_base = stream.time_base  # writing may have changed it
                    packet.pts, packet.dts = pts + number * period, dts + number * period
                    packet.stream = copy
                    writer.mux(packet)


def measure(server: Any, manifest: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    config = WatchConfig(stride_s=options.stride)
    statistics = grpc.InferenceServerClient(server.grpc_url)
    with open_backend("triton", server=server.grpc_url, in_flight=options.in_flight) as backend, Memory() as memory:
        clip = next(Manifest.read(manifest).clips())
        backend.clip(np.zeros((backend.spec.num_frames, backend.spec.size, backend.spec.size, 3), np.uint8))
        before, cpu, begun = busy_ns(statistics), cpu_s(server.pid), time.perf_counter()
        takes = read_takes(Manifest.read(manifest), config)
        with profiled(options.profile):
            scored = score_takes(backend, takes, out, config)
        wall = time.perf_counter() - begun
        after, spent = busy_ns(statistics), cpu_s(server.pid)
        backend.finish()
    seconds = clip.end_s - clip.start_s
    windows = sum(len(take.times_s) for take in scored)
    client, served = (b - a for a, b in zip(cpu, spent))
    return {
        "take_minutes": round(seconds / 60, 2),
        "windows": windows,
        "wall_s": round(wall, 2),
        "times_real_time": round(seconds / wall, 2),
        "windows_per_s": round(windows / wall, 2),
        "server_busy_share": round((after - before) / 1e9 / wall, 4),
        "client_cpu_s": round(client, 2),
        "server_cpu_s": round(served, 2),
        "times_real_time_if_alone": round(seconds / ((client + served) / (os.cpu_count() or 1)), 2),
        "client_mib_at_quarters": [round(value / MIB) for value in memory.quarters()],
    }


def busy_ns(client: Any) -> int:
    """Nanoseconds in which batches of surg_clip ran, each batch counted once."""
    stats = client.get_inference_statistics("surg_clip", as_json=True)["model_stats"]
    parts = ("compute_input", "compute_infer", "compute_output")
    return sum(int(batch[part].get("ns", 0)) for model in stats for batch in model.get("batch_stats", []) for part in parts)


def cpu_s(server_pid: int) -> tuple[float, float]:
    """CPU seconds so far: this process, and the server with the processes that run its models."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    tick = os.sysconf("SC_CLK_TCK")
    served, wanted = 0.0, {server_pid}
    rows = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        rows[int(folder.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / tick)
    while grown := {pid for pid, (parent, _) in rows.items() if parent in wanted} - wanted:
        wanted |= grown
    served = sum(rows[pid][1] for pid in wanted if pid in rows)
    return own.ru_utime + own.ru_stime, served


class Memory:
    """This process's resident memory, twice a second."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._stop.wait(0.5):
            self.samples.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)

    def quarters(self) -> list[int]:
        """After a quarter, a half, three quarters and the whole of the time."""
        count = len(self.samples)
        return [self.samples[max(0, count * part // 4 - 1)] for part in (1, 2, 3, 4)] if count else []


@contextmanager
def profiled(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    profile = cProfile.Profile()
    with profile:
        yield
    profile.dump_stats(path)


def report(results: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    film = f"{options.size}, {options.fps} frames/s" if options.video is None else options.video.name
    minutes = next(iter(results.values()))["take_minutes"]
    note = f"One take of {minutes:g} minutes ({film}), a window every {options.stride:g} s, {options.in_flight} requests in flight."
    names = next(iter(results.values()))
    rows = (f"| {name.replace('_', ' ')} | {' | '.join(str(found[name]) for found in results.values())} |" for name in names)
    table = "\n".join([f"| what | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|", *rows])
    print(note, table, sep="\n\n")
    if options.write:
        print("Wrote", write_result("eval_speed", results, table, note))


if __name__ == "__main__":
    main()
