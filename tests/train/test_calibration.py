"""After training the sterility head's scores mean something, and the bundle says from where on to alarm."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from surg.config import load_config
from surg.metrics.calibration import f1_threshold, fit_platt
from surg.model.bundle import load_bundle
from surg.model.heads import SterilityHead
from surg.train.calibrate import Looked, choose, fold
from surg.train.config import CalibrateConfig, TrainConfig
from surg.train.loop import train

Settings = Callable[..., TrainConfig]


def test_platt_finds_the_scale_and_bias_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 1.0)))
    scale, bias = fit_platt(logits, labels)
    assert scale == pytest.approx(0.5, abs=0.02)
    assert bias == pytest.approx(-1.0, abs=0.05)
    # Separable scores keep a finite scale, and no score is turned round.
    assert 0 < fit_platt([-1.0, -2.0, 1.0, 2.0], [0, 0, 1, 1])[0] < 10
    assert fit_platt([-1.0, 1.0] * 50, [1, 0] * 50)[0] > 0


def test_the_f1_threshold_of_an_example_by_hand() -> None:
    # Yes from 0.8: P 1, R 1/2, F1 2/3; from 0.6: 2/3, 1, F1 0.8 (the no at 0.7 counts); from 0.1: 1/2, 1, 2/3.
    assert f1_threshold([0.8, 0.7, 0.6, 0.1], [1, 0, 1, 0]) == pytest.approx(0.35)
    assert f1_threshold([0.8, 0.7], [0, 0]) > 0.8
    # Equal scores cannot be told apart: between 0.5 and 0.2, not inside the tie.
    assert f1_threshold([0.5, 0.5, 0.2], [0, 1, 0]) == pytest.approx(0.35)


def test_false_alarms_choose_another_threshold_than_f1(caplog: pytest.LogCaptureFixture) -> None:
    times = 60 * np.arange(100.0)  # 100 minutes
    scores = np.full(100, -4.0)
    scores[40:43], scores[10], scores[80] = 1.0, 2.0, 1.5  # the breach scores below two false alarms
    truth = np.zeros((100, 1))
    truth[40:43] = 1
    looked = [Looked(times, scores[:, None], truth, ((2400.0, 2520.0),))]
    few = choose(looked, 0, 1.0, 0.0, CalibrateConfig(threshold="false_alarms", false_per_hour=1.0))
    many = choose(looked, 0, 1.0, 0.0, CalibrateConfig(threshold="false_alarms", false_per_hour=100.0))
    best = choose(looked, 0, 1.0, 0.0, CalibrateConfig())
    assert few > 1 / (1 + np.exp(-1.5))
    assert many == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-6)
    assert best < many
    # One false alarm in 100 minutes is 0.6 an hour: fewer than any threshold gives never lower it.
    assert not caplog.records
    none = choose(looked, 0, 1.0, 0.0, CalibrateConfig(threshold="false_alarms", false_per_hour=0.1))
    assert none >= few
    assert "the model may never alarm" in caplog.text


def test_folding_moves_every_horizons_logit_and_not_the_map() -> None:
    torch.manual_seed(0)
    head = SterilityHead(16, num_heads=2, width=16).eval()
    tokens, zone = torch.randn(2, 8, 16), torch.rand(2, 2, 2)
    before, places = head(tokens, (2, 2, 2), zone)
    fold(head, 0.5, -1.25)
    after, same = head(tokens, (2, 2, 2), zone)
    assert torch.allclose(after, 0.5 * before - 1.25, atol=1e-5)
    assert torch.equal(places, same)


@pytest.mark.parametrize("recipe", ["stage2", "multitask"])
def test_a_run_leaves_a_calibrated_head_and_thresholds_chosen_on_val(recipe: str, settings: Settings, tmp_path: Path) -> None:
    more = ("steps=2", "validate_every=2", "calibrate.stride_s=0.125")
    train(settings(recipe, *more, "calibrate.method=none"), tmp_path / "raw")
    train(settings(recipe, *more), tmp_path / "run")
    raw, tuned = (load_bundle(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("raw", "run"))
    assert set(tuned.meta["thresholds"]) == {"breach", "breach@1s", "breach@2s", "breach@5s"}
    facts = tuned.meta["calibration"]
    assert (facts["method"], facts["split"], facts["chosen_by"]) == ("platt", "val", "f1")
    assert facts["ece_after"] < facts["ece_before"]
    width = raw.part("encoder").config.embed_dim
    tokens = torch.randn(2, 36, width)
    plain, _ = raw.part("head.sterility")(tokens, (4, 3, 3))
    scaled, _ = tuned.part("head.sterility")(tokens, (4, 3, 3))
    assert torch.allclose(scaled, facts["scale"] * plain + facts["bias"], atol=1e-4)
    best = load_bundle(tmp_path / "run" / "checkpoints" / "best.safetensors")
    assert best.meta["thresholds"]


def test_a_finished_run_is_calibrated_when_resumed(settings: Settings, tmp_path: Path) -> None:
    config = settings("multitask", "steps=2", "calibrate.stride_s=0.125")
    train(config, tmp_path / "run", stop_after=2)
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    first = load_bundle(path).meta
    train(
        config.model_copy(update={"calibrate": CalibrateConfig(stride_s=0.125, threshold="false_alarms")}),
        tmp_path / "run",
        resume=True,
    )
    again = load_bundle(path).meta
    assert again["calibration"]["chosen_by"] == "5 false alarms an hour"
    # The same answers of the same weights: the record says how they became what is served, and not that nothing was left to do.
    for name in ("scale", "bias", "ece_before", "ece_after"):
        assert again["calibration"][name] == pytest.approx(first["calibration"][name], abs=1e-3)
    assert first["step"] == again["step"] == 2


def test_a_finished_run_keeps_the_settings_that_it_was_trained_with(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = ("steps=2", "calibrate.stride_s=0.125")
    train(settings("multitask", *more), tmp_path / "run")
    train(settings("multitask", *more, "optim.lr=0.5", "calibrate.threshold=false_alarms"), tmp_path / "run", resume=True)
    kept = load_config(TrainConfig, tmp_path / "run" / "config.yaml")
    assert kept.optim.lr == settings("multitask").optim.lr
    assert kept.calibrate.threshold == "false_alarms"
    assert "no step is left to train, so these settings change nothing: optim.lr" in caplog.text


def test_a_calibration_can_be_taken_back(settings: Settings, tmp_path: Path) -> None:
    more = ("steps=2", "calibrate.stride_s=0.125")
    train(settings("multitask", *more, "calibrate.method=none"), tmp_path / "raw")
    train(settings("multitask", *more), tmp_path / "run")
    train(settings("multitask", *more, "calibrate.method=none"), tmp_path / "run", resume=True)
    raw, back = (load_bundle(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("raw", "run"))
    wanted = raw.part("head.sterility").state_dict()
    for name, tensor in back.part("head.sterility").state_dict().items():
        assert torch.allclose(tensor, wanted[name], atol=1e-6), name
    assert back.meta["calibration"]["scale"] == 1.0


def test_a_val_split_that_cannot_tell_leaves_no_threshold(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(settings("multitask", "steps=1", "data.sources.room.val_split=none"), tmp_path / "run")
    assert "nobody chose" in caplog.text
    assert "thresholds" not in load_bundle(tmp_path / "run" / "checkpoints" / "last.safetensors").meta
