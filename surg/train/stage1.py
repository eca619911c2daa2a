"""Heads of stage 1: temporal order, contrast between views, mask denoising.

B clips, N tokens of a clip, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surg.train import losses


class OrderHead(nn.Module):
    """Which half of the clip came first? Two classes; chance is ln 2 = 0.693."""

    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, hidden), nn.GELU(), nn.Linear(hidden, 2))

    def forward(self, early: Tensor, late: Tensor) -> Tensor:
        """Tokens of both halves (B, N / 2, D), each encoded alone. Every pair is asked about in both orders. Returns the loss.

        With one order each, a batch of one clip would have one answer, which needs no look at the clip.
        """
        first, second = _summary(early), _summary(late)
        asked = torch.cat([torch.cat([first, second], dim=1), torch.cat([second, first], dim=1)])
        swapped = torch.arange(len(asked), device=asked.device) >= len(first)
        return F.cross_entropy(self.net(asked).float(), swapped.long())


class ContrastHead(nn.Module):
    """InfoNCE between two views of a clip, with a queue of earlier views: with batch 4 there would be 3 negatives.

    A set of fewer clips than the queue's places meets itself there: a clip's own earlier views are no negatives.
    """

    queue: Tensor
    of: Tensor
    filled: Tensor

    def __init__(self, width: int, out: int = 128, temperature: float = 0.07, queue: int = 256) -> None:
        super().__init__()
        self.temperature = temperature
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))
        self.register_buffer("queue", torch.zeros(queue, out))
        self.register_buffer("of", torch.full((queue, 2), -1))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def forward(self, one: Tensor, other: Tensor, clips: Tensor) -> Tensor:
        """Tokens of both views (B, N, D) of `clips` (B, 2), which source and which of its clips. Returns the loss; while training the
        second views join the queue."""
        first, second = self.net(one.mean(dim=1)), self.net(other.mean(dim=1))
        known = min(int(self.filled), len(self.queue))
        # Val's clips have numbers of their own: none of them is in the queue.
        waiting = self.of[:known] if self.training else torch.full_like(self.of[:known], -1)
        same = (clips[:, None] == torch.cat([clips, waiting])[None]).all(dim=-1)
        loss = losses.info_nce(first, second, self.queue[:known] if known else None, self.temperature, same)
        if self.training and len(self.queue):
            self.remember(second.detach(), clips)
        return loss

    @torch.no_grad()
    def remember(self, views: Tensor, clips: Tensor) -> None:
        # Of more views than there are places the last ones stay.
        views, clips, passed = views[-len(self.queue) :], clips[-len(self.queue) :], max(len(views) - len(self.queue), 0)
        places = (int(self.filled) + passed + torch.arange(len(views), device=views.device)) % len(self.queue)
        self.queue[places], self.of[places] = views.to(self.queue.dtype), clips
        self.filled += passed + len(views)


class MaskHead(nn.Module):
    """Denoise a mask of what moves: each token gets its mask value with noise added and says the clean one.

    The mask is made from the clip itself (a patch that changes more than the clip's median change is moving), so that it is there
    for every video.
    """

    def __init__(self, width: int, patch: int, tubelet: int, noise: float = 0.5) -> None:
        super().__init__()
        self.patch, self.tubelet, self.noise = patch, tubelet, noise
        self.net = nn.Sequential(nn.Linear(width + 1, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, tokens: Tensor, clip: Tensor) -> Tensor:
        """Tokens (B, N, D) of the clip (B, 3, T, S, S). Returns the loss."""
        clean = moving(clip, self.patch, self.tubelet)
        noisy = clean + self.noise * torch.randn_like(clean)
        logits = self.net(torch.cat([tokens, noisy.unsqueeze(-1).to(tokens.dtype)], dim=-1)).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits.float(), clean)


def moving(clip: Tensor, patch: int, tubelet: int) -> Tensor:
    """1 for tokens whose pixels change more than twice the clip's median change, else 0.  (B, 3, T, S, S) -> (B, N)."""
    change = (clip[:, :, 1:] - clip[:, :, :-1]).abs().mean(dim=1, keepdim=True)
    change = F.pad(change, (0, 0, 0, 0, 1, 0))
    tokens = F.avg_pool3d(change, (tubelet, patch, patch)).flatten(1)
    return (tokens > 2 * tokens.median(dim=1, keepdim=True).values).float()


def _summary(tokens: Tensor) -> Tensor:
    return torch.cat([tokens.mean(dim=1), tokens.std(dim=1)], dim=1)
