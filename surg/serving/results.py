"""What the models answer, typed. Probabilities are derived here, in one place, from the logits the server sends."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClipResult:
    """Answer of surg_clip for B clips.  D width, A action classes, H horizons, t h w tubelets and patches."""

    embedding: Floats
    """(B, D)"""
    action: Floats
    """(B, A) logits; empty when the bundle has no action head."""
    breach: Floats
    """(B, H) logits, one per horizon of the contract; empty without a sterility head."""
    breach_map: Floats
    """(B, t, h, w) logits: where."""
    version: int = 0
    """Model version that answered."""
    request_id: str = ""

    @property
    def action_probability(self) -> Floats:
        return softmax(self.action)

    @property
    def breach_probability(self) -> Floats:
        return sigmoid(self.breach)

    @property
    def breach_map_probability(self) -> Floats:
        return sigmoid(self.breach_map)

    def __len__(self) -> int:
        return len(self.embedding)


@dataclass(frozen=True)
class EncoderResult:
    """Answer of surg_encoder for B clips.  N tokens, L levels."""

    tokens: Floats
    """(B, N, D): the encoder's last, normalised tokens."""
    levels: Floats
    """(B, L, N, D): tokens of the encoder's output levels (a quarter, half, three quarters and all of its depth)."""
    pooled: Floats
    """(B, D): mean over tokens."""
    version: int = 0


@dataclass(frozen=True)
class WorldResult:
    """Answer of surg_world for B clips."""

    future: Floats
    """(B, K, h*w, D): latents predicted for each horizon, layer-normed like the training targets."""
    surprise: Floats
    """(B,): how far the newest tubelets are from what the earlier ones predicted (mean absolute difference)."""
    surprise_map: Floats
    """(B, s, h, w): the same per newest tubelet and patch."""
    version: int = 0
    present: Floats | None = None
    """(B, h*w, D): latents of the newest step seen, in the space of `future`; from action-conditioned models."""


@dataclass(frozen=True)
class Window:
    """One step of a watched video."""

    index: int
    start_s: float
    end_s: float
    """The prediction is for this time; every frame seen lies at or before it."""
    action: str
    """Most probable class; empty without an action head."""
    action_probability: dict[str, float] = field(repr=False)
    breach_probability: dict[str, float] = field(repr=False)
    """By horizon: "0" is now, "2" two seconds ahead."""
    breach_map: Floats = field(repr=False)
    """(t, h, w) probabilities."""
    embedding: Floats = field(repr=False)
    surprise: float | None = None
    motion: float | None = None
    """Mean change between the frames seen, 0..1: what surprise must be compared with, since it rises where much moves."""
    box: tuple[int, int, int, int] | None = None
    """Part of the picture that was seen, in pixels of the video: x0, y0, x1, y1."""
    version: int = 0
    """Model version that answered."""

    @property
    def breach(self) -> float:
        """Probability of a breach now (the first horizon); NaN without a sterility head."""
        return next(iter(self.breach_probability.values()), float("nan"))


def softmax(logits: Floats) -> Floats:
    if logits.size == 0:
        return logits
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True), np.float32)


def sigmoid(logits: Floats) -> Floats:
    # The tanh form does not overflow for large negative logits.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), np.float32)
