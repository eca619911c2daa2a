"""Phases: worked examples through the command, and a probe on features that is chosen on val and read on test."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from surg.cli.eval import app
from surg.data.feature_table import VideoNames, clip_columns, read_features
from surg.data.manifest import Clip
from surg.errors import DataError, RunError
from surg.eval import retrieval
from surg.eval.phases import PhasesConfig, evaluate, read_moments


def write_csv(path: Path, videos: dict[str, tuple[str, str]]) -> Path:
    """One letter a second."""
    rows = ["video,time_s,truth,predicted"]
    for video, (truth, predicted) in videos.items():
        rows += [f"{video},{second},{y.strip()},{p.strip()}" for second, (y, p) in enumerate(zip(truth, predicted))]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_worked_example_through_the_command(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "p.csv", {"one": ("aaaaabbbbb", "aaaabbbbba"), "two": ("aabb", "aabb")})
    answer = CliRunner().invoke(app, ["phases", str(table), "--out", str(tmp_path), "--json", "--set", "tolerance_s=1"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)["phases"]
    # Video one: a is 4 of 5 found, 4 of 5 claimed; b the same.
    assert found["model/strict/accuracy"] == pytest.approx((0.8 + 1) / 2)
    assert found["model/strict/precision"] == pytest.approx((0.8 + 1) / 2)
    assert found["model/strict/recall"] == pytest.approx((0.8 + 1) / 2)
    assert found["model/strict/jaccard"] == pytest.approx((4 / 6 + 1) / 2)
    assert found["model/strict/f1_phase"] == pytest.approx((0.8 + 1) / 2)
    # Together: a 6 of 7 found and claimed, b too.
    assert found["model/strict/f1_pooled"] == pytest.approx(6 / 7)
    # The boundary's one early b is forgiven, the last a is not near a boundary.
    assert found["model/relaxed/accuracy"] == pytest.approx((0.9 + 1) / 2)
    # Segments of one: a b against a b a: one insertion in three; F1@50: 2 hits, 1 false; two: 2 hits.
    assert found["model/edit"] == pytest.approx((100 * (1 - 1 / 3) + 100) / 2)
    assert found["model/f1@50"] == pytest.approx(200 * 4 / (2 * 4 + 1))
    assert found["commonest-phase/strict/accuracy"] == pytest.approx(0.5)
    assert (tmp_path / "report.html").is_file()


def test_moments_without_a_truth_do_not_count_and_without_a_prediction_are_refused(tmp_path: Path) -> None:
    moments = read_moments(write_csv(tmp_path / "p.csv", {"one": ("aa bb", "aabbb")}), PhasesConfig())
    assert moments.truths[0].tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError, match="no prediction"):
        read_moments(write_csv(tmp_path / "q.csv", {"one": ("aabb", "aa  ")}), PhasesConfig())
    (tmp_path / "r.csv").write_text("video,second\none,1\n")
    with pytest.raises(DataError, match="lacks the columns time_s, truth, predicted"):
        read_moments(tmp_path / "r.csv", PhasesConfig())


def test_phases_that_are_numbers_are_the_same_phase_beside_moments_without_a_truth(tmp_path: Path) -> None:
    # As pandas writes it: a column of whole numbers with a gap becomes 1.0, the other one stays 1.
    (tmp_path / "p.csv").write_text("video,time_s,truth,predicted\na,0,,1\na,1,1.0,1\na,2,2.0,2\na,3,NaN,2\na,4,02,2\n")
    moments = read_moments(tmp_path / "p.csv", PhasesConfig())
    assert moments.names == ["02", "1", "2"]
    assert (moments.truths[0].tolist(), moments.predictions[0].tolist()) == ([1, 2, 0], [1, 2, 2])
    columns = {"video": ["a"] * 3, "time_s": [0, 1, 2], "truth": [np.nan, 1.0, 2.0], "predicted": [1, 1, 2]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    assert read_moments(tmp_path / "p.parquet", PhasesConfig()).predictions[0].tolist() == [0, 1]


def test_videos_whose_names_are_the_same_number_stay_two(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("video,time_s,truth,predicted\n001,0,a,a\n001,1,b,b\n1,5,a,a\n1,6,b,b\n")
    assert read_moments(tmp_path / "p.csv", PhasesConfig()).cases == ["001", "1"]


@pytest.mark.parametrize(
    ("time", "word"), [("00:00:01", "in seconds"), ("", "without a video or a time"), ("inf", "without a")]
)
def test_a_time_that_is_no_number_of_seconds_is_refused(tmp_path: Path, time: str, word: str) -> None:
    (tmp_path / "p.csv").write_text(f"video,time_s,truth,predicted\na,{time or 0},a,a\na,{time},b,b\n")
    with pytest.raises(DataError, match=word):
        read_moments(tmp_path / "p.csv", PhasesConfig())


def test_background_and_tolerance_have_an_effect(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "p.csv", {"one": ("aaabbbccc", "aabbbbacc"), "two": ("aabb", "aabb")})
    plain = evaluate(table, PhasesConfig(tolerance_s=0), tmp_path).metrics
    assert plain["model/relaxed/accuracy"] == plain["model/strict/accuracy"]
    assert (
        evaluate(table, PhasesConfig(tolerance_s=2), tmp_path).metrics["model/relaxed/accuracy"].value
        > plain["model/strict/accuracy"].value
    )
    without = evaluate(table, PhasesConfig(background=("a",)), tmp_path).metrics
    assert without["model/edit"].value > plain["model/edit"].value
    with pytest.raises(DataError, match="no phase z"):
        evaluate(table, PhasesConfig(background=("z",)), tmp_path)


def features(path: Path, splits: list[str], names: list[tuple[str, str]] | None = None) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for case, split in enumerate(splits):
        source, name = names[case] if names else ("s", f"case{case}")
        for second in range(40):
            phase = "first" if second < 20 else "second"
            vector = rng.normal(size=4) + (4.0 if phase == "second" else 0.0)
            rows.append(
                {
                    "key": f"{case}-{second}", "case": name, "split": split, "source": source, "labels": json.dumps({"phase": phase}),
                    "start_s": second - 1.0, "end_s": float(second), "segment": 0, "features": vector.astype(np.float16),
                }
            )  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=pa.schema([*((n, pa.string()) for n in ("key", "case", "split", "source", "labels")),
        ("start_s", pa.float64()), ("end_s", pa.float64()), ("segment", pa.int64()), ("features", pa.list_(pa.float16()))]))  # fmt: skip
    pq.write_table(table.replace_schema_metadata({"surg.features": json.dumps({"shape": [4]})}), path)
    return path


def test_features_are_read_by_a_probe_fitted_on_train(tmp_path: Path) -> None:
    table = features(tmp_path / "f.parquet", ["train", "train", "val", "test", "test"])
    result = evaluate(table, PhasesConfig(), tmp_path)
    assert result.metrics["model/strict/accuracy"].value > 0.95
    assert result.metrics["commonest-phase/strict/accuracy"].value == 0.5
    assert result.metrics["model/strict/accuracy"].cases == 2
    with pytest.raises(DataError, match="split val"):
        evaluate(features(tmp_path / "g.parquet", ["train", "test"]), PhasesConfig(), tmp_path)
    # One patient under the names of two data sets.
    names = [("cholec80", "cholec80/video01"), ("cholec80", "cholec80/video02"), ("cholect50", "cholect50/VID01")]
    with pytest.raises(DataError, match="1 patients stand in test and in train or val"):
        evaluate(features(tmp_path / "h.parquet", ["train", "val", "test"], names), PhasesConfig(), tmp_path)


def test_a_mistyped_label_is_answered_with_those_there_are(tmp_path: Path) -> None:
    table = features(tmp_path / "f.parquet", ["train", "val", "test"])
    with pytest.raises(DataError, match=r"carries the label `phases`; they carry phase\."):
        evaluate(table, PhasesConfig(label="phases"), tmp_path)
    with pytest.raises(DataError, match=r"carries the label `action`; they carry phase\."):
        retrieval.evaluate(read_features(table), retrieval.RetrievalConfig(), tmp_path)


def test_parts_of_one_case_are_videos_of_their_own(tmp_path: Path) -> None:
    table = pq.read_table(features(tmp_path / "f.parquet", ["train", "val", "test", "test", "test", "test"]))
    # Cases 2 and 3, 4 and 5 are two parts each of one operation, half a step apart: interleaved they would change phase all the time.
    cases = ["case2" if case == "case3" else "case4" if case == "case5" else case for case in table["case"].to_pylist()]
    shift = [0.5 if case in ("case3", "case5") else 0.0 for case in table["case"].to_pylist()]
    ends = pa.array(np.array(shift) + table["end_s"].to_numpy())
    parts = table.set_column(1, "case", pa.array(cases)).set_column(6, "end_s", ends).append_column("video", table["case"])
    pq.write_table(parts, tmp_path / "parts.parquet")
    moments = read_moments(tmp_path / "parts.parquet", PhasesConfig())
    assert [len(truth) for truth in moments.truths] == [40] * 4
    assert moments.step_s == 1.0
    assert all(np.count_nonzero(np.diff(truth)) == 1 for truth in moments.truths)
    result = evaluate(tmp_path / "parts.parquet", PhasesConfig(), tmp_path)
    assert result.metrics["model/strict/accuracy"].cases == 2
    assert "4 videos of 2 cases" in result.protocol[0]
    # A table of an older version does not tell the parts apart.
    pq.write_table(parts.drop_columns(["video"]), tmp_path / "older.parquet")
    assert len(read_moments(tmp_path / "older.parquet", PhasesConfig()).truths) == 2


def test_the_video_of_a_row_is_the_same_in_every_clip_of_it_and_tells_no_name() -> None:
    clips = [
        Clip(f"/data/{name}.mp4", start, start + 1.0, "Mueller")
        for name, start in (("Mueller_1", 0.0), ("Mueller_1", 5.0), ("Mueller_2", 0.0))
    ]
    one, later, part = (clip_columns(clip, VideoNames.of(clips))["video"] for clip in clips)
    assert one == later != part
    assert "Mueller" not in one


def test_an_evaluation_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "p.csv", {"one": ("aaaaabbbbb", "aaaabbbbba"), "two": ("aabb", "aabb")})
    typed = ["phases", str(table), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, typed).exit_code == 0
    before = (tmp_path / "out/result.json").stat()
    again = CliRunner().invoke(app, typed)
    assert isinstance(again.exception, RunError)
    assert "--overwrite" in str(again.exception)
    assert (tmp_path / "out/result.json").stat() == before
    assert CliRunner().invoke(app, [*typed, "--overwrite"]).exit_code == 0
    taken = CliRunner().invoke(app, ["phases", str(table), "--out", str(table)])
    assert isinstance(taken.exception, RunError)
