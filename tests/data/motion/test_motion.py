"""The motion vector says how much, whereto, and what is left without the camera."""

import numpy as np
import pytest

from surg.config import load_config
from surg.data.motion import DIRECTIONS, FEATURES, MotionConfig, camera_path, clip_features
from surg.data.motion_camera import fit_camera
from surg.data.motion_flow import flow_backend, to_gray
from surg.errors import CheckpointError, ConfigError, DataError
from tests.data.motion.moving import look, pan, similarity, texture, with_patch

CONFIG = MotionConfig(size=160)
# Screen vectors of DIRECTIONS, y down.
VECTORS = {
    "right": (4, 0), "down_right": (3, 3), "down": (0, 4), "down_left": (-3, 3),
    "left": (-4, 0), "up_left": (-3, -3), "up": (0, -4), "up_right": (3, -3),
}  # fmt: skip


def named(vector: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, vector.tolist()))


def test_the_vector_has_the_23_numbers_in_their_order():
    assert len(FEATURES) == 23
    assert FEATURES[:3] == ("flow_mean", "flow_std", "flow_max")
    assert FEATURES[3:11] == tuple(f"flow_{name}" for name in DIRECTIONS)
    assert FEATURES[11:15] == ("camera_dx", "camera_dy", "foreground_mean", "foreground_max")
    assert FEATURES[15:] == tuple(f"foreground_{name}" for name in DIRECTIONS)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_known_translation_falls_into_the_bin_of_its_name(name):
    dx, dy = VECTORS[name]
    vector = named(clip_features(pan(dx, dy), CONFIG))
    assert vector[f"flow_{name}"] > 0.9
    assert vector["flow_mean"] == pytest.approx(np.hypot(dx, dy), abs=0.3)
    assert (vector["camera_dx"], vector["camera_dy"]) == pytest.approx((dx, dy), abs=0.2)
    assert vector["foreground_mean"] < 0.25


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_thing_that_moves_against_a_moving_camera_is_seen_in_its_own_direction(name):
    dx, dy = VECTORS[name]
    frames, _ = with_patch(pan(2, -1), dx + 2, dy - 1)
    vector = named(clip_features(frames, CONFIG))
    foreground = {direction: vector[f"foreground_{direction}"] for direction in DIRECTIONS}
    assert max(foreground, key=foreground.__getitem__) == name
    assert (vector["camera_dx"], vector["camera_dy"]) == pytest.approx((2, -1), abs=0.2)


@pytest.mark.parametrize(("zoom", "roll"), [(1.02, 0.0), (0.98, 0.0), (1.0, 0.02), (1.01, -0.02)])
def test_zoom_and_roll_are_camera_motion_and_not_foreground(zoom, roll):
    picture = texture(np.random.default_rng(3), 256, 304)
    step = similarity(1.5, -1.0, zoom, roll, centre=(104, 80))
    frames = [look(picture, similarity(0, 0), 160, 208), look(picture, step, 160, 208)]
    camera = camera_path(frames, CONFIG)[0]
    assert camera.shift == pytest.approx((1.5, -1.0), abs=0.2)
    assert camera.zoom == pytest.approx(zoom, abs=0.003)
    assert camera.roll == pytest.approx(roll, abs=0.003)
    vector = named(clip_features(frames, CONFIG))
    assert vector["foreground_mean"] < 0.5 * vector["flow_mean"]


def test_the_black_around_an_endoscope_does_not_hold_the_camera_back():
    frames = pan(3, 2)
    yy, xx = np.mgrid[:160, :208]
    outside = np.hypot(xx - 104, yy - 80) > 70
    for frame in frames:
        frame[outside] = 0
    for camera in camera_path(frames, CONFIG):
        assert camera.shift == pytest.approx((3, 2), abs=0.3)


def test_a_blank_picture_has_a_resting_camera_and_no_direction():
    vector = clip_features([np.full((160, 208, 3), 90, np.uint8)] * 3, CONFIG)
    assert np.all(vector == 0)


