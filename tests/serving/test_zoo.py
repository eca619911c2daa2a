"""Every size of the zoo exports, with weights drawn at random: minutes and gigabytes, hence marked slow."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from surg.data.preprocess import PreprocessSpec
from surg.model import zoo
from surg.model.bundle import Bundle
from surg.model.encoder import build_encoder
from surg.serving import parity, repository
from surg.serving.client import connect
from surg.serving.models import ServedConfig, prepare
from surg.serving.onnx import EMBED_BELOW_BYTES, export_onnx

SPEC = PreprocessSpec(size=32, num_frames=4)
SIZES = {config.model_dump_json(): name for name, config in reversed(zoo.ENCODERS.items())}
"""One name for each shape: some models differ in their clips alone."""
COPIES = 6.5
"""Weights are held about so many times at the peak: module, its copy for the graph, the tracer's, ONNX's, the session's and its packed ones."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(SIZES.values(), key=lambda name: zoo.parameters(zoo.ENCODERS[name])))
def test_every_size_exports_and_runs_as_published(name: str, tmp_path: Path) -> None:
    config = zoo.encoder_config(name)
    weights = 4 * zoo.parameters(config)
    skip_without_room(name, weights, tmp_path)
    torch.manual_seed(0)
    bundle = Bundle(build_encoder(config).eval(), None, None, {}, {}, {"preprocess": SPEC.model_dump(mode="json")}, "0" * 64)
    ready = prepare(bundle, ServedConfig(max_batch_size=2))
    contract = ready.contract.model_copy(update={"models": (ready.contract.model("surg_clip"),)})
    frames, zone = next(parity.sample_clips(1, SPEC, 0))
    with torch.inference_mode():
        expected = parity.reference(bundle, contract)["surg_clip"]({"frames": frames[None], "zone": zone[None]})["embedding"]
    bundle.encoder = None  # gigabytes that the export needs
    files = export_onnx(ready.modules.pop("surg_clip"), contract.model("surg_clip"), tmp_path / "model.onnx", fused=True)
    ready.modules.clear()
    version = repository.publish(tmp_path / "repo", contract, {"surg_clip": {file.name: file for file in files}})
    folder = tmp_path / "repo" / "surg_clip" / str(version)
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    named = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
    assert named == ({"model.onnx.data"} if weights > EMBED_BELOW_BYTES else set())
    with connect(f"local:{tmp_path / 'repo'}", threads=2) as client:
        found = client.clip(frames, zone).embedding
    assert np.abs(found - expected).max() <= parity.TOLERANCE["fp32"] * max(1.0, float(np.abs(expected).max()))
    assert parity.cosines(expected, found).min() > parity.COSINE["fp32"]


def skip_without_room(name: str, weights: int, folder: Path) -> None:
    """ViT-g and ViT-G want 27 and 49 GB of memory."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    memory, disk = 1024 * int(meminfo["MemAvailable"].split()[0]), shutil.disk_usage(folder).free
    if memory < COPIES * weights:
        pytest.skip(f"{name} needs about {COPIES * weights / 1e9:.0f} GB of memory; {memory / 1e9:.0f} GB are free")
    if disk < 4 * weights:
        pytest.skip(f"{name} needs about {4 * weights / 1e9:.0f} GB of disk; {disk / 1e9:.0f} GB are free")
