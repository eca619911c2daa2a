"""Readers and the yardstick built on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from surg.data.manifest import Clip, Manifest, write_manifest
from surg.errors import DataError
from surg.eval.baselines import motion
from surg.eval.classification import Predictions, score
from surg.eval.features import FeatureConfig
from surg.eval.probe_action import Arm, ProbeActionConfig, probe_action, read_task
from surg.eval.probe_report import _differences, summarise
from surg.eval.probes import ProbeConfig, Split3, run_probe
from surg.eval.report import write_report
from surg.eval.results import Result
from surg.model.bundle import save_bundle
from surg.model.checkpoint import load_bundle

QUICK = ProbeConfig(depth=1, epochs=15, lr=(1e-2,), weight_decay=(0.01,), knn_k=(3,), batch_size=16)


def separable(rng: np.random.Generator, count: int, tokens: int = 4) -> tuple[np.ndarray, np.ndarray]:
    y = rng.integers(0, 3, count)
    x = rng.normal(size=(count, tokens, 8)) * 0.15
    x[:, 1, 0] += y == 1  # one token in four carries the class
    x[:, 1, 1] += y == 2
    return x.astype(np.float16), y


@pytest.mark.parametrize("name", ["attentive", "linear", "knn"])
def test_a_reader_finds_what_is_there(name: str) -> None:
    rng = np.random.default_rng(0)
    (train, ty), (val, vy), (test, y) = separable(rng, 240), separable(rng, 60), separable(rng, 90)
    found = run_probe(name, Split3(train * 3, ty, val * 3, vy, test * 3), 3, QUICK)
    assert np.mean(found.probabilities[0].argmax(1) == y) > (0.6 if name == "knn" else 0.85)
    assert found.probabilities.sum(-1) == pytest.approx(1)


def test_settings_are_chosen_on_val() -> None:
    rng = np.random.default_rng(0)
    (train, ty), (val, vy), (test, _) = separable(rng, 60), separable(rng, 30), separable(rng, 30)
    found = run_probe("linear", Split3(train, ty, val, vy, test), 3, ProbeConfig(linear_c=(1e-6, 1.0)))
    assert found.chosen == {"c": max(found.trials, key=lambda trial: trial["val_top1"])["c"]}
    swept = run_probe(
        "attentive", Split3(train, ty, val, vy, test), 3, QUICK.model_copy(update={"lr": (1e-9, 1e-2), "epochs": 6})
    )
    assert swept.chosen["lr"] == 1e-2
    assert len(swept.trials) == 2


def test_seeds_give_probes_of_their_own_and_a_seed_repeats() -> None:
    rng = np.random.default_rng(0)
    (train, ty), (val, vy), (test, _) = separable(rng, 40), separable(rng, 20), separable(rng, 10)
    data = Split3(train, ty, val, vy, test)
    two = run_probe("attentive", data, 3, QUICK.model_copy(update={"seeds": 2, "epochs": 2}))
    again = run_probe("attentive", data, 3, QUICK.model_copy(update={"epochs": 2}))
    assert not np.allclose(two.probabilities[0], two.probabilities[1])
    assert np.allclose(two.probabilities[0], again.probabilities[0], atol=1e-6)


def test_the_whole_yardstick_on_generated_motion(checkpoint: Path, motion_manifest: Path, tmp_path: Path) -> None:
    import small

    other = small.checkpoint(tmp_path / "other.safetensors", seed=3)
    config = ProbeActionConfig(features=FeatureConfig(level="tokens"), probe=QUICK, workers=1)
    data = Manifest.read(motion_manifest)
    outcome = probe_action(
        [Arm("frozen", checkpoint), Arm("adapted", other)], data, {"again": data.select("test")}, config, tmp_path, "torch"
    )
    result = summarise(outcome, config, ["frozen", "adapted"], tmp_path, ["A test."])
    arms = {p.arm for p in outcome.predictions}
    assert arms == {
        "frozen",
        "adapted",
        "frozen, single frame",
        "frozen, shuffled frames",
        "random weights",
        "majority class",
        "motion, 23 numbers",
    }
    assert result.metrics["chance/top1"].value == 0.25
    assert result.metrics["majority class/none/top1"].value == 0.25
    assert result.metrics["motion, 23 numbers/linear/top1"].value > 0.5
    assert result.metrics["frozen/linear/top1"].value == result.metrics["frozen/linear@again/top1"].value
    assert any("adapted/attentive − frozen/attentive" in row[0] for table in result.tables for row in table.rows)
    assert any("action head" in warning for warning in result.warnings)
    result.write(tmp_path)
    report = write_report([result], tmp_path).read_text()
    assert Result.read(tmp_path).metrics.keys() == result.metrics.keys()
    assert "<script" not in report
    assert 'src="http' not in report
    for plot in result.plots:
        assert (tmp_path / "plots" / f"{plot.stem}.svg").stat().st_size > 1000


def test_an_arm_with_the_first_ones_encoder_shows_its_heads_own_score_and_no_difference(
    checkpoint: Path, motion_manifest: Path, tmp_path: Path
) -> None:
    first = load_bundle(checkpoint)
    assert first.encoder is not None
    parts = {"encoder": first.encoder}
    for name, preprocess in (("head", first.meta["preprocess"]), ("wider", {**first.meta["preprocess"], "fps": 8.0})):
        meta = {**first.meta, "preprocess": preprocess, "scores": {"loss": 1.5, "motion_aux_top1": 0.625}}
        save_bundle(tmp_path / f"{name}.safetensors", parts, {}, meta)
    arms = [Arm("base", checkpoint), *(Arm(name, tmp_path / f"{name}.safetensors") for name in ("head", "wider"))]
    config = ProbeActionConfig(features=FeatureConfig(level="tokens"), probe=QUICK, probes=("linear",), baselines=(), workers=1)
    outcome = probe_action(arms, Manifest.read(motion_manifest), {}, config, tmp_path, "torch")
    rows = {row[0]: row[2] for row in summarise(outcome, config, ["base", "head", "wider"], tmp_path, []).tables[1].rows}
    assert rows["head/linear − base/linear"] == "same encoder; its head: motion_aux_top1 0.625 on val"
    # Clips are shown to it otherwise: its features are others.
    assert not rows["wider/linear − base/linear"].startswith("same")


def test_arms_are_paired_by_clip_whatever_their_order_and_what_they_lack() -> None:
    rng = np.random.default_rng(0)
    clips, cases = np.array([f"clip{i:02d}" for i in range(40)]), np.repeat(np.arange(8), 5).astype(str)
    truth = rng.integers(0, 2, 40)
    lead = np.eye(2)[np.where(rng.random(40) < 0.8, truth, 1 - truth)][None]
    base = np.eye(2)[np.where(rng.random(40) < 0.5, truth, 1 - truth)][None]

    def differences(order: np.ndarray) -> list[list[str]]:
        found = [Predictions("model", "linear", "test", lead, truth, cases, clips, {})]
        found.append(
            Predictions("majority class", "none", "test", base[:, order], truth[order], cases[order], clips[order], {})
        )
        return _differences(found, ["model"], ProbeActionConfig(probes=("linear",)))[0].rows

    assert differences(rng.permutation(40)) == differences(np.arange(40))
    assert differences(np.arange(39))[0][2] != differences(np.arange(40))[0][2]


def test_a_difference_over_one_case_stands_without_an_interval() -> None:
    truth, clips = np.arange(6) % 2, np.array([f"c{i}" for i in range(6)])
    right, wrong = np.eye(2)[truth][None], np.eye(2)[1 - truth][None]
    found = [
        Predictions(name, "linear", "test", answers, truth, np.full(6, "p"), clips, {})
        for name, answers in (("model", right), ("majority class", wrong))
    ]
    assert [row[2] for row in _differences(found, ["model"], ProbeActionConfig(probes=("linear",)))[0].rows] == ["+1.000"]


def test_an_answer_that_the_test_set_lacks_is_scored_without_a_foreign_warning() -> None:
    truth, guess = np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1])
    found = score(
        Predictions("a", "linear", "test", np.eye(3)[guess][None], truth, np.arange(4), np.arange(4), {}), ["x", "y", "z"]
    )
    assert found["balanced_accuracy"].value == pytest.approx((2 / 3 + 1) / 2)


def test_a_clip_of_two_answers_is_said(tmp_path: Path) -> None:
    rows = [
        Clip(f"{case}.mp4", 0, 1, case, split, labels={"tool": tool})
        for case, split in (("a", "train"), ("b", "train"), ("c", "val"), ("d", "test"))
        for tool in ("x", "y")
    ]
    task = read_task(write_manifest(tmp_path / "m.parquet", rows), {}, ProbeActionConfig(label="tool"))
    assert any("4 clips stand in several rows with different `tool`" in warning for warning in task.warnings)
    plain = read_task(
        write_manifest(tmp_path / "p.parquet", [rows[0], *rows[3:6:2], rows[6]]), {}, ProbeActionConfig(label="tool")
    )
    assert not any("several rows" in warning for warning in plain.warnings)


def test_the_motion_of_one_crop_is_not_taken_for_that_of_another(tmp_path: Path) -> None:
    import small

    whole = list(Manifest.read(small.motion_clips(tmp_path / "clips", cases=6)).clips())
    cut = [replace(clip, meta={**clip.meta, "crop": "0,0,1,0.5"}) for clip in whole]
    for name, clips in (("whole", whole), ("cut", cut), ("fresh", cut)):
        task = read_task(write_manifest(tmp_path / f"{name}.parquet", clips), {}, ProbeActionConfig())
        motion(task, tmp_path / ("fresh-motion.parquet" if name == "fresh" else "motion.parquet"), 1)
    again, fresh = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("motion", "fresh-motion"))
    assert again == fresh


def test_cases_in_train_and_test_are_refused_unless_forced(tmp_path: Path) -> None:
    def clip(case: str, split: str, label: str) -> Clip:
        return Clip("v.mp4", 0, 1, case, split, labels={"action": label})

    rows = [clip("a", "train", "x"), clip("b", "train", "y"), clip("c", "val", "x"), clip("a", "test", "x")]
    leaky = write_manifest(tmp_path / "m.parquet", rows)
    with pytest.raises(DataError, match="remembering patients"):
        read_task(leaky, {}, ProbeActionConfig())
    assert "remembering patients" in read_task(leaky, {}, ProbeActionConfig(allow_shared_cases=True)).warnings[0]
    with pytest.raises(DataError, match=r"carries the label `phase`; they carry action\."):
        read_task(leaky, {}, ProbeActionConfig(label="phase"))
    halved = write_manifest(tmp_path / "halved.parquet", [*rows[:2], clip("d", "test", "x")])
    with pytest.raises(DataError, match=r"train 2, test 1; .*surg data split .*halved.parquet --replace"):
        read_task(halved, {}, ProbeActionConfig())
    whole = write_manifest(tmp_path / "whole.parquet", [clip("a", "", "x"), clip("b", "", "y")])
    with pytest.raises(DataError, match=r"Split by case first: surg data split .*/whole\.parquet$"):
        read_task(whole, {}, ProbeActionConfig())
    unseen = write_manifest(tmp_path / "u.parquet", [*rows[:3], clip("d", "test", "z")])
    with pytest.raises(DataError, match="classes that train has not: z"):
        read_task(unseen, {}, ProbeActionConfig())
    again = write_manifest(tmp_path / "again.parquet", rows[:2])
    clean = write_manifest(tmp_path / "clean.parquet", [*rows[:3], clip("d", "test", "x")])
    with pytest.raises(DataError, match="2 cases stand in elsewhere and in train or val"):
        read_task(clean, {"elsewhere": again}, ProbeActionConfig())
    # Another set's name for a patient of train.
    trained = [replace(row, source="cholec80", case=f"video0{n}") for n, row in enumerate(clean.clips(), 1)]
    named = write_manifest(tmp_path / "named.parquet", trained)
    other = write_manifest(tmp_path / "other.parquet", [replace(trained[0], source="cholect50", case="cholect50/VID01")])
    with pytest.raises(DataError, match="1 cases stand in elsewhere and in train or val"):
        read_task(named, {"elsewhere": other}, ProbeActionConfig())
    one = write_manifest(tmp_path / "one.parquet", [clip("a", "train", "x"), clip("c", "val", "x"), clip("d", "test", "x")])
    with pytest.raises(DataError, match="nothing to tell apart"):
        read_task(one, {}, ProbeActionConfig())
