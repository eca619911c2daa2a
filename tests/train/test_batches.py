"""From draws to tensors: where the windows of breaches end, and how a batch reaches its device."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from surg.data.manifest import Manifest, write_manifest
from surg.train.batches import Batch, Reading, read_batch
from surg.train.config import TrainConfig
from surg.train.inputs import open_sources
from surg.train.sources import Draw

Settings = Callable[..., TrainConfig]


# Frames lie at 0.125 s: the first breach ends between two of them, the second is seen in one frame alone, the third on both its ends.
@pytest.mark.parametrize(("start", "stop"), [("1.0", "1.3"), ("1.1", "1.2"), ("0.75", "1.5")])
def test_every_window_that_is_to_end_in_a_breach_does(
    start: str, stop: str, settings: Settings, room: Path, tmp_path: Path
) -> None:
    clips = [
        replace(clip, labels={**clip.labels, "breach_t0": float(start), "breach_t1": float(stop)})
        for clip in Manifest.read(room)
        if clip.labels["breach"]
    ]
    config = settings("stage2", f"data.sources.main.manifest={write_manifest(tmp_path / 'm.parquet', clips).path}")
    sources = open_sources(config, tmp_path / "cache", "train")
    reading = Reading(config.data, 16, 2, (), (0.0,), 1.0, 8)
    batch = read_batch([Draw("main", 0, (0, number)) for number in range(40)], sources, reading)
    assert float(batch.breach[:, 0].mean()) == 1.0


class Asked(TorchFunctionMode):
    """Notes how tensors are asked to go to a device."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: list[dict[str, Any]] = []

    def __torch_function__(self, function: Any, _: Any, words: Any = (), settings: Any = None) -> Any:
        if function is torch.Tensor.to:
            self.settings.append(settings or {})
        return function(*words, **(settings or {}))


def test_a_batch_is_whole_on_its_device_before_its_source_goes() -> None:
    # On MPS a copy that does not block reads memory that the next batch may have taken already.
    with Asked() as asked:
        Batch.unlabelled(torch.zeros(1, 2, 16, 16, 3, dtype=torch.uint8)).to(torch.device("cpu"))
    assert asked.settings
    assert not any(settings.get("non_blocking") for settings in asked.settings)
