"""What a run sees of its features while it trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surg.metrics.linear import linear_top1
from surg.model.bundle import read_header
from surg.runs import RunFolder
from surg.train import watch
from surg.train.config import TrainConfig
from surg.train.loop import train
from surg.train.watch import nearest_is_same
from tests.train import made

Settings = Callable[..., TrainConfig]
MAIN = "data.sources.main"


def test_a_look_asks_neighbours_and_a_linear_probe_of_other_cases(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(watch, "linear_top1", lambda *words: (seen.append(words), linear_top1(*words))[1])
    made.tissue(tmp_path, clips=24)
    more = (f"{MAIN}.manifest={tmp_path / 'tissue.parquet'}", f"{MAIN}.val_split=train", "watch.every=2", "steps=2")
    train(settings("pretrain", *more), tmp_path / "run")
    looks = [row for row in RunFolder(tmp_path / "run").metrics() if row["kind"] == "watch"]
    assert [row["step"] for row in looks] == [0, 2]
    assert all(0 <= row[name] <= 1 for row in looks for name in ("knn_top1", "probe_top1"))
    features, truth, cases = seen[0]
    assert features.shape == (18, 48)
    assert set(truth) == {0, 1, 2}
    assert set(cases) == {f"case{number}" for number in (0, 1, 3, 4, 6, 7)}


def test_the_nearest_clip_that_counts_is_of_another_case() -> None:
    features = np.array([[1, 0], [1, 0.01], [0, 1], [0.02, 1]], np.float32)
    labels, cases = np.array([0, 0, 1, 1]), np.array(["a", "a", "b", "b"])
    assert nearest_is_same(features, labels, np.arange(4)) == 1
    assert nearest_is_same(features, labels, cases) == 0
    assert np.isnan(nearest_is_same(features, labels, np.zeros(4)))


def test_a_validation_says_how_often_the_motion_class_is_right(settings: Settings, tmp_path: Path) -> None:
    train(settings("pretrain-head", "steps=2", "validate_every=2"), tmp_path / "run")
    (val,) = (row for row in RunFolder(tmp_path / "run").metrics() if row["kind"] == "val")
    assert val["motion_aux_top1"] in (0, 1 / 3, 2 / 3, 1)
    assert "score" not in val
    meta = read_header(tmp_path / "run" / "checkpoints" / "best.safetensors")[1]
    assert meta["scores"]["motion_aux_top1"] == pytest.approx(val["motion_aux_top1"], abs=1e-6)