def test_one_bad_pair_does_not_decide_the_vector():
    still = pan(0, 0, count=12)
    cut = [*still[:6], *pan(0, 0, count=6, seed=9)]
    assert named(clip_features(cut, CONFIG))["flow_max"] < 0.5 * named(clip_features([still[0], cut[-1]], CONFIG))["flow_max"]


def test_weighting_quiets_the_noise_of_a_still_background():
    rng = np.random.default_rng(0)
    frames, _ = with_patch(pan(0, 0, count=4), 5, 0, side=32)
    noisy = [np.clip(frame + rng.normal(0, 6, frame.shape), 0, 255).astype(np.uint8) for frame in frames]
    weighted = named(clip_features(noisy, CONFIG))["flow_right"]
    plain = named(clip_features(noisy, CONFIG.model_copy(update={"weighted": False, "min_px": 0.0})))["flow_right"]
    assert weighted > 2 * plain


@pytest.mark.parametrize(
    "change", [{"size": 96}, {"weighted": False}, {"min_px": 4.0}, {"flow": "dis-fine"}, {"camera_threshold_px": 0.05}]
)  # fmt: skip
def test_every_setting_changes_the_vector(change):
    frames, _ = with_patch(pan(2.3, 1), 5, 3)
    base = clip_features(frames, CONFIG)
    assert not np.allclose(base, clip_features(frames, CONFIG.model_copy(update=change)), atol=1e-4)


@pytest.mark.parametrize("name", ["dis", "dis-fine"])
def test_dis_flow_is_within_half_a_pixel_of_a_known_warp(name):
    picture = texture(np.random.default_rng(5), 320, 420)
    step = similarity(2.5, -1.5, 1.01, 0.01, centre=(160, 112))
    first, second = look(picture, similarity(0, 0), 224, 320), look(picture, step, 224, 320)
    yy, xx = np.mgrid[:224, :320]
    truth = np.stack(
        [step[0, 0] * xx + step[0, 1] * yy + step[0, 2] - xx, step[1, 0] * xx + step[1, 1] * yy + step[1, 2] - yy], -1
    )
    error = np.linalg.norm(flow_backend(name)(first, second) - truth, axis=-1)[12:-12, 12:-12]
    assert error.mean() < 0.5


def test_a_camera_cannot_be_fitted_to_what_is_excluded():
    frames, masks = with_patch(pan(0, 0, count=2, height=240, width=320), 6, 0, side=200)
    flow = flow_backend("dis")(frames[0], frames[1])
    gray = to_gray(frames[0])
    assert fit_camera(flow, gray).shift[0] == pytest.approx(6, abs=0.5)
    assert fit_camera(flow, gray, exclude=masks[0] | masks[1]).shift[0] == pytest.approx(0, abs=0.5)


def test_raft_runs_from_a_weights_file_and_loads_it_whole(tmp_path):
    import torch
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    weights = tmp_path / "raft.pth"
    state = raft_small(weights=None).state_dict()
    torch.save(state, weights)
    frames = pan(2, 0, count=3, height=100, width=133)
    raft = flow_backend("raft-small", weights)
    assert raft(frames[0], frames[1]).shape == (100, 133, 2)
    config = MotionConfig(size=100, flow="raft-small", weights=weights)
    assert not np.allclose(clip_features(frames, config), clip_features(frames, MotionConfig(size=100)))
    state.popitem()
    torch.save(state, weights)
    with pytest.raises(CheckpointError, match="raft-small"):
        flow_backend("raft-small", weights)


def test_what_cannot_work_is_said():
    with pytest.raises(ConfigError, match="weights"):
        load_config(MotionConfig, overrides=["flow=raft-large"])
    with pytest.raises(ConfigError, match="dis, which needs none"):
        flow_backend("raft-large")
    with pytest.raises(DataError, match="too small"):
        flow_backend("dis")(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))
