"""Weights load whole or not at all."""

import os
import pickle
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import surg
from surg.errors import CheckpointError
from surg.model.checkpoint import load_bundle, load_encoder, load_predictor, load_world, read_part, save_bundle
from surg.model.config import WorldConfig
from surg.model.convert import convert, inspect
from surg.model.encoder import Encoder
from surg.model.predictor import Predictor
from surg.model.world import WorldPredictor
from surg.model.zoo import encoder_config, predictor_config
from tests.model.golden import TOLERANCE, difference, golden, meta_checkpoint

HEADS = {"num_heads": 2}
V2_PARTS = {"encoder": "v2_encoder", "target_encoder": "v2_target_encoder", "predictor": "v2_predictor"}


@pytest.fixture
def meta_file(tmp_path: Path) -> Path:
    path = tmp_path / "meta.pt"
    torch.save(meta_checkpoint(V2_PARTS), path)
    return path


@torch.no_grad()
def test_meta_files_give_the_slow_average_unless_another_tree_is_named(meta_file: Path) -> None:
    arrays = golden("v2_arrays")
    assert difference(surg.load_encoder(meta_file, config=HEADS)(arrays["clip"]), arrays["target_full"]) < TOLERANCE
    student = surg.load_encoder(meta_file, key="encoder", config=HEADS)
    assert not student.training
    assert difference(student(arrays["clip"]), arrays["encoder_full"]) < TOLERANCE
    predictor = surg.load_predictor(meta_file)
    ids = arrays["mask_enc_0"], arrays["mask_pred_0"]
    predicted = predictor(arrays["encoder_masked_0"], *ids, grid=(2, 3, 3), mask_token=1)
    assert difference(predicted, arrays["predictor_0_token1"]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(("flavour", "key"), [("pretrained", "target_encoder"), ("distilled", "ema_encoder")])
def test_version_21_is_recognised_from_its_tensors(tmp_path: Path, flavour: str, key: str) -> None:
    arrays = golden("v21_arrays")
    path = tmp_path / "v21.pt"
    torch.save(meta_checkpoint({key: f"v21_{flavour}_{key}", "predictor": f"v21_{flavour}_predictor"}), path)
    encoder, predictor = load_encoder(path, config=HEADS), load_predictor(path)
    assert difference(encoder(arrays["clip"]), arrays[f"{flavour}/encoder_full"]) < TOLERANCE
    seen = arrays[f"{flavour}/encoder_masked{'_levels' if flavour == 'pretrained' else ''}"]
    result: Any = predictor(seen, arrays["mask_enc_0"], arrays["mask_pred_0"], grid=(2, 3, 3), mask_token=0)
    assert difference(result.target, arrays[f"{flavour}/pred_target_interp"]) < TOLERANCE
    as_hub = load_predictor(path, config={"interpolate_rope": False})
    result = as_hub(seen, arrays["mask_enc_0"], arrays["mask_pred_0"], grid=(2, 3, 3), mask_token=0)
    assert difference(result.context, arrays[f"{flavour}/pred_context"]) < TOLERANCE


def test_stale_position_tables_are_dropped_and_reported(tmp_path: Path) -> None:
    content = meta_checkpoint(V2_PARTS)
    content["target_encoder"]["module.backbone.pos_embed"] = torch.zeros(1, 18, 48)
    torch.save(content, tmp_path / "stale.pt")
    report = read_part(tmp_path / "stale.pt", "encoder", config=HEADS).report
    assert report.loaded == 28
    assert list(report.dropped) == ["pos_embed"]
    assert "left out pos_embed" in str(report)


@pytest.mark.parametrize("masks", [0, 2])
def test_a_version_1_file_is_refused_unless_the_layout_is_named(masks: int, tmp_path: Path) -> None:
    content = meta_checkpoint(V2_PARTS)
    content["target_encoder"]["module.backbone.pos_embed"] = torch.zeros(1, 18, 48)
    for name in [name for name in content["predictor"] if "mask_tokens" in name and int(name[-1]) >= masks]:
        del content["predictor"][name]
    if not masks:
        del content["predictor"]
    torch.save(content, tmp_path / "one.pt")
    with pytest.raises(CheckpointError, match=r"pos_embed, 1 x 18 x 48(.|\n)*V-JEPA 1"):
        load_encoder(tmp_path / "one.pt", config=HEADS)
    assert read_part(tmp_path / "one.pt", "encoder", config={**HEADS, "rope": "tiled"}).report.loaded == 28


def test_an_unknown_head_count_is_asked_for(meta_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r'config=\{"num_heads": N\}'):
        load_encoder(meta_file)


def test_a_wrong_key_names_the_right_ones(meta_file: Path) -> None:
    with pytest.raises(CheckpointError, match="no tree 'ema_encoder'; it has: 'encoder', 'target_encoder', 'predictor'"):
        load_encoder(meta_file, key="ema_encoder", config=HEADS)
    with pytest.raises(CheckpointError, match="holds a predictor, where an encoder was expected"):
        load_encoder(meta_file, key="predictor", config=HEADS)


@pytest.mark.parametrize("lost", ["blocks.1.mlp.fc2.weight", "norm.weight", "blocks.0.mlp.fc1.weight"])
def test_half_a_checkpoint_is_refused_with_what_is_missing(tmp_path: Path, lost: str) -> None:
    content = meta_checkpoint(V2_PARTS)
    del content["target_encoder"][f"module.backbone.{lost}"]
    torch.save(content, tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match=lost.replace(".", r"\.")):
        load_encoder(tmp_path / "half.pt", config=HEADS)


def test_an_unexplained_tensor_is_refused(tmp_path: Path) -> None:
    content = meta_checkpoint(V2_PARTS)
    content["target_encoder"]["module.backbone.cls_token"] = torch.zeros(1, 1, 48)
    torch.save(content, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): cls_token"):
        load_encoder(tmp_path / "more.pt", config=HEADS)


@pytest.mark.parametrize("config", [{"depth": 12, **HEADS}, {"embed_dim": 64, **HEADS}, {"mlp_ratio": 2.0, **HEADS}])
def test_a_config_of_another_size_is_refused(meta_file: Path, config: dict[str, Any]) -> None:
    name = next(iter(config))
    with pytest.raises(CheckpointError, match=f"has {name} = .*the config asks for {config[name]:g}"):
        load_encoder(meta_file, config=config)


@pytest.mark.parametrize(
    "text", ["export PATH=/bin", "hi", "patient,video\n1,a.mp4\n", "case,video\n1,a.mp4\n", "# notes", "{}", "sss", "}u."]
)
def test_a_text_that_was_given_for_weights_is_refused_with_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text(text)
    with pytest.raises(CheckpointError, match=r"no PyTorch checkpoint"):
        load_encoder(tmp_path / "notes.pt")


def test_a_pickle_with_code_in_it_is_refused_unrun(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    class Shell:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {shlex.quote(str(ran))}",)  # torch has other words for what it blocks by module

    for name, code in {"bomb.pt": Bomb, "shell.pt": Shell}.items():
        torch.save({"encoder": code()}, tmp_path / name)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"encoder": Bomb()}, protocol=2))
    for name, names in (("bomb.pt", ""), ("shell.pt", r"names posix\.system"), ("plain.pt", "")):
        with pytest.raises(CheckpointError, match=f"Python code.*{names}"):
            load_encoder(tmp_path / name)
    assert not ran.exists()


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(meta_file: Path, share: float) -> None:
    whole = meta_file.read_bytes()
    meta_file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="cut short"):
        load_encoder(meta_file, config=HEADS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html><body>403 Forbidden</body></html>", "web page"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"not a checkpoint at all, only words", "no PyTorch checkpoint|damaged"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "vitl.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        load_encoder(tmp_path / "vitl.pt")


def test_an_absent_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="surg weights pull"):
        load_encoder(tmp_path / "nothing.pt")


