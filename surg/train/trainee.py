"""Everything that learns behind one forward: a batch in, losses out. So one wrapper (DDP) sees it all.

B clips, T frames, N tokens = t * h * w, K visible tokens, M masked tokens, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surg.data.preprocess import PreprocessSpec
from surg.model.world import WorldPredictor
from surg.train import losses
from surg.train.batches import Batch
from surg.train.config import LossConfig
from surg.train.flow import flow_weights
from surg.train.worlds import frame_tokens, world_loss

Grid = tuple[int, int, int]
# Between two time steps things move by a tenth of a patch: the flow head speaks in such units, so that its errors count.
FLOW_SCALE = 10.0
# Losses of clips whose halves are encoded one by one.
HALVED = ("order", "contrast", "mask_aux")


@dataclass
class Targets:
    """What the teacher said and which tokens are asked for; made outside the gradient."""

    latents: Tensor | None
    """Layer-normed teacher tokens of the clips that take part in `jepa`: (rows, N, L * D)."""
    masks: list[tuple[Tensor, Tensor]]
    """(visible ids (B, K), masked ids (B, M)) per mask."""
    step: int = 0


class Trainee(nn.Module):
    """Encoder, predictor and heads. `parts()` names what a bundle stores."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module | None,
        heads: dict[str, nn.Module],
        config: LossConfig,
        spec: PreprocessSpec,
        *,
        patch: int,
        tubelet: int,
        levels: int = 1,
        mask_token: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.predictor, self.heads = encoder, predictor, nn.ModuleDict(heads)
        self.config, self.patch, self.tubelet, self.levels = config, patch, tubelet, levels
        # Index 0 for every mask: what upstream's wrapper gives with one frame count (facts of the released weights).
        self.mask_token = mask_token
        self.encoder_frozen = False
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1, 1) * 255, persistent=False)

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, S, S, 3) -> float (B, 3, T, S, S), contiguous: three passes over a strided copy took a tenth of a step."""
        clip = frames.permute(0, 4, 1, 2, 3).to(self.mean.dtype, memory_format=torch.contiguous_format)
        return clip.sub_(self.mean).div_(self.std)

    def grid(self, clip: Tensor) -> Grid:
        return clip.shape[2] // self.tubelet, clip.shape[3] // self.patch, clip.shape[4] // self.patch

    def encode(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        if self.encoder_frozen:
            with torch.no_grad():
                return self._tokens(clip, keep)
        return self._tokens(clip, keep)

    @torch.no_grad()
    def look(self, frames: Tensor) -> Tensor:
        """Tokens of stored frames, for whoever only looks: an entry of its own, where FSDP2 gathers the weights."""
        return self.encode(self.normalise(frames))

    def _tokens(self, clip: Tensor, keep: Tensor | None) -> Tensor:
        tokens: Tensor = self.encoder(clip, keep=keep)
        return tokens

    def forward(
        self, batch: Batch, targets: Targets, scale: Callable[[str, Tensor], float], answers: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Losses by name; with `answers` also the heads' logits, filled in there (NaN for clips that take no part). `scale(task, rows)` turns a mean over these rows into this part's share of the whole batch's mean."""
        # Cached tokens stand for the pictures, of which only the shape counts then.
        clip = self.normalise(batch.frames) if batch.tokens is None else batch.frames.permute(0, 4, 1, 2, 3)
        out: dict[str, Tensor] = {}
        weights = self.config.weights
        if "jepa" in batch.tasks and targets.masks and weights.jepa and (rows := batch.tasks["jepa"]).any():
            for name, value in self._jepa(clip[rows], targets, batch, rows).items():
                out[name] = value * scale("jepa", rows)
        self._supervised(clip, batch, out, scale, answers)
        if "world" in batch.tasks and weights.world and "world" in self.heads and bool((rows := batch.tasks["world"]).any()):
            assert batch.actions is not None
            assert batch.states is not None
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
                tokens, plane = frame_tokens(self.encoder, clip[rows], self.tubelet)
            world: WorldPredictor = self.heads["world"]  # type: ignore[assignment]
            value = world_loss(world, tokens, batch.actions[rows], batch.states[rows], plane, self.config.roll_out)
            out["world"] = value * scale("world", rows)
        self._pairs(clip, batch, out, scale)
        if batch.stored is not None and weights.clear and (rows := torch.isfinite(batch.stored).all(dim=1)).any():
            pooled = self.encode(clip[rows]).float().mean(dim=1)
            out["clear"] = clear(pooled, batch.stored[rows]) * scale("clear", rows)
        if torch.is_grad_enabled() and not any(value.requires_grad for value in out.values()):
            # No clip here has what a loss needs that teaches somebody. The other processes wait for this one's gradients.
            out["nothing"] = 0.0 * next(p for p in self.parameters() if p.requires_grad).sum()
        return out

    def _jepa(self, clip: Tensor, targets: Targets, batch: Batch, rows: Tensor) -> dict[str, Tensor]:
        assert self.predictor is not None
        assert targets.latents is not None
        grid = self.grid(clip)
        latents, config = targets.latents, self.config
        weight = flow_weights(batch.flow[rows], config.flow_weight) if config.flow_weight and batch.flow is not None else None
        masked_losses, context_losses = [], []
        drawn = [(visible[rows], masked[rows]) for visible, masked in targets.masks]
        tokens = self.encode_masks(clip, [visible for visible, _ in drawn])
        answers = self.predictor.several(  # type: ignore[operator]
            tokens, [visible for visible, _ in drawn], [masked for _, masked in drawn], grid=grid, mask_token=self.mask_token
        )
        for (visible, masked), predicted in zip(drawn, answers):
            at_masked = getattr(predicted, "target", predicted)
            masked_losses.append(
                losses.latent(
                    at_masked, _take(latents, masked), config.exponent, None if weight is None else weight.gather(1, masked)
                )
            )
            at_context = getattr(predicted, "context", None)
            if at_context is not None and config.weights.context:
                distance = losses.distance_to_masked(visible, masked, grid)
                context_losses.append(losses.context(at_context, _take(latents, visible), distance, config.exponent))
        out = {"jepa": torch.stack(masked_losses).mean()}
        if context_losses:
            ramp = losses.context_weight(targets.step, 1.0, *config.context_ramp)
            out["context"] = torch.stack(context_losses).mean() * ramp
        return out

    def encode_masks(self, clip: Tensor, keeps: list[Tensor]) -> list[Tensor]:
        """What the predictor takes, for each mask: the visible tokens' last level, or all of 2.1's concatenated."""
        encoder: Any = self.encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            if hasattr(encoder, "several"):
                tokens: list[Tensor] = encoder.several(clip, keeps, levels=self.levels > 1)
                return tokens
            return [self._tokens(clip, keep) for keep in keeps]

    def _supervised(
        self,
        clip: Tensor,
        batch: Batch,
        out: dict[str, Tensor],
        scale: Callable[[str, Tensor], float],
        answers: dict[str, Tensor] | None,
    ) -> None:
        weights, tasks = self.config.weights, batch.tasks
        wanted = {
            "action": weights.action,
            "motion_aux": weights.motion_aux,
            "flow": weights.flow,
            "sterility": weights.sterility or weights.breach_map,
        }
        on = {name: tasks[name] for name, weight in wanted.items() if weight and name in self.heads and name in tasks}
        dense, asked = on.get("sterility"), _any(on, tuple(on))
        if asked is None:
            return
        dense = torch.zeros_like(asked) if dense is None else dense
        # A head may see some of the tokens while it learns: half of them take less than half of the time.
        shares = (self.config.keep_dense, self.config.keep) if self.training else (1.0, 1.0)
        groups = [(dense, shares[0]), (asked & ~dense, shares[1])] if shares[0] != shares[1] else [(asked, shares[0])]
        for rows, share in groups:
            if not bool(rows.any()):
                continue
            part = _rows(clip, rows)
            keep = self._random_tokens(part, share) if share < 1.0 else None
            tokens = self.encode(part, keep) if batch.tokens is None else batch.tokens[rows]
            for name, members in on.items():
                inside = members[rows]
                if bool(inside.any()):
                    both = members & rows
                    ids = None if keep is None else keep[inside]
                    losses_of = self._head_losses(
                        name, _rows(tokens, inside), batch, both, self.grid(clip), ids, scale, answers
                    )
                    for loss, value in losses_of.items():
                        out[loss] = out.get(loss, 0.0) + value

    def _head_losses(
        self,
        name: str,
        tokens: Tensor,
        batch: Batch,
        rows: Tensor,
        grid: Grid,
        keep: Tensor | None,
        scale: Callable[[str, Tensor], float],
        answers: dict[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        """Losses of one head on the tokens of its clips `rows`, as their share of the whole batch's; `keep` are the ids of the tokens where
        not all are there."""
        head, share = self.heads[name], scale(name, rows)
        if name == "action":
            smoothing = self.config.label_smoothing if self.training else 0.0
            logits = head(tokens).float()
            _answer(answers, "action", logits, rows)
            found = {"action": F.cross_entropy(logits, batch.action[rows], label_smoothing=smoothing) * share}
            if "action_map" in self.heads:
                where = batch.acting[rows].flatten(1)
                where = where if keep is None else where.gather(1, keep)
                found["action_map"] = losses.acting(self.heads["action_map"](tokens).float(), where, batch.action[rows]) * share
            return found
        if name == "motion_aux":
            logits, features = head(tokens)
            _answer(answers, "motion_aux", logits.float(), rows)
            return {"motion_aux": motion_aux_loss((logits, features), batch.action[rows], batch.motion[rows], scale)}
        if name == "flow":
            assert batch.flow is not None
            flow = batch.flow[rows].flatten(1, 3)
            wanted = FLOW_SCALE * (flow if keep is None else _take(flow, keep))
            return {"flow": F.smooth_l1_loss(head(tokens).float(), wanted) * share}
        logits, place = head(tokens, grid, batch.zone[rows], keep)
        _answer(answers, "breach", logits.float(), rows)
        asked = batch.breach[rows]
        found = {"sterility": breach_loss(logits.float(), asked, self.config) * scale("breach", torch.isfinite(asked))}
        if self.config.weights.breach_map:
            where = batch.place[rows].flatten(1)
            found["breach_map"] = (
                losses.dense(place.float().flatten(1), where if keep is None else where.gather(1, keep)) * share
            )
        if "unsterile_map" in self.heads:
            where = batch.unsterile[rows].flatten(1)
            where = where if keep is None else where.gather(1, keep)
            found["unsterile_map"] = losses.covered(self.heads["unsterile_map"](tokens).float().squeeze(-1), where) * share
        return found

    def _random_tokens(self, clip: Tensor, share: float) -> Tensor:
        t, h, w = self.grid(clip)
        count = max(1, round(t * h * w * share))
        scores = torch.rand(len(clip), t * h * w, device=clip.device)
        return scores.topk(count, dim=1).indices.sort(dim=1).values

    def _pairs(self, clip: Tensor, batch: Batch, out: dict[str, Tensor], scale: Callable[[str, Tensor], float]) -> None:
        """Stage 1: the halves of a clip give the temporal order, a second view the contrast, what moves the mask to denoise."""
        wanted = {name: getattr(self.config.weights, name) for name in HALVED}
        on = {name: batch.tasks[name] for name in HALVED if wanted[name] and name in self.heads and name in batch.tasks}
        rows = _any(on, HALVED)
        if rows is None or not bool(rows.any()):
            return
        part = clip[rows]
        half = part.shape[2] // 2
        early, late = self.encode(part[:, :, :half]), self.encode(part[:, :, half:])
        for name, members in on.items():
            inside = members[rows]
            if not bool(inside.any()):
                continue
            first, second = _rows(early, inside), _rows(late, inside)
            if name == "order":
                value = self.heads["order"](first, second)
            elif name == "mask_aux":
                value = self.heads["mask_aux"](torch.cat([first, second], dim=1), _rows(part, inside))
            else:
                assert batch.views is not None
                assert batch.ids is not None
                views = self.normalise(batch.views[members])
                other = torch.cat([self.encode(views[:, :, :half]), self.encode(views[:, :, half:])], dim=1)
                value = self.heads["contrast"](torch.cat([first, second], dim=1), other, batch.ids[members])
            out[name] = value * scale(name, members)


def _answer(answers: dict[str, Tensor] | None, name: str, logits: Tensor, rows: Tensor) -> None:
    if answers is not None:
        answers[name] = logits.new_full((len(rows), logits.shape[1]), torch.nan)
        answers[name][rows] = logits.detach()


def motion_aux_loss(
    predicted: tuple[Tensor, Tensor], action: Tensor, motion: Tensor, scale: Callable[[str, Tensor], float] = lambda _, __: 1.0
) -> Tensor:
    """Class and (z-normed) motion features; what a clip does not have is left out. Two means, over the clips with a class and over the features
    that are known: `scale` makes each its share of the whole batch's."""
    logits, features = predicted
    total = logits.sum() * 0.0 + features.sum() * 0.0
    if bool((action >= 0).any()):
        total = total + F.cross_entropy(logits.float(), action, ignore_index=-1) * scale("motion_class", action >= 0)
    known = torch.isfinite(motion[:, : features.shape[1]])
    if bool(known.any()):
        total = total + F.smooth_l1_loss(features.float()[known], motion[:, : features.shape[1]][known]) * scale(
            "motion", known
        )
    return total


def breach_loss(logits: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    """Mean over the horizons that are known.  (B, H), (B, H)."""
    known = torch.isfinite(target)
    if not bool(known.any()):
        return logits.sum() * 0.0
    if config.rare == "focal":
        return losses.focal(logits[known], target[known], config.focal_gamma)
    return F.binary_cross_entropy_with_logits(logits[known], target[known])


def clear(features: Tensor, stored: Tensor) -> Tensor:
    """CLEAR's cloning term for features: mean squared distance of replayed clips' features to those stored.  (B, D)."""
    return F.mse_loss(features.float(), stored.float())


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """The named rows; all of them are not copied."""
    return values if bool(rows.all()) else values[rows]


def _take(tokens: Tensor, ids: Tensor) -> Tensor:
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def _any(tasks: dict[str, Tensor], names: tuple[str, ...]) -> Tensor | None:
    rows: Tensor | None = None
    for name in names:
        if name in tasks:
            rows = tasks[name] if rows is None else rows | tasks[name]
    return rows
