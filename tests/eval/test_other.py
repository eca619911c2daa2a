"""World model, retrieval, comparisons, baselines of numbers, and the server's proof."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from surg.data.feature_table import Features
from surg.data.manifest import Manifest
from surg.errors import CheckFailed, ConfigError, DataError, ServerError
from surg.eval import backends, parity, regression
from surg.eval.backends import Backend, Proof, open_backend
from surg.eval.compare import compare
from surg.eval.features import FeatureConfig, embed_manifest
from surg.eval.real import build_manifest
from surg.eval.results import Metric, Result
from surg.eval.retrieval import RetrievalConfig, evaluate, neighbours
from surg.eval.world_model import Foresight, WorldConfig, foresee, judge, teacher_error, unexplained
from surg.model.config import WorldConfig as WorldShape
from surg.model.world import WorldPredictor

REAL = Path(__file__).parents[1] / "real"


def features(vectors: np.ndarray, labels: list[str], cases: list[str], patients: list[str] | None = None) -> Features:
    count = len(vectors)
    names = np.array([f"c{i}" for i in range(count)])
    zero = np.zeros(count)
    return Features(
        vectors.astype(np.float16),
        names,
        np.array(cases),
        np.array(patients or cases),
        np.array(cases),
        np.array([""] * count),
        zero,
        zero,
        [{"action": name} if name else {} for name in labels],
        {},
    )


def test_retrieval_never_counts_the_own_case_or_an_unknown_label(tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [1, 0.01], [1, 0.2], [0, 1], [0.1, 1], [1, 0.02]], float)
    table = features(vectors, ["x", "x", "x", "y", "y", ""], ["a", "a", "b", "a", "b", "b"])
    plain = evaluate(table, RetrievalConfig(k=2, centre=False), tmp_path)
    # Clips 0 and 1 are nearest to each other, which does not count, then to the one without a label, which never matches.
    assert plain.metrics["top1"].value == pytest.approx(3 / 5)
    assert neighbours(vectors, 1, table.cases)[:2].tolist() == [[5], [5]]
    assert neighbours(vectors, 1, None)[0].tolist() == [1]
    own = evaluate(table, RetrievalConfig(k=2, centre=False, own_case=True), tmp_path)
    assert own.metrics["map@2"].value != plain.metrics["map@2"].value
    with pytest.raises(DataError, match="two values"):
        evaluate(features(vectors, ["x"] * 6, ["a"] * 6), RetrievalConfig(), tmp_path)


def test_retrieval_does_not_find_the_same_patient_in_another_data_set(tmp_path: Path) -> None:
    """Cholec80's first video is CholecT50's: its clips are their own neighbours."""
    vectors = np.array([[1, 0], [1, 0.01], [0.8, 0.5], [0, 1], [0.1, 1], [0.5, 0.8]], float)
    labels, cases = ["x", "x", "y", "y", "y", "x"], ["80/1", "50/1", "80/2", "80/1", "50/1", "80/2"]
    config = RetrievalConfig(k=1, centre=False)
    assert evaluate(features(vectors, labels, cases), config, tmp_path).metrics["top1"].value > 0.5
    one = evaluate(features(vectors, labels, cases, ["one", "one", "two", "one", "one", "two"]), config, tmp_path)
    assert (one.metrics["top1"].value, one.metrics["top1"].cases) == (0.0, 2)


def test_overlap_of_a_ranking_with_itself_is_one(tmp_path: Path, motion_manifest: Path, torch_backend: Backend) -> None:
    table = embed_manifest(torch_backend, Manifest.read(motion_manifest), tmp_path / "f.parquet", FeatureConfig())
    result = evaluate(table, RetrievalConfig(k=5), tmp_path, table)
    assert result.metrics["overlap@5"].value == 1
    assert 0 <= result.metrics["top1"].value <= 1
    assert (neighbours(table.vectors(), 5, None)[:, 0] != np.arange(len(table))).all()


def test_shrinking_features_do_not_win() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20, 2, 6, 8))
    guess = truth + rng.normal(size=truth.shape)
    assert unexplained(0.001 * guess, 0.001 * truth) == pytest.approx(unexplained(guess, truth))
    assert unexplained(truth, truth).max() == 0
    assert unexplained(np.broadcast_to(truth.mean((0, 2), keepdims=True), truth.shape), truth).mean() == pytest.approx(1)


def test_a_model_that_knows_beats_copying(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    last = rng.normal(size=(24, 6, 8))
    truth = np.stack([last + (k + 1) * rng.normal(size=last.shape) for k in range(2)], 1)
    cases = np.repeat(np.array([f"c{i}" for i in range(8)]), 3)
    surprise = np.stack([rng.random(24), rng.random(24) + 2], 1)
    result = judge(Foresight(truth + 0.1 * rng.normal(size=truth.shape), truth, last, cases, surprise), 0.5, tmp_path)
    assert result.metrics["model/skill@1"].value > 0.9
    assert result.metrics["arrow/auroc"].value == 1
    assert teacher_error(truth[:, 0].mean(1), truth[:, 0].mean(1) @ rng.normal(size=(8, 4)), cases).value < 0.6


def test_the_future_of_real_clips_is_asked_for(tmp_path: Path, take_manifest: Path, torch_backend: Backend) -> None:
    found = foresee(torch_backend, Manifest.read(take_manifest), WorldConfig(clips=4))
    assert found.predicted.shape == found.truth.shape
    assert np.isfinite(found.predicted).all()
    with pytest.raises(DataError, match="lasts"):
        foresee(torch_backend, Manifest.read(take_manifest).select(where=lambda clip: clip.end_s < 0.5), WorldConfig())


def test_a_model_that_reads_its_actions_is_told_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(24, 1, 6, 8))
    cases = np.repeat(np.array([f"c{i}" for i in range(8)]), 3)
    own = rng.random(24)
    found = Foresight(truth, truth, 0.5 * truth[:, 0], cases, rng.random((24, 2)), np.stack([own, own + 0.5], 1))
    result = judge(found, 0.5, tmp_path)
    assert result.metrics["actions/paired"].value == 1
    assert result.metrics["actions/worse-by"].value == pytest.approx(0.5 / own.mean())
    assert any(table.title == "Action sensitivity" for table in result.tables)


def test_a_model_that_reads_no_actions_and_knows_no_time_gets_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(8, 1, 6, 8))
    cases, same = np.array([f"c{i}" for i in range(8)]), np.repeat(rng.random((8, 1)), 2, axis=1)
    result = judge(Foresight(truth, truth, 0.5 * truth[:, 0], cases, same, same), 0.5, tmp_path)
    assert result.metrics["actions/paired"].value == 0.5
    assert result.metrics["arrow/paired"].value == 0.5


def test_an_action_conditioned_model_is_asked_with_true_and_with_other_actions(tmp_path: Path, take_manifest: Path) -> None:
    import small

    torch.manual_seed(0)
    world = WorldPredictor(WorldShape(embed_dim=24, width=24, depth=1, num_heads=2, action_dim=1, state_dim=1))
    with torch.no_grad():
        world.action_encoder.weight.mul_(100)
    path = small.checkpoint(tmp_path / "acting.safetensors", world=world)
    manifest = Manifest.read(take_manifest).select(where=lambda clip: clip.end_s - clip.start_s == 3.0 or clip.start_s == 0)
    with open_backend("torch", checkpoint=path) as backend:
        found = foresee(backend, manifest, WorldConfig(clips=6))
    assert found.actions is not None
    differing = found.actions[:, 0] != found.actions[:, 1]
    assert differing.any()  # a clip with a breach was asked with the actions of one without, or the other way round
    assert np.isfinite(found.predicted).all()
    assert found.predicted.shape == found.truth.shape
    assert "actions/paired" in judge(found, 0.5, tmp_path).metrics


def test_a_number_that_got_worse_or_is_gone_fails(tmp_path: Path) -> None:
    result = Result("sterility", "S", metrics={"model/auprc": Metric(0.8), "model/ece": Metric(0.1, better="lower")})
    result.write(tmp_path)
    path = tmp_path / "baseline.json"
    assert len(regression.write_baseline([result], path, tolerance=0.02)) == 2
    assert all(verdict.ok for verdict in regression.check([result], path))
    worse = Result("sterility", "S", metrics={"model/auprc": Metric(0.77), "model/ece": Metric(0.05, better="lower")})
    assert [verdict.ok for verdict in regression.check([worse], path)] == [False, True]
    gone = Result("sterility", "S", metrics={"model/ece": Metric(0.1)})
    assert [verdict.ok for verdict in regression.check([gone], path)] == [False, True]
    assert "missing" in str(regression.check([gone], path)[0])
    with pytest.raises(DataError, match="no results"):
        regression.check([], path)
    with pytest.raises(DataError, match="is no baseline"):
        regression.check([gone], tmp_path / "result.json")


def test_a_run_is_held_against_numbers_of_its_own_protocol(tmp_path: Path) -> None:
    def run(value: float, **protocol: str) -> Result:
        return Result("sterility", "S", evidence={"protocol": protocol}, metrics={"model/auprc": Metric(value)})

    path = tmp_path / "baseline.json"
    for value, renderer in ((0.9, "gl"), (0.7, "painter")):
        regression.write_baseline([run(value, renderer=renderer)], path, tolerance=0.02)
    assert regression.check([run(0.7, renderer="painter")], path)[0].ok
    assert not regression.check([run(0.7, renderer="gl")], path)[0].ok
    with pytest.raises(CheckFailed, match="no numbers for this protocol"):
        regression.check([run(0.9, renderer="gl", simulator="3")], path)
    regression.write_baseline([run(0.6, renderer="gl")], path, tolerance=0.02)
    assert regression.check([run(0.7, renderer="gl")], path)[0].ok
    assert regression.check([run(0.7, renderer="painter")], path)[0].ok


def test_check_exits_1_on_a_regression(tmp_path: Path) -> None:
    from surg.cli.eval import app

    Result("sterility", "S", metrics={"model/auprc": Metric(0.5)}).write(tmp_path / "run")
    regression.write_baseline([Result("sterility", "S", metrics={"model/auprc": Metric(0.9)})], tmp_path / "b.json")
    answer = CliRunner().invoke(app, ["check", str(tmp_path / "run"), "--baseline", str(tmp_path / "b.json")])
    assert isinstance(answer.exception, CheckFailed)
    assert answer.exception.exit_code == 1
    assert "WORSE sterility/model/auprc" in answer.output
    assert "surg eval check RUN --write" in str(answer.exception)


@pytest.mark.parametrize("typed", [["card", "surg-tiny", "--results"], ["check"]])
def test_a_folder_without_an_evaluation_is_no_result(typed: list[str], tmp_path: Path) -> None:
    from surg.cli.eval import app

    (tmp_path / "empty").mkdir()
    for folder, said in ((tmp_path / "nowhere", "no such folder"), (tmp_path / "empty", "no evaluation")):
        more = ["--out", str(tmp_path / "card.md")] if typed[0] == "card" else ["--write", str(tmp_path / "b.json")]
        answer = CliRunner().invoke(app, [*typed, str(folder), *more])
        assert isinstance(answer.exception, DataError)
        assert said in str(answer.exception)
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_two_arms_of_one_name_are_refused_before_any_work(motion_manifest: Path, tmp_path: Path) -> None:
    from surg.cli.eval import app

    typed = ["probe-action", "--data", str(motion_manifest), "--out", str(tmp_path / "out"), "--backend", "torch"]
    answer = CliRunner().invoke(app, [*typed, "--checkpoint", "a=one", "--checkpoint", "a=two"])
    assert isinstance(answer.exception, ConfigError)
    assert "The name a was given twice" in str(answer.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--write", "new.json"], ["--tolerance", "0.5"], ["--only", "auprc"]])
def test_check_refuses_options_that_would_do_nothing(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from surg.cli.eval import app

    monkeypatch.chdir(tmp_path)
    result = Result("sterility", "S", metrics={"model/auprc": Metric(0.9)})
    result.write(tmp_path / "run")
    regression.write_baseline([result], tmp_path / "b.json")
    answer = CliRunner().invoke(app, ["check", str(tmp_path / "run"), "--baseline", str(tmp_path / "b.json"), *words])
    assert isinstance(answer.exception, ConfigError)
    assert "--write" in str(answer.exception)


def test_compare_of_one_run_says_that_it_takes_two(tmp_path: Path) -> None:
    Result("sterility", "S", "h", metrics={"model/auprc": Metric(0.5)}).write(tmp_path / "one")
    with pytest.raises(ConfigError, match="compare got 1 run; it takes two or more"):
        compare([tmp_path / "one"], tmp_path)


def test_compare_refuses_different_kinds_and_lists_all_metrics(tmp_path: Path) -> None:
    Result("sterility", "S", "h", metrics={"model/auprc": Metric(0.5)}).write(tmp_path / "one")
    Result("sterility", "S", "h", metrics={"model/auprc": Metric(0.7), "clips/auprc": Metric(0.6)}).write(tmp_path / "two")
    table = compare([tmp_path / "one", tmp_path / "two"], tmp_path).tables[0]
    assert table.columns == ["metric", "one", "two"]
    assert ["clips/auprc", "–", "0.600"] in table.rows
    Result("retrieval", "R").write(tmp_path / "three")
    with pytest.raises(DataError, match="different kinds"):
        compare([tmp_path / "one", tmp_path / "three"], tmp_path)


def test_a_number_that_a_run_could_not_give_is_listed_and_not_drawn(tmp_path: Path) -> None:
    # A test set without a breach has no average precision; a bar of NaN took the picture's axes along.
    for name, values in {"one": (0.5, float("nan")), "two": (float("nan"), float("nan"))}.items():
        metrics = {"model/auprc": Metric(values[0]), "clips/auprc": Metric(values[1])}
        Result("sterility", "S", "h", metrics=metrics).write(tmp_path / name)
    compared = compare([tmp_path / "one", tmp_path / "two"], tmp_path)
    assert [plot.title for plot in compared.plots] == ["model/auprc"]
    assert [row[0] for row in compared.tables[0].rows] == ["model/auprc", "clips/auprc"]


def test_a_baseline_of_numbers_that_the_results_lack_names_the_way_to_others(tmp_path: Path) -> None:
    result = Result("sterility", "S", metrics={"model/auprc": Metric(float("nan")), "model/recall": Metric(0.5)})
    with pytest.raises(DataError, match=r"None of the 1 numbers .*model/auprc(.|\n)*--only sterility/model/recall"):
        regression.write_baseline([result], tmp_path / "b.json", 0.05, ["model/auprc"])


@pytest.mark.parametrize(
    ("kind", "title", "evidence"),
    [
        ("retrieval", "R", {"features": {"data_fingerprint": "b"}}),
        ("sterility", "R", {"features": {"data_fingerprint": "a"}, "takes_fingerprint": "t"}),
        ("probe-action", "other label", {"features": {"data_fingerprint": "a"}}),
    ],
)
def test_runs_on_other_data_or_of_another_label_are_not_comparable(
    kind: str, title: str, evidence: dict[str, Any], tmp_path: Path
) -> None:
    Result(kind, "R", evidence={"features": {"data_fingerprint": "a"}}).write(tmp_path / "one")
    Result(kind, "R", evidence={"features": {"data_fingerprint": "a"}}).write(tmp_path / "same")
    Result(kind, title, evidence=evidence).write(tmp_path / "two")
    assert not compare([tmp_path / "one", tmp_path / "same"], tmp_path).warnings
    assert "not comparable" in compare([tmp_path / "one", tmp_path / "two"], tmp_path).warnings[0]


def test_parity_of_a_backend_with_itself_is_exact(checkpoint: Path, motion_manifest: Path) -> None:
    result = parity.compare(
        ["torch", "torch"], Manifest.read(motion_manifest), checkpoint=checkpoint, repository=None, server=None, clips=3
    )
    assert result.tables[0].columns[-1] == "flips"
    answers = parity.ask("torch", list(Manifest.read(motion_manifest).clips())[:3], checkpoint, None, None)
    moved = parity.Answers({**answers.outputs, "action": -answers.outputs["action"]}, answers.milliseconds, {})
    found = parity.report({"torch": answers, "other": moved}, 3)
    assert found.metrics["other/action/flips"].value == 3
    assert found.metrics["other/breach/max_abs"].value == 0


class FakeTriton(BaseHTTPRequestHandler):
    """Says what Triton says about itself; `counts` is what it claims to have done."""

    counts = 0
    late: ClassVar[list[int]] = []
    """What it claims before that, question by question."""
    name = "triton"

    def do_GET(self) -> None:
        counts = FakeTriton.late.pop(0) if self.path != "/v2" and FakeTriton.late else FakeTriton.counts
        stats = {"model_stats": [{"name": "surg_clip", "version": "1", "inference_count": counts}]}
        body = json.dumps({"name": FakeTriton.name, "version": "2.51.0"} if self.path == "/v2" else stats).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake_triton() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeTriton)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    FakeTriton.counts, FakeTriton.late, FakeTriton.name = 0, [], "triton"
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_did_not_do_the_work_is_found_out(fake_triton: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "COUNTS_SETTLE_S", 0.0)
    proof = Proof(fake_triton, ["surg_clip"])
    assert proof.version == "triton 2.51.0"
    proof.count("surg_clip", 5)
    FakeTriton.counts = 4
    with pytest.raises(CheckFailed, match="did not come from it"):
        proof.check()
    FakeTriton.counts = 5
    assert proof.check()["inferences_counted"] == {"surg_clip": 5}


def test_counts_that_come_a_moment_after_the_answers_are_waited_for(fake_triton: str) -> None:
    proof = Proof(fake_triton, ["surg_clip"])
    proof.count("surg_clip", 5)
    FakeTriton.counts, FakeTriton.late = 5, [4, 4]
    assert proof.check()["inferences_counted"] == {"surg_clip": 5}


def test_a_server_that_is_not_triton_is_refused(fake_triton: str) -> None:
    FakeTriton.name = "something else"
    with pytest.raises(CheckFailed, match="No fall-back"):
        Proof(fake_triton, ["surg_clip"])


def test_work_that_was_never_sent_proves_nothing(fake_triton: str) -> None:
    with pytest.raises(CheckFailed):
        Proof(fake_triton, ["surg_clip"]).check()


def test_nothing_to_evaluate_is_said() -> None:
    with pytest.raises(ServerError, match="--checkpoint"), open_backend("triton"):
        pass


@pytest.mark.parametrize(
    "words",
    [
        ["sterility", "--server", "localhost:1", "--checkpoint", "runs/a"],
        ["world-model", "--repository", "repo", "--checkpoint", "runs/a"],
        ["probe-action", "--server", "localhost:1", "--checkpoint", "a=runs/a"],
        ["classify", "--server", "localhost:1", "--repository", "repo"],
        ["sterility", "--server", "localhost:1", "--backend", "onnx"],
    ],
)
def test_a_named_model_is_the_one_that_is_asked_or_the_command_is_refused(words: list[str], take_manifest: Path) -> None:
    from surg.cli.eval import app

    answer = CliRunner().invoke(app, [*words, "--data", str(take_manifest)])
    assert isinstance(answer.exception, ConfigError)
    assert "--server" in str(answer.exception)


def test_embed_refuses_two_models_too(take_manifest: Path, tmp_path: Path) -> None:
    from surg.cli.embed import app

    words = [str(take_manifest), "--out", str(tmp_path / "f.parquet"), "--server", "localhost:1", "--checkpoint", "surg-tiny"]
    answer = CliRunner().invoke(app, words)
    assert isinstance(answer.exception, ConfigError)


def test_the_hand_marked_intervals_are_sound(tmp_path: Path) -> None:
    markings = sorted(REAL.glob("*.json"))
    for marking in markings:
        (tmp_path / json.loads(marking.read_text())["file"]).touch()
    clips = list(build_manifest(markings, [tmp_path], tmp_path / "m.parquet").clips())
    events = [clip for clip in clips if clip.labels["breach"]]
    assert len(events) >= 8
    assert {clip.case for clip in clips} == {"box", "cup", "tree", "vtest"}
    for clip in clips:
        assert clip.zone is not None
        assert all(0 <= value <= 1 for corner in clip.zone for value in corner)
        assert clip.start_s < clip.end_s
    with pytest.raises(DataError, match="opencv-doc"):
        build_manifest(markings, [tmp_path / "nowhere"], tmp_path / "n.parquet")
