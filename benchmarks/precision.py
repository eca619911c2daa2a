"""What fp16 and int8 graphs cost in accuracy: decisions and cosines against the fp32 graph, over windows of the simulated clips that
come with the demo, decoded and prepared as in use: whole, and cropped around two zones.

    python benchmarks/precision.py [--checkpoint surg-tiny] [--clips 500] [--write]

Windows of one clip overlap, so neighbours are alike. Without --checkpoint the model is `tiny` with weights drawn at random,
whose logits lie closer together than a trained model's.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from recording import write_result

import surg
from surg.data.preprocess import PreprocessSpec
from surg.model import zoo
from surg.model.bundle import load_bundle, save_bundle
from surg.model.encoder import build_encoder
from surg.model.heads import AttentiveClassifier, SterilityHead
from surg.model.saved import find_bundle
from surg.serving.local import session
from surg.serving.models import ServedConfig, prepare
from surg.serving.onnx import export_onnx
from surg.serving.parity import FENCE, cosines, decisions
from surg.serving.stream import cuts

CLIPS = Path(surg.__file__).parent / "demo" / "clips"
ZONES = [[[0.3, 0.3], [0.7, 0.3], [0.7, 0.8], [0.3, 0.8]], [[0.1, 0.45], [0.55, 0.4], [0.5, 0.9], [0.15, 0.95]]]


def made_up(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    width = zoo.encoder_config("tiny").embed_dim
    heads = {"head.action": AttentiveClassifier(width, 3, 2, 8), "head.sterility": SterilityHead(width)}
    save_bundle(path, {"encoder": build_encoder(zoo.encoder_config("tiny")), **heads}, {}, {})
    return path


def windows(spec: PreprocessSpec, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """At most so many windows, spread evenly over all that the clips hold: one a frame, for each zone."""
    found = [
        (cut.frames, cut.zone)
        for video in sorted(CLIPS.glob("*.mp4"))
        for zone in (None, *ZONES)
        for cut in cuts(video, spec, zone, 1 / spec.fps)
    ]
    return [found[place] for place in np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).astype(int))]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--checkpoint")
    options.add_argument("--clips", type=int, default=500)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--write", action="store_true", help="write benchmarks/precision_<hardware>_<yyyy-mm>.json and .md")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = find_bundle(arguments.checkpoint) if arguments.checkpoint else made_up(Path(scratch) / "tiny.safetensors")
        bundle = load_bundle(path)
        contract = prepare(bundle, ServedConfig()).contract
        spec = contract.model("surg_clip")
        sessions = {}
        for precision in ("fp32", "fp16", "int8"):
            file = Path(scratch) / f"{precision}.onnx"
            export_onnx(prepare(bundle, ServedConfig()).modules["surg_clip"], spec, file, precision, fused=True)
            sessions[precision] = session(file, arguments.threads)
        outputs = [tensor.name for tensor in spec.outputs]
        found: dict[str, list[list[np.ndarray]]] = {precision: [] for precision in sessions}
        prepared = windows(contract.preprocess, arguments.clips)
        for start in range(0, len(prepared), arguments.batch):
            part = prepared[start : start + arguments.batch]
            feed = {"frames": np.stack([frames for frames, _ in part]), "zone": np.stack([zone for _, zone in part])}
            for precision, answers in found.items():
                answers.append(sessions[precision].run(outputs, feed))
    rows = []
    thresholds = [contract.threshold(second) for second in contract.horizons_s]
    for index, output in enumerate(outputs):
        full = np.concatenate([answer[index] for answer in found["fp32"]]).reshape(len(prepared), -1)
        for precision in ("fp16", "int8"):
            other = np.concatenate([answer[index] for answer in found[precision]]).reshape(len(prepared), -1)
            decided = decisions(output, full, other, thresholds, FENCE[precision])
            similar = cosines(full, other)
            rows.append(
                {
                    "precision": precision, "output": output, "max_abs": float(np.abs(full - other).max()),
                    "smallest_cosine": float(similar.min()), "median_cosine": float(np.median(similar)),
                    "fence": decided.fence, "near": decided.near, "changed_near": decided.changed_near, "flips": decided.flips,
                }
            )  # fmt: skip
    note = (
        f"fp16 and int8 against fp32, {len(prepared)} windows of the demo's simulated clips, "
        + (f"weights {contract.checkpoint_sha256[:12]}" if arguments.checkpoint else "tiny with weights drawn at random")
        + "."
    )
    lines = [
        "| graph | output | largest difference | smallest, median cosine | decisions flipped | on the fence, of them changed |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        decides = row["output"] in ("action", "breach")
        lines.append(
            f"| {row['precision']} | {row['output']} | {row['max_abs']:.1e} | {row['smallest_cosine']:.6f}, {row['median_cosine']:.6f} | "
            + (f"{row['flips']} | {row['near']} within {row['fence']:g}, {row['changed_near']} |" if decides else "– | – |")
        )
    lines += ["", "On the fence: the fp32 probability is no further from the threshold, or from the second class, than stated."]
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    if arguments.write:
        print("Wrote", write_result("precision", {"windows": len(prepared), "rows": rows}, table, note))


if __name__ == "__main__":
    main()