@torch.no_grad()
def test_a_converted_file_needs_no_words_about_its_model(tmp_path: Path, meta_file: Path) -> None:
    done = convert(meta_file, tmp_path / "ours.safetensors", config=HEADS)
    assert done.parts == {"encoder": 28, "predictor": 40}
    bundle = load_bundle(tmp_path / "ours.safetensors")
    assert bundle.sha256 == done.sha256
    assert bundle.meta["trees"]["encoder"] == "target_encoder"
    arrays = golden("v2_arrays")
    assert difference(load_encoder(tmp_path / "ours.safetensors")(arrays["clip"]), arrays["target_full"]) < TOLERANCE
    with pytest.raises(CheckpointError, match="our format already"):
        convert(tmp_path / "ours.safetensors", tmp_path / "again.safetensors")
    with pytest.raises(CheckpointError, match="Leave it out"):
        load_encoder(tmp_path / "ours.safetensors", key="encoder")


@torch.no_grad()
def test_a_probe_file_becomes_the_action_head(tmp_path: Path) -> None:
    file = golden("v2_probe")
    tree = {f"module.{key.removeprefix('weights/')}": value for key, value in file.items() if key.startswith("weights/")}
    torch.save({"classifiers": [tree, tree], "opt": [], "epoch": 20}, tmp_path / "probe.pt")
    convert(tmp_path / "probe.pt", tmp_path / "head.safetensors", config=HEADS)
    head = load_bundle(tmp_path / "head.safetensors").heads["action"]
    assert difference(head(file["tokens"]), file["logits"]) < TOLERANCE


