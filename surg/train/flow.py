"""Optical flow per token, and masks that move with what they hide (MGMAE, Huang et al. 2023).

B clips, T frames, S side, t time steps, h w patches.
"""

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


def token_flow(frames: npt.NDArray[np.uint8], tubelet: int, patch: int) -> npt.NDArray[np.float32]:
    """Motion from each time step to the next, in patches: uint8 (T, S, S, 3) -> float32 (t, h, w, 2), x before y.

    The last step repeats the one before it: nothing follows.
    """
    steps, patches = len(frames) // tubelet, frames.shape[1] // patch
    # Half of the picture's side is enough for a field that is averaged over 16 x 16 pixels.
    side = max(frames.shape[1] // 2, 32)
    grey = [
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (side, side), interpolation=cv2.INTER_AREA)
        for frame in frames[::tubelet]
    ]
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    out = np.zeros((steps, patches, patches, 2), np.float32)
    for step in range(steps - 1):
        field = solver.calc(grey[step], grey[step + 1], np.zeros((side, side, 2), np.float32))
        out[step] = cv2.resize(field, (patches, patches), interpolation=cv2.INTER_AREA) * (patches / side)
    if steps > 1:
        out[-1] = out[-2]
    return out


def warp(values: Tensor, flow: Tensor) -> Tensor:
    """Carry (B, h, w) along a flow (B, h, w, 2) in patches: the result at p is the value at p - flow(p); outside is -1."""
    height, width = values.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=flow.device), torch.arange(width, device=flow.device), indexing="ij"
    )
    at = torch.stack([columns, rows], dim=-1).to(flow.dtype) - flow
    scale = torch.tensor([2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)], device=flow.device, dtype=flow.dtype)
    # Shifted by one, zero padding stands for "nothing came from here".
    carried = F.grid_sample((values + 1).unsqueeze(1), at * scale - 1, align_corners=True, padding_mode="zeros")
    return carried.squeeze(1) - 1


def motion_guided_visible(flow: Tensor, visible: int, generator: torch.Generator) -> Tensor:
    """Which tokens stay visible when masks follow the motion: bool (B, t, h, w), the same number in every step.

    The middle step gets random scores; they travel along the flow to the other steps, forwards and (negated) backwards. What flows
    in from outside the picture gets fresh random scores below all others, as in the paper holes are filled last. In each step the
    `visible` patches with the highest scores are seen.
    """
    batch, steps, height, width, _ = flow.shape
    base = steps // 2
    noise = torch.rand(batch, steps, height, width, generator=generator).to(flow.device)
    scores = [torch.empty(0)] * steps
    scores[base] = noise[:, base]
    for step in range(base, steps - 1):
        scores[step + 1] = _filled(warp(scores[step], flow[:, step]), noise[:, step + 1])
    for step in range(base, 0, -1):
        scores[step - 1] = _filled(warp(scores[step], -flow[:, step - 1]), noise[:, step - 1])
    stacked = torch.stack(scores, dim=1).flatten(2)
    chosen = stacked.topk(visible, dim=-1).indices
    return torch.zeros_like(stacked, dtype=torch.bool).scatter_(-1, chosen, True).view(batch, steps, height, width)


def _filled(carried: Tensor, noise: Tensor) -> Tensor:
    # Fresh scores lie in [-1, 0): below everything that was carried here.
    return torch.where(carried < 0, noise - 1.0, carried)


def flow_weights(flow: Tensor, strength: float) -> Tensor:
    """Weight of each token's error: 1 + strength * |flow| / mean |flow| of the clip.  (B, t, h, w, 2) -> (B, N)."""
    length: Tensor = torch.linalg.vector_norm(flow, dim=-1).flatten(1)
    return 1.0 + strength * length / length.mean(dim=1, keepdim=True).clamp_min(1e-6)
