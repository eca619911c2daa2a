"""Tags keep to the schema; measured ones follow the picture; a failed answer is a failure."""

import json

import cv2
import numpy as np
import pytest

from surg.data.manifest import Clip
from surg.data.tags.build import mask_recall
from surg.data.tags.measured import MeasuredConfig, measure
from surg.data.tags.schema import FIELDS, Tag, Tags, check_answer, json_schema, matches
from surg.errors import DataError
from tests.data.motion.moving import pan
from tests.data.motion.test_segment import tissue

CONFIG = MeasuredConfig()
GOOD = {"view": {"value": "Endoscopic", "confidence": 0.9}, "instruments": {"value": ["grasper", "hook"], "confidence": 0.7}}


def test_a_good_answer_becomes_tags_and_what_it_leaves_out_is_unknown():
    tags = check_answer("Here it is:\n```json\n" + json.dumps(GOOD) + "\n```", "model")
    assert tags["view"] == Tag(("endoscopic",), 0.9)
    assert tags["instruments"].values == ("grasper", "hook")
    assert tags["blood"] == Tag(("unknown",), 0.0)
    assert Tags.from_row(tags.to_row())["instruments"] == tags["instruments"]
    assert set(json_schema()["properties"]) == set(FIELDS)


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot help with that.", "{", "{}", '{"view": "endoscopic"}', '{"colour": {"value": "red", "confidence": 1}}',
        '{"view": {"value": "submarine", "confidence": 1}}', '{"view": {"value": "room", "confidence": 7}}',
        '{"view": {"value": ["room", "open"], "confidence": 1}}', '{"phase": {"value": "", "confidence": 1}}',
        '{"view": {"value": "room", "confidence": true}}',
    ],
)  # fmt: skip
def test_a_failed_answer_is_a_failure_and_not_a_tag(answer):
    with pytest.raises(DataError):
        check_answer(answer, "model")


def test_unknown_never_matches():
    unknown = Tag(("unknown",), 0.0)
    assert not matches(unknown, unknown)
    assert matches(Tag(("hook", "grasper"), 1), Tag(("grasper",), 1))
    assert not matches(Tag(("hook",), 1), unknown)


def test_camera_motion_is_graded():
    for step, name in ((0.0, "still"), (1.5, "slow"), (8.0, "fast")):
        frames = np.stack(pan(step, 0, count=5, height=224, width=280))
        assert measure(frames, CONFIG)["camera_motion"].value == name


def test_lighting_and_quality_follow_the_picture():
    frames = np.stack(pan(2, 0, count=5, height=224, width=280))
    assert measure(frames, CONFIG)["lighting"].value == "normal"
    assert measure(frames // 6, CONFIG)["lighting"].value == "dark"
    assert measure(200 + frames // 5, CONFIG)["lighting"].value == "bright"
    sharp = np.stack([cv2.addWeighted(frame, 2.0, cv2.GaussianBlur(frame, (0, 0), 2), -1.0, 0) for frame in frames])
    assert measure(sharp, CONFIG)["quality"].value == "good"
    assert measure(np.stack([cv2.GaussianBlur(frame, (0, 0), 5) for frame in frames]), CONFIG)["quality"].value == "blurred"
    noise = np.random.default_rng(0).normal(0, 20, frames.shape)
    assert measure(np.clip(frames + noise, 0, 255).astype(np.uint8), CONFIG)["quality"].value == "noisy"


def test_smoke_over_tissue_is_seen():
    frames, _ = tissue()
    clear = measure(frames, CONFIG)["smoke"].value
    fogged = (0.35 * frames + 0.65 * 190).astype(np.uint8)
    red = np.stack([fogged[..., 0], fogged[..., 1] * 0.83, fogged[..., 2] * 0.83], axis=-1).astype(np.uint8)
    assert measure(red, CONFIG)["smoke"].value == "much"
    assert clear != "much"


def test_a_fixed_overlay_on_a_moving_picture_is_seen():
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in pan(3, 1, count=8, height=224, width=280)])
    assert measure(frames, CONFIG)["overlay"].value == "no"
    for frame in frames:
        cv2.putText(frame, "SPO2 98  12:30:11", (10, 200), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    assert measure(frames, CONFIG)["overlay"].value == "yes"


def test_inside_a_body_is_red_and_outside_is_not():
    frames, _ = tissue()
    assert measure(frames, CONFIG)["out_of_body"].value == "no"
    assert measure(frames, CONFIG)["view"].value == "endoscopic"
    green = frames[..., ::-1].copy()
    green[..., 1] = 150
    assert measure(green, CONFIG)["out_of_body"].value == "yes"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"slow_px": 5.0}, "camera_motion"), ({"fast_px": 1.0}, "camera_motion"), ({"dark": 200.0}, "lighting"),
        ({"bright": 60.0}, "lighting"), ({"sharp": 1e6}, "quality"), ({"noise": 0.01}, "quality"),
    ],
)  # fmt: skip
def test_every_setting_changes_a_tag(change, field):
    frames = np.stack(pan(2, 0, count=5, height=224, width=280))
    assert measure(frames, CONFIG)[field] != measure(frames, MeasuredConfig(**change))[field]


def test_the_smoke_setting_changes_the_tag():
    frames, _ = tissue()
    assert measure(frames, CONFIG)["smoke"] != measure(frames, MeasuredConfig(smoke_contrast=0.05))["smoke"]


def test_recall_counts_what_masks_show_and_tags_say(tmp_path):
    np.savez(tmp_path / "m.npz", ids=np.ones((4, 20, 20), np.uint8), instances=np.array([1]), roles=np.array(["Grasper"]))
    clip = Clip("x.mp4", 0.0, 1.0, "case", masks=str(tmp_path / "m.npz"))
    says = Tags({"instruments": Tag(("grasper",), 0.9)}, "model")
    report = mask_recall([(clip, says), (clip, Tags()), (Clip("y.mp4", 0.0, 1.0, "case"), says)])
    assert report["Grasper"] == {"clips": 2.0, "recall": 0.5}
    assert report[""]["recall"] == 0.5
