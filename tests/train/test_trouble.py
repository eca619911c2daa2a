"""Trouble is answered by behaviour and by a sentence."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from surg.data.manifest import Manifest, write_manifest
from surg.data.motion import FEATURES
from surg.errors import CheckpointError, ConfigError, DataError, RunError
from surg.model.bundle import save_bundle
from surg.model.checkpoint import load_bundle
from surg.model.config import EncoderConfig, PredictorConfig
from surg.model.encoder import Encoder
from surg.model.predictor import Predictor
from surg.runs import RunFolder
from surg.train import gradients, parallel
from surg.train.build import load_start
from surg.train.config import TrainConfig
from surg.train.device import choose_device, choose_precision, make_accelerator
from surg.train.drift import Anchor
from surg.train.launch import Choices, resolve
from surg.train.loop import train
from surg.train.rehearsal import rehearse
from surg.train.trainee import Trainee
from surg.train.trouble import Watchdog
from surg.train.whole import at_rest
from tests.train.test_processes import on_two_processes

Settings = Callable[..., TrainConfig]


def test_nan_stops_the_run_and_names_the_loss() -> None:
    with pytest.raises(RunError, match=r"from action.*\n.*lr=5e-05"):
        Watchdog(1e-4, 1.0).see(7, float("nan"), {"action": float("nan"), "jepa": 0.3})


def test_growth_and_standstill_are_warned_about_with_the_guides_numbers(caplog: pytest.LogCaptureFixture) -> None:
    dog = Watchdog(2e-4, None, window=5)
    for step in range(1, 31):
        dog.see(step, 0.69, {})
    assert "does not fall" in caplog.text
    assert "4e-4" in caplog.text
    for step in range(31, 41):
        dog.see(step, 15.0, {})
    assert "explodes" in caplog.text
    assert "optim.clip=1.0" in caplog.text


def test_out_of_memory_splits_the_batch_and_keeps_the_gradients(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings("scratch", "steps=2", "validate_every=2", "loss.weights.motion_aux=0")
    train(config, tmp_path / "whole")
    plain = Trainee.forward

    def small_memory(self: Trainee, batch: Any, *rest: Any) -> dict[str, torch.Tensor]:
        if len(batch) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(self, batch, *rest)

    monkeypatch.setattr(Trainee, "forward", small_memory)
    train(config, tmp_path / "split")
    assert "split into 2 parts of 2 clips" in caplog.text
    # A validation is taken in as small parts, and says the same.
    first, second = (validated(tmp_path / name) for name in ("whole", "split"))
    assert second == pytest.approx(first, rel=1e-4)
    one, two = (torch.load(tmp_path / name / "checkpoints" / "resume.pt", weights_only=True) for name in ("whole", "split"))
    for name, tensor in one["trainee"].items():
        assert torch.allclose(tensor, two["trainee"][name], atol=2e-5), name


def validated(run: Path) -> dict[str, float]:
    """The numbers of a run's first validation."""
    row = next(row for row in RunFolder(run).metrics() if row["kind"] == "val")
    return {name: value for name, value in row.items() if name != "kind"}


def test_a_validation_in_parts_scores_the_same(settings: Settings, tmp_path: Path) -> None:
    # Labelled and unlabelled clips, answers that are known and others: the parts are not alike.
    rows = {}
    for name, parts in (("whole", 1), ("parts", 4)):
        train(settings("joint", "steps=1", f"accumulate={parts}", "optim.lr=0", "loss.keep=1.0"), tmp_path / name)
        rows[name] = validated(tmp_path / name)
    assert {"action_top1", "breach_ap", "jepa", "breach_map"} <= rows["whole"].keys()
    assert rows["parts"] == pytest.approx(rows["whole"], rel=1e-4)


