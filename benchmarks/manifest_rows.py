"""Ten million rows: seconds of CPU and peak memory of writing, fingerprint, selecting, splitting, checking and loading.

python benchmarks/manifest_rows.py [--write]
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from recording import write_result

from surg.data.check import check
from surg.data.clips import ClipConfig
from surg.data.manifest import SCHEMA, WRITE_ROWS, Manifest, write_batches
from surg.data.splits import split_by_case


def rows(count: int, per_video: int = 100) -> Iterator[pa.RecordBatch]:
    """100 clips of 4 s per video, 5 videos per case, 8 classes."""
    for first in range(0, count, WRITE_ROWS):
        number = np.arange(first, min(first + WRITE_ROWS, count))
        start = (number % per_video) * 4.0
        text = {
            "video": [f"videos/{n:07d}.mp4" for n in number // per_video],
            "case": [f"case{n}" for n in number // (5 * per_video)],
            "labels": [f'{{"action":"class {n}"}}' for n in number * 7919 % 8],
        }
        fixed = {"split": "", "source": "made up", "licence": "CC0", "meta": "{}"}
        columns = {name: pa.array(values) for name, values in text.items()}
        columns |= {name: pa.array([value] * len(number)) for name, value in fixed.items()}
        columns |= {"start_s": pa.array(start), "end_s": pa.array(start + 4), "zone": pa.nulls(len(number), pa.string())}
        columns["masks"] = columns["zone"]
        yield pa.record_batch([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--write", action="store_true", help="write benchmarks/manifest_rows_<hardware>_<yyyy-mm>.json and .md")
    options = parser.parse_args()
    steps = []

    def step(name: str, work: object) -> None:
        began = time.process_time()
        value = work()
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        steps.append(
            {"step": name, "cpu_s": round(time.process_time() - began, 1), "peak_mb_so_far": peak_mb, "result": str(value)[:60]}
        )
        print(steps[-1], file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        path, split = Path(folder) / "m.parquet", Path(folder) / "s.parquet"
        step("write", lambda: len(write_batches(path, rows(options.rows))))
        size_mb = path.stat().st_size >> 20
        step("open and count", lambda: len(Manifest.read(path)))
        step("split by case, stratified", lambda: split_by_case(Manifest.read(path), split, stratify="action").clips)
        step("count one split", lambda: len(Manifest.read(split).select("val")))
        step("fingerprint of one split", lambda: Manifest.read(split).select("val").fingerprint[:12])
        step("check, rows only", lambda: check(Manifest.read(split), Path(folder) / "w.parquet", depth="none").videos)
        step("first 100,000 clips as objects", lambda: sum(1 for _, _ in zip(range(100_000), Manifest.read(split).clips())))
        # Last, because it brings torch along.
        from surg.data.loader import ClipLoader, LoaderConfig
        from surg.data.preprocess import PreprocessSpec

        config = LoaderConfig(workers=0, balance="action")
        step("loader: open", lambda: ClipLoader(Manifest.read(split), ClipConfig(), PreprocessSpec(), config).order(0)[:3])
    results = {"rows": options.rows, "file_mb": size_mb, "pyarrow": pa.__version__, "steps": steps}
    note = f"A manifest of {options.rows:,} rows ({size_mb} MB), pyarrow {pa.__version__}."
    lines = ["| step | CPU s | peak memory so far, MB |", "|---|---|---|"]
    lines += [f"| {row['step']} | {row['cpu_s']} | {row['peak_mb_so_far']} |" for row in steps]
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    if options.write:
        print("Wrote", write_result("manifest_rows", results, table, note))


if __name__ == "__main__":
    main()
