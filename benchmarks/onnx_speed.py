"""The exported tiny encoder under onnxruntime against transformers' VJEPA2Model of the same size (sdpa and eager), one process,
calls in turns, ratios of medians; beside it what torch.onnx.export makes of theirs; and where the graph's time goes, by operator.

    python benchmarks/onnx_speed.py [--threads 2] [--size 112] [--batch 2] [--write]

`--cpu-time` counts this process's processor time with one thread instead of the clock: for a machine that others use too.
The last lines are a bound: what would be left if everything but the matrix products cost nothing.
"""

import argparse
import collections
import contextlib
import io
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from recording import write_result
from transformers import VJEPA2Config, VJEPA2Model

from surg.data.preprocess import PreprocessSpec
from surg.model import zoo
from surg.model.bundle import load_bundle, save_bundle
from surg.model.encoder import build_encoder
from surg.serving.models import ServedConfig, prepare
from surg.serving.onnx import export_onnx
from surg.serving.parity import sample_clips


def theirs(size: int, attention: str) -> VJEPA2Model:
    config = VJEPA2Config(
        patch_size=16, crop_size=size, frames_per_clip=16, tubelet_size=2, hidden_size=192, num_attention_heads=3,
        num_hidden_layers=12, mlp_ratio=4.0, attn_implementation=attention,
    )  # type: ignore[call-arg]  # fmt: skip
    return VJEPA2Model(config).eval()