@torch.no_grad()
def test_an_action_conditioned_file_gives_encoder_and_world_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(encoder_config("nano"))
    world = WorldPredictor(WorldConfig(embed_dim=48, width=24, depth=2, num_heads=2, extrinsics_dim=6))
    trees = {
        name: {f"module.backbone.{key}": value for key, value in module.state_dict().items()}
        for name, module in (("encoder", encoder), ("predictor", world))
    }
    torch.save(trees, tmp_path / "ac.pt")
    convert(tmp_path / "ac.pt", tmp_path / "ac.safetensors", config={"world": HEADS})
    bundle = load_bundle(tmp_path / "ac.safetensors")
    again = load_world(tmp_path / "ac.pt", config=HEADS)
    for module in (bundle.part("world"), again):
        assert all(torch.equal(value, module.state_dict()[key]) for key, value in world.state_dict().items())
    with pytest.raises(CheckpointError, match="holds no predictor"):
        load_predictor(tmp_path / "ac.pt")


def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    best, last = Encoder(encoder_config("nano")), Encoder(encoder_config("nano"))
    save_bundle(tmp_path / "run/checkpoints/best.safetensors", {"encoder": best}, {}, {})
    save_bundle(tmp_path / "run/checkpoints/last.safetensors", {"encoder": last}, {}, {})
    assert torch.equal(load_encoder(tmp_path / "run").state_dict()["norm.weight"], best.state_dict()["norm.weight"])
    assert torch.equal(load_encoder(tmp_path / "run").patch_embed.proj.weight, best.patch_embed.proj.weight)  # type: ignore[union-attr]


def test_bare_safetensors_and_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(encoder_config("tiny"))
    save_file({key: value.half() for key, value in encoder.state_dict().items()}, tmp_path / "bare.safetensors")
    again = load_encoder(tmp_path / "bare.safetensors")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert again.config.num_heads == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_converted_from_half_precision_computes_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    tree = {f"module.backbone.{key}": value.to(dtype) for key, value in Encoder(encoder_config("nano")).state_dict().items()}
    torch.save({"target_encoder": tree}, tmp_path / "half.pt")
    convert(tmp_path / "half.pt", tmp_path / "ours.safetensors", model="nano")
    encoder = load_bundle(tmp_path / "ours.safetensors").part("encoder")
    assert encoder(torch.randn(1, 3, 4, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("name", ["nano", "tiny", "vitb-2.1"])
def test_sizes_of_the_zoo_are_read_back_from_their_tensors(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        encoder, predictor = Encoder(encoder_config(name)), Predictor(predictor_config(name))
    parts: dict[str, nn.Module] = {"target_encoder": encoder, "predictor": predictor}
    trees = {
        part: {key: torch.zeros(value.shape) for key, value in module.state_dict().items()} for part, module in parts.items()
    }
    torch.save(trees, tmp_path / "zoo.pt")
    assert load_encoder(tmp_path / "zoo.pt").config == encoder_config(name)
    assert load_predictor(tmp_path / "zoo.pt").config == predictor_config(name)
    found = inspect(tmp_path / "zoo.pt")
    assert name in found["likely"]
    assert found["trees"]["target_encoder"]["kind"] == "encoder"
