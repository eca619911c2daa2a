"""Zone-conditioned breach scores on real video with intervals marked by hand (tests/real/*.json on Debian's opencv-doc clips).

No operating room is in these clips: hands, a box, walkers enter a polygon. Reported as it is, beside the prior (the share of windows with an
event: what a score that knows nothing has as average precision) and motion within the zone. A model knows nothing of these cameras, so no
threshold was chosen for them: the ranking of windows and what the best threshold could reach are what to read.
    python benchmarks/eval_real_video.py MODEL [--write]
"""

import argparse
import tempfile
from pathlib import Path

from recording import write_result

from surg.eval.backends import open_backend
from surg.eval.real import build_manifest
from surg.eval.report import markdown
from surg.eval.runs import judge_sterility
from surg.eval.sterility import SterilityConfig
from surg.eval.takes import WatchConfig

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--backend", default="triton", choices=("triton", "onnx", "torch"))
    parser.add_argument("--videos", type=Path, default=Path("/usr/share/doc/opencv-doc"))
    parser.add_argument(
        "--write", action="store_true", help="write benchmarks/eval_real_video_<hardware>_<yyyy-mm>.json and .md"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = build_manifest(
            HERE.parent.joinpath("tests/real").glob("*.json"), [options.videos], Path(scratch) / "m.parquet"
        )
        config = SterilityConfig(watch=WatchConfig(stride_s=0.5), long_s=0.0)
        with open_backend(options.backend, checkpoint=options.checkpoint) as backend:
            result = judge_sterility(backend, manifest, Path(scratch), config)
            result.evidence |= backend.finish()
    result.plots.clear()  # pictures stay out of the repository
    result.title = "Real video with intervals marked by hand"
    result.protocol.append(
        "The videos are OpenCV's samples from Debian's package opencv-doc; zones and intervals were marked by eye, good to about 0.3 s."
    )
    print(result.headline)
    for table in result.tables:
        print(table.title, *table.rows, sep="\n  ")
    if options.write:
        numbers = {name: {"value": m.value, "low": m.low, "high": m.high} for name, m in result.metrics.items()}
        path = write_result(
            "eval_real_video",
            {"headline": result.headline, "metrics": numbers},
            markdown([result], result.title).rstrip(),
            data_fingerprint=result.evidence.get("data_fingerprint"),
        )
        print("Wrote", path)


if __name__ == "__main__":
    main()
