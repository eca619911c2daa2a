"""SAM 3 through transformers: everything that a text names, followed through the clip. Weights come by path."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.segment.masks import Frames, Segmentation
from surg.errors import CheckpointError, ConfigError

# What to ask for, by domain. Plain nouns: SAM 3 was trained on short noun phrases.
PROMPTS: dict[str, tuple[str, ...]] = {
    "endoscopic": ("surgical instrument", "suture needle", "gauze", "suction tube"),
    "room": (
        "person in scrubs",
        "person in surgical gown",
        "gloved hand",
        "bare hand",
        "surgical instrument",
        "instrument table",
    ),
    "open": ("gloved hand", "surgical instrument", "suture needle", "gauze"),
}


class Sam3Config(Config):
    weights: Path | None = None
    """Folder of a SAM 3 video model as transformers saves it (config.json, model.safetensors, processor files)."""
    domain: Literal["endoscopic", "room", "open"] = "endoscopic"
    """Which prompts are asked for when `prompts` is empty."""
    prompts: tuple[str, ...] = ()
    """Your own texts instead, for example ["robotic arm"]."""
    min_score: float = Field(0.5, ge=0, le=1)
    """Detections below are left out."""
    device: str = "cpu"
    """cpu, cuda or mps."""

    @property
    def asked(self) -> tuple[str, ...]:
        return self.prompts or PROMPTS[self.domain]


class Sam3Segmenter:
    """Text prompts through the real processor, the model's own tracking, and the processor's post-processing. Ids are linked."""

    def __init__(self, config: Sam3Config) -> None:
        self.config = config
        model_class, processor_class = transformers_classes("Sam3VideoModel", "Sam3VideoProcessor")
        self.model, self.processor = load_pretrained(model_class, processor_class, config.weights, "sam3", config.device)

    def __call__(self, frames: Frames, times_s: npt.NDArray[np.float64]) -> Segmentation:
        import torch

        session = self.processor.init_video_session(video=frames, inference_device=self.config.device)
        self.processor.add_text_prompt(session, list(self.config.asked))
        ids = np.zeros(frames.shape[:3], np.uint16)
        names: dict[int, str] = {}
        scores: dict[int, float] = {}
        with torch.inference_mode():
            for output in self.model.propagate_in_video_iterator(session):
                found = self.processor.postprocess_outputs(session, output)
                text_of = {number: text for text, numbers in found["prompt_to_obj_ids"].items() for number in numbers}
                things = [
                    # Ids start at 0 there and at 1 here, where 0 is nothing.
                    (int(number) + 1, text_of[int(number)], float(score), mask.cpu().numpy())
                    for number, score, mask in zip(found["object_ids"], found["scores"], found["masks"])
                    if float(score) >= self.config.min_score
                ]
                # Large ones first, so that a hand stays visible on its person.
                for number, text, score, mask in sorted(things, key=lambda thing: -int(thing[3].sum())):
                    ids[output.frame_idx][mask] = number
                    names[number], scores[number] = text, max(score, scores.get(number, 0.0))
        return Segmentation(ids, times_s, names, scores, linked=True)


def transformers_classes(*names: str) -> list[Any]:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "This segmenter needs transformers, which is not installed.\nInstall it: pip install 'surg[hf]'"
        ) from error
    missing = [name for name in names if not hasattr(transformers, name)]
    if missing:
        raise ConfigError(
            f"transformers {transformers.__version__} has no {', '.join(missing)}; expected 5.17 or newer. Update it."
        )
    return [getattr(transformers, name) for name in names]


def load_pretrained(model_class: Any, processor_class: Any, weights: Path | None, name: str, device: str) -> tuple[Any, Any]:
    """Model and processor from a folder, whole or not at all, never from the network."""
    if weights is None:
        raise ConfigError(
            f"The segmenter {name} needs its weights and none were given.\n"
            f"Download them once and pass --set {name}.weights=FOLDER, or use --segmenter motion, which needs none."
        )
    if not (weights / "config.json").is_file():
        raise CheckpointError(
            f"{weights} is not a model folder: it has no config.json. Expected what transformers' save_pretrained writes."
        )
    try:
        with _quiet():
            model, info = model_class.from_pretrained(weights, local_files_only=True, output_loading_info=True)
            processor = processor_class.from_pretrained(weights, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{weights} cannot be loaded as {model_class.__name__}: {error}") from error
    unfit = {
        kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind in ("missing_keys", "mismatched_keys")
    }
    if unfit:
        told = "; ".join(
            f"{kind.replace('_', ' ')}: {', '.join(keys[:4])}{' …' if len(keys) > 4 else ''}" for kind, keys in unfit.items()
        )
        raise CheckpointError(
            f"{weights} does not fill a {model_class.__name__} ({told}).\nIs it the weights of another model or size?"
        )
    return model.eval().to(device), processor


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own progress bars, which would end up between our log lines."""
    from transformers.utils import logging

    chatter: Any = logging

    bars = chatter.is_progress_bar_enabled()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            chatter.enable_progress_bar()