class Tokens(torch.nn.Module):
    """Their encoder as a graph needs it: one tensor in, one out."""

    def __init__(self, model: VJEPA2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.model(clip, skip_predictor=True).last_hidden_state


def plain_export(model: VJEPA2Model, clip: torch.Tensor, path: Path) -> Path:
    """What `torch.onnx.export` makes of their encoder as it is."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Tokens(model), (clip,), path, dynamo=True, opset_version=20, input_names=["clip"], external_data=False
        )
    return path


def ours(folder: Path, size: int) -> tuple[dict[str, Path], torch.nn.Module, PreprocessSpec]:
    torch.manual_seed(0)
    spec = PreprocessSpec(size=size)
    path = folder / "bundle.safetensors"
    save_bundle(path, {"encoder": build_encoder(zoo.encoder_config("tiny"))}, {}, {"preprocess": spec.model_dump(mode="json")})
    bundle = load_bundle(path)
    ready = prepare(bundle, ServedConfig())
    files = {}
    clip = ready.contract.model("surg_clip")
    for name, precision, fused in (("fp32", "fp32", True), ("fp32, standard operators", "fp32", False), ("int8", "int8", True)):
        files[name] = folder / f"{precision}-{fused}.onnx"
        export_onnx(prepare(bundle, ServedConfig()).modules["surg_clip"], clip, files[name], precision, fused=fused)
    assert bundle.encoder is not None
    return files, bundle.encoder, spec


def by_operator(path: Path, feed: dict[str, np.ndarray], threads: int, rounds: int = 6) -> dict[str, float]:
    """Milliseconds per operator, each node at its best of some rounds: other work on the machine adds time and never takes any."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.enable_profiling = threads, True
    settings.profile_file_prefix = str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    for _ in range(rounds):
        session.run(None, feed)
    best: dict[tuple[str, str], float] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            key = (event["args"]["op_name"], event["name"])
            best[key] = min(event["dur"], best.get(key, float("inf")))
    found: dict[str, float] = collections.defaultdict(float)
    for (operator, _), microseconds in best.items():
        found[operator] += microseconds / 1e3
    return {operator: round(spent, 2) for operator, spent in sorted(found.items(), key=lambda entry: -entry[1])}


def opened(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """As served. A session whose threads go on spinning after its turn would take a core from the next one's."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def a_core_a_clip(
    session: onnxruntime.InferenceSession, cores: ThreadPoolExecutor, frames: np.ndarray, zone: np.ndarray
) -> list[list[np.ndarray]]:
    """As the embedded server runs a batch that has a clip for every core."""
    return list(
        cores.map(lambda row: session.run(None, {"frames": frames[row, None], "zone": zone[row, None]}), range(len(frames)))
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--size", type=int, default=112)
    options.add_argument("--batch", type=int, default=2)
    options.add_argument("--rounds", type=int, default=25)
    options.add_argument("--cpu-time", action="store_true")
    options.add_argument("--write", action="store_true", help="write benchmarks/onnx_speed_<hardware>_<yyyy-mm>.json and .md")
    arguments = options.parse_args()
    threads = 1 if arguments.cpu_time else arguments.threads
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(threads) as cores:
        files, encoder, spec = ours(Path(scratch), arguments.size)
        samples = list(sample_clips(arguments.batch, spec, 0))
        frames = np.stack([sample[0] for sample in samples])
        zone = np.stack([sample[1] for sample in samples])
        clip = torch.randn(arguments.batch, 16, 3, arguments.size, arguments.size)
        mine = clip.transpose(1, 2).contiguous()
        calls: dict[str, Callable[[], object]] = {}
        for attention in ("sdpa", "eager"):
            model = theirs(arguments.size, attention)
            calls[f"transformers {attention}"] = lambda model=model: model(clip, skip_predictor=True)
        plain = opened(plain_export(model, clip, Path(scratch) / "plain.onnx"), threads)
        calls["onnxruntime fp32, transformers exported as it is"] = lambda: plain.run(None, {"clip": clip.numpy()})
        calls["surg in torch"] = lambda: encoder(mine)
        embeddings, operators = {}, {}
        for precision, path in files.items():
            session = opened(path, threads)
            feed = {"frames": frames, "zone": zone}
            embeddings[precision] = session.run(["embedding"], feed)[0]
            operators[precision] = by_operator(path, feed, threads)
            calls[f"onnxruntime {precision}"] = lambda session=session, feed=feed: session.run(None, feed)
            if threads > 1 and arguments.batch >= threads:
                calls[f"onnxruntime {precision}, a core a clip"] = partial(a_core_a_clip, opened(path, 1), cores, frames, zone)
        times: dict[str, list[float]] = {name: [] for name in calls}
        with torch.inference_mode():
            for index in range(arguments.rounds + 2):
                for name, call in calls.items():
                    start = clock()
                    call()
                    if index >= 2:
                        times[name].append(clock() - start)
    base = statistics.median(times["transformers sdpa"])
    eager = statistics.median(times["transformers eager"])
    rows = [
        {
            "kind": name,
            "ms_per_clip": round(1e3 * statistics.median(values) / arguments.batch, 2),
            "x_sdpa": round(base / statistics.median(values), 2),
            "x_eager": round(eager / statistics.median(values), 2),
        }
        for name, values in times.items()
    ]
    a, b = embeddings["fp32"], embeddings["int8"]
    cosine = float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())
    result = {
        "rounds": arguments.rounds,
        "int8_cosine_to_fp32": cosine,
        "rows": rows,
        "ms_by_operator": operators,
    }
    standard = operators["fp32, standard operators"]
    products = sum(standard.get(operator, 0.0) for operator in ("Gemm", "MatMul"))
    result["bound_by_matrix_products"] = {
        "ms": round(products, 2), "share": round(products / sum(standard.values()), 3), "x_sdpa_at_most": round(1e3 * base / products, 2),
    }  # fmt: skip
    note = (
        f"tiny encoder, {arguments.batch} clips of 16 x {arguments.size} x {arguments.size}, {threads} thread(s), "
        f"{'processor' if arguments.cpu_time else 'wall'} time, calls in turns, medians."
    )
    lines = ["| kind | ms/clip | x sdpa | x eager |", "|---|---|---|---|"]
    lines += [f"| {row['kind']} | {row['ms_per_clip']} | {row['x_sdpa']} | {row['x_eager']} |" for row in rows]
    lines += [
        "",
        f"int8 (dynamic, random weights): smallest cosine of the embedding to fp32 {cosine:.5f}; decisions: benchmarks/precision.py",
    ]
    lines += ["", "| milliseconds of the batch in | " + " | ".join(operators) + " |", "|---|" + "---|" * len(operators)]
    for operator in sorted(
        set().union(*operators.values()), key=lambda name: -max(part.get(name, 0) for part in operators.values())
    ):
        spent = [part.get(operator, 0.0) for part in operators.values()]
        if max(spent) >= 0.1:
            lines.append(f"| {operator} | " + " | ".join(f"{one:.2f}" for one in spent) + " |")
    bound = result["bound_by_matrix_products"]
    lines += [
        "",
        (
            f"The matrix products of the standard graph take {bound['ms']} ms, {100 * bound['share']:.0f} % of it: were all else free,"
            f" fp32 would be {bound['x_sdpa_at_most']} x transformers' sdpa here, and no more."
        ),
    ]
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    print(json.dumps({row["kind"]: row["x_sdpa"] for row in rows}))
    if arguments.write:
        print("Wrote", write_result("onnx_speed", result, table, note))


if __name__ == "__main__":
    main()
