"""SAM 2 and EdgeTAM through transformers: a rough segmenter says where things are, SAM 2 draws and follows them. Weights come by path."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.config import Config
from surg.data.segment.masks import Frames, Ids, Mask, Segmentation, Segmenter
from surg.data.segment.sam3 import load_pretrained, transformers_classes
from surg.data.tracks import TrackConfig, extent, link

MODELS = {"sam2_video": "Sam2VideoModel", "edgetam_video": "EdgeTamVideoModel"}


class Sam2Config(Config):
    weights: Path | None = None
    """Folder of a SAM 2 or EdgeTAM video model as transformers saves it; its config.json says which it is."""
    max_objects: int = Field(8, ge=1)
    """Most things followed, longest first: time and memory grow with each."""
    min_frames: int = Field(3, ge=1)
    """A thing the rough segmenter saw on fewer frames is not worth a prompt."""
    device: str = "cpu"
    """cpu, cuda or mps."""


class Sam2Segmenter:
    """Boxes for SAM 2 come from `rough`, at the frame on which each thing is largest; from there it is followed both ways."""

    def __init__(self, config: Sam2Config, rough: Segmenter) -> None:
        self.config, self.rough = config, rough
        model_class, processor_class = transformers_classes(_model_name(config.weights), "Sam2VideoProcessor")
        self.model, self.processor = load_pretrained(model_class, processor_class, config.weights, "sam2", config.device)

    def __call__(self, frames: Frames, times_s: npt.NDArray[np.float64]) -> Segmentation:
        import torch

        guess = link(self.rough(frames, times_s), TrackConfig(min_frames=self.config.min_frames))
        tracks = sorted(guess.items, key=lambda track: -len(track.frames))[: self.config.max_objects]
        names = {track.id: track.name for track in tracks}
        logits = np.full((len(tracks), *frames.shape[:3]), -np.inf, np.float32)
        with torch.inference_mode():
            for row, track in zip(logits, tracks):
                masks = {index: guess.ids[index] == track.id for index in track.frames}
                # A session per thing: prompts on different frames of one session would each have to know of the others.
                self._follow(frames, row, max(masks, key=lambda index: int(masks[index].sum())), masks)
        ids = _strongest(logits, [track.id for track in tracks], frames.shape[:3])
        return Segmentation(ids, times_s, names, dict.fromkeys(names, 1.0), linked=True)

    def _follow(self, frames: Frames, out: npt.NDArray[np.float32], start: int, masks: dict[int, Mask]) -> None:
        session = self.processor.init_video_session(video=frames, inference_device=self.config.device)
        box, _ = extent(masks[start])
        self.processor.add_inputs_to_inference_session(session, frame_idx=start, obj_ids=1, input_boxes=[[list(box)]])
        first, last = min(masks), max(masks)
        for reverse, count in ((False, last - start), (True, start - first)):
            for output in self.model.propagate_in_video_iterator(
                session, start_frame_idx=start, max_frame_num_to_track=count, reverse=reverse
            ):
                size = [[session.video_height, session.video_width]]
                drawn = self.processor.post_process_masks([output.pred_masks], original_sizes=size, binarize=False)[0]
                out[output.frame_idx] = drawn[0, 0].float().cpu().numpy()


def _strongest(logits: npt.NDArray[np.float32], numbers: list[int], shape: tuple[int, ...]) -> Ids:
    """Each pixel goes to the thing that claims it most, if any does.  logits: (things, T, H, W)."""
    if not numbers:
        return np.zeros(shape, np.uint16)
    owner = np.array(numbers, np.uint16)[logits.argmax(axis=0)]
    ids: Ids = np.where(logits.max(axis=0) > 0, owner, 0).astype(np.uint16)
    return ids


def _model_name(weights: Path | None) -> str:
    """The model class that the folder's config.json asks for; what is wrong with the folder is said when it is loaded."""
    try:
        config: dict[str, Any] = json.loads((weights / "config.json").read_text()) if weights else {}
    except (OSError, ValueError):
        config = {}
    return MODELS.get(str(config.get("model_type")), "Sam2VideoModel")
