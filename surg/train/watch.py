"""Looking at the features while they train: spread, effective rank, kNN, a linear probe; a falling loss proves nothing about them."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from surg.metrics.knn import nearest
from surg.metrics.linear import linear_top1
from surg.metrics.spread import effective_rank, feature_std
from surg.runs import RunFolder
from surg.train.batches import Reading, read_batch
from surg.train.config import TrainConfig
from surg.train.parallel import settle
from surg.train.sources import Draw, Source
from surg.train.trainee import Trainee

logger = logging.getLogger(__name__)
# What a collapse is measured by, against how it was at the start.
STARTED = ("feature_std", "effective_rank")


class Watch:
    """Encodes the same held-out clips every time and compares with how it was at the start."""

    def __init__(
        self, config: TrainConfig, trainee: Trainee, held_out: dict[str, Source], reading: Reading, classes: tuple[str, ...]
    ) -> None:
        self.config, self.trainee, self.sources = config, trainee, held_out
        self.reading = Reading(
            **{**reading.__dict__, "training": False, "features": 0, "second_view": False, "with_flow": False}
        )
        self.classes = classes
        self.first: dict[str, float] = {}
        """What the features were like before the first step."""
        self.draws: list[Draw] = []
        per_source = max(1, config.watch.clips // max(1, len(held_out)))
        for name, source in held_out.items():
            chosen = source.usable[
                np.unique(np.linspace(0, len(source.usable) - 1, min(per_source, len(source.usable))).astype(int))
            ]
            self.draws += [Draw(name, int(index), (0, int(index))) for index in chosen]

    @torch.no_grad()
    def look(self, step: int) -> dict[str, float]:
        """feature_std, effective_rank, and where labels of two cases are there knn_top1 and probe_top1; warns with the knob when the features
        collapse."""
        if len(self.draws) < 4:
            return {}
        was_training = self.trainee.training
        self.trainee.eval()
        pooled, labels = [], []
        for first in range(0, len(self.draws), 8):
            batch = read_batch(self.draws[first : first + 8], self.sources, self.reading)
            tokens = batch.tokens
            if tokens is None:
                tokens = self.trainee.look(batch.frames.to(self.trainee.mean.device))
            pooled.append(tokens.float().mean(dim=1).cpu().numpy())
            labels.append(batch.action.numpy())
        settle(self.trainee)
        self.trainee.train(was_training)
        features, truth = np.concatenate(pooled), np.concatenate(labels)
        out = {"feature_std": feature_std(features), "effective_rank": effective_rank(features)}
        known = truth >= 0
        if known.sum() >= 8 and len(set(truth[known].tolist())) > 1:
            cases = np.array([self.sources[draw.source].clips[draw.index].case for draw in self.draws])[known]
            if len(set(cases)) > 1:
                out["knn_top1"] = nearest_is_same(features[known], truth[known], cases)
                out["probe_top1"] = linear_top1(features[known], truth[known], cases)
        self.first = self.first or {name: out[name] for name in STARTED}
        self._alarm(step, out)
        return out

    def _alarm(self, step: int, now: dict[str, float]) -> None:
        for name in STARTED:
            if now[name] < self.config.watch.collapse_std * self.first[name] or not np.isfinite(now[name]):
                logger.warning(
                    "the features collapse at step %d: %s fell from %.3g to %.3g. Slow the teacher (--set teacher.momentum=0.9995), lower "
                    "the rate (--set optim.lr=%g), or freeze the teacher (--set teacher.frozen=true)",
                    step, name, self.first[name], now[name], self.config.optim.lr / 2,
                )  # fmt: skip


def nearest_is_same(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], cases: npt.NDArray[Any]) -> float:
    """The share of clips whose nearest clip of another case, by cosine, has the same label; NaN where there is no other case."""
    found = nearest(features, features, 1, query_groups=cases, bank_groups=cases)[0][:, 0]
    return float((labels[found] == labels).mean()) if (found >= 0).all() else float("nan")


def first_look(run: RunFolder) -> dict[str, float]:
    """What a resumed run saw before its first step; empty when nobody looked."""
    rows = (row for row in run.metrics() if row.get("kind") == "watch" and all(name in row for name in STARTED))
    return next(({name: row[name] for name in STARTED} for row in rows), {})
