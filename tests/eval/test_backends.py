"""The same table from every backend, and the real server's own count of the work."""

from pathlib import Path

import pytest

from surg.data.manifest import Manifest
from surg.eval.backends import exported, open_backend
from surg.eval.runs import judge_sterility
from surg.eval.sterility import SterilityConfig
from surg.eval.takes import WatchConfig


@pytest.mark.triton
def test_every_backend_gives_the_same_numbers_and_triton_accounts_for_them(
    checkpoint: Path, take_manifest: Path, tmp_path: Path
) -> None:
    config = SterilityConfig(watch=WatchConfig(stride_s=1.0), repeats=100)
    tables, evidence = {}, {}
    with exported(checkpoint) as repository:
        for name in ("torch", "onnx", "triton"):
            with open_backend(name, checkpoint=checkpoint, repository=repository) as backend:
                tables[name] = judge_sterility(backend, Manifest.read(take_manifest), tmp_path / name, config).metrics
                evidence[name] = backend.finish()
    for name in ("onnx", "triton"):
        assert tables[name].keys() == tables["torch"].keys()
        for key, metric in tables["torch"].items():
            assert tables[name][key].value == pytest.approx(metric.value, abs=1e-3, nan_ok=True), (name, key)
    assert evidence["triton"]["server"].startswith("triton 2.")
    sent = evidence["triton"]["inferences_sent"]["surg_clip"]
    assert evidence["triton"]["inferences_counted"]["surg_clip"] >= sent > 50
