"""Tags from a vision-language model through transformers. Weights come by path; the answer must fit the schema or it is a failure."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from surg.config import Config
from surg.data.motion import resize_short
from surg.data.segment.masks import Frames
from surg.data.segment.sam3 import load_pretrained, transformers_classes
from surg.data.tags.schema import Tags, check_answer, json_schema
from surg.errors import ConfigError, DataError


class VlmConfig(Config):
    weights: Path | None = None
    """Folder of an image-text-to-text model with a chat template, as transformers saves it."""
    frames: int = Field(4, ge=1)
    """Frames shown, spread over the clip."""
    size: int = Field(448, ge=32)
    """Their short side in pixels."""
    max_tokens: int = Field(700, ge=16)
    """Longest answer."""
    device: str = "cpu"
    """cpu, cuda or mps."""


def prompt() -> str:
    return (
        "These frames are from one clip of a surgical video, in order of time. Describe the clip by one JSON object and nothing else. "
        'Every field is {"value": ..., "confidence": 0..1}; "instruments" and "anatomy" take a list. '
        'Say "unknown" where the frames do not show it. JSON Schema: ' + json.dumps(json_schema())
    )


class VlmTagger:
    def __init__(self, config: VlmConfig) -> None:
        if config.weights is None:
            raise ConfigError(
                "The tagger vlm needs its weights and none were given.\n"
                "Download an image-text model once and pass --weights FOLDER, or use --backend measured, which needs none."
            )
        model_class, processor_class = transformers_classes("AutoModelForImageTextToText", "AutoProcessor")
        self.config = config
        self.model, self.processor = load_pretrained(model_class, processor_class, config.weights, "vlm", config.device)

    def __call__(self, frames: Frames) -> Tags:
        """Raises DataError when the answer does not fit the schema."""
        import torch

        inputs = self.inputs(frames)
        with torch.inference_mode():
            output = self.model.generate(
                **inputs.to(self.config.device), max_new_tokens=self.config.max_tokens, do_sample=False
            )
        answer = self.processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        name = self.config.weights.name if self.config.weights is not None else "vlm"
        return check_answer(answer, f"vlm {name}")

    def inputs(self, frames: Frames) -> Any:
        """What the model is asked: the pictures and the prompt, as its own processor and chat template write them."""
        picked = np.linspace(0, len(frames) - 1, min(self.config.frames, len(frames))).round().astype(int)
        pictures = [{"type": "image", "image": _picture(resize_short(frames[index], self.config.size))} for index in picked]
        talk = [{"role": "user", "content": [*pictures, {"type": "text", "text": prompt()}]}]
        try:
            return self.processor.apply_chat_template(
                talk, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"The model's processor cannot take pictures and text ({error}). It needs a chat template."
            ) from error


def _picture(frame: Frames) -> Any:
    from PIL import Image

    return Image.fromarray(frame)
