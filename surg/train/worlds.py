"""Stage 2's objective: the next step's latents from the steps before it, the actions done and the states, as in V-JEPA 2-AC.

B clips, T time steps, h w grid of one step, D width, A numbers of an action.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor, nn

from surg.data.manifest import Clip
from surg.data.timeline import Timeline, Track, timeline_path
from surg.errors import ConfigError, DataError
from surg.model.world import WorldPredictor

Floats = npt.NDArray[np.float32]


def world_loss(
    world: WorldPredictor, tokens: Tensor, actions: Tensor, states: Tensor, plane: tuple[int, int], roll_out: int = 2
) -> Tensor:
    """L1 with teacher forcing, plus L1 of a roll-out over `roll_out` steps from the first one.  tokens (B, T * h * w, D)."""
    size = plane[0] * plane[1]
    # An encoder that learns must not make the future easy to predict by saying less.
    wanted = tokens[:, size:].detach()
    predicted = world(tokens[:, :-size], actions[:, :-1], states[:, :-1], plane)
    loss = F.l1_loss(_normed(predicted), wanted)
    steps = min(roll_out, actions.shape[1] - 1)
    if steps > 0:
        ahead = world.roll_out(tokens[:, :size], actions, states, plane, steps)
        loss = loss + F.l1_loss(ahead, wanted[:, : size * steps])
    return loss


def frame_tokens(encoder: nn.Module, clip: Tensor, tubelet: int) -> tuple[Tensor, tuple[int, int]]:
    """Every `tubelet`-th frame encoded alone (repeated to fill the tubelet), layer-normed: no step sees its future.

    clip (B, 3, F, H, W) -> tokens (B, T * h * w, D), T = F / tubelet.
    """
    still = clip[:, :, tubelet - 1 :: tubelet]
    batch, _, steps = still.shape[:3]
    single = still.transpose(1, 2).flatten(0, 1).unsqueeze(2).expand(-1, -1, tubelet, -1, -1)
    tokens: Tensor = encoder(single)
    _, height, width = encoder.grid(single)  # type: ignore[operator]
    return F.layer_norm(tokens.float(), tokens.shape[-1:]).reshape(batch, steps * height * width, -1), (height, width)


class Learnt(Protocol):
    """What a reader took from its training clips: another reader, or a served model's contract."""

    @property
    def classes(self) -> dict[str, tuple[str, ...]]: ...
    @property
    def widths(self) -> dict[str, int]: ...


class ActionReader:
    """Actions or states of a clip's time steps as numbers: kinematics from the timeline, classes one-hot, labels as they are.

    A name is looked up in the manifest's timeline first (its last sample at or before each moment: the future stays unseen), then
    among the clip's labels, where it holds for the whole clip.
    """

    def __init__(self, names: Sequence[str], manifest: Path, clips: Sequence[Clip], like: "Learnt | None" = None) -> None:
        self.names = tuple(names)
        path = timeline_path(manifest)
        self._timeline = Timeline(path) if path.is_file() else None
        self._tracks: dict[tuple[str, str, str], Track | None] = {}
        self.classes: dict[str, tuple[str, ...]] = self._classes(clips) if like is None else like.classes
        self.widths: dict[str, int] = {name: self._width(name, clips) for name in self.names} if like is None else like.widths

    @property
    def dim(self) -> int:
        """Numbers a step; at least one, which stays 0 when nothing is named."""
        return max(1, sum(self.widths.values()))

    def described(self) -> dict[str, Any]:
        """Names, widths and classes: what someone needs who is to give the model such numbers."""
        return {
            "names": list(self.names),
            "widths": self.widths,
            "classes": {key: list(found) for key, found in self.classes.items()},
        }

    def read(self, clip: Clip, times_s: Sequence[float]) -> Floats:
        """float32 (T, dim); what is not known is 0."""
        out = np.zeros((len(times_s), self.dim), np.float32)
        offset = 0
        for name in self.names:
            width = self.widths[name]
            track = self._track(clip, name)
            for row, time_s in enumerate(times_s):
                out[row, offset : offset + width] = self._value(clip, name, track, time_s, width)
            offset += width
        return out

    def _value(self, clip: Clip, name: str, track: Track | None, time_s: float, width: int) -> Floats:
        if track is not None:
            index = track.at(time_s)
            if index is None:
                return np.zeros(width, np.float32)
            if track.texts is not None and name in self.classes:
                return self._one_hot(name, track.texts[index])
            if track.values is not None:
                return np.nan_to_num(np.asarray(track.values[index], np.float32).reshape(-1)[:width])
        value = clip.labels.get(name)
        if value is None:
            return np.zeros(width, np.float32)
        return self._one_hot(name, str(value)) if name in self.classes else np.array([float(value)], np.float32)

    def _one_hot(self, name: str, value: str) -> Floats:
        return np.array([known == value for known in self.classes[name]], np.float32)

    def _track(self, clip: Clip, name: str) -> Track | None:
        key = (clip.case, name, clip.video)
        if key not in self._tracks:
            try:
                self._tracks[key] = None if self._timeline is None else self._timeline.track(clip.case, name)
            except DataError:
                self._tracks[key] = None
        return self._tracks[key]

    def _classes(self, clips: Sequence[Clip]) -> dict[str, tuple[str, ...]]:
        """Values of the names that are text, over the training clips."""
        found: dict[str, set[str]] = {}
        for clip in clips:
            for name in self.names:
                track = self._track(clip, name)
                if track is not None and track.texts is not None:
                    found.setdefault(name, set()).update(track.texts)
                elif isinstance(clip.labels.get(name), str):
                    found.setdefault(name, set()).add(str(clip.labels[name]))
        return {name: tuple(sorted(values)) for name, values in found.items()}

    def _width(self, name: str, clips: Sequence[Clip]) -> int:
        if name in self.classes:
            return len(self.classes[name])
        for clip in clips:
            track = self._track(clip, name)
            if track is not None and track.values is not None:
                return int(np.asarray(track.values[0]).size)
            if name in clip.labels:
                return 1
        raise ConfigError(
            f"Neither the labels nor the timeline know {name!r}, which the world model is to be conditioned on.\n"
            f"Labels: {sorted({key for clip in clips for key in clip.labels})}. Choose: --set data.sources.main.actions=[NAME]"
        )


def _normed(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens.float(), tokens.shape[-1:])
