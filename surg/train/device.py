"""Where a run computes and in which precision; each choice is said aloud."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import GradScalerKwargs, InitProcessGroupKwargs

from surg.errors import ConfigError, RunError
from surg.train.config import TrainConfig

logger = logging.getLogger(__name__)
SMALLER = (
    "Use a smaller model (--set model.size=small), --set model.gradient_checkpointing=true, a smaller picture "
    "(--set data.size=...), fewer frames, or freeze the encoder (--set trainable.encoder=none)."
)


def choose_device(wanted: str) -> str:
    """cuda, mps or cpu. Raises ConfigError when what was asked for is not there."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        found = next(name for name, there in has.items() if there)
        if found == "cpu":
            logger.warning("no GPU found: training on the CPU. `tiny` and `small` are made for it; ViT-L needs a GPU.")
        return found
    if not has[wanted]:
        hint = (
            "Check nvidia-smi and that torch has CUDA (surg doctor)."
            if wanted == "cuda"
            else "It needs a Mac with Apple silicon and macOS 14."
        )
        raise ConfigError(f"There is no {wanted} device here.\n{hint} Or leave it to surg: --device auto")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """fp32, bf16 or fp16. `auto` takes bf16 only where it is fast."""
    if wanted != "auto":
        if wanted == "fp16" and device == "cpu":
            raise ConfigError(
                "fp16 needs a GPU (its small gradients are scaled there). On the CPU use --set precision=fp32 or bf16."
            )
        if wanted == "bf16" and device == "cpu" and not cpu_has_bf16():
            logger.warning("this CPU has no bf16 arithmetic: it is emulated, and several times slower than fp32")
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device == "cpu" and cpu_has_bf16():
        return "bf16"
    return "fp32"


def cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX. Without them bf16 runs at a quarter of fp32's rate (measured on a Xeon with AVX512-VNNI only)."""
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return platform.machine() in ("x86_64", "AMD64") and any(check is not None and check() for check in checks)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """One process, or as many as torchrun started (DDP)."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    if config.threads:
        torch.set_num_threads(config.threads)
    # Sources differ in their tasks, and mask tokens 1..9 never get a gradient: DDP must look for what was not used.
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    # The others wait while one process decodes hours of video, or calibrates: torch would end the run after ten minutes.
    handlers.append(InitProcessGroupKwargs(timeout=timedelta(days=2)))
    if precision == "fp16":
        handlers.append(GradScalerKwargs())
    # accelerate keeps the first precision of a process for ever; a notebook, or a series of runs, may want another for the next run.
    # Likewise its device, which processes that torchrun started share.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=device == "cpu",
        kwargs_handlers=handlers,
    )
    if device == "cuda":
        # TF32 for what stays in fp32: the usual choice for training, three times faster on A100 and later.
        torch.set_float32_matmul_precision("high")
    return accelerator


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's and the CPU allocator's way of saying it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text
        or "_status_alloc_failed" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Where a step cannot be split: the optimiser's moments, a look at the features, a validation. Raises RunError with what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        asked = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"Out of memory ({asked}). The last checkpoint, where there is one, is from before.\n{SMALLER}\n"
            "Where other programs share the GPU (nvidia-smi), end them and go on: --resume RUN"
        ) from error
