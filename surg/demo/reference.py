"""Nearest moments: which clips of a reference set look most like this moment to the model."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.clips import ClipConfig, frame_times
from surg.data.manifest import Clip
from surg.data.preprocess import preprocess
from surg.data.sources import read_clip
from surg.serving.client import Client

THUMBNAIL = 192


@dataclass(frozen=True)
class Neighbour:
    caption: str
    similarity: float
    """Cosine, 1 for the same direction."""
    picture: npt.NDArray[np.uint8]


class Reference:
    """Embeddings of a set of clips, with a small picture of each."""

    def __init__(self, embeddings: npt.NDArray[np.float32], captions: list[str], pictures: list[npt.NDArray[np.uint8]]) -> None:
        self._unit = _unit(embeddings)
        self._captions, self._pictures = captions, pictures

    def __len__(self) -> int:
        return len(self._captions)

    @classmethod
    def build(cls, client: Client, clips: Iterable[Clip]) -> "Reference":
        """Embed every clip's last window through the server. One request each; a hundred clips take seconds."""
        spec = client.contract.preprocess
        config = ClipConfig(num_frames=spec.num_frames, fps=spec.fps, size=spec.size)
        embeddings, captions, pictures = [], [], []
        for clip in clips:
            frames, zone = read_clip(clip, frame_times(clip.end_s, config).clip(clip.start_s))
            prepared = preprocess(frames, spec, zone)
            embeddings.append(client.clip(prepared.frames, prepared.zone).embedding[0])
            captions.append(str(clip.labels.get("action") or clip.labels.get("event") or clip.case))
            pictures.append(_thumbnail(frames[-1]))
        return cls(np.stack(embeddings) if embeddings else np.zeros((0, 1), np.float32), captions, pictures)

    def nearest(self, embedding: npt.NDArray[np.float32], count: int = 4) -> list[Neighbour]:
        if not len(self):
            return []
        # Centred first: raw embeddings share one large direction and would all be 0.99 alike.
        centre = self._unit.mean(0)
        similarity = _unit(self._unit - centre) @ _unit(_unit(embedding[None]) - centre)[0]
        best = np.argsort(-similarity)[:count]
        return [Neighbour(self._captions[i], float(similarity[i]), self._pictures[i]) for i in best]


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + 1e-9), np.float32)


def _thumbnail(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    scale = THUMBNAIL / max(frame.shape[:2])
    return np.asarray(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
