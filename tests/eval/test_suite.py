"""Everything at once, its model card, and the pictures of runs."""

import json
from pathlib import Path

import pytest

from surg.data.manifest import Manifest, write_manifest
from surg.errors import CheckFailed, DataError
from surg.eval import regression
from surg.eval.backends import Backend
from surg.eval.card import SIMULATED, WARNING, model_card
from surg.eval.features import FeatureConfig, embed_manifest
from surg.eval.probe_plot import draw
from surg.eval.report import write_report
from surg.eval.results import Metric, Result
from surg.eval.suite import SMALL, UNSEEN, Data, run_suite

MINI = SMALL.model_copy(
    update={
        "probe": SMALL.probe.model_copy(
            update={"probe": SMALL.probe.probe.model_copy(update={"epochs": 2, "knn_k": (3,)}), "baselines": ("majority",)}
        ),
        "world_clips": 2,
    }
)


@pytest.fixture(scope="module")
def results(
    checkpoint: Path, motion_manifest: Path, take_manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Result]:
    from surg.eval.backends import open_backend

    out = tmp_path_factory.mktemp("suite")
    data = Manifest.read(motion_manifest)
    shifted = write_manifest(out / "shifted.parquet", (clip for clip in data.clips() if clip.split == "test")).path
    with open_backend("torch", checkpoint=checkpoint) as backend:
        found = run_suite(backend, out, MINI, Data(motion_manifest, shifted, take_manifest))
        for result in found:
            result.evidence |= backend.finish()
    write_report(found, out)
    return found


def test_everything_is_judged_and_what_is_not_is_named(results: list[Result]) -> None:
    assert [result.kind for result in results] == ["probe-action", "retrieval", "sterility", "world-model"]
    assert f"model/attentive@{UNSEEN}/top1" in results[0].metrics
    assert any("Not judged: parity" in warning for warning in results[0].warnings)
    assert all(result.evidence["protocol"]["protocol"] == "small" for result in results)


def test_a_part_that_was_not_judged_fails_against_a_baseline_that_has_it(results: list[Result], tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    stored = regression.write_baseline(results, path, 0.05, regression.HEADLINE)
    assert {"probe-action/model/attentive/top1", "sterility/model/auprc", "world-model/model/skill@1"} <= stored.keys()
    assert all(verdict.ok for verdict in regression.check(results, path))
    without = [result for result in results if result.kind != "world-model"]
    assert [verdict.name for verdict in regression.check(without, path) if not verdict.ok] == ["world-model/model/skill@1"]
    results[1].evidence["protocol"] = dict(results[0].evidence["protocol"])
    other = [Result("probe-action", "P", evidence={"protocol": {"protocol": "full"}})]
    with pytest.raises(CheckFailed, match="no numbers for this protocol"):
        regression.check(other, path)


def test_the_card_tells_data_seeds_numbers_and_what_it_is_not_for(results: list[Result], checkpoint: Path) -> None:
    text = model_card(checkpoint, results)
    assert WARNING in text
    assert SIMULATED not in text  # the source of these clips is no simulator
    assert "| seed | not recorded |" in text
    assert str(results[0].evidence["checkpoint_sha256"]) in text
    assert f"| model/attentive/top1 | {results[0].metrics['model/attentive/top1']} |" in text
    assert "another file" not in text
    simulated = [Result("sterility", "S", evidence={"sources": ["synth-room"], "checkpoint_sha256": "0" * 64})]
    assert SIMULATED in model_card(checkpoint, simulated)
    assert "another file" in model_card(checkpoint, simulated)


def log(folder: Path, scale: float) -> Path:
    folder.mkdir()
    rows = [
        {"step": step, "kind": "watch", "knn_top1": 0.2 + step / 100, "effective_rank": 9.0,
         "drift_norm": scale, "drift_patch_embed": scale * step, **{f"drift_block_{n:02d}": scale * step * (n + 1) for n in range(12)}, "drift_all": scale * step}
        for step in (0, 10, 20, 30)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_pictures_of_runs(tmp_path: Path, motion_manifest: Path, torch_backend: Backend) -> None:
    runs = [log(tmp_path / "frozen", 1e-4), log(tmp_path / "adapted", 1e-3)]
    judged = Result(
        "probe-action", "probe-action: action", metrics={"chance/top1": Metric(0.25), "a/attentive/top1": Metric(0.5, 0.4, 0.6)}
    )
    judged.write(tmp_path / "judged")
    embed_manifest(torch_backend, Manifest.read(motion_manifest), tmp_path / "f.parquet", FeatureConfig())
    result = draw([*runs, tmp_path / "judged", tmp_path / "f.parquet"], tmp_path / "out", method="pca")
    stems = {plot.stem for plot in result.plots}
    assert {"drift", "trajectory_0", "trajectory_1", "arms_0", "embedding_0"} <= stems
    for stem in stems:
        assert (tmp_path / "out/plots" / f"{stem}.png").stat().st_size > 3000
        assert (tmp_path / "out/plots" / f"{stem}.svg").is_file()
    drift = next(table for table in result.tables if table.title == "Drift per block")
    assert drift.columns == ["", "patch_embed", *(f"{n:02d}" for n in range(12)), "norm"]
    assert result.metrics["adapted/drift"].value == pytest.approx(0.03)
    one = draw(runs[:1], tmp_path / "one")
    assert [row[0] for row in one.tables[0].rows] == ["step 0", "step 10", "step 20", "step 30"]
    with pytest.raises(DataError, match="Nothing to draw"):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty/metrics.jsonl").write_text("")
        draw([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(DataError, match="There is no"):
        draw([tmp_path / "nowhere"], tmp_path / "out")
