"""Splits cannot leak: a patient is on one side, whatever the labels, the seed or the data set's names."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from surg.cli.main import app
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.splits import assign, parse_shares, split_by_case
from surg.errors import ConfigError, DataError

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def many(path: Path, cases: int = 50, seed: int = 0) -> Manifest:
    rng = np.random.default_rng(seed)
    clips = []
    for case in range(cases):
        liking = rng.dirichlet([0.5] * 4)
        drawn = rng.choice(list("abcd"), size=rng.integers(5, 40), p=liking)
        clips += [
            Clip(f"/v{case}.mp4", n, n + 1, f"case{case}", labels={"action": str(name), "n": n}) for n, name in enumerate(drawn)
        ]
    return write_manifest(path, clips)


def sides(manifest: Manifest) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for clip in manifest.clips():
        found[clip.case].add(clip.split)
    return found


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.dictionaries(st.sampled_from("abc"), st.integers(1, 50), min_size=1), min_size=3, max_size=40),
    st.integers(0, 100),
)  # fmt: skip
def test_every_patient_gets_one_side_and_no_side_is_empty(counts: dict[str, dict[str, int]], seed: int) -> None:
    chosen = assign(counts, SHARES, seed)
    assert set(chosen) == set(counts)
    assert set(chosen.values()) == set(SHARES)
    assert assign(counts, SHARES, seed) == chosen


def test_no_case_is_on_two_sides_and_shares_and_classes_are_met(tmp_path: Path) -> None:
    manifest = many(tmp_path / "m.parquet")
    table = split_by_case(manifest, tmp_path / "s.parquet", SHARES, stratify="action")
    split = Manifest.read(tmp_path / "s.parquet")
    assert all(len(found) == 1 for found in sides(split).values())
    total = len(manifest)
    for name, share in SHARES.items():
        assert table.clips[name] == pytest.approx(share * total, rel=0.05)
        for label in "abcd":
            of_class = sum(table.classes[side][label] for side in SHARES)
            assert table.classes[name][label] == pytest.approx(share * of_class, rel=0.2), (name, label)
    assert split.counts("split") == dict(sorted(table.clips.items(), key=lambda item: -item[1]))
    assert split.notes["split"] == "by case, seed 0, train 0.6, val 0.2, test 0.2, stratified by action"


def test_stratifying_brings_the_classes_nearer_to_their_shares(tmp_path: Path) -> None:
    manifest = many(tmp_path / "m.parquet")

    def off(stratify: str | None) -> float:
        split_by_case(manifest, tmp_path / "s.parquet", SHARES, stratify=stratify)
        counts = defaultdict(lambda: defaultdict(int))
        for clip in Manifest.read(tmp_path / "s.parquet").clips():
            counts[clip.labels["action"]][clip.split] += 1
        return sum(abs(of[name] / sum(of.values()) - share) for of in counts.values() for name, share in SHARES.items())

    assert off("action") < 0.6 * off(None)


def test_seed_decides(tmp_path: Path) -> None:
    manifest = many(tmp_path / "m.parquet")
    prints = []
    for seed in (0, 0, 1):
        split_by_case(manifest, tmp_path / "s.parquet", seed=seed)
        prints.append(Manifest.read(tmp_path / "s.parquet").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_one_patient_under_two_data_sets_names_stays_together(tmp_path: Path) -> None:
    clips = [
        Clip(f"/{source}/{n}.mp4", 0, 1, f"{source}/{form.format(n)}", source=source)
        for n in range(1, 21)
        for source, form in (("cholec80", "video{:02d}"), ("cholect50", "VID{:02d}"))
    ]
    split_by_case(write_manifest(tmp_path / "m.parquet", clips), tmp_path / "s.parquet", SHARES)
    of_number = defaultdict(set)
    for clip in Manifest.read(tmp_path / "s.parquet").clips():
        of_number[clip.case[-2:]].add(clip.split)
    assert all(len(found) == 1 for found in of_number.values())


def test_too_few_cases_and_strange_shares_are_refused(tmp_path: Path) -> None:
    two = write_manifest(tmp_path / "m.parquet", [Clip("/v.mp4", 0, 1, name) for name in "ab"])
    with pytest.raises(DataError, match="2 cases are too few for 3 sides"):
        split_by_case(two, tmp_path / "s.parquet")
    assert not (tmp_path / "s.parquet").exists()
    with pytest.raises(DataError, match="No clip has the label `colour`"):
        split_by_case(two, tmp_path / "s.parquet", {"train": 0.5, "test": 0.5}, stratify="colour")
    for text in ("train=0.7", "train=0.7,test=0.7", "train,test", "train=1,test=0"):
        with pytest.raises(ConfigError, match="train"):
            parse_shares(text)


def run(*arguments: str) -> tuple[int, str]:
    from surg.errors import SurgError

    result = CliRunner().invoke(app, ["data", "split", *arguments])
    if isinstance(result.exception, SurgError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def test_a_split_by_clip_is_an_error_unless_forced_and_then_recorded(tmp_path: Path) -> None:
    path = str(many(tmp_path / "m.parquet", cases=5).path)
    code, said = run(path, "--unit", "clip")
    assert code == 2
    assert "split by clip puts clips of one patient on both sides" in said
    code, said = run(path, "--unit", "clip", "--force", "--out", str(tmp_path / "s.parquet"))
    assert code == 0
    leaking = Manifest.read(tmp_path / "s.parquet")
    assert max(len(found) for found in sides(leaking).values()) > 1
    assert "forced" in leaking.notes["leak"]
    assert json.loads(json.dumps(leaking.select("train").notes)) == leaking.notes


def test_an_official_split_is_kept_unless_asked(tmp_path: Path) -> None:
    clips = [Clip(f"/v{n}.mp4", 0, 1, f"c{n}", "train" if n else "test") for n in range(10)]
    path = str(write_manifest(tmp_path / "m.parquet", clips).path)
    code, said = run(path)
    assert code == 2
    assert "is split already: train 9, test 1" in said
    code, said = run(path, "--replace", "--shares", "a=0.5,b=0.5", "--seed", "3")
    assert code == 0
    assert Manifest.read(path).counts("split") == {"a": 5, "b": 5}
    assert "Next: surg data check" in said
