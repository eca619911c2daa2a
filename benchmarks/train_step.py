"""One masked-latent training step of `tiny`, ours against one put together from transformers' VJEPA2Model, in the same interleaved run.

Both: 16 frames of 112 px, two masks (8 x 15 %, 2 x 70 %), student, teacher on all tokens, 6 x 96 predictor, L1, clipping, AdamW, EMA. transformers
applies its context mask after the whole encoder, so its student has to encode all tokens, once for each mask. Each is timed in fp32 and
under bf16 autocast. `--official` takes a checkout of Meta's repository (facebookresearch/vjepa2) and times its modules beside them, in
the order of its app/vjepa/train.py, which does not clip. Then the training loop runs on clips of the same size, and what it spends
outside the step's own parts is its overhead.

Masks come from a small pool, each drawn mask met once before the clock runs: oneDNN compiles its bf16 kernels anew for every length of
the token lists, and a long run meets its lengths again. So that three programs do not push each other's kernels out, it keeps more.

    python benchmarks/train_step.py --threads 2 [--official DIR] [--write]
"""

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from recording import write_result
from torch import Tensor, nn
from transformers import VJEPA2Config, VJEPA2Model

from surg.data.manifest import Clip, write_manifest
from surg.data.preprocess import PreprocessSpec
from surg.data.video import write_video
from surg.model.encoder import build_encoder
from surg.model.predictor import build_predictor
from surg.model.zoo import encoder_config, predictor_config
from surg.train import masks, optim
from surg.train.batches import Batch
from surg.train.config import LossConfig, MaskConfig
from surg.train.device import choose_precision
from surg.train.loop import train
from surg.train.losses import normalised
from surg.train.recipes import load_recipe
from surg.train.teacher import Teacher
from surg.train.trainee import Targets, Trainee

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
SIZE, FRAMES, BATCH, POOL = 112, 16, 2, 15
GRID = (FRAMES // 2, SIZE // 16, SIZE // 16)
# The official implementation's own step at this size, 2 threads of an AMD EPYC with AVX-512 and bf16: another machine.
ELSEWHERE_MS = {"fp32": (400, 417), "bf16": (336, 336)}


Step = Callable[[Tensor, masks.Masks], float]


def our_step(encoder: nn.Module, predictor: nn.Module) -> Step:
    trainee = Trainee(encoder, predictor, {}, LossConfig(), PreprocessSpec(size=SIZE), patch=16, tubelet=2)
    teacher = Teacher(encoder)
    optimizer = optim.build_optimizer(trainee.named_parameters(), optim.OptimConfig(), depth=12)

    def step(frames: Tensor, drawn: masks.Masks) -> float:
        batch = Batch.unlabelled(frames, "jepa")
        latents = teacher(trainee.normalise(frames))
        loss = trainee(batch, Targets(latents, drawn), lambda _, __: 1.0)["jepa"]
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        teacher.follow(trainee.encoder, 0.99925)
        return float(loss)

    return step


def their_step() -> Step:
    torch.manual_seed(0)
    config = VJEPA2Config(
        patch_size=16, crop_size=SIZE, frames_per_clip=FRAMES, tubelet_size=2, hidden_size=192, num_attention_heads=3,
        num_hidden_layers=12, mlp_ratio=4.0, pred_hidden_size=96, pred_num_attention_heads=3, pred_num_hidden_layers=6,
        pred_num_mask_tokens=10, pred_mlp_ratio=4.0,
    )  # fmt: skip
    student, teacher = VJEPA2Model(config), VJEPA2Model(config).eval()
    teacher.load_state_dict(student.state_dict())
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-4, weight_decay=0.04)
    mean, std = torch.tensor((0.485, 0.456, 0.406)) * 255, torch.tensor((0.229, 0.224, 0.225)) * 255

    def step(frames: Tensor, drawn: masks.Masks) -> float:
        clip = ((frames.float() - mean) / std).permute(0, 1, 4, 2, 3)
        with torch.no_grad():
            latents = normalised(teacher.get_vision_features(clip))
        loss = torch.zeros(())
        for seen, hidden in drawn:
            out = student(clip, context_mask=[seen], target_mask=[hidden])
            target = latents.gather(1, hidden.unsqueeze(-1).expand(-1, -1, latents.shape[-1]))
            loss = loss + (out.predictor_output.last_hidden_state - target).abs().mean() / len(drawn)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters()):
                slow.lerp_(fast, 1 - 0.99925)
        return float(loss)

    return step


