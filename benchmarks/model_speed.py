"""Our encoder against transformers' VJEPA2Model: the same weights, the same clip, one thread each, runs interleaved.

    python benchmarks/model_speed.py --models tiny vitl --runs 7

Counted is the processor time of the process, so that other work on the machine disturbs little; a ratio is the median of the
ratios of neighbouring runs. transformers has no visible-only path: its context_mask is applied after the full encoder,
so the time to compare a masked student with is its full forward.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from recording import write_result
from transformers import VJEPA2Config, VJEPA2Model

from surg.model.convert import _ratio
from surg.model.encoder import Encoder
from surg.model.names import to_transformers
from surg.model.zoo import encoder_config

CLIPS = {"tiny": (2, 16, 160), "small": (1, 16, 160), "vitl": (1, 8, 160)}


def build(name: str, pixels: int, frames: int) -> tuple[Encoder, VJEPA2Model]:
    config = encoder_config(name)
    ours = Encoder(config).eval()
    theirs_config = VJEPA2Config(
        crop_size=pixels, frames_per_clip=frames, hidden_size=config.embed_dim, num_attention_heads=config.num_heads,
        num_hidden_layers=config.depth, mlp_ratio=_ratio(config.embed_dim, config.mlp_ratio),
        pred_hidden_size=24, pred_num_attention_heads=1, pred_num_hidden_layers=1,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = VJEPA2Model(theirs_config)
    theirs.encoder.to_empty(device="cpu")
    tree = to_transformers({"encoder": ours.state_dict()})
    theirs.encoder.load_state_dict({key.removeprefix("encoder."): value for key, value in tree.items()}, strict=True)
    return ours, theirs.eval()


def seconds(call: Callable[[], torch.Tensor]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@torch.inference_mode()
def measure(name: str, runs: int) -> dict[str, float | int | str]:
    batch, frames, pixels = CLIPS[name]
    ours, theirs = build(name, pixels, frames)
    clip = torch.randn(batch, 3, frames, pixels, pixels)
    tokens = frames // 2 * (pixels // 16) ** 2
    ids = torch.stack([torch.randperm(tokens)[: tokens // 4].sort().values for _ in range(batch)])
    their_clip = clip.transpose(1, 2).contiguous()
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "theirs": lambda: theirs(their_clip, skip_predictor=True).last_hidden_state,
        "full": lambda: ours(clip),
        "visible": lambda: ours(clip, keep=ids),
    }
    apart = float((calls["theirs"]() - calls["full"]()).abs().max())
    calls["visible"]()
    times: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(runs):
        for key, call in calls.items():
            times[key].append(seconds(call))
    ratio = {key: statistics.median(a / b for a, b in zip(times["theirs"], times[key])) for key in ("full", "visible")}
    return {
        "model": name, "clip": f"{batch} x {frames} x {pixels} px", "tokens": tokens, "largest_difference": apart,
        **{f"{key}_ms": 1e3 * statistics.median(values) for key, values in times.items()},
        "full_ratio": ratio["full"], "visible_ratio": ratio["visible"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "vitl"], choices=list(CLIPS))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = [measure(name, options.runs) for name in options.models]
    lines = [
        "| model | clip | transformers | ours, all tokens | ours, 25 % visible | ratio, all | ratio, visible |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['clip']} | {row['theirs_ms']:.0f} ms | {row['full_ms']:.0f} ms | {row['visible_ms']:.0f} ms"
        f" | {row['full_ratio']:.2f} x | {row['visible_ratio']:.2f} x |"
        for row in rows
    ]
    note = f"fp32, {options.threads} thread(s), {options.runs} interleaved runs after one warm-up each; processor time; median of ratios."
    table = "\n".join(lines)
    results = {"rows": rows, "threads": options.threads, "runs": options.runs}
    print(f"{table}\nwrote {write_result('model_speed', results, table, note)} and .md")


if __name__ == "__main__":
    main()
