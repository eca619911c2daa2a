"""What the benchmarks claim of the simulators' clips, on a few of them; and that their commands run."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from surg.data.factors import FactorConfig
from surg.data.manifest import Manifest
from surg.data.segment.build import SegmentConfig
from surg.data.synth.tissue import generate

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("tissue"), 8, 7, workers=1, split="train")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_on_simulated_tissue_a_tube_keeps_the_tools_motion_and_crops_that_follow_it_do_not(tissue, benchmark, tmp_path):
    factors = benchmark("factors")
    clips = list(Manifest.read(tissue))
    found = factors.summary([factors.motion_kept(clip, SegmentConfig(segmenter="given"), FactorConfig()) for clip in clips])
    assert found["pairs of frames"] > 20
    assert found["D_I, share of the whole picture's"] >= 0.8
    assert found["follow, share of the whole picture's"] < 0.3
    factors.picture(clips[0], tmp_path / "tube.png")
    assert (tmp_path / "tube.png").stat().st_size > 20_000


def test_one_command_measures_the_confusion_of_a_manifest_and_repeats_it(tissue, benchmark, tmp_path, monkeypatch, capsys):
    motion = benchmark("motion")
    clips = list(Manifest.read(tissue))
    from dataclasses import replace

    from surg.data.manifest import write_manifest

    # The same clips as train and, under other names of their cases, as test: all that is asked is that it runs and repeats.
    shorter = [replace(clip, split="test", case=f"{clip.case}-{number % 2}", end_s=3.5) for number, clip in enumerate(clips)]
    both = write_manifest(tmp_path / "m.parquet", [*clips, *shorter]).path
    monkeypatch.setattr(
        sys, "argv", ["motion.py", "--confusion", str(both), "--workers", "1", "--picture", str(tmp_path / "c.png")]
    )
    motion.main()
    first = capsys.readouterr().out
    motion.main()
    assert capsys.readouterr().out == first
    results = motion.confusion(both, tmp_path / "other.parquet", 1)
    assert str(json.loads(json.dumps(results))["top-1"]) in first
    assert (results["test clips"], results["test cases"], len(results["classes"])) == (8, 2, 8)
    assert (tmp_path / "c.png").stat().st_size > 5_000


def test_segment_scores_its_own_truth_as_perfect_and_writes_a_line_for_every_track(
    tissue, benchmark, tmp_path, monkeypatch, capsys
):
    segment = benchmark("segment")
    words = [
        "--set",
        f"tissue={tissue}",
        "--segmenters",
        "given",
        "--tracks",
        str(tmp_path / "t.csv"),
        "--pictures",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["segment.py", *words])
    segment.main()
    assert "'iou': 1.0" in capsys.readouterr().out
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0].startswith("set,segmenter,clip,track")
    assert len(lines) == 1 + 2 * 8
