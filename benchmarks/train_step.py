"""One masked-latent training step of `tiny`, ours against one put together from transformers' VJEPA2Model.

Both: 16 frames of 112 px, two masks (8 x 15 %, 2 x 70 %), student, teacher on all tokens, 6 x 96 predictor, L1, AdamW, EMA. transformers
applies its context mask after the whole encoder, so its student has to encode all tokens, once for each mask.

    python benchmarks/train_step.py --hardware xeon-2core --threads 2 --rounds 9
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import VJEPA2Config, VJEPA2Model

from surg.data.preprocess import PreprocessSpec
from surg.model.encoder import build_encoder
from surg.model.predictor import build_predictor
from surg.model.zoo import encoder_config, predictor_config
from surg.runs import git_state, write_json, write_text
from surg.train import masks, optim
from surg.train.batches import Batch
from surg.train.config import LossConfig, MaskConfig
from surg.train.losses import normalised
from surg.train.teacher import Teacher
from surg.train.trainee import Targets, Trainee

SIZE, FRAMES, BATCH = 112, 16, 2
GRID = (FRAMES // 2, SIZE // 16, SIZE // 16)


def our_step() -> Callable[[Tensor, masks.Masks], None]:
    torch.manual_seed(0)
    encoder, predictor = build_encoder(encoder_config("tiny")), build_predictor(predictor_config("tiny"))
    trainee = Trainee(encoder, predictor, {}, LossConfig(), PreprocessSpec(size=SIZE), patch=16, tubelet=2)
    teacher = Teacher(encoder)
    optimizer = optim.build_optimizer(trainee.named_parameters(), optim.OptimConfig(), depth=12)

    def step(frames: Tensor, drawn: masks.Masks) -> None:
        none = torch.full((len(frames), 1), torch.nan)
        batch = Batch(frames, none, none, none, none, none, tasks={"jepa": torch.ones(len(frames), dtype=torch.bool)})
        latents = teacher(trainee.normalise(frames))
        trainee(batch, Targets(latents, drawn), lambda _, __: 1.0)["jepa"].backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        teacher.follow(trainee.encoder, 0.99925)

    return step


def their_step() -> Callable[[Tensor, masks.Masks], None]:
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

    def step(frames: Tensor, drawn: masks.Masks) -> None:
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

    return step


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--hardware", default="this-machine")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks"))
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    steps = {"surg": our_step(), "transformers": their_step()}
    generator = torch.Generator().manual_seed(1)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        frames = torch.randint(0, 256, (BATCH, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
        drawn = masks.draw_masks(MaskConfig(), GRID, BATCH, seed=0, step=number)
        for name, step in steps.items():
            began = time.perf_counter()
            step(frames, drawn)
            if number:
                times[name].append(1000 * (time.perf_counter() - began))
    ratios = [theirs / ours for ours, theirs in zip(times["surg"], times["transformers"])]
    result = {
        "what": "one masked-latent training step of tiny, 16 frames, 112 px, batch 2, fp32",
        "command": f"python benchmarks/train_step.py --hardware {options.hardware} --threads {options.threads} --rounds {options.rounds}",
        "hardware": options.hardware,
        "threads": options.threads,
        "date": datetime.now(UTC).date().isoformat(),
        "git": (git_state() or {}).get("commit"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
        "median_ms": {name: round(statistics.median(values), 1) for name, values in times.items()},
        "all_ms": {name: [round(value, 1) for value in values] for name, values in times.items()},
        "speedup_median_of_ratios": round(statistics.median(ratios), 2),
        "speedup_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    stem = options.out / f"train_step_{options.hardware}_{datetime.now(UTC):%Y-%m}"
    write_json(stem.with_suffix(".json"), result)
    rows = "\n".join(f"| {name} | {value} |" for name, value in result["median_ms"].items())  # type: ignore[attr-defined]
    text = f"# Training step\n\n{result['what']}, {options.threads} threads, {options.rounds} interleaved rounds.\n\n"
    text += (
        f"| | median ms |\n|---|---|\n{rows}\n\nSpeed-up (median of the rounds' ratios): {result['speedup_median_of_ratios']}, "
    )
    text += f"from {result['speedup_range'][0]} to {result['speedup_range'][1]}.\n\n`{result['command']}`, {result['date']}\n"  # type: ignore[index]
    write_text(stem.with_suffix(".md"), text)
    print(json.dumps(result["median_ms"]), result["speedup_median_of_ratios"], result["speedup_range"])


if __name__ == "__main__":
    main()
