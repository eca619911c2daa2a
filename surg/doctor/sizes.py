"""Which model sizes this machine can run and train, by the zoo's computed memory."""

from collections.abc import Iterator
from pathlib import Path

from surg.doctor.findings import Finding, missing, ok
from surg.doctor.machine import GIB, total_memory

# What the operating system, Python and torch take before the first weight.
OVERHEAD = 1.5 * GIB
WEIGHT_FOLDERS = ("checkpoints", "weights")


def fitting_sizes() -> Iterator[Finding]:
    """Sizes at their own resolution, one clip in fp32, on the GPU where there is one, else in main memory."""
    import torch

    from surg.model import zoo

    if torch.cuda.is_available():
        room, where = torch.cuda.get_device_properties(0).total_memory, "GPU memory"
    else:
        room, where = total_memory() or 0, "main memory"
    runs, trains = [], []
    for name, config in zoo.ENCODERS.items():
        if name in zoo.RELEASED:
            facts = zoo.RELEASED[name]
            need = zoo.memory(config, facts.pixels, facts.frames)
        else:
            need = zoo.memory(config, 160, 16)
        if need.inference + OVERHEAD < room:
            runs.append(name)
        if need.training + OVERHEAD < room:
            trains.append(name)
    told = f"in {room / GIB:.0f} GiB of {where}"
    yield _listed("Sizes that run", runs, told)
    yield _listed("Sizes that train", trains, f"{told}, gradient checkpointing")


def weights_found(folder: Path | None = None) -> Iterator[Finding]:
    """Released weights in the places where `surg weights pull` puts them."""
    from surg.model import zoo

    here = folder or Path.cwd()
    # By Meta's own name, or by the name that `surg weights pull NAME` gives it.
    files = {file: name for name, released in zoo.RELEASED.items() for file in (released.file, f"{name}.pt")}
    found = sorted(
        f"{files[path.name]} ({place}/{path.name})"
        for place in WEIGHT_FOLDERS
        for path in (here / place).glob("*.pt")
        if path.name in files
    )
    if found:
        yield ok("Released weights", ", ".join(found))
    else:
        yield missing(
            "Released weights",
            "none in ./checkpoints or ./weights",
            "surg weights pull vitl --save-path checkpoints/vitl.pt; without them everything starts from random weights.",
        )


def _listed(name: str, sizes: list[str], told: str) -> Finding:
    if sizes:
        return ok(name, f"{', '.join(sizes)} ({told})")
    return missing(name, f"none {told}", "Free memory, or use a larger machine.")
