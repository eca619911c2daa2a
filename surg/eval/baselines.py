"""What any number must be held against: chance, the commonest class, motion alone, an image model, untrained weights."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from surg.data.executor import item_key, run
from surg.data.feature_table import VideoNames, clip_key, keyed
from surg.data.manifest import Clip
from surg.data.sources import read_clip
from surg.errors import DataError
from surg.eval.backends import Backend
from surg.eval.classification import Predictions
from surg.eval.probes import ProbeConfig, Split3, linear_probe

if TYPE_CHECKING:
    from surg.eval.probe_action import Task

Array = npt.NDArray[Any]


def majority(task: "Task") -> list[Predictions]:
    """The commonest class of train, always."""
    clips = {name: list(manifest.clips()) for name, manifest in task.sets()}
    counts = np.bincount(task.code(_labels(task, clips["train"])), minlength=len(task.classes))
    found = []
    for name, rows in clips.items():
        if name not in ("train", "val"):
            constant = np.zeros((1, len(rows), len(task.classes)))
            constant[:, :, counts.argmax()] = 1
            found.append(_predictions("majority class", "none", name, constant, task, rows, {}))
    return found


def motion(task: "Task", path: Path, workers: int | None) -> list[Predictions]:
    """Logistic regression on the 23 numbers of optical flow: what motion alone tells, without any model of the scene."""
    from functools import partial

    from surg.data.motion import FEATURES, MotionConfig, describe_clip

    clips = {name: list(manifest.clips()) for name, manifest in task.sets()}
    names = VideoNames.of(clip for rows in clips.values() for clip in rows)
    # A clip may stand in two test sets; it is measured once.
    everything = list({_measured(clip, names): clip for rows in clips.values() for clip in rows}.values())
    config = MotionConfig()
    report = run(partial(describe_clip, config=config), everything, path, workers=workers, key=partial(_measured, names=names))
    if report.failed:
        raise DataError(f"The motion of {len(report.failed)} clips could not be measured. The first: {report.failed[0][1]}")
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["key", *FEATURES])
    vectors = dict(zip(table.column("key").to_pylist(), np.column_stack([table.column(name).to_numpy() for name in FEATURES])))
    x = {name: np.array([vectors[_measured(clip, names)] for clip in rows], np.float32) for name, rows in clips.items()}
    return _linear("motion, 23 numbers", x, task, clips)


def _measured(clip: Clip, names: VideoNames) -> str:
    """What motion is measured of: another crop of a clip is another picture."""
    key, crop = clip_key(clip, names), clip.meta.get("crop")
    return item_key([key, crop]) if crop else key


def image(task: "Task", model: str, weights: Path | None) -> list[Predictions]:
    """A timm image model on the middle frame, linear probe: what a single picture tells."""
    if not model or weights is None:
        raise DataError(
            "The image baseline needs a timm model and a file of its weights: --set image_model=NAME --set image_weights=FILE"
        )
    import timm
    import torch

    network = timm.create_model(model, pretrained=False, num_classes=0, checkpoint_path=str(weights)).eval()
    from PIL import Image
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    settings = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    transform: Any = create_transform(**settings, is_training=False)

    @torch.inference_mode()
    def features(clip: Clip) -> Array:
        frame = read_clip(clip, [(clip.start_s + clip.end_s) / 2], threads=1)[0][0]
        return np.asarray(network(transform(Image.fromarray(frame))[None])[0].numpy())

    clips = {name: list(manifest.clips()) for name, manifest in task.sets()}
    x = {name: np.array([features(clip) for clip in rows], np.float32) for name, rows in clips.items()}
    return _linear(f"image model {model}", x, task, clips)


def random_backend(stack: ExitStack, checkpoint: Path, seed: int) -> Backend:
    """The checkpoint's encoder with fresh weights: what its shape alone tells."""
    import torch

    from surg.eval.torch_transport import TorchTransport
    from surg.model.bundle import Bundle, load_bundle
    from surg.model.encoder import build_encoder
    from surg.model.saved import find_bundle
    from surg.serving.client import Client

    trained = load_bundle(find_bundle(checkpoint))
    torch.manual_seed(seed)
    fresh = Bundle(
        build_encoder(trained.config["encoder"]).eval(),
        None,
        None,
        {},
        trained.config,
        trained.meta,
        f"random-{seed}-{trained.sha256[:16]}",
    )
    client = stack.enter_context(Client(TorchTransport(fresh), max_in_flight=1))
    return Backend("torch", client)


def _linear(name: str, x: dict[str, Array], task: "Task", clips: dict[str, list[Clip]]) -> list[Predictions]:
    tests = [key for key in x if key not in ("train", "val")]
    y = {key: task.code(_labels(task, rows)) for key, rows in clips.items()}
    split = Split3(x["train"], y["train"], x["val"], y["val"], np.concatenate([x[key] for key in tests]))
    result = linear_probe(split, len(task.classes), ProbeConfig())
    found, start = [], 0
    for key in tests:
        found.append(
            _predictions(
                name, "linear", key, result.probabilities[:, start : start + len(x[key])], task, clips[key], result.chosen
            )
        )
        start += len(x[key])
    return found


def _predictions(
    arm: str, probe: str, test: str, p: Array, task: "Task", rows: list[Clip], chosen: dict[str, float]
) -> Predictions:
    cases = np.array([clip.case for clip in rows])
    # As for the arms, whose features are made set by set.
    names = VideoNames.of(rows)
    return Predictions(
        arm, probe, test, p, task.code(_labels(task, rows)), cases, np.array([key for key, _ in keyed(rows, names)]), chosen
    )


def _labels(task: "Task", rows: list[Clip]) -> npt.NDArray[np.str_]:
    return np.array([str(clip.labels[task.label]) for clip in rows])