def official_step(checkout: Path, encoder: nn.Module, predictor: nn.Module) -> Step:
    """Meta's own modules, with our weights, put together as their training script does."""
    sys.path.insert(0, str(checkout))
    try:
        from src.masks.utils import apply_masks  # type: ignore[import-not-found]
        from src.models.predictor import vit_predictor  # type: ignore[import-not-found]
        from src.models.vision_transformer import vit_tiny  # type: ignore[import-not-found]
    except ImportError as error:
        raise SystemExit(f"{checkout} is no checkout of facebookresearch/vjepa2, or lacks what it needs ({error}).") from error
    about: dict[str, Any] = {"img_size": SIZE, "patch_size": 16, "num_frames": FRAMES, "tubelet_size": 2, "use_rope": True}
    student = vit_tiny(use_sdpa=True, **about)
    guess = vit_predictor(
        embed_dim=192,
        predictor_embed_dim=96,
        depth=6,
        num_heads=3,
        use_mask_tokens=True,
        num_mask_tokens=10,
        use_sdpa=True,
        **about,
    )
    student.load_state_dict(encoder.state_dict())
    guess.load_state_dict(predictor.state_dict())
    teacher = copy.deepcopy(student).requires_grad_(False)
    weights = [*student.parameters(), *guess.parameters()]
    plain = [weight for weight in weights if weight.ndim == 1]
    decayed = [weight for weight in weights if weight.ndim > 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.04}, {"params": plain, "weight_decay": 0.0}], lr=2e-4)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) * 255 for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def step(frames: Tensor, drawn: masks.Masks) -> float:
        clip = (frames.permute(0, 4, 1, 2, 3).float().contiguous() - mean) / std
        with torch.no_grad():
            latents = teacher(clip)
            latents = nn.functional.layer_norm(latents, (latents.shape[-1],))
        # Its wrappers call encoder and predictor once for each mask.
        answers = [guess(student(clip, seen), seen, hidden, mask_index=0) for seen, hidden in drawn]
        wanted = [apply_masks(latents, [hidden]) for _, hidden in drawn]
        loss = torch.stack([(answer - want).abs().mean() for answer, want in zip(answers, wanted)]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            slow, fast = list(teacher.parameters()), list(student.parameters())
            torch._foreach_mul_(slow, 0.99925)
            torch._foreach_add_(slow, fast, alpha=1 - 0.99925)
        return float(loss)

    return step


def loop_overhead(threads: int, precision: str, steps: int) -> dict[str, float]:
    """Share of a run's time, from the 6th step on, that the loop spends outside teacher, student, backward, clipping, AdamW and EMA."""
    spent, marks = [0.0], []
    parts: list[tuple[Any, str]] = [
        (Teacher, "forward"), (Trainee, "forward"), (Accelerator, "backward"), (Accelerator, "clip_grad_norm_"),
        (AcceleratedOptimizer, "step"), (AcceleratedOptimizer, "zero_grad"), (Teacher, "follow"),
    ]  # fmt: skip
    originals = [getattr(owner, name) for owner, name in parts]

    def timed(function: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            began = time.perf_counter()
            out = function(*words, **more)
            spent[0] += time.perf_counter() - began
            if last:
                marks.append((time.perf_counter(), spent[0]))
            return out

        return call

    with tempfile.TemporaryDirectory(prefix="surg-train-step-") as folder:
        rng, rows = np.random.default_rng(0), []
        for number in range(16):
            video = Path(folder) / f"{number}.mp4"
            write_video(video, rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8), 4.0)
            rows.append(Clip(str(video), 0.0, (FRAMES - 1) / 4, f"case{number}", split="train"))
        manifest = write_manifest(Path(folder) / "clips.parquet", rows).path
        settings = {
            "data": {"size": SIZE, "sources": {"main": {"manifest": str(manifest), "val_split": "none"}}}, "optim": {"clip": 1.0},
            "batch_size": BATCH, "steps": steps, "threads": threads, "precision": precision, "device": "cpu",
            "watch": {"every": 0}, "save_every": 10 * steps, "validate_every": 10 * steps, "tensorboard": False, "curves": False,
        }  # fmt: skip
        try:
            for (owner, name), original in zip(parts, originals):
                setattr(owner, name, timed(original, name == "follow"))
            train(load_recipe("vjepa2", extra=settings), Path(folder) / "run")
        finally:
            for (owner, name), original in zip(parts, originals):
                setattr(owner, name, original)
    (began, before), (ended, after) = marks[4], marks[-2]
    count = len(marks) - 6
    return {
        "step_ms": round(1000 * (ended - began) / count, 1), "own_parts_ms": round(1000 * (after - before) / count, 1),
        "overhead": round((ended - began) / (after - before) - 1, 4),
    }  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--official", type=Path, metavar="DIR", help="a checkout of facebookresearch/vjepa2, timed beside")
    arguments.add_argument("--loop-steps", type=int, default=40)
    arguments.add_argument("--write", action="store_true", help="write benchmarks/train_step_<hardware>_<yyyy-mm>.json and .md")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    auto = choose_precision("auto", "cpu")
    torch.manual_seed(0)
    encoder, predictor = build_encoder(encoder_config("tiny")), build_predictor(predictor_config("tiny"))
    made = {"transformers": their_step()}
    if options.official is not None:
        made["official code"] = official_step(options.official, encoder, predictor)
    made = {"surg": our_step(encoder, predictor), **made}
    steps = {f"{name} {precision}": (step, precision) for precision in ("fp32", "bf16") for name, step in made.items()}
    generator = torch.Generator().manual_seed(1)
    pool = [masks.draw_masks(MaskConfig(), GRID, BATCH, seed=0, step=number) for number in range(POOL)]
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(POOL + options.rounds):
        frames = torch.randint(0, 256, (BATCH, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
        drawn = pool[number % POOL]
        losses = {}
        for name, (step, precision) in steps.items():
            began, worked = time.perf_counter(), time.process_time()
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                losses[name] = step(frames, drawn)
            if number >= POOL:
                wall[name].append(1000 * (time.perf_counter() - began))
                cpu[name].append(1000 * (time.process_time() - worked))
        if number == 0 and options.official is not None and abs(losses["surg fp32"] - losses["official code fp32"]) > 5e-5:
            raise SystemExit(f"{options.official} computes another first loss: {losses}")

    def ratio(mine: str, other: str, times: dict[str, list[float]]) -> dict[str, float]:
        each = sorted(b / a for a, b in zip(times[mine], times[other]))
        return {"median": round(statistics.median(each), 2), "low": round(each[0], 2), "high": round(each[-1], 2)}

    pairs = {
        f"as shipped (auto: {auto}) against transformers fp32": (f"surg {auto}", "transformers fp32"),
        "fp32 against fp32": ("surg fp32", "transformers fp32"),
        "bf16 against bf16": ("surg bf16", "transformers bf16"),
    }
    if options.official is not None:
        pairs |= {
            "fp32 against the official code's fp32": ("surg fp32", "official code fp32"),
            "bf16 against the official code's bf16": ("surg bf16", "official code bf16"),
            f"as shipped (auto: {auto}) against the official code's fp32": (f"surg {auto}", "official code fp32"),
        }
    result: dict[str, Any] = {
        "threads": options.threads, "rounds": options.rounds, "warm_up": POOL,
        "wall_ms": {name: summary(values) for name, values in wall.items()},
        "cpu_ms": {name: summary(values) for name, values in cpu.items()},
        "speedup": {name: {"wall": ratio(*pair, wall), "cpu": ratio(*pair, cpu)} for name, pair in pairs.items()},
        "loop": {precision: loop_overhead(options.threads, precision, options.loop_steps) for precision in ("fp32", "bf16")},
    }  # fmt: skip
    if options.official is None:
        result["official_elsewhere_ms"] = {
            **ELSEWHERE_MS,
            "where": "2 cores of an AMD EPYC with AVX-512 and bf16; another machine",
        }
    note = (
        f"One masked-latent training step of tiny, {FRAMES} frames, {SIZE} px, batch {BATCH}, {options.threads} threads, "
        f"{options.rounds} interleaved rounds after {result['warm_up']}. Milliseconds."
        + (" The official code began with our weights, and its first loss agreed to 5e-5." if options.official else "")
    )
    print(note, table(result), sep="\n\n")
    if options.write:
        print("Wrote", write_result("train_step", result, table(result), note))


def summary(values: list[float]) -> dict[str, float]:
    quantiles = np.quantile(values, [0.5, 0.95])
    return {"p50": round(float(quantiles[0]), 1), "p95": round(float(quantiles[1]), 1), "least": round(min(values), 1)}


def table(result: dict[str, Any]) -> str:
    lines = ["| step | wall p50 | p95 | least | processor time p50 |", "|---|---|---|---|---|"]
    for name, wall in result["wall_ms"].items():
        lines.append(f"| {name} | {wall['p50']} | {wall['p95']} | {wall['least']} | {result['cpu_ms'][name]['p50']} |")
    elsewhere: dict[str, Any] = result.get("official_elsewhere_ms", {})
    for precision in ("fp32", "bf16") if elsewhere else ():
        low, high = elsewhere[precision]
        lines.append(f"| official code {precision}, measured elsewhere | {low if low == high else f'{low} to {high}'} | | | |")
    lines += [
        "",
        "Speed-up: the median over rounds of their time by ours, least and most; by wall clock and by processor time.",
        "",
    ]
    lines += ["| | wall | processor |", "|---|---|---|"]
    for name, found in result["speedup"].items():
        wall, cpu = (f"{found[kind]['median']} ({found[kind]['low']} to {found[kind]['high']})" for kind in ("wall", "cpu"))
        lines.append(f"| {name} | {wall} | {cpu} |")
    lines += ["", "The loop (reading clips, masks, rates, logging) around the step's own parts:", ""]
    lines += ["| precision | step ms | own parts ms | overhead |", "|---|---|---|---|"]
    for precision, loop in result["loop"].items():
        lines.append(f"| {precision} | {loop['step_ms']} | {loop['own_parts_ms']} | {loop['overhead']:.1%} |")
    if elsewhere:
        lines += ["", f"The official code was measured on {elsewhere['where']}: a yardstick, not a comparison."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
