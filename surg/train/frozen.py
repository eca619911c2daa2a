"""Features of a frozen encoder: every clip is encoded once, before the first step; the heads then read tokens instead of pictures."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from surg.data.feature_table import MappedFeatures, VideoNames, clip_columns, keyed, write_mapped
from surg.model.bundle import hash_of
from surg.train.batches import Reading, read_batch
from surg.train.sources import Draw, Source
from surg.train.trainee import Trainee

logger = logging.getLogger(__name__)
# The encoder's memory, not the heads', limits this batch.
BATCH = 8


@torch.no_grad()
def cache_features(
    trainee: Trainee, sources: dict[str, Source], split: str, reading: Reading, folder: Path, accelerator: Accelerator
) -> None:
    """Encode what is not cached yet and hand each source its table. Kept in fp32 for fp32 runs, else in fp16, which loses less than bf16 did.

    The table's name holds a hash of all that its tokens depend on, so that runs share it and a changed encoder makes its own.
    """
    exact = accelerator.mixed_precision == "no"
    encoder = hash_of(trainee.encoder)
    plain = replace(reading, training=False, cached=False, second_view=False, with_flow=False)
    for name, source in sources.items():
        meta: dict[str, Any] = {
            "checkpoint_sha256": encoder,
            "store": source.store.path.name,
            "num_frames": reading.num_frames,
            "size": reading.data.size,
            "zone_crop": reading.data.zone_crop if source.config.zone else 0.0,
            "precision": accelerator.mixed_precision,
        }
        meta["stamp"] = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
        path = folder / f"features-{name}-{split}-{meta['stamp']}.arrow"
        if not path.is_file():
            grid = reading.num_frames // reading.tubelet, *(reading.data.size // reading.patch,) * 2
            config: Any = trainee.encoder.config
            shape = (int(np.prod(grid)), int(config.embed_dim))
            dtype = np.float32 if exact else np.float16
            megabytes = len(source.usable) * np.prod(shape) * np.dtype(dtype).itemsize / 2**20
            logger.info("encoding %d clips of %s once (%.0f MB) into %s", len(source.usable), name, megabytes, path.name)
            write_mapped(path, _encoded(trainee, name, source, plain, accelerator), meta, shape, dtype)
        table = MappedFeatures(path)
        source.tokens = {int(number): table.row(row) for row, number in enumerate(source.usable)}


def _encoded(
    trainee: Trainee, name: str, source: Source, reading: Reading, accelerator: Accelerator
) -> Iterator[tuple[list[dict[str, Any]], Any]]:
    was_training = trainee.training
    trainee.eval()
    names = VideoNames.of(source.clips)
    keys = [key for key, _ in keyed(source.clips, names)]
    for first in range(0, len(source.usable), BATCH):
        numbers = [int(number) for number in source.usable[first : first + BATCH]]
        batch = read_batch([Draw(name, number, (0, number)) for number in numbers], {name: source}, reading)
        with accelerator.autocast():
            tokens = trainee.encode(trainee.normalise(batch.frames.to(accelerator.device)))
        rows = []
        for number in numbers:
            clip = source.clips[number]
            end_s = clip.start_s + (source.count(number) - 1) / reading.data.fps
            start_s = max(clip.start_s, end_s - (reading.num_frames - 1) / reading.data.fps)
            rows.append({"key": keys[number], **clip_columns(clip, names), "start_s": start_s, "end_s": end_s, "segment": 0})
        yield rows, tokens.float().cpu().numpy()
    trainee.train(was_training)
