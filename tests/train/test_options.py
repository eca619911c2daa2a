"""Every option moves something: a table over all fields of the settings, and a check that the table is whole.

Slow, the check apart: a hundred short runs take minutes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from surg.config import Config
from surg.data.manifest import Manifest
from surg.data.motion import FEATURES
from surg.errors import DataError
from surg.model.bundle import read_header
from surg.runs import RunFolder
from surg.train import loop, schedules
from surg.train.batches import read_batch
from surg.train.config import SourceConfig, StageConfig, TrainConfig
from surg.train.loop import train
from surg.train.watch import first_look

Settings = Callable[..., TrainConfig]
Look = Callable[[Path], Any]
MAIN = "data.sources.main"


def weights(run: Path) -> dict[str, Any]:
    state = torch.load(run / "checkpoints" / "resume.pt", weights_only=True)
    return {**state["trainee"], **{f"teacher.{name}": value for name, value in (state["teacher"] or {}).items()}}


def files(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix().split("events.")[0] for path in run.rglob("*") if path.is_file()}


def meta(*keys: str) -> Look:
    return lambda run: [read_header(run / "checkpoints" / "last.safetensors")[1].get(key) for key in keys]


def rows(kind: str) -> Look:
    def look(run: Path) -> list[dict[str, Any]]:
        every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in ("time", "clips_per_s")} for row in every if row["kind"] == kind]

    return look


@dataclass(frozen=True)
class Case:
    recipe: str
    change: str | tuple[str, ...]
    base: tuple[str, ...] = ()
    look: Look = weights


LEVELS = ("model.encoder={depth: 2, levels: [0, 1]}", "model.predictor={context_head: true}")
STAGED = ("trainable.encoder=prefix", "steps=6")
TUNED = ("calibrate.stride_s=0.125",)
told = meta("thresholds", "calibration")

CASES: dict[str, Case] = {
    "recipe": Case("pretrain", "recipe=mine", look=meta("recipe")),
    "seed": Case("pretrain", "seed=1"),
    "init": Case("pretrain", "init={bundle}"),
    "steps": Case("pretrain", "steps=4"),
    "epochs": Case("pretrain", "epochs=2", ("steps=null", "epochs=1")),
    "batch_size": Case("pretrain", "batch_size=2"),
    "precision": Case("pretrain", "precision=bf16"),
    "threads": Case("pretrain", "threads=2", ("threads=1",), lambda _: torch.get_num_threads()),
    "validate_every": Case("pretrain", "validate_every=1", look=rows("val")),
    "val_batches": Case("pretrain", "val_batches=1", ("batch_size=2",), rows("val")),
    "log_every": Case("pretrain", "log_every=1", look=rows("train")),
    "guide_checkpoint": Case("pretrain", "guide_checkpoint=true", look=files),
    "choose_by": Case(
        "multitask", "choose_by=loss", look=lambda run: torch.load(run / "checkpoints" / "resume.pt", weights_only=True)["best"]
    ),
    "tensorboard": Case("pretrain", "tensorboard=true", look=files),
    "curves": Case("pretrain", "curves=true", look=files),
    "data.sources.manifest": Case("pretrain", f"{MAIN}.manifest={{factors}}"),
    "data.sources.share": Case("joint", "data.sources.room.share=3"),
    "data.sources.tasks": Case("pretrain", f"{MAIN}.tasks=[jepa]"),
    "data.sources.where": Case("pretrain", f"{MAIN}.where={{action: down}}"),
    "data.sources.split": Case("pretrain", f"{MAIN}.split=val"),
    "data.sources.val_split": Case("pretrain", f"{MAIN}.val_split=train", look=rows("val")),
    "data.sources.zone": Case("multitask", "data.sources.room.zone=false"),
    "data.sources.label": Case("pretrain", f"{MAIN}.label=other"),
    "data.sources.flip": Case("pretrain", f"{MAIN}.flip=1.0"),
    "data.sources.reverse": Case("pretrain", f"{MAIN}.reverse={{down: right, right: down}}"),
    "data.sources.motion": Case("pretrain", f"{MAIN}.motion={{motion}}"),
    "data.sources.actions": Case("stage2", f"{MAIN}.actions=[]"),
    "data.sources.states": Case("stage2", f"{MAIN}.states=[]"),
    "data.sources.replay": Case("pretrain", f"{MAIN}.replay=true"),
    "data.sources.limit": Case("pretrain", f"{MAIN}.limit=4"),
    "data.size": Case("pretrain", "data.size=64"),
    "data.num_frames": Case("pretrain", "data.num_frames=4"),
    "data.fps": Case("pretrain", "data.fps=4"),
    "data.zone_crop": Case("multitask", "data.zone_crop=1.0"),
    "data.augment.scale": Case("pretrain", "data.augment.scale=[0.9, 1.0]"),
    "data.augment.ratio": Case("pretrain", "data.augment.ratio=[1.0, 1.0]"),
    "data.augment.zone_jitter": Case("multitask", "data.augment.zone_jitter=0"),
    "data.augment.flip": Case("pretrain", "data.augment.flip=1"),
    "data.augment.brightness": Case("pretrain", "data.augment.brightness=0.5"),
    "data.augment.contrast": Case("pretrain", "data.augment.contrast=0.5"),
    "data.augment.saturation": Case("pretrain", "data.augment.saturation=0.5"),
    "data.windows": Case("pretrain", "data.windows=last", ("data.num_frames=4",)),
    "data.cache": Case("pretrain", "data.cache={folder}", look=lambda run: (run / "cache").exists()),
    "data.curriculum": Case("pretrain", "data.curriculum=true", ("data.num_frames=16",)),
    "data.curriculum_every": Case(
        "pretrain", "data.curriculum_every=1", ("data.num_frames=16", "data.curriculum=true", "batch_size=9")
    ),
    "data.order": Case("pretrain", "data.order=easy-first"),
    "model.size": Case("pretrain", "model.size=tiny"),
    "model.encoder": Case("pretrain", "model.encoder={depth: 1}"),
    "model.predictor": Case("pretrain", "model.predictor={depth: 1}"),
    "model.start": Case("pretrain", "model.start=motion-energy", ("model.encoder={embed_dim: 192, num_heads: 3}",)),
    "model.grow": Case("pretrain", "model.grow=3", ("init={bundle}",)),
    "model.factorized": Case(
        "pretrain",
        ("model.factorized=true", "model.encoder={embed_dim: 48, spatial_depth: 1, temporal_depth: 1, num_heads: 2}"),
    ),
    "model.head_depth": Case("full", "model.head_depth=1"),
    "model.head_heads": Case("full", "model.head_heads=1"),
    "model.classes": Case("full", "model.classes=[still, down, right]"),
    "model.world": Case("stage2", "model.world={depth: 2}"),
    "model.horizons_s": Case("multitask", "model.horizons_s=[0.0, 1.0]"),
    "trainable.encoder": Case("pretrain", "trainable.encoder=none"),
    "trainable.depth": Case("pretrain", "trainable.depth=0.5", ("trainable.encoder=prefix",)),
    "trainable.blocks": Case("pretrain", "trainable.blocks=1", ("trainable.encoder=last",)),
    "trainable.predictor": Case("pretrain", "trainable.predictor=false"),
    "trainable.heads": Case("pretrain", "trainable.heads=false"),
    "trainable.lora_rank": Case("lora", "trainable.lora_rank=2"),
    "trainable.lora_alpha": Case("lora", "trainable.lora_alpha=2"),
    "masks.kind": Case("pretrain", "masks.kind=future"),
    "masks.groups": Case("pretrain", "masks.groups=[[1, 0.3]]"),
    "masks.ratio": Case("pretrain", "masks.ratio=0.5"),
    "masks.temporal_ratio": Case("pretrain", "masks.temporal_ratio=0.25", ("masks.kind=future",)),
    "loss.weights.jepa": Case("pretrain", "loss.weights.jepa=0.1"),
    "loss.weights.context": Case("pretrain", "loss.weights.context=0.5", (*LEVELS, "loss.context_ramp=[0, 1]")),
    "loss.weights.motion_aux": Case("pretrain", "loss.weights.motion_aux=2"),
    "loss.weights.flow": Case("joint", "loss.weights.flow=0"),
    "loss.weights.action": Case("joint", "loss.weights.action=0.1"),
    "loss.weights.sterility": Case("joint", "loss.weights.sterility=0.1"),
    "loss.weights.breach_map": Case("joint", "loss.weights.breach_map=0"),
    "loss.weights.order": Case("stage1-finetune", "loss.weights.order=0"),
    "loss.weights.contrast": Case("stage1-finetune", "loss.weights.contrast=0"),
    "loss.weights.mask_aux": Case("stage1-finetune", "loss.weights.mask_aux=0.5"),
    "loss.weights.world": Case("stage2", "loss.weights.world=0"),
    "loss.weights.anchor": Case("pretrain", "loss.weights.anchor=10"),
    "loss.weights.ewc": Case("pretrain", "loss.weights.ewc=1e6"),
    "loss.exponent": Case("pretrain", "loss.exponent=2"),
    "loss.temperature": Case("stage1-finetune", "loss.temperature=0.5"),
    "loss.queue": Case("stage1-finetune", "loss.queue=8"),
    "loss.flow_weight": Case("pretrain", "loss.flow_weight=2"),
    "loss.rare": Case("multitask", "loss.rare=none"),
    "loss.roll_out": Case("stage2", "loss.roll_out=0"),
    "loss.focal_gamma": Case("multitask", "loss.focal_gamma=3"),
    "loss.positive_share": Case("multitask", "loss.positive_share=null", ("data.num_frames=4", "steps=6")),
    "loss.keep": Case("multitask", "loss.keep=1.0"),
    "loss.keep_dense": Case("multitask", "loss.keep_dense=0.5"),
    "loss.label_smoothing": Case("full", "loss.label_smoothing=0"),
    "loss.context_ramp": Case(
        "pretrain", "loss.context_ramp=[0, 1]", (*LEVELS, "loss.weights.context=0.5", "loss.context_ramp=[0, 3]")
    ),
    "optim.lr": Case("pretrain", "optim.lr=1e-3"),
    "optim.betas": Case("pretrain", "optim.betas=[0.5, 0.9]"),
    "optim.eps": Case("pretrain", "optim.eps=1e-2"),
    "optim.weight_decay": Case("pretrain", "optim.weight_decay=1.0"),
    "optim.final_weight_decay": Case("pretrain", "optim.final_weight_decay=1.0"),
    "optim.clip": Case("pretrain", "optim.clip=0.001"),
    "optim.encoder_lr": Case("pretrain", "optim.encoder_lr=0.1"),
    "optim.predictor_lr": Case("pretrain", "optim.predictor_lr=0.1"),
    "optim.head_lr": Case("full", "optim.head_lr=0.1"),
    "optim.motion_aux_lr": Case("pretrain", "optim.motion_aux_lr=1"),
    "optim.layer_decay": Case("pretrain", "optim.layer_decay=0.5"),
    "optim.spd": Case("pretrain", "optim.spd=1"),
    "schedule.shape": Case("pretrain", "schedule.shape=linear"),
    "schedule.start": Case("pretrain", "schedule.start=0.9", ("schedule.warmup=0.9",)),
    "schedule.final": Case("pretrain", "schedule.final=0.5"),
    "schedule.warmup": Case("pretrain", "schedule.warmup=0.9"),
    "schedule.anneal": Case("pretrain", "schedule.anneal=0.9", ("schedule.shape=wsd",)),
    "schedule.stretch": Case("pretrain", "schedule.stretch=2"),
    "teacher.momentum": Case("pretrain", "teacher.momentum=0.0"),
    "teacher.final_momentum": Case("pretrain", "teacher.final_momentum=0.0"),
    "teacher.export": Case("pretrain", "teacher.export=true", look=meta("encoder_sha256")),
    "teacher.frozen": Case("pretrain", "teacher.frozen=true", ("teacher.momentum=0.0",)),
    "drift.lpft": Case("pretrain", "drift.lpft=0.9"),
    "drift.wise": Case("pretrain", "drift.wise=0.5"),
    "drift.fisher_batches": Case("pretrain", "drift.fisher_batches=1", ("loss.weights.ewc=1e6",)),
    "stages.share": Case(
        "pretrain", "stages=[{depth: 0.5, share: 5}, {depth: 1.0}]", (*STAGED, "stages=[{depth: 0.5}, {depth: 1.0}]")
    ),
    "stages.depth": Case("pretrain", "stages=[{depth: 1.0}]", (*STAGED, "stages=[{depth: 0.5}]")),
    "stages.mix": Case("joint", "stages=[{mix: {tissue: 1.0}}]", ("stages=[{depth: 1.0}]",)),
    "watch.every": Case("pretrain", "watch.every=1", (f"{MAIN}.manifest={{factors}}",), rows("watch")),
    "watch.clips": Case("pretrain", "watch.clips=4", (f"{MAIN}.manifest={{factors}}",), rows("watch")),
    "calibrate.method": Case("multitask", "calibrate.method=none", TUNED, told),
    "calibrate.threshold": Case("multitask", "calibrate.threshold=false_alarms", TUNED, told),
    "calibrate.false_per_hour": Case(
        "multitask", "calibrate.false_per_hour=1e6", (*TUNED, "calibrate.threshold=false_alarms"), told
    ),
    "calibrate.stride_s": Case("multitask", "calibrate.stride_s=0.25", TUNED, told),
    "calibrate.clips": Case("multitask", "calibrate.clips=2", TUNED, told),
}
# Options whose effect is no difference between two runs, or needs more than one: where it is tested.
ELSEWHERE = {
    "init_key": "tests/model/test_loading.py::test_meta_files_give_the_slow_average_unless_another_tree_is_named",
    "parallel": "tests/train/test_processes.py::test_ddp_and_fsdp2_go_on_from_each_others_checkpoints",
    "device": "tests/train/test_trouble.py::test_a_device_that_is_not_there_is_refused_with_the_way_out",
    "accumulate": "tests/train/test_processes.py::test_split_batches_have_the_gradients_of_whole_ones",
    "save_every": "tests/train/test_resume.py::test_kill_9_and_resume_gives_the_same_weights_bit_for_bit",
    "data.cache_features": "tests/train/test_frozen.py::test_cached_features_teach_what_the_pictures_teach",
    "data.workers": "tests/train/test_options.py::test_every_worker_reads_ahead",
    "data.max_bad": "tests/train/test_options.py::test_more_bad_clips_than_allowed_end_the_run",
    "model.gradient_checkpointing": "tests/train/test_options.py::test_checkpointing_recomputes_blocks_and_changes_nothing",
    "loss.weights.action_map": "tests/train/test_shown.py::test_the_loss_wants_the_action_where_it_is_and_nothing_elsewhere",
    "loss.weights.unsterile_map": "tests/train/test_shown.py::test_what_is_covered_is_wanted_and_the_unknown_does_not_count",
    "loss.weights.clear": "tests/train/test_recipe_v3.py::test_leaving_out_a_piece_of_recipe_v3_moves_the_weights",
    "watch.collapse_std": "tests/train/test_options.py::test_the_collapse_alarm_goes_off_at_its_line",
}


def fields(config: type[Config], prefix: str = "") -> Iterator[str]:
    inner: dict[str, type[Config]] = {"data.sources": SourceConfig, "stages": StageConfig}
    for name, field in config.model_fields.items():
        path = f"{prefix}{name}"
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        below = inner.get(path) or next((kind for kind in kinds if issubclass(kind, Config)), None)
        if below is None:
            yield path
        else:
            yield from fields(below, f"{path}.")


def test_the_table_knows_every_field_and_no_other() -> None:
    every = set(fields(TrainConfig))
    assert every == set(CASES) | set(ELSEWHERE)
    assert not set(CASES) & set(ELSEWHERE)


def test_what_is_tested_elsewhere_is() -> None:
    root = Path(__file__).resolve().parents[2]
    for place in ELSEWHERE.values():
        path, name = place.split("::")
        assert f"def {name}(" in (root / path).read_text(), place


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Any]]:
    threads = torch.get_num_threads()
    yield {"folder": tmp_path_factory.mktemp("options")}
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("field", list(CASES))
def test_the_option_moves_something(field: str, settings: Settings, factors: Path, tissue: Path, done: dict[Any, Any]) -> None:
    case = CASES[field]
    folder: Path = done["folder"]
    words = {"{factors}": str(factors), "{folder}": str(folder / "elsewhere")}
    if "{motion}" in str(case.change):
        words["{motion}"] = str(motion_table(folder / "motion.parquet", tissue))
    if "{bundle}" in str((case.change, case.base)):
        if "bundle" not in done:
            train(settings("pretrain", "steps=1", "seed=5"), folder / "bundle")
            done["bundle"] = folder / "bundle" / "checkpoints" / "last.safetensors"
        words["{bundle}"] = str(done["bundle"])

    def run(name: str, *changes: str) -> Any:
        overrides = ["steps=3", *case.base, *changes]
        for placeholder, value in words.items():
            overrides = [override.replace(placeholder, value) for override in overrides]
        # A bundle brings its own shape.
        shape = {"model": {}} if any(override.startswith("init=") for override in overrides) else {}
        train(settings(case.recipe, *overrides, **shape), folder / name)
        return folder / name

    key = (case.recipe, case.base)
    if key not in done:
        done[key] = run(f"base-{len(done)}")
    change = (case.change,) if isinstance(case.change, str) else case.change
    # What a process holds is looked at when its run ends.
    before = case.look(run("again-threads") if field == "threads" else done[key])
    after = case.look(run(field, *change))
    assert differ(before, after), f"{field} changed nothing"


def differ(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and one and isinstance(next(iter(one.values())), torch.Tensor):
        return one.keys() != other.keys() or any(not torch.equal(value, other[name]) for name, value in one.items())
    return bool(one != other)


def motion_table(path: Path, manifest: Path) -> Path:
    rng = np.random.default_rng(0)
    clips = list(Manifest.read(manifest).clips())
    columns: dict[str, Any] = {name: rng.normal(size=len(clips)) for name in FEATURES}
    columns |= {name: [getattr(clip, name) for clip in clips] for name in ("video", "start_s", "split")}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.slow
def test_the_same_settings_give_the_same_weights(settings: Settings, tmp_path: Path) -> None:
    # Without this the table would prove nothing.
    for name in ("one", "two"):
        train(settings("joint", "steps=3"), tmp_path / name)
    assert not differ(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_runs_of_one_process_may_differ_in_precision(settings: Settings, tmp_path: Path) -> None:
    for precision in ("bf16", "fp32", "bf16"):
        train(settings("pretrain", "steps=1", f"precision={precision}"), tmp_path / precision, overwrite=True)


@pytest.mark.slow
def test_the_context_loss_of_version_21_is_logged_and_waits_for_its_ramp(settings: Settings, tmp_path: Path) -> None:
    more = (*LEVELS, "loss.weights.context=0.5", "log_every=1", "steps=3")
    train(settings("pretrain", *more, "loss.context_ramp=[1, 3]"), tmp_path / "ramp")
    train(settings("pretrain", *more, "loss.context_ramp=[0, 1]"), tmp_path / "whole")
    ramp, whole = ([row["context"] for row in rows("train")(tmp_path / name)] for name in ("ramp", "whole"))
    assert ramp[0] == 0
    # At step 2 of the ramp from 1 to 3 half of the loss counts; the weights still are those that no context loss has moved much.
    assert ramp[1] == pytest.approx(whole[1] / 2, rel=0.1)
    assert min(whole) > 0


@pytest.mark.slow
def test_more_bad_clips_than_allowed_end_the_run(settings: Settings, tissue: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from surg.data.manifest import write_manifest

    clips = list(Manifest.read(tissue).clips())
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    clips[0] = replace(clips[0], video=str(tmp_path / "bad.mp4"))
    path = write_manifest(tmp_path / "bad.parquet", clips).path
    with pytest.raises(DataError, match=r"data\.max_bad"):
        train(settings("pretrain", "steps=1", f"{MAIN}.manifest={path}"), tmp_path / "strict")
    train(settings("pretrain", "steps=1", f"{MAIN}.manifest={path}", "data.max_bad=0.5"), tmp_path / "lenient")


@pytest.mark.slow
def test_checkpointing_recomputes_blocks_and_changes_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.checkpoint import checkpoint

    from surg.model import layers

    plain, calls = checkpoint, []

    def counting(*words: Any, **more: Any) -> Any:
        calls.append(1)
        return plain(*words, **more)

    monkeypatch.setattr(layers, "checkpoint", counting)
    train(settings("vjepa2", "steps=2"), tmp_path / "plain")
    assert not calls
    train(settings("vjepa2", "steps=2", "model.gradient_checkpointing=true"), tmp_path / "lean")
    assert calls
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "lean")
    assert all(torch.allclose(value, other[name], atol=1e-6) for name, value in one.items())


@pytest.mark.slow
def test_the_collapse_alarm_goes_off_at_its_line(
    settings: Settings, factors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = (f"{MAIN}.manifest={factors}", "watch.every=1", "steps=2")
    train(settings("pretrain", *more), tmp_path / "quiet")
    assert "collapse" not in caplog.text
    train(settings("pretrain", *more, "watch.collapse_std=1e6"), tmp_path / "loud")
    assert "collapse" in caplog.text


@pytest.mark.slow
def test_a_collapse_is_measured_by_how_the_features_began(settings: Settings, factors: Path, tmp_path: Path) -> None:
    more = (f"{MAIN}.manifest={factors}", "watch.every=2", "steps=4", "save_every=2")

    def looks(run: Path) -> list[int]:
        return [row["step"] for row in RunFolder(run).metrics() if row["kind"] == "watch"]

    train(settings("pretrain", *more), tmp_path / "run", stop_after=2)
    assert looks(tmp_path / "run") == [0, 2]
    train(settings("pretrain", *more), tmp_path / "run", resume=True)
    assert looks(tmp_path / "run") == [0, 2, 4]
    assert first_look(RunFolder(tmp_path / "run")).keys() == {"feature_std", "effective_rank"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_every_worker_reads_ahead(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    import threading

    meeting, met = threading.Barrier(workers), set[str]()

    def together(*words: Any, **more: Any) -> Any:
        if (name := threading.current_thread().name) not in met:
            met.add(name)
            meeting.wait(timeout=120)
        return read_batch(*words, **more)

    monkeypatch.setattr(loop, "read_batch", together)
    train(settings("pretrain", "steps=8", f"data.workers={workers}", f"{MAIN}.val_split=none"), tmp_path / "run")
    assert len(met) == workers
    assert threading.main_thread().name not in met


@pytest.mark.slow
def test_stretched_schedules_are_stretched_all(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, set[float]] = {"weight_decay": set(), "teacher_momentum": set()}
    for name, found in asked.items():
        plain = getattr(schedules, name)
        monkeypatch.setattr(
            schedules,
            name,
            lambda step, *, steps, plain=plain, found=found, **rest: found.add(steps) or plain(step, steps=steps, **rest),
        )
    train(settings("pretrain", "steps=4", "schedule.stretch=1.25"), tmp_path / "run")
    assert asked == {"weight_decay": {5.0}, "teacher_momentum": {5.0}}
