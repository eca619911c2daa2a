"""The shapes of our networks as validated settings. A checkpoint carries them, so that a file rebuilds its own model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from surg.config import Config

Rope = Literal["tiled", "interleaved"]


class EncoderConfig(Config):
    """A video transformer with joint space-time attention, as in V-JEPA 2 and 2.1."""

    kind: Literal["joint"] = "joint"
    """Attention over all tokens of the clip at once."""
    embed_dim: int = Field(192, gt=0)
    """Width of a token."""
    depth: int = Field(12, gt=0)
    """Number of blocks."""
    num_heads: int = Field(3, gt=0)
    """Attention heads per block."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of a block's hidden layer as a multiple of `embed_dim`, rounded."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Hidden layer of a block; every released model uses gelu."""
    patch_size: int = Field(16, gt=0)
    """Side of a patch in pixels."""
    tubelet_size: int = Field(2, gt=0)
    """Frames per token."""
    in_channels: int = Field(3, gt=0)
    """Colour channels."""
    rope: Rope = "tiled"
    """Layout of the rotary tables: tiled in V-JEPA 2 (a quirk that its weights were trained with), interleaved in 2.1."""
    interpolate_rope: bool = False
    """Stretch the positions of any grid onto `rope_grid` patches a side, as 2.1 does; 2.0 counts patches."""
    rope_grid: int = Field(16, gt=1)
    """Side of the grid, in patches, that interpolated positions are stretched onto."""
    levels: tuple[int, ...] = ()
    """Blocks after which 2.1 takes a level, each with a norm of its own; empty means one norm at the end, as in 2.0."""
    image_path: bool = False
    """A second patch embedding for single frames, as in 2.1. Without it an image is a clip of repeated frames."""
    modality_embedding: bool = False
    """Add a learned vector that says video or image to every token, as in 2.1."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Chance of skipping a block's branch in training, growing linearly with depth up to this."""

    @model_validator(mode="after")
    def _consistent(self) -> "EncoderConfig":
        _check_heads(self.embed_dim, self.num_heads)
        if self.levels and (max(self.levels) != self.depth - 1 or list(self.levels) != sorted(set(self.levels))):
            raise ValueError(f"levels {self.levels} must rise and end with the last block, {self.depth - 1}")
        return self

    @property
    def num_levels(self) -> int:
        return max(1, len(self.levels))


class FactorizedConfig(Config):
    """An encoder that attends within each frame first and across time afterwards."""

    kind: Literal["factorized"] = "factorized"
    """Spatial blocks, then temporal blocks."""
    embed_dim: int = Field(768, gt=0)
    """Width of a token."""
    spatial_depth: int = Field(8, gt=0)
    """Blocks whose attention stays within one time step."""
    temporal_depth: int = Field(4, gt=0)
    """Blocks whose attention follows one place through time."""
    num_heads: int = Field(12, gt=0)
    """Attention heads per block."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of a block's hidden layer as a multiple of `embed_dim`."""
    patch_size: int = Field(16, gt=0)
    """Side of a patch in pixels."""
    tubelet_size: int = Field(2, gt=0)
    """Frames per token."""
    in_channels: int = Field(3, gt=0)
    """Colour channels."""

    @model_validator(mode="after")
    def _consistent(self) -> "FactorizedConfig":
        _check_heads(self.embed_dim, self.num_heads)
        return self

    @property
    def num_levels(self) -> int:
        return 1


AnyEncoderConfig = Annotated[EncoderConfig | FactorizedConfig, Field(discriminator="kind")]


class PredictorConfig(Config):
    """The transformer that fills in the tokens the encoder did not see."""

    embed_dim: int = Field(192, gt=0)
    """Width of one level of the encoder's tokens."""
    levels: int = Field(1, gt=0)
    """Levels of the encoder that come in side by side (4 in 2.1's pre-trained models)."""
    out_dim: int | None = Field(None, gt=0)
    """Width of the predicted tokens; left out, that of the input."""
    width: int = Field(384, gt=0)
    """Width inside the predictor."""
    depth: int = Field(12, gt=0)
    """Number of blocks."""
    num_heads: int = Field(12, gt=0)
    """Attention heads per block."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of a block's hidden layer as a multiple of `width`."""
    num_mask_tokens: int = Field(10, gt=0)
    """Learned stand-ins for unseen tokens; one is used per call."""
    rope: Rope = "tiled"
    """Layout of the rotary tables, as in the encoder."""
    interpolate_rope: bool = False
    """Stretch positions onto `rope_grid`; 2.1 trains with it, its hub entry builds without."""
    rope_grid: int = Field(16, gt=1)
    """Side of the grid, in patches, that interpolated positions are stretched onto."""
    modality_embedding: bool = False
    """Add a learned vector that says video or image, as in 2.1."""
    context_head: bool = False
    """Predict the seen tokens too, through a second output layer, as in 2.1."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Chance of skipping a block's branch in training."""

    @model_validator(mode="after")
    def _consistent(self) -> "PredictorConfig":
        _check_heads(self.width, self.num_heads)
        return self

    @property
    def target_dim(self) -> int:
        """Width of the predicted tokens."""
        return self.out_dim or self.levels * self.embed_dim


class WorldConfig(Config):
    """The action-conditioned predictor of V-JEPA 2-AC: next step's tokens from the past, its actions and its states."""

    embed_dim: int = Field(192, gt=0)
    """Width of the encoder's tokens."""
    width: int = Field(1024, gt=0)
    """Width inside the predictor."""
    depth: int = Field(24, gt=0)
    """Number of blocks."""
    num_heads: int = Field(16, gt=0)
    """Attention heads per block."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of a block's hidden layer as a multiple of `width`."""
    action_dim: int = Field(7, gt=0)
    """Numbers per action."""
    state_dim: int = Field(7, gt=0)
    """Numbers per state."""
    extrinsics_dim: int = Field(0, ge=0)
    """Numbers that describe the camera, put in as a third token; 0 leaves it out (V-JEPA 2-AC: 6)."""
    rope_grid: int = Field(16, gt=0)
    """Side of the grid, in patches, that h and w positions are stretched onto."""
    step_s: float = Field(0.25, gt=0)
    """Seconds from one time step to the next; what turns a horizon in seconds into steps."""

    @model_validator(mode="after")
    def _consistent(self) -> "WorldConfig":
        _check_heads(self.width, self.num_heads)
        return self


def _check_heads(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(f"a width of {width} cannot be split into {num_heads} heads")
    if (width // num_heads) % 2 or width // num_heads < 6:
        raise ValueError(
            f"a head of {width // num_heads} channels cannot carry three rotary axes: it must be even and at least 6"
        )
