"""Memory of a `pretrain` step: what rests on the device, and what is kept between forward and backward pass.

Every tensor that autograd keeps is counted once by its storage, weights left out. No model is run: shapes and dtypes are computed under
torch's fake tensors, so that ViT-L fits any machine, and fused attention keeps no N x N matrix, on the CPU as on a GPU. With gradient checkpointing one block's
tensors exist again while it is recomputed; they are added. `tiny` is also run for real, which must give the same number.

    python benchmarks/train_memory.py [--write]
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from recording import write_result
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from surg.data.preprocess import PreprocessSpec
from surg.model.encoder import build_encoder
from surg.model.heads import MotionAuxHead
from surg.model.predictor import build_predictor
from surg.model.zoo import encoder_config, predictor_config
from surg.train import masks
from surg.train.config import LossConfig, MaskConfig
from surg.train.teacher import Teacher
from surg.train.trainee import Targets, Trainee

# name, frames, pixels, clips, precision
SETTINGS = (
    ("tiny", 16, 112, 2, "fp32"), ("tiny", 16, 112, 2, "bf16"), ("vitl", 16, 256, 8, "bf16"), ("vitg", 16, 384, 1, "bf16"),
)  # fmt: skip
ENTIRE: Any = slice(None)


class Kept:
    """Bytes that autograd keeps while it is on."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._weights = {p.untyped_storage()._cdata for module in modules for p in [*module.parameters(), *module.buffers()]}
        self.storages: dict[int, tuple[int, Any]] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            # The storage is held, so that its address is not given to another one.
            self.storages[storage._cdata] = (storage.nbytes(), storage)
        return tensor

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.storages.values())


def build(name: str, size: int) -> tuple[Trainee, Teacher]:
    # This way of filling weights in asks them for their values, which fake ones do not have.
    with patch.object(nn.init, "trunc_normal_", lambda tensor, **_: tensor.detach().normal_(0, 0.02)):
        encoder, predictor = build_encoder(encoder_config(name)), build_predictor(predictor_config(name))
        heads: dict[str, nn.Module] = {"motion_aux": MotionAuxHead(encoder.config.embed_dim)}
    trainee = Trainee(encoder, predictor, heads, LossConfig(), PreprocessSpec(size=size), patch=16, tubelet=2)
    return trainee.train(), Teacher(encoder)


def kept_by(modules: list[nn.Module], function: Callable[[], Any], bf16: bool) -> int:
    kept = Kept(modules)
    with kept.hooks, torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        out = function()
    del out
    return kept.bytes


def measure(name: str, frames: int, size: int, clips: int, *, bf16: bool, fake: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of everything, plain and with gradient checkpointing."""
    grid = frames // 2, size // 16, size // 16
    drawn = masks.draw_masks(MaskConfig(), grid, clips, seed=0, step=1)
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext():
        trainee, teacher = build(name, size)
        clip = torch.empty(clips, 3, frames, size, size).normal_()
        ids = [(torch.empty_like(a).copy_(a), torch.empty_like(b).copy_(b)) for a, b in drawn]
        modules: list[nn.Module] = [trainee, teacher]
        answers: list[Tensor] = []
        taught = kept_by(modules, lambda: answers.append(teacher(clip)), bf16)
        targets = Targets(answers[0], ids)
        encoder: Any = trainee.encoder
        weights = sum(p.numel() * 4 for p in trainee.parameters())
        start = sum(p.numel() * 4 for p in encoder.parameters())
        both, block = [], 0
        for checkpointing in (False, True):
            for module in (encoder, trainee.predictor):
                module.gradient_checkpointing = checkpointing  # type: ignore[union-attr]
            latent = kept_by(modules, lambda: trainee._jepa(clip, targets, None, ENTIRE), bf16)  # type: ignore[arg-type]
            motion = kept_by(modules, lambda: trainee.heads["motion_aux"](trainee.encode(clip)), bf16)
            again = block if checkpointing else 0
            # The largest block is one of the pass over all tokens.
            block = motion // encoder.config.depth
            both.append(
                {
                    "weights": weights, "gradients": weights, "moments": 2 * weights, "teacher_weights": start, "start_weights": start,
                    "teacher_activations": taught, "latent_activations": latent, "motion_activations": motion,
                    "recomputed_block": again, "activations": taught + latent + motion + again,
                }
            )  # fmt: skip
    return both[0], both[1]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--write", action="store_true", help="write benchmarks/train_memory_<hardware>_<yyyy-mm>.json and .md")
    options = words.parse_args()
    rows = []
    for name, frames, size, clips, precision in SETTINGS:
        plain, lean = measure(name, frames, size, clips, bf16=precision == "bf16", fake=True)
        saved = round(1 - lean["activations"] / plain["activations"], 4)
        rows.append(
            {"model": name, "frames": frames, "size": size, "clips": clips, "precision": precision, "plain": plain, "checkpointing": lean,
             "saved": saved}
        )  # fmt: skip
    real, _ = measure("tiny", 16, 112, 2, bf16=False, fake=False)
    fake = rows[0]["plain"]
    result = {
        "tiny_run_for_real": {"activations": real["activations"], "computed": fake["activations"]},  # type: ignore[index]
        "settings": rows,
    }  # fmt: skip
    note = (
        "Memory of a pretrain step: masked latents with two masks, and motion_aux on all tokens. GB. At rest: weights, gradients and two "
        "moments of what learns, the teacher, and the start that drift is measured from. Activations: what autograd keeps between the passes; "
        "with checkpointing, one recomputed block with it."
    )
    print(note, table(result), sep="\n\n")
    if options.write:
        print("Wrote", write_result("train_memory", result, table(result), note))


def table(result: dict[str, Any]) -> str:
    lines = [
        "| model | clips | precision | at rest | teacher's activations | activations | with checkpointing | saved | peak, plain | peak, checkpointing |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in result["settings"]:
        plain, lean = row["plain"], row["checkpointing"]
        rest = sum(plain[key] for key in ("weights", "gradients", "moments", "teacher_weights", "start_weights"))
        cells = [
            f"{row['model']} {row['frames']} x {row['size']}", str(row["clips"]), row["precision"], gb(rest), gb(plain["teacher_activations"]),
            gb(plain["activations"]), gb(lean["activations"]), f"{row['saved']:.0%}",
            gb(rest + plain["activations"]), gb(rest + lean["activations"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    real = result["tiny_run_for_real"]
    lines += [
        "",
        f"`tiny` in fp32, run for real: {real['activations'] / 2**20:.1f} MB of activations; computed {real['computed'] / 2**20:.1f} MB.",
    ]
    return "\n".join(lines)


def gb(size: float) -> str:
    return f"{size / 2**30:.2f}"


if __name__ == "__main__":
    main()
