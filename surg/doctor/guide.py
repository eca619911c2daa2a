"""The two check lists of the integration guide: before training, and after it."""

import importlib.util
import math
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from surg.advice import quoted
from surg.data.adapters.files import videos_under
from surg.doctor.findings import Finding, missing, ok, warning
from surg.doctor.machine import GIB, MIN_FREE_GIB
from surg.errors import SurgError
from surg.runs import RunFolder

SAMPLED = 8


def check_before_training(data: Path, weights: Path | None) -> Iterator[Finding]:
    """Weights, data set laid out and readable, dependencies, accelerator, disk."""
    yield check_weights(weights)
    yield _data(data)
    yield _dependencies()
    yield _accelerator()
    place = data if data.is_dir() else data.parent
    free = shutil.disk_usage(place if place.exists() else Path.cwd()).free / GIB
    if free < MIN_FREE_GIB:
        yield missing(
            "Disk space",
            f"{free:.1f} GiB free",
            f"Training wants {MIN_FREE_GIB} GiB; free some or train elsewhere with --out.",
            required=True,
        )
    else:
        yield ok("Disk space", f"{free:.0f} GiB free")


def check_after_training(run: Path) -> Iterator[Finding]:
    """Losses falling, checkpoint saved, it loads, ready for stage 2."""
    try:
        folder = RunFolder.reopen(run)
    except SurgError as error:
        yield missing(
            "Run folder", str(error).splitlines()[0], "Give the folder that --out named when training began.", required=True
        )
        return
    yield ok("Run folder", run.name)
    yield _losses([row["loss"] for row in folder.metrics() if isinstance(row.get("loss"), int | float)])
    yield from _checkpoint(folder)


def check_weights(weights: Path | None) -> Finding:
    """Do they load, whole?"""
    if weights is None:
        return warning(
            "Weights", "none given", "surg doctor --weights FILE checks them; surg weights list shows what can be had."
        )
    from surg.model.checkpoint import load_encoder

    try:
        encoder = load_encoder(weights)
    except SurgError as error:
        return missing("Weights", str(error).splitlines()[0], "surg weights inspect tells what the file is.", required=True)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    return ok("Weights", f"load whole: {count / 1e6:.1f} M parameters")


def _data(data: Path) -> Finding:
    from surg.data.video import probe

    if not data.exists():
        return missing("Data set", f"{data} is not there", "Name the folder of videos or a manifest.", required=True)
    if data.is_file():
        from surg.data.manifest import Manifest

        try:
            manifest = Manifest.read(data)
            videos = list(dict.fromkeys(clip.video for clip in islice(manifest.clips(), 1000)))
            size = f"manifest of {len(manifest)} clips"
        except SurgError as error:
            return missing(
                "Data set", str(error).splitlines()[0], "Make a manifest: surg data index ROOT --format NAME", required=True
            )
    else:
        videos = [str(path) for path in videos_under(data)]
        size = f"{len(videos)} videos"
    if not videos:
        return missing(
            "Data set",
            f"no videos under {data}",
            "The guide's layout is ROOT/videos/*.mp4; other sets: surg data index --help",
            required=True,
        )
    step = max(1, len(videos) // SAMPLED)
    unreadable = 0
    for video in videos[::step][:SAMPLED]:
        try:
            probe(Path(video))
        except SurgError:
            unreadable += 1
    if unreadable:
        return missing(
            "Data set",
            f"{size}; {unreadable} of {min(SAMPLED, len(videos))} sampled cannot be read",
            "surg data check MANIFEST lists every unreadable video.",
            required=True,
        )
    if len(videos) < 10:
        return warning(
            "Data set", f"{size}, all sampled ones readable", "That is little: expect overfitting; freeze the encoder."
        )
    return ok("Data set", f"{size}, all sampled ones readable")


def _dependencies() -> Finding:
    wanted = ("torch", "torchvision", "timm", "cv2", "numpy", "av", "accelerate")
    absent = [name for name in wanted if importlib.util.find_spec(name) is None]
    if absent:
        return missing("Dependencies", f"without {', '.join(absent)}", "make env", required=True)
    return ok("Dependencies", "all installed")


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        return ok("Accelerator", torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return ok("Accelerator", "Apple GPU: --device mps")
    return warning("Accelerator", "none", "ViT-L and larger need a GPU; tiny and small train on the CPU (--device cpu).")


def _losses(losses: list[float]) -> Finding:
    if len(losses) < 4:
        return warning("Losses", f"{len(losses)} logged", "Too few to see a trend.")
    if not all(math.isfinite(loss) for loss in losses):
        return missing(
            "Losses",
            "not a number appears",
            "Lower the rate (--set optim.lr=1e-4) and lengthen the warm-up; then start again.",
            required=True,
        )
    quarter = max(1, len(losses) // 4)
    first, last = sum(losses[:quarter]) / quarter, sum(losses[-quarter:]) / quarter
    found = f"{first:.4g} in the first quarter, {last:.4g} in the last"
    if last >= first:
        return warning("Losses", found, "Not falling: try a larger rate (4e-4), check the data, use a larger batch.")
    return ok("Losses", found)


def _checkpoint(folder: RunFolder) -> Iterator[Finding]:
    from surg.model.checkpoint import load_bundle

    saved = [path for name in ("best", "last") if (path := folder.checkpoints / f"{name}.safetensors").is_file()]
    if not saved:
        yield missing(
            "Checkpoint", "none saved", f"Go on with the run: surg train … --resume {quoted(folder.path)}", required=True
        )
        return
    try:
        bundle = load_bundle(saved[0])
    except SurgError as error:
        yield missing(
            "Checkpoint", str(error).splitlines()[0], "The file is damaged; resume from an earlier one.", required=True
        )
        return
    yield ok("Checkpoint", f"{saved[0].name} loads whole")
    if bundle.encoder is None:
        yield missing(
            "Ready for stage 2",
            "the checkpoint holds no encoder",
            "Stage 2 wants an encoder: give it a run of stage1 or pretrain.",
        )
    else:
        yield ok("Ready for stage 2", f"surg train stage2 --init {quoted(folder.path)} --data MM-OR.parquet")