def test_a_val_set_that_no_loss_can_read_costs_no_training(
    settings: Settings, tissue: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = (replace(clip, labels={} if clip.split == "val" else clip.labels) for clip in Manifest.read(tissue))
    unlabelled = write_manifest(tmp_path / "m.parquet", clips).path
    config = settings("pretrain-head", "steps=2", "validate_every=1", f"data.sources.main.manifest={unlabelled}")
    done = train(config, tmp_path / "run")
    assert done.step == 2
    assert done.checkpoint.name == "last.safetensors"
    assert "no clip of val has what these losses need" in caplog.text


def test_a_device_that_is_not_there_is_refused_with_the_way_out() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device auto"):
            choose_device("cuda")
    assert choose_precision("auto", "mps") == "fp32"
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        choose_precision("fp16", "cpu")


def test_missing_manifests_and_splits_say_what_to_do(settings: Settings, tissue: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data main="):
        train(resolve(Choices("pretrain", [])), tmp_path / "none")
    with pytest.raises(DataError, match=r"train: \d+"):
        train(settings("pretrain", "data.sources.main.split=operating"), tmp_path / "split")
    with pytest.raises(ConfigError, match="no source 'room'"):
        resolve(Choices("pretrain", ["room=x.parquet"]))
    with pytest.raises(ConfigError, match="surg data index"):
        resolve(Choices("pretrain", [str(tmp_path)]))


def test_a_manifest_that_no_source_would_read_is_refused(tissue: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data main=… was given twice.*surg data merge"):
        resolve(Choices("pretrain", [f"main={tissue}", f"main={tissue}"]))
    own = tmp_path / "mine.yaml"
    own.write_text(f"extends: pretrain\ndata: {{sources: {{main: {{manifest: {tissue}}}}}}}\n")
    for words in ([str(tissue)], [str(tissue), f"main={tissue}"]):
        with pytest.raises(ConfigError, match=r"(?s)for no source.*--data main="):
            resolve(Choices(str(own), words))
    with pytest.raises(ConfigError, match="for no source"):
        resolve(Choices("pretrain", [f"main={tissue}", str(tissue)]))
    assert resolve(Choices(str(own), [])).data.sources["main"].manifest == tissue


def test_test_clips_may_not_be_trained_or_chosen_on(tissue: Path) -> None:
    for key in ("split", "val_split"):
        with pytest.raises(ConfigError, match="test clips may neither"):
            resolve(Choices("pretrain", [str(tissue)], overrides=[f"data.sources.main.{key}=test"]))


def test_a_run_is_not_written_over(settings: Settings, tmp_path: Path) -> None:
    config = settings("pretrain-head", "steps=1")
    train(config, tmp_path / "run")
    with pytest.raises(RunError, match="--resume"):
        train(config, tmp_path / "run")


def test_forecast_masks_refuse_settings_that_could_not_work(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"masks\.ratio=0\.5 has no effect on forecast masks"):
        settings("pretrain", "masks.kind=forecast", "masks.ratio=0.5")
    with pytest.raises(ConfigError, match=r"masks\.temporal_ratio=1\.0 must lie between 0 and 1"):
        settings("pretrain", "masks.kind=forecast", "masks.temporal_ratio=1")


def test_replay_with_distillation_of_nothing_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"no source replays.*\n.*data\.sources\.main\.replay=true"):
        settings("pretrain", "loss.weights.clear=1")


def test_a_warm_up_that_outlasts_the_run_is_said(settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(settings("pretrain", "steps=2", "schedule.warmup=1.5"), tmp_path / "long")
    assert (
        "the warm-up of 3 steps is longer than the run of 2: the rate ends at 1.40e-04 and never reaches 2.00e-04"
        in caplog.text
    )
    caplog.clear()
    train(settings("pretrain", "steps=2", "schedule.warmup=0.5"), tmp_path / "short")
    assert "warm-up" not in caplog.text


def test_replayed_clips_are_not_held_to_features_of_another_length(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"Set data\.curriculum=false, or loss\.weights\.clear=0"):
        settings("surgery", "data.curriculum=true")
    settings("surgery", "data.curriculum=true", "loss.weights.clear=0")


@pytest.mark.parametrize(
    ("setting", "error"), [("init=typo.pt", CheckpointError), ("data.size=50", ConfigError), ("data.num_frames=7", ConfigError)]
)
def test_what_cannot_work_is_said_before_anything_is_decoded(
    setting: str, error: type[Exception], settings: Settings, tmp_path: Path
) -> None:
    model: dict[str, Any] = {"model": {}} if setting.startswith("init") else {}
    with pytest.raises(error):
        train(settings("pretrain", setting, **model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_is_refused_before_anything_is_decoded(settings: Settings, tmp_path: Path) -> None:
    train(settings("pretrain-head", "steps=1"), tmp_path / "run")
    before = set((tmp_path / "run" / "cache").iterdir())
    with pytest.raises(RunError, match="--overwrite"):
        train(settings("pretrain-head", "steps=1", "data.size=64"), tmp_path / "run")
    assert set((tmp_path / "run" / "cache").iterdir()) == before


def test_a_disk_too_small_for_the_decoded_clips_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**10))
    with pytest.raises(RunError, match=r"data\.cache=DIR"):
        train(settings("pretrain", "steps=1"), tmp_path / "run")


@pytest.mark.parametrize("recipe", ["full", "probe", "pretrain-head"])
def test_batches_without_a_label_are_passed_over(recipe: str, settings: Settings, tissue: Path, tmp_path: Path) -> None:
    clips = (replace(clip, labels=clip.labels if number % 6 == 0 else {}) for number, clip in enumerate(Manifest.read(tissue)))
    sparse = write_manifest(tmp_path / "m.parquet", clips).path
    config = settings(recipe, "steps=6", "batch_size=2", "accumulate=2", f"data.sources.main.manifest={sparse}")
    assert train(config, tmp_path / "run").step == 6


def test_a_process_without_a_label_waits_for_the_others(settings: Settings, tissue: Path, tmp_path: Path) -> None:
    clips = (replace(clip, labels=clip.labels if number % 6 == 0 else {}) for number, clip in enumerate(Manifest.read(tissue)))
    sparse = write_manifest(tmp_path / "m.parquet", clips).path
    config = settings("full", "steps=4", "batch_size=2", f"data.sources.main.manifest={sparse}")
    train(config, tmp_path / "one")
    on_two_processes(config, tmp_path / "two")
    one, two = (torch.load(tmp_path / name / "checkpoints" / "resume.pt", weights_only=True) for name in ("one", "two"))
    for name, tensor in one["trainee"].items():
        assert torch.allclose(tensor, two["trainee"][name], atol=1e-4), name


def test_clips_without_any_label_are_refused_by_name(settings: Settings, tissue: Path, tmp_path: Path) -> None:
    clips = (replace(clip, labels={"phase": "cut"}) for clip in Manifest.read(tissue))
    unlabelled = write_manifest(tmp_path / "m.parquet", clips).path
    with pytest.raises(DataError, match=r"motion_aux.*'action'.*\nLabels there: \['phase'\]"):
        train(settings("pretrain-head", f"data.sources.main.manifest={unlabelled}"), tmp_path / "run")


def test_a_motion_table_of_other_clips_is_refused(settings: Settings, tmp_path: Path) -> None:
    values: dict[str, Any] = {name: [0.1, 0.2] for name in FEATURES}
    table = values | {"video": ["/elsewhere/a.mp4"] * 2, "start_s": [0.0, 1.0], "split": ["train"] * 2}
    pq.write_table(pa.table(table), tmp_path / "motion.parquet")
    with pytest.raises(DataError, match="no row for any of the 9 clips"):
        train(settings("pretrain", f"data.sources.main.motion={tmp_path / 'motion.parquet'}"), tmp_path / "run")


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [("pretrain", "model.predictor.depht=3"), ("factorized", "model.encoder.dpth=3"), ("stage2", "model.world.dpth=3")],
)
def test_a_misspelt_part_of_the_model_is_named(recipe: str, setting: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no setting `model\.\w+\.(depht|dpth)`"):
        train(settings(recipe, setting, "steps=1"), tmp_path / "run")


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Anchor.pull

    def poisoned(self: Anchor, encoder: Any, *words: Any) -> Any:
        parameter = next(p for p in encoder.parameters() if p.grad is not None)
        parameter.grad.fill_(float("nan"))
        return plain(self, encoder, 0.0, 0.0)

    config = settings("pretrain", "steps=4", "save_every=1")
    train(config, tmp_path / "run", stop_after=2)
    monkeypatch.setattr(Anchor, "pull", poisoned)
    with pytest.raises(RunError, match="gradient is nan at step 3"):
        train(config, tmp_path / "run", resume=True)
    state = torch.load(tmp_path / "run" / "checkpoints" / "resume.pt", weights_only=True)["trainee"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


def test_a_gpu_that_only_emulates_bf16_trains_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose_precision("auto", "cuda") == "fp16"


WRONG = (
    "data.size=97",
    "optim.lr=-1",
    "masks.groups=[[8,2.0]]",
    "schedule.warmup=-1",
    "loss.weights.mask_aux=-3",
    "seed=-1",
    "schedule.stretch=0",
    "optim.clip=0",
    "optim.clip=-1",
    "optim.betas=[1.0,0.9]",
    "optim.layer_decay=-1",
    "optim.spd=-1",
    "teacher.final_momentum=2",
    "stages=[{mix: {main: -1}}]",
    "model.head_heads=0",
    "model.head_heads=7",
    "model.horizons_s=[]",
    "model.grow=6",
)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_number_that_cannot_work_is_refused_with_a_sentence(wrong: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        train(settings("pretrain", wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_masks_along_the_flow_hide_something_of_the_smallest_picture(settings: Settings, tmp_path: Path) -> None:
    """0.05 of nine patches is less than half of one."""
    assert train(settings("pretrain", "masks.kind=mgmae", "masks.ratio=0.05", "steps=1"), tmp_path / "run").step == 1


def test_batches_that_teach_nobody_are_passed_over(settings: Settings, tissue: Path, tmp_path: Path) -> None:
    """Only the head learns, and most clips have no label: their masked latents are a number without a gradient."""
    clips = (replace(clip, labels=clip.labels if number % 6 == 0 else {}) for number, clip in enumerate(Manifest.read(tissue)))
    sparse = write_manifest(tmp_path / "m.parquet", clips).path
    resting = ("trainable.encoder=none", "trainable.predictor=false", f"data.sources.main.manifest={sparse}")
    assert train(settings("pretrain", "steps=6", "batch_size=1", *resting), tmp_path / "run").step == 6


def test_a_run_in_which_nothing_learns_is_refused(settings: Settings, tmp_path: Path) -> None:
    resting = ("trainable.encoder=none", "trainable.predictor=false")
    with pytest.raises(ConfigError, match="Nothing learns"):
        train(settings("vjepa2", *resting), tmp_path / "run")


def test_weights_from_elsewhere_bring_their_encoder_too(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "meta.pt").touch()
    with pytest.raises(ConfigError, match="brings its own encoder"):
        train(settings("pretrain", "model.encoder={depth: 6}", f"init={tmp_path / 'meta.pt'}"), tmp_path / "run")


def test_weights_that_bring_another_predictor_than_was_asked_for_are_refused(settings: Settings, tmp_path: Path) -> None:
    train(settings("pretrain", "steps=1"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"brings its own predictor, and model.predictor asks for \{'depth': 7\}"):
        train(settings("pretrain", "steps=1", f"init={tmp_path / 'run'}", model={"predictor": {"depth": 7}}), tmp_path / "next")


def distilled(path: Path) -> Path:
    """Weights like 2.1's B and L: an encoder with levels, and a predictor that answers in the wider numbers of another model."""
    encoder = Encoder(EncoderConfig(embed_dim=48, depth=2, num_heads=2, levels=(0, 1), rope="interleaved"))
    shape = PredictorConfig(embed_dim=48, out_dim=104, width=24, depth=2, num_heads=2, rope="interleaved", context_head=True)
    save_bundle(path, {"encoder": encoder, "predictor": Predictor(shape)}, {}, {})
    return path


def test_distilled_weights_are_trained_on_with_a_teacher_of_their_own_width(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = (f"init={distilled(tmp_path / 'distilled.safetensors')}", "loss.weights.context=0.5", "loss.context_ramp=[0, 1]")
    train(settings("pretrain", *more, model={}), tmp_path / "run")
    assert "answers in 104 numbers a token" in caplog.text
    assert "predictor_proj_context.bias" in caplog.text
    before, after = (
        load_bundle(path).predictor
        for path in (tmp_path / "distilled.safetensors", tmp_path / "run/checkpoints/last.safetensors")
    )
    assert (before.config.target_dim, after.config.target_dim) == (104, 48)  # type: ignore[union-attr]
    assert before.config.levels == after.config.levels == 1  # type: ignore[union-attr]


def test_only_the_output_layers_of_a_distilled_predictor_start_fresh(settings: Settings, tmp_path: Path) -> None:
    path = distilled(tmp_path / "distilled.safetensors")
    before = load_bundle(path).predictor.state_dict()  # type: ignore[union-attr]
    now = load_start(settings("pretrain", f"init={path}", model={})).predictor.state_dict()  # type: ignore[union-attr]
    assert {name for name in now if not torch.equal(now[name], before[name])} == {
        f"predictor_proj{of}.{kind}" for of in ("", "_context") for kind in ("weight", "bias")
    }


def test_a_fresh_model_of_a_distilled_ones_size_predicts_its_own_teacher(settings: Settings) -> None:
    start = load_start(settings("pretrain", model={"size": "vitb-2.1", "encoder": {"depth": 4, "levels": [0, 1, 2, 3]}}))
    shape = start.predictor.config  # type: ignore[union-attr]
    assert shape.target_dim == 4 * 768


def test_a_context_loss_that_could_never_count_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="also answers for visible tokens"):
        train(settings("pretrain", "loss.weights.context=0.5"), tmp_path / "run")
    late = settings("pretrain", "loss.weights.context=0.5", "model.predictor={context_head: true}")
    for begin in (lambda: train(late, tmp_path / "run"), lambda: rehearse(late)):
        with pytest.raises(ConfigError, match=r"comes in after step 15000, and the run has 4.\n.*context_ramp=\[0,2\]"):
            begin()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_validation_counts_the_context_loss_whole_at_every_step(settings: Settings, tmp_path: Path) -> None:
    more = ("loss.weights.context=0.5", "model.predictor={context_head: true}", "loss.context_ramp=[2, 4]", "validate_every=1")
    train(settings("pretrain", *more, "steps=3"), tmp_path / "run")
    found = [row["context"] for row in RunFolder(tmp_path / "run").metrics() if row["kind"] == "val"]
    assert len(found) == 3
    assert min(found) > 0.1


def test_a_head_that_came_along_says_that_it_keeps_its_depth(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(settings("full", "steps=1"), tmp_path / "run")
    again = ("steps=1", f"init={tmp_path / 'run'}", "model.head_depth=4")
    train(settings("full", *again, model={}), tmp_path / "deeper")
    assert "the action head of --init goes on with its own depth of 2" in caplog.text


def test_a_label_that_no_clip_has_is_said(settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(settings("pretrain", "steps=1", "data.sources.main.label=acton"), tmp_path / "run")
    assert "no clip has the label 'acton'" in caplog.text
    assert "action" in caplog.text


@pytest.mark.parametrize("where", ["torch.optim.AdamW.step", "surg.train.watch.Watch.look", "surg.train.loop.validate"])
def test_out_of_memory_outside_the_step_is_a_sentence(
    where: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(where, starved)
    with pytest.raises(RunError, match=r"(?s)Tried to allocate.*trainable\.encoder=none"):
        train(settings("scratch", "steps=1", "watch.every=1"), tmp_path / "run")


def test_other_errors_of_a_run_stay_as_they_are(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr("surg.train.loop.validate", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        train(settings("scratch", "steps=1"), tmp_path / "run")


def test_a_run_on_the_cpu_after_one_elsewhere_is_on_the_cpu(settings: Settings) -> None:
    """As in a notebook: one process, one run after another."""
    make_accelerator(settings("pretrain"))
    PartialState._shared_state["device"] = torch.device("meta")
    assert make_accelerator(settings("pretrain")).device.type == "cpu"


def test_fisher_information_is_taken_clip_by_clip(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several processes looks at the whole batch, and has the memory for its own part of one."""
    seen: list[int] = []
    monkeypatch.setattr(gradients, "gradients", lambda *words: seen.append(len(words[5])))
    monkeypatch.setattr(gradients, "read_batch", lambda *_: SimpleNamespace(to=lambda _: None))
    monkeypatch.setattr(parallel, "broadcast", lambda *_: None)
    four: Any = SimpleNamespace(num_processes=4, device="cpu", mixed_precision="no", autocast=None)
    anything: Any = SimpleNamespace(
        draw=lambda _: [None] * 16, classes=(), encoder=None, add_fisher=lambda *_: None, fisher={}, zero_grad=lambda **_: None
    )
    config = settings("pretrain", "accumulate=2", "batch_size=16", "drift.fisher_batches=2")
    gradients.estimate_fisher(config, anything, None, anything, {}, anything, anything, four)
    assert seen == [1] * 32


def test_a_run_that_fails_gives_the_terminal_back(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar hides the cursor."""
    stopped: list[bool] = []

    def broken(*_: Any, **__: Any) -> None:
        raise RunError("no")

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("surg.train.progress.Progress.stop", lambda _: stopped.append(True))
    monkeypatch.setattr(Watchdog, "see", broken)
    with pytest.raises(RunError, match="no"):
        train(settings("scratch", "steps=1"), tmp_path / "run")
    assert stopped


def test_only_the_main_process_keeps_whole_copies_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        shard = distribute_tensor(torch.ones(6, 5), init_device_mesh("cpu", (1,)), [Shard(0)])
        assert at_rest(shard).shape == (6, 5)
        monkeypatch.setattr(dist, "get_rank", lambda: 1)
        assert at_rest(shard).numel() == 0
    finally:
        dist.destroy_process_group()
