"""Breaches: truth over time, thresholds from val alone, events, resumption."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from surg.data.manifest import Clip, Manifest, write_manifest
from surg.errors import DataError
from surg.eval.backends import Backend
from surg.eval.runs import judge_sterility
from surg.eval.scene_graph_rule import BreachRule, breaches_of_take, official_scores, read_relationships
from surg.eval.sterility import SterilityConfig, average_precision, choose_threshold, clip_scores, judge, roc_area
from surg.eval.takes import Scored, TakeTruth, WatchConfig, events_of, read_takes, windows_of


def scored(events: tuple[tuple[float, float], ...], scores: np.ndarray, case: str = "a") -> Scored:
    times = np.arange(len(scores), dtype=float)
    truth = TakeTruth(case, "v.mp4", case, "test", None, 0.0, float(len(scores)), events, ())
    return Scored(truth, times, np.stack([scores, scores], 1), np.zeros(len(scores)), None)


def test_truth_of_a_horizon_is_a_breach_between_now_and_then() -> None:
    take = scored(((5.0, 6.0),), np.zeros(10))
    assert take.targets((0.0,))[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    ahead = take.targets((2.0,))[:, 0]
    assert ahead[:9].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert np.isnan(ahead[9])  # the recording ends before anyone can know


def test_areas_agree_with_scikit_learn_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    for scores in (rng.random(200), rng.integers(0, 5, 200).astype(float)):
        truth = (rng.random(200) < 0.3).astype(float)
        assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))
        assert roc_area(truth, scores) == pytest.approx(roc_auc_score(truth, scores))


def test_the_threshold_comes_from_val_and_judges_test() -> None:
    config = SterilityConfig(repeats=100)
    scores = np.full(600, 0.1)
    scores[100:105], scores[400:405] = 0.9, 0.4  # an event, and a false alarm
    val = [scored(((100.0, 104.0),), scores)]
    threshold = choose_threshold([take.breach[:, 0] for take in val], val, 0.0, config)
    assert 0.4 < threshold <= 0.9
    test = [scored(((100.0, 104.0), (200.0, 204.0)), scores, "b")]
    verdict = judge("model", [test[0].breach[:, 0]], test, 0.0, threshold, config)
    assert (len(verdict.events.caught), len(verdict.events.missed), len(verdict.events.false)) == (1, 1, 0)


def test_a_clip_counts_with_its_highest_window() -> None:
    take = scored(((5.0, 6.0),), np.linspace(0, 0.9, 10))
    rows = (Clip("v.mp4", 4, 7, "a", labels={"breach": 1, "event": "reach"}), Clip("v.mp4", 0, 3, "a", labels={"breach": 0}))
    truth = TakeTruth(**{**take.truth.__dict__, "rows": rows})
    y, s, _, events = clip_scores([Scored(truth, take.times_s, take.breach, take.motion, None)])
    assert (y.tolist(), s.round(2).tolist(), events.tolist()) == ([1, 0], [0.7, 0.3], ["reach", ""])


def test_windows_see_nothing_after_their_time(take_manifest: Path) -> None:
    import small

    take = read_takes(Manifest.read(take_manifest), WatchConfig())[0]
    early = TakeTruth(**{**take.__dict__, "end_s": 9.0})
    full = dict(windows_of(take, small.SPEC, 0.5))
    for time_s, window in windows_of(early, small.SPEC, 0.5):
        assert np.array_equal(window.frames, full[time_s].frames)


def test_takes_through_a_model_give_the_same_report_when_resumed(
    take_manifest: Path, tmp_path: Path, torch_backend: Backend
) -> None:
    config = SterilityConfig(watch=WatchConfig(stride_s=0.5, surprise=True), repeats=100)
    manifest = Manifest.read(take_manifest)
    first = judge_sterility(torch_backend, manifest, tmp_path, config)
    stamp = (tmp_path / "scores_test.parquet").stat().st_size
    second = judge_sterility(torch_backend, manifest, tmp_path, config)
    assert (tmp_path / "scores_test.parquet").stat().st_size == stamp
    assert first.metrics == second.metrics or {k: str(v) for k, v in first.metrics.items()} == {
        k: str(v) for k, v in second.metrics.items()
    }
    assert {
        "model/auprc",
        "motion-in-the-zone/auprc",
        "world-model-surprise/auprc",
        "model/recall_at_5_per_hour",
    } <= first.metrics.keys()
    assert any(plot.stem.startswith("timeline") for plot in first.plots)
    assert 0 < first.metrics["model/prior"].value < 1


@pytest.mark.parametrize("change", [{"before_s": 30.0}, {"merge_s": 30.0}, {"min_s": 60.0}, {"hold": 0.01}])
def test_every_alarm_setting_has_an_effect(change: dict[str, float]) -> None:
    scores = np.full(100, 0.1)
    scores[[20, 30, 50, 52]] = 0.9
    scores[51] = 0.5
    test = [scored(((48.0, 55.0),), scores)]

    def outcome(config: SterilityConfig) -> tuple[int, ...]:
        events = judge("model", [test[0].breach[:, 0]], test, 0.0, 0.8, config).events
        return len(events.caught), len(events.missed), len(events.false), len(events.repeats)

    plain = SterilityConfig(repeats=100, merge_s=0.0, hold=1.0)
    assert outcome(plain) != outcome(plain.model_copy(update=change))


def test_a_manifest_without_breaches_is_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", [Clip("v.mp4", 0, 1, "a", "test")])
    with pytest.raises(DataError, match="carries the label `breach`"):
        read_takes(manifest, WatchConfig())


def test_a_row_may_name_many_breaches_one_or_none() -> None:
    def events(**labels: str | float | int) -> list[tuple[float, float]]:
        return events_of(Clip("v.mp4", 1.0, 9.0, "a", labels=labels))

    assert events(breach=1, breaches='[[2.0, 3.0, "reach"], [5, 6, "lean"]]', breach_t0=2.0, breach_t1=3.0) == [(2, 3), (5, 6)]
    assert events(breach=1, breach_t0=2.0, breach_t1=3.0) == [(2, 3)]
    assert events(breach=1) == [(1, 9)]
    assert events(breach=0, breach_t0=-1.0, breach_t1=-1.0) == []
    with pytest.raises(DataError, match="as JSON"):
        events(breach=1, breaches="2 to 3")


def test_the_rule_over_scene_graphs() -> None:
    rows = [
        {"take_name": "t", "frame_id": "1", "relationships": [["circulator", "patient", "touching"]]},
        {"take_name": "t", "frame_id": "2", "relationships": [["head_surgeon", "patient", "cutting"]]},
        {"take_name": "t", "frame_id": "3", "relationships": [["circulator", "patient", "touching"]]},
        {"take_name": "t", "frame_id": "4", "relationships": [["circulator", "instrument_table", "holding"]]},
        {
            "take_name": "t",
            "frame_id": "5",
            "relationships": [["head_surgeon", "patient", "suturing"], ["circulator", "instrument_table", "touching"]],
        },
    ]
    frames = read_relationships(rows)["t"]
    assert list(breaches_of_take(frames, BreachRule()).values()) == [False, False, True, True, False]
    assert not any(breaches_of_take(frames, BreachRule(contact=())).values())
    names = {frame: "yes" if breach else "no" for frame, breach in breaches_of_take(frames, BreachRule()).items()}
    metrics, _ = official_scores(
        {"t": ["no", "no", "yes", "yes", "no"]}, {"t": list(names.values())}, ["no", "yes"], "Breaches"
    )
    assert metrics["all takes/macro_f1"].value == 1
