"""Motion classes: names that are right, quantiles from train alone, a stated rule for rare ones."""

import numpy as np
import pytest

from surg.data.classes import (
    ClassBook,
    ClassConfig,
    fit_label_classes,
    fit_motion_classes,
    label_clip,
    raw_class,
    vectors_by_clip,
)
from surg.data.manifest import Clip
from surg.data.motion import FEATURES, MotionConfig, clip_features
from surg.errors import DataError
from tests.data.motion.moving import pan, with_patch


def vector(direction: str, strength: float) -> np.ndarray:
    values = np.zeros(len(FEATURES))
    values[FEATURES.index("foreground_mean")] = strength
    values[FEATURES.index(f"foreground_{direction}")] = 1.0
    return values


def clip(**labels: str) -> Clip:
    return Clip("a.mp4", 0.0, 1.0, "case", labels=labels)


EVEN = [vector(way, strength) for way in ("right", "down", "left", "up") for strength in (1.0, 1.1, 3.0, 3.1)]


@pytest.mark.parametrize(("step", "name"), [((4, 0), "right"), ((-4, 0), "left"), ((0, 4), "down"), ((0, -4), "up")])
@pytest.mark.parametrize("source", ["foreground", "flow"])
def test_a_synthetic_translation_gets_the_name_of_its_direction(step, name, source):
    frames = pan(*step) if source == "flow" else with_patch(pan(0, 0), *step)[0]
    measured = clip_features(frames, MotionConfig(size=160))
    assert raw_class(measured, [], ClassConfig(source=source, magnitudes=1)) == f"{name}-moves"


def test_two_strengths_by_four_directions_make_eight_classes():
    book = fit_motion_classes(np.array(EVEN), ClassConfig())
    assert len(book.names) == 8
    assert label_clip(clip(), vector("left", 0.5), book) == "left-slow"
    assert label_clip(clip(), vector("left", 5.0), book) == "left-fast"


def test_other_splits_cannot_move_the_borders():
    config = ClassConfig()
    train = np.array(EVEN)
    book = fit_motion_classes(train, config)
    assert book.edges == pytest.approx((np.median([1.0, 1.1, 3.0, 3.1]),))
    assert label_clip(clip(), vector("right", 1000.0), book) == "right-fast"
    assert fit_motion_classes(train, config) == book


def test_rare_classes_are_merged_into_the_same_direction_or_dropped():
    train = np.array([*EVEN * 10, vector("up_left", 1.0)])
    merged = fit_motion_classes(train, ClassConfig(directions=8, min_share=0.02))
    assert "up-left-slow" not in merged.names
    assert label_clip(clip(), vector("up_left", 1.0), merged) in {"up-slow", "left-slow"}
    dropped = fit_motion_classes(train, ClassConfig(directions=8, min_share=0.02, rare="drop"))
    assert label_clip(clip(), vector("up_left", 1.0), dropped) is None
    assert label_clip(clip(), vector("up", 1.0), dropped) == "up-slow"


def test_no_more_classes_are_kept_than_asked_for():
    book = fit_motion_classes(np.array(EVEN), ClassConfig(classes=3))
    assert len(book.names) == 3
    assert set(book.becomes.values()) == set(book.names)


@pytest.mark.parametrize(
    "change", [{"source": "flow"}, {"magnitudes": 4}, {"directions": 2}, {"directions": 8}, {"min_share": 0.3, "classes": 4}]
)
def test_every_setting_changes_the_classes(change):
    rng = np.random.default_rng(0)
    train = np.abs(rng.normal(1, 0.5, (200, len(FEATURES))))
    if "min_share" in change:
        train = np.array([*EVEN * 3, *[vector("up", 3.0), vector("left", 1.0)] * 30])
    base, other = (fit_motion_classes(train, ClassConfig(**settings)) for settings in ({}, change))
    labels = [[label_clip(clip(), row, book) for row in train] for book in (base, other)]
    assert labels[0] != labels[1]


def test_any_label_can_take_the_place_of_motion():
    train = ["grasp"] * 50 + ["cut"] * 40 + ["wipe"]
    merged = fit_label_classes(train, ClassConfig(label="gesture"))
    assert merged.names == ("grasp", "cut", "other")
    assert label_clip(clip(gesture="wipe"), None, merged) == "other"
    assert label_clip(clip(gesture="never seen"), None, merged) == "other"
    assert label_clip(clip(), None, merged) is None
    dropped = fit_label_classes(train, ClassConfig(label="gesture", rare="drop"))
    assert label_clip(clip(gesture="wipe"), None, dropped) is None


def test_a_class_book_reads_back_as_it_was(tmp_path):
    book = fit_motion_classes(np.array(EVEN), ClassConfig(directions=2))
    book.save(tmp_path / "classes.json")
    assert ClassBook.load(tmp_path / "classes.json") == book


def test_what_cannot_make_classes_is_said(tmp_path):
    with pytest.raises(DataError, match="surg data split"):
        fit_motion_classes(np.zeros((1, 23)), ClassConfig())
    with pytest.raises(DataError, match="needs two"):
        fit_motion_classes(np.array([vector("up", 1.0)] * 9), ClassConfig(magnitudes=1))
    with pytest.raises(DataError, match="phase"):
        fit_label_classes([], ClassConfig(label="phase"))
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(DataError, match="surg data motion"):
        vectors_by_clip(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="class book"):
        ClassBook.load(tmp_path / "x.parquet")
