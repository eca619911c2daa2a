"""The action-conditioned world model, in the shape of V-JEPA 2-AC: what will the tokens be, if this is done?

Per time step come an action token, a state token, if used a camera token, and the h*w tokens of the frame. A step sees itself
and the steps before it; the output at step t is the prediction of the frame at t + 1.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surg.config import validate
from surg.errors import ConfigError
from surg.model.config import EncoderConfig, FactorizedConfig, WorldConfig
from surg.model.encoder import build_encoder, encoder_config_from
from surg.model.layers import Block, initialise, rescale, run_block
from surg.model.rope import RopeTable, axis_positions, compute_dtype, head_tables

# B clips, T time steps, h w grid of one step, D width of the encoder, P width inside, A S E numbers of action, state, camera


class WorldPredictor(nn.Module):
    """Block-causal transformer over frames, actions and states. Parameters carry the names of Meta's V-JEPA 2-AC file."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width = config.width
        self.predictor_embed = nn.Linear(config.embed_dim, width)
        self.action_encoder = nn.Linear(config.action_dim, width)
        self.state_encoder = nn.Linear(config.state_dim, width)
        if config.extrinsics_dim:
            self.extrinsics_encoder = nn.Linear(config.extrinsics_dim, width)
        hidden = round(width * config.mlp_ratio)
        self.predictor_blocks = nn.ModuleList(Block(width, config.num_heads, hidden) for _ in range(config.depth))
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, config.embed_dim)
        self._tables: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor]] = {}
        initialise(self)
        rescale(self.predictor_blocks)

    def forward(
        self, tokens: Tensor, actions: Tensor, states: Tensor, plane: tuple[int, int], extrinsics: Tensor | None = None
    ) -> Tensor:
        """Teacher forcing: from T true steps, the prediction of each one's successor.

        tokens: (B, T * h * w, D), layer-normed encoder tokens of each step; actions (B, T, A); states (B, T, S);
        plane: (h, w). Returns (B, T * h * w, D): the part of step t predicts step t + 1.
        """
        h, w = plane
        batch, steps = actions.shape[:2]
        if tokens.shape[1] != steps * h * w or states.shape[1] != steps:
            raise ConfigError(
                f"{tokens.shape[1]} tokens, {steps} actions and {states.shape[1]} states do not belong together:"
                f" a step has one action, one state and {h} x {w} tokens."
            )
        frames = self.predictor_embed(tokens).view(batch, steps, h * w, -1)
        said = [self.action_encoder(actions), self.state_encoder(states)]
        if extrinsics is not None:
            if not self.config.extrinsics_dim:
                raise ConfigError("This world model has no camera token (extrinsics_dim is 0), but extrinsics were given.")
            said.append(self.extrinsics_encoder(extrinsics))
        x = torch.cat((torch.stack(said, 2), frames), 2).flatten(1, 2)
        rope, mask = self._table(steps, h, w, len(said), x)
        for block in self.predictor_blocks:
            x = run_block(block, x, rope, mask, recompute=self.gradient_checkpointing and self.training)
        x = x.view(batch, steps, len(said) + h * w, -1)[:, :, len(said) :].flatten(1, 2)
        return self.predictor_proj(self.predictor_norm(x))  # type: ignore[no-any-return]

    def roll_out(
        self,
        tokens: Tensor,
        actions: Tensor,
        states: Tensor,
        plane: tuple[int, int],
        steps: int,
        extrinsics: Tensor | None = None,
    ) -> Tensor:
        """Predict `steps` frames on from the ones given, each from the predictions before it.

        tokens: (B, t * h * w, D) of t known steps; actions and states reach at least to step t + steps - 1.
        Returns (B, steps * h * w, D), layer-normed as the inputs are.
        """
        size = plane[0] * plane[1]
        known = tokens.shape[1] // size
        if actions.shape[1] < known + steps - 1 or states.shape[1] < known + steps - 1:
            raise ConfigError(
                f"To predict {steps} steps after {known} known ones takes {known + steps - 1} actions and states;"
                f" there are {actions.shape[1]} and {states.shape[1]}."
            )
        seen = tokens
        for now in range(known, known + steps):
            camera = None if extrinsics is None else extrinsics[:, :now]
            future = self(seen, actions[:, :now], states[:, :now], plane, camera)[:, -size:]
            seen = torch.cat((seen, F.layer_norm(future, future.shape[-1:])), 1)
        return seen[:, tokens.shape[1] :]

    def steps_for(self, horizon_s: float) -> int:
        """Time steps that reach a horizon in seconds, rounded up."""
        if horizon_s <= 0:
            raise ConfigError(f"A horizon of {horizon_s} s lies not in the future; give a positive number of seconds.")
        return math.ceil(horizon_s / self.config.step_s - 1e-9)

    def _table(self, steps: int, h: int, w: int, extra: int, x: Tensor) -> tuple[RopeTable, Tensor]:
        # What inference mode makes cannot be kept for a backward pass.
        key = (steps, h, w, extra, x.device, compute_dtype(x), torch.is_inference_mode_enabled())
        if key not in self._tables:
            built = tuple(table.to(x.device) for table in self._build(steps, h, w, extra, compute_dtype(x)))
            if len(self._tables) >= 16:
                self._tables.pop(next(iter(self._tables)))
            self._tables[key] = (built[0], built[1], built[2])
        cos, sin, mask = self._tables[key]
        return RopeTable(cos, sin), mask

    def _build(self, steps: int, h: int, w: int, extra: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        positions = axis_positions((steps, h, w), scale_to=self.config.rope_grid).reshape(steps, h * w, 3)
        # Action, state and camera tokens turn with time only: place (0, 0) leaves the other channels as they are.
        said = np.zeros((steps, extra, 3))
        said[:, :, 0] = np.arange(steps)[:, None]
        all_positions = np.concatenate((said, positions), 1).reshape(-1, 3)
        cos, sin = head_tables(all_positions, self.config.width // self.config.num_heads, "tiled")
        step = torch.arange(steps).repeat_interleave(extra + h * w)
        mask = step[:, None] >= step[None, :]
        return torch.from_numpy(cos).to(dtype)[None, :, None], torch.from_numpy(sin).to(dtype)[None, :, None], mask


class SurgicalActionConditionedWorldModel(nn.Module):
    """Encoder and action-conditioned predictor together. `SurgicalActionConditionedWorldModel(**checkpoint["config"])` rebuilds one.

    Each time step is one frame, encoded alone (repeated to fill the tubelet), so that no step sees its future.
    """

    def __init__(
        self,
        encoder_dim: int = 192,
        predictor_dim: int = 384,
        predictor_depth: int = 12,
        predictor_heads: int = 12,
        action_dim: int = 7,
        state_dim: int = 7,
        extrinsics_dim: int = 0,
        rope_grid: int = 16,
        step_s: float = 0.25,
        encoder: Mapping[str, Any] | EncoderConfig | FactorizedConfig | None = None,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        encoder_config = _encoder_of(encoder_dim, encoder)
        self.world_config = validate(
            WorldConfig,
            {
                "embed_dim": encoder_dim, "width": predictor_dim, "depth": predictor_depth, "num_heads": predictor_heads,
                "action_dim": action_dim, "state_dim": state_dim, "extrinsics_dim": extrinsics_dim, "rope_grid": rope_grid,
                "step_s": step_s, "mlp_ratio": mlp_ratio,
            },
        )  # fmt: skip
        self.config: dict[str, Any] = {
            "encoder_dim": encoder_dim, "predictor_dim": predictor_dim, "predictor_depth": predictor_depth,
            "predictor_heads": predictor_heads, "action_dim": action_dim, "state_dim": state_dim,
            "extrinsics_dim": extrinsics_dim, "rope_grid": rope_grid, "step_s": step_s, "mlp_ratio": mlp_ratio,
            "encoder": encoder_config.model_dump(mode="json"),
        }  # fmt: skip
        self.encoder = build_encoder(encoder_config)
        self.world = WorldPredictor(self.world_config)

    def encode(self, frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """frames: (B, 3, T, H, W), one per time step. Returns layer-normed tokens (B, T * h * w, D) and (h, w)."""
        batch, _, steps = frames.shape[:3]
        tubelet = self.encoder.config.tubelet_size
        single = frames.transpose(1, 2).flatten(0, 1).unsqueeze(2).expand(-1, -1, tubelet, -1, -1)
        tokens = self.encoder(single)
        _, h, w = self.encoder.grid(single)
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        return tokens.reshape(batch, steps * h * w, -1), (h, w)

    def forward(self, frames: Tensor, actions: Tensor, states: Tensor, extrinsics: Tensor | None = None) -> Tensor:
        """Teacher forcing on frames (B, 3, T, H, W): (B, T * h * w, D), each step's part predicting the next one's tokens."""
        tokens, plane = self.encode(frames)
        return self.world(tokens, actions, states, plane, extrinsics)  # type: ignore[no-any-return]

    @torch.no_grad()
    def imagine(
        self, frames: Tensor, actions: Tensor, states: Tensor, horizon_s: float, extrinsics: Tensor | None = None
    ) -> Tensor:
        """Tokens of the steps up to `horizon_s` seconds after the last frame, given what will be done: (B, steps * h * w, D)."""
        tokens, plane = self.encode(frames)
        return self.world.roll_out(tokens, actions, states, plane, self.world.steps_for(horizon_s), extrinsics)

    def checkpoint(self) -> dict[str, Any]:
        """What `torch.save` should write: settings and weights, enough to rebuild the model."""
        return {"config": self.config, "full_model_state_dict": self.state_dict()}


def _encoder_of(
    width: int, given: Mapping[str, Any] | EncoderConfig | FactorizedConfig | None
) -> EncoderConfig | FactorizedConfig:
    if given is None:
        from surg.model.zoo import ENCODERS

        config = next((config for config in ENCODERS.values() if config.embed_dim == width), None)
        if config is None:
            raise ConfigError(
                f"No encoder of the zoo is {width} wide; describe it: encoder={{'embed_dim': {width}, 'depth': …}}."
            )
        return config
    described = encoder_config_from(given) if isinstance(given, Mapping) else given
    if described.embed_dim != width:
        raise ConfigError(f"encoder_dim is {width}, but the encoder described is {described.embed_dim} wide.")
    return described
