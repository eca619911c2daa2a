"""From frames to the square picture: golden values, zones, and augmentation that leaves motion alone."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surg.config import validate
from surg.data.augment import AugmentConfig, augment
from surg.data.preprocess import PreprocessSpec, crop_box, normalise, preprocess
from surg.errors import ConfigError, DataError

SPEC = PreprocessSpec(size=64, num_frames=4)
SQUARE = [[0.25, 0.25], [0.5, 0.25], [0.5, 0.5], [0.25, 0.5]]


def picture(height: int = 120, width: int = 160, frames: int = 4) -> np.ndarray:
    t, y, x = np.mgrid[:frames, :height, :width]
    return np.stack([(x * 3 + t * 5) % 256, (y * 2 + t) % 256, (x + y + 40 * t) % 256], -1).astype(np.uint8)


def test_shrinking_averages_the_area_of_each_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    expected = frames.reshape(2, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(preprocess(frames, SPEC).frames - expected).max() <= 0.5


def test_fine_stripes_turn_grey_and_make_no_moire() -> None:
    stripes = np.zeros((1, 512, 512, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert preprocess(stripes, SPEC).frames.std() < 1


def test_golden_pixels_do_not_change() -> None:
    prepared = preprocess(picture(), SPEC)
    assert prepared.box == (20, 0, 140, 120)
    assert prepared.frames[0, 0, 0].tolist() == [61, 1, 21]
    assert prepared.frames[3, 63, 63].tolist() == [175, 240, 121]
    zoned = preprocess(picture(), SPEC, SQUARE)
    assert zoned.box == (32, 17, 88, 73)
    # Growing interpolates, and its last bit differs between processors: the mean of the source's crop instead of a hash.
    assert zoned.frames.mean() == pytest.approx(picture()[:, 17:73, 32:88].mean(), abs=2)
    assert (
        hashlib.sha256(prepared.zone.tobytes()).hexdigest() == hashlib.sha256(np.ones((4, 4), np.float32).tobytes()).hexdigest()
    )


def test_normalise_is_the_mean_and_deviation_of_the_spec() -> None:
    frames = picture()
    plain = normalise(frames, PreprocessSpec(mean=(0, 0, 0), std=(1, 1, 1)))
    assert plain.shape == (3, 4, 120, 160)
    assert plain.dtype == np.float32
    assert plain[1, 2, 3, 4] == pytest.approx(frames[2, 3, 4, 1] / 255)
    scaled = normalise(frames, PreprocessSpec(mean=(0.5, 0, 0), std=(0.25, 1, 1)))
    assert scaled[0] == pytest.approx((plain[0] - 0.5) / 0.25, abs=1e-6)


def test_fit_decides_between_the_middle_square_and_the_whole_picture() -> None:
    assert crop_box(1280, 720, SPEC, None) == (280, 0, 1000, 720)
    assert crop_box(1280, 720, PreprocessSpec(fit="stretch"), None) == (0, 0, 1280, 720)


def test_a_zone_crops_by_the_factor_of_the_spec_and_zero_keeps_all() -> None:
    square = [[0.4, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6]]
    assert crop_box(1000, 1000, PreprocessSpec(zone_crop=1.4), square) == (360, 360, 640, 640)
    assert crop_box(1000, 1000, PreprocessSpec(zone_crop=2.0), square) == (300, 300, 700, 700)
    assert crop_box(1280, 720, PreprocessSpec(zone_crop=0), square) == (0, 0, 1280, 720)


def test_a_zone_at_the_rim_moves_the_crop_into_the_picture() -> None:
    corner = [[0.0, 0.9], [0.1, 0.9], [0.1, 1.0], [0.0, 1.0]]
    x0, y0, x1, y1 = crop_box(1000, 1000, SPEC, corner)
    assert (x0, y1, x1 - x0, y1 - y0) == (0, 1000, 140, 140)


def test_zone_map_is_the_share_of_each_patch() -> None:
    spec = PreprocessSpec(size=64, patch_size=16, zone_crop=0)
    half = [[0, 0], [0.375, 0], [0.375, 1], [0, 1]]
    assert preprocess(picture(100, 100), spec, half).zone.tolist() == [[1, 0.5, 0, 0]] * 4
    triangle = [[0, 0], [1, 0], [0, 1]]
    assert preprocess(picture(100, 100), spec, triangle).zone.mean() == pytest.approx(0.5, abs=0.02)


polygons = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(list), min_size=3, max_size=8)


@settings(deadline=None)
@given(polygons, st.integers(20, 300), st.integers(20, 300))
def test_any_zone_gives_a_full_picture_and_shares_between_0_and_1(zone: list[list[float]], height: int, width: int) -> None:
    try:
        prepared = preprocess(np.zeros((1, height, width, 3), np.uint8), SPEC, zone)
    except DataError:
        xs, ys = zip(*zone)
        assert min(xs) == max(xs) or min(ys) == max(ys)
        return
    x0, y0, x1, y1 = prepared.box
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert prepared.frames.shape == (1, 64, 64, 3)
    assert prepared.zone.shape == (4, 4)
    assert 0 <= prepared.zone.min() <= prepared.zone.max() <= 1


def test_wrong_frames_and_zones_are_refused() -> None:
    with pytest.raises(DataError, match="expected uint8"):
        preprocess(picture().astype(np.float32), SPEC)
    with pytest.raises(DataError, match="covers nothing"):
        preprocess(picture(), SPEC, [[200, 200], [300, 200], [300, 300]])
    with pytest.raises(ConfigError, match="not a multiple"):
        validate(PreprocessSpec, {"size": 100, "patch_size": 16})


def test_preprocess_and_decode_import_no_torch() -> None:
    code = "import sys, surg.data.preprocess, surg.data.video, surg.data.clips, surg.data.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_augmentation_is_the_same_for_all_frames_of_a_clip() -> None:
    still = np.repeat(picture(frames=1), 8, axis=0)
    config = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.4)
    for seed in range(20):
        out = augment(still, SPEC, config, np.random.default_rng(seed)).frames
        assert (out == out[:1]).all()


def test_augmentation_keeps_the_direction_of_motion_up_to_one_flip() -> None:
    moving = np.zeros((8, 100, 200, 3), np.uint8)
    for t in range(8):
        moving[t, :, 40 + 15 * t : 60 + 15 * t] = 255
    config = AugmentConfig(scale=(0.9, 1.0), ratio=(1.0, 2.0))
    directions = set()
    for seed in range(20):
        out = augment(moving, SPEC, config, np.random.default_rng(seed)).frames[..., 0].astype(float)
        centres = (out.mean(1) * np.arange(64)).sum(1) / out.mean(1).sum(1)
        steps = np.sign(np.round(np.diff(centres[1:-1]), 3))
        assert len(set(steps)) == 1
        directions.add(steps[0])
    assert directions == {1.0, -1.0}


def drawn(
    seed: int = 0, zone: list[list[float]] | None = None, **changes: object
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    base = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "zone_jitter": 0.0, "flip": 0.0}
    prepared = augment(picture(160, 160), SPEC, AugmentConfig(**{**base, **changes}), np.random.default_rng(seed), zone)
    return prepared.frames, prepared.zone, prepared.box


def test_every_setting_of_augment_has_its_effect() -> None:
    plain, _, whole = drawn()
    assert whole == (0, 0, 160, 160)
    assert np.array_equal(plain, preprocess(picture(160, 160), SPEC).frames)
    _, _, box = drawn(scale=(0.3, 0.3))
    assert (box[2] - box[0]) * (box[3] - box[1]) == pytest.approx(0.3 * 160 * 160, rel=0.02)
    _, _, box = drawn(scale=(0.3, 0.3), ratio=(1.35, 1.35))
    assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(1.35, rel=0.02)
    assert np.array_equal(drawn(flip=1.0)[0], plain[:, :, ::-1])
    for name in ("brightness", "contrast", "saturation"):
        assert not np.array_equal(drawn(**{name: 0.5})[0], plain), name
    boxes = {drawn(seed, SQUARE, zone_jitter=0.3)[2] for seed in range(5)}
    assert len(boxes) == 5
    assert len({drawn(seed, SQUARE)[2] for seed in range(5)}) == 1


def test_a_flip_mirrors_the_zone_with_the_picture() -> None:
    left = [[0.0, 0.0], [0.6, 0.0], [0.3, 0.5], [0.0, 1.0]]
    _, plain, _ = drawn(zone=left)
    _, mirrored, _ = drawn(zone=left, flip=1.0)
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert not np.array_equal(mirrored, plain)
