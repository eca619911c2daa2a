"""Stage 2 with other actions, other sources and no zones; heads that travel with a frozen encoder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from surg.data.manifest import Manifest, write_manifest
from surg.data.motion import FEATURES
from surg.errors import CheckpointError
from surg.model import layers
from surg.model.checkpoint import load_bundle
from surg.model.world import WorldPredictor
from surg.train import worlds
from surg.train.batches import Reading, read_clip
from surg.train.config import TrainConfig
from surg.train.inputs import open_sources
from surg.train.loop import train
from surg.train.sources import Draw

Settings = Callable[..., TrainConfig]


def test_a_world_model_told_other_actions_starts_fresh(
    settings: Settings, room: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(settings("stage2", "steps=1"), tmp_path / "first")
    train(settings("stage2", "steps=1", f"init={tmp_path / 'first'}", model={}), tmp_path / "same")
    assert "starts fresh" not in caplog.text
    clips = [replace(clip, labels={**clip.labels, "next_action": f"a{n % 5}"}) for n, clip in enumerate(Manifest.read(room))]
    other = write_manifest(tmp_path / "m.parquet", clips).path
    more = ("steps=1", f"init={tmp_path / 'first'}", f"data.sources.main.manifest={other}")
    train(settings("stage2", *more, model={}), tmp_path / "other")
    assert "the world model starts fresh" in caplog.text


def test_a_source_without_actions_may_stand_beside_one_with_them(settings: Settings, tissue: Path, tmp_path: Path) -> None:
    more = (f"data.sources.raw={{manifest: {tissue}, tasks: [jepa]}}", "loss.weights.jepa=1")
    assert train(settings("stage2", "steps=2", *more), tmp_path / "run").step == 2


def test_without_a_zone_the_whole_picture_is_shown(settings: Settings, room: Path, tmp_path: Path) -> None:
    clips = [replace(clip, zone=None) for clip in Manifest.read(room)]
    config = settings("stage2", f"data.sources.main.manifest={write_manifest(tmp_path / 'm.parquet', clips).path}")
    source = open_sources(config, tmp_path / "cache", "train")["main"]
    reading = Reading(config.data, 16, 2, (), (0.0,), None, 8, training=False)
    corner = np.zeros_like(np.asarray(source.store.frames))
    corner[:, :6, :6] = 255
    source.store.frames = corner
    assert read_clip(Draw("main", 0, (0,)), source, reading)["frames"].max() > 200


def test_the_encoder_learns_nothing_through_what_is_to_be_predicted() -> None:
    from surg.model.config import WorldConfig

    world = WorldPredictor(WorldConfig(embed_dim=12, width=12, depth=1, num_heads=1, action_dim=1, state_dim=1))
    tokens = torch.randn(1, 3 * 4, 12, requires_grad=True)
    worlds.world_loss(world, tokens, torch.zeros(1, 3, 1), torch.zeros(1, 3, 1), (2, 2), roll_out=0).backward()
    assert tokens.grad is not None
    assert tokens.grad[:, :4].abs().sum() > 0
    # Nothing is predicted from the last step.
    assert tokens.grad[:, 8:].abs().sum() == 0


def test_checkpointing_reaches_the_world_model(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = checkpoint, []
    monkeypatch.setattr(layers, "checkpoint", lambda *words, **more: (calls.append(1), plain(*words, **more))[1])
    train(settings("stage2", "steps=1", "model.gradient_checkpointing=true"), tmp_path / "run")
    assert calls


def test_a_head_with_other_classes_does_not_travel_under_this_runs_names(
    settings: Settings, tissue: Path, tmp_path: Path
) -> None:
    train(settings("full", "steps=1"), tmp_path / "first")
    clips = [replace(clip, labels={**clip.labels, "strength": f"m{n % 2}"}) for n, clip in enumerate(Manifest.read(tissue))]
    other = write_manifest(tmp_path / "m.parquet", clips).path
    for label, heads in (("action", {"action", "motion_aux"}), ("strength", {"motion_aux"})):
        more = (f"init={tmp_path / 'first'}", f"data.sources.main.manifest={other}", f"data.sources.main.label={label}")
        train(settings("pretrain-head", "steps=1", *more, model={}), tmp_path / label)
        assert set(load_bundle(tmp_path / label / "checkpoints" / "last.safetensors").heads) == heads


@pytest.mark.parametrize("change", ["data.fps=4", "data.num_frames=4", "data.size=64"])
def test_heads_do_not_travel_into_clips_they_never_saw(
    change: str, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(settings("stage2", "steps=1", "calibrate.stride_s=0.125"), tmp_path / "first")
    train(settings("probe", "steps=1", f"init={tmp_path / 'first'}", change, model={}), tmp_path / "second")
    bundle = load_bundle(tmp_path / "second" / "checkpoints" / "last.safetensors")
    assert "sterility" not in bundle.heads
    assert bundle.world is None
    assert not {"thresholds", "calibration", "actions", "states"} & bundle.meta.keys()
    assert change.split("=")[0].removeprefix("data.") in caplog.text
    assert "sterility, world of --init" in caplog.text


def test_a_world_model_travels_with_a_frozen_encoder(settings: Settings, tmp_path: Path) -> None:
    train(settings("stage2", "steps=1"), tmp_path / "first")
    train(settings("pretrain-head", "steps=1", f"init={tmp_path / 'first'}", model={}), tmp_path / "second")
    one, two = (load_bundle(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("first", "second"))
    assert {key: two.meta[key] for key in ("actions", "states")} == {key: one.meta[key] for key in ("actions", "states")}
    before, after = (bundle.part("world").state_dict() for bundle in (one, two))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    moved = settings("pretrain", "steps=1", f"init={tmp_path / 'first'}", model={})
    train(moved, tmp_path / "third")
    with pytest.raises(CheckpointError):
        load_bundle(tmp_path / "third" / "checkpoints" / "last.safetensors").part("world")


def test_a_mirrored_clip_is_not_asked_for_the_directions_it_had(settings: Settings, tmp_path: Path) -> None:
    config = settings("pretrain", "data.augment.flip=1.0")
    source = open_sources(config, tmp_path / "cache", "train")["main"]
    reading = Reading(config.data, 16, 2, (), (0.0,), None, 8)
    known = np.isfinite(read_clip(Draw("main", 0, (0,)), source, reading)["motion"])
    assert [name for name, there in zip(FEATURES, known) if not there] == [
        name for name in FEATURES if "left" in name or "right" in name or name == "camera_dx"
    ]
