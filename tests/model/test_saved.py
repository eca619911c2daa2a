"""Which file a person means, what ships, and halving a file for shipping."""

from pathlib import Path

import pytest
import torch
from torch import nn

from surg.doctor.sizes import weights_found
from surg.errors import CheckpointError
from surg.model.bundle import hash_of, load_bundle, read_header, save_bundle
from surg.model.checkpoint import load_encoder
from surg.model.encoder import build_encoder
from surg.model.heads import LinearHead
from surg.model.pack import pack
from surg.model.saved import SHIPPED, find_bundle
from surg.model.zoo import encoder_config


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    parts: dict[str, nn.Module] = {
        "encoder": build_encoder(encoder_config("nano")),
        "head.action": LinearHead(48, num_classes=3),
    }
    save_bundle(path, parts, {}, {"classes": ["a", "b", "c"]})
    return path


def test_a_run_stands_for_its_best_checkpoint_or_its_last(bundle: Path) -> None:
    run = bundle.parent.parent
    assert find_bundle(run) == bundle
    best = bundle.with_name("best.safetensors")
    best.write_bytes(bundle.read_bytes())
    assert find_bundle(run) == best
    assert find_bundle(bundle) == bundle
    assert find_bundle(bundle.parent) == best


def test_the_shipped_models_name_is_understood_where_weights_are_loaded() -> None:
    state = load_encoder(SHIPPED).state_dict()
    assert torch.equal(state["norm.weight"], load_bundle(find_bundle(SHIPPED)).part("encoder").state_dict()["norm.weight"])


def test_released_weights_are_found_under_the_name_that_pull_gives_them(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    for name in ("vitl.pt", "vitl-2.1.pt"):
        (tmp_path / "weights" / name).touch()
    (finding,) = weights_found(tmp_path)
    assert "vitl (weights/vitl.pt)" in finding.found
    assert "vitl-2.1 (weights/vitl-2.1.pt)" in finding.found


def test_the_shipped_model_has_a_name_and_is_whole() -> None:
    path = find_bundle(SHIPPED)
    shipped = load_bundle(path)
    assert {"action", "sterility"} <= set(shipped.heads)
    assert shipped.meta["encoder_sha256"] == hash_of(shipped.part("encoder"))
    assert path.stat().st_size < 25e6
    assert all(parameter.dtype == torch.float32 for parameter in shipped.part("encoder").parameters())


def test_a_folder_of_that_name_goes_before_what_ships(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").rename(tmp_path / SHIPPED)
    assert find_bundle(SHIPPED) == Path(SHIPPED, "checkpoints", "last.safetensors")


def test_what_is_not_there_is_answered_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"no weights at .*none(?s:.*){SHIPPED}"):
        find_bundle(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="first checkpoint after some steps"):
        find_bundle(tmp_path / "empty")


def test_packing_halves_the_file_and_says_what_it_changed(bundle: Path, tmp_path: Path) -> None:
    done = pack(bundle, tmp_path / "small.safetensors")
    assert done.size < 0.6 * bundle.stat().st_size
    assert 0 < done.change < 0.02
    whole, small = load_bundle(bundle), load_bundle(done.path)
    for name, weight in whole.part("encoder").state_dict().items():
        assert torch.equal(small.part("encoder").state_dict()[name], weight.half().float())
    assert small.meta["classes"] == ["a", "b", "c"]
    assert small.meta["packed_from"] == whole.sha256
    assert read_header(done.path)[0].keys() == {"encoder", "head.action"}


def test_what_rounding_would_break_is_not_packed(tmp_path: Path) -> None:
    encoder = build_encoder(encoder_config("nano"))
    with torch.no_grad():
        encoder.blocks[0].attn.qkv.weight.mul_(1e7)  # beyond the largest number of fp16
    save_bundle(tmp_path / "large.safetensors", {"encoder": encoder}, {}, {})
    with pytest.raises(CheckpointError, match="Ship it unrounded"):
        pack(tmp_path / "large.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_without_an_encoder_is_not_packed(tmp_path: Path) -> None:
    save_bundle(tmp_path / "head.safetensors", {"head.action": LinearHead(8, num_classes=2)}, {}, {})
    with pytest.raises(CheckpointError, match="holds no encoder"):
        pack(tmp_path / "head.safetensors", tmp_path / "out.safetensors")
