"""Peak memory of converting and of loading a ViT-g in Meta's layout, each in a process of its own.

    python benchmarks/model_memory.py --model vitg --folder /tmp/vitg

Writes a file of made-up weights first (as large as the real one's encoder and predictor), then measures `ru_maxrss`, which counts
mapped pages of the file too.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from recording import write_result

WRITE = """
import torch; from surg.model.zoo import *; from surg.model.encoder import Encoder; from surg.model.predictor import Predictor
with torch.device("meta"):
    parts = {"target_encoder": Encoder(encoder_config(MODEL)), "predictor": Predictor(predictor_config(MODEL))}
trees = {n: {"module.backbone." + k: torch.full(v.shape, 0.02) for k, v in m.state_dict().items()} for n, m in parts.items()}
torch.save({**trees, "epoch": 1}, PT)
"""
CONVERT = """
from pathlib import Path; from surg.model.convert import convert
convert(Path(PT), Path(ST), model=MODEL)
"""
LOAD = """
from surg.model.checkpoint import load_encoder
encoder = load_encoder(FILE)
print(sum(p.double().sum().item() for p in encoder.parameters()) != 0, end=" ")
"""
REPORT = "\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


def run(code: str, **names: str) -> int:
    head = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    done = subprocess.run([sys.executable, "-c", head + code + REPORT], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vitg")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    meta, ours = options.folder / "meta.pt", options.folder / "ours.safetensors"
    if not meta.exists():
        run(WRITE, MODEL=options.model, PT=str(meta))
    weights = meta.stat().st_size
    peaks = {
        "convert": run(CONVERT, MODEL=options.model, PT=str(meta), ST=str(ours)),
        "load Meta's file": run(LOAD, FILE=str(meta)),
        "load our file": run(LOAD, FILE=str(ours)),
        "import only": run("import surg.model.checkpoint"),
    }
    lines = ["| step | peak memory | x weights |", "|---|---|---|"]
    lines += [f"| {step} | {peak / 1e9:.2f} GB | {peak / weights:.2f} |" for step, peak in peaks.items()]
    table = "\n".join(lines)
    results = {"model": options.model, "weights_bytes": weights, "peak_rss_bytes": peaks}
    note = f"{options.model}: {weights / 1e9:.2f} GB of fp32 weights (encoder and predictor, made up). Peak resident size, mapped pages included."
    print(f"{table}\nwrote {write_result('model_memory', results, table, note)} and .md")


if __name__ == "__main__":
    main()
