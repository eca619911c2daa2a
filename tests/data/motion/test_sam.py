"""SAM 3 and SAM 2 with tiny random weights, through transformers' real processors and post-processing."""

import json

import numpy as np
import pytest

from surg.data.segment.motion import MotionSegmenter, MotionSegmenterConfig
from surg.data.segment.sam2 import Sam2Config, Sam2Segmenter
from surg.data.segment.sam3 import PROMPTS, Sam3Config, Sam3Segmenter
from surg.errors import CheckpointError
from tests.data.motion.moving import pan, with_patch
from tests.data.motion.scenes import moves, scene
from tests.data.motion.tiny_sam import save_edgetam, save_sam2, save_sam3

FRAMES = np.stack(with_patch(pan(0, 0, count=4, height=90, width=120), 4, 0, side=30)[0])
TIMES = np.arange(4) / 8.0

pytestmark = pytest.mark.filterwarnings("ignore")


def test_sam3_names_what_it_was_asked_for_and_obeys_its_score(tmp_path):
    save_sam3(tmp_path)
    asked = ("gloved hand", "scalpel")
    segmenter = Sam3Segmenter(Sam3Config(weights=tmp_path, prompts=asked, min_score=0.0))
    found = segmenter(FRAMES[:2], TIMES[:2])
    assert found.linked
    assert found.ids.shape == (2, 90, 120)
    assert found.names
    assert set(found.names.values()) <= set(asked)
    assert set(np.unique(found.ids)) <= {0, *found.names}
    segmenter.config = Sam3Config(weights=tmp_path, prompts=asked, min_score=1.0)
    assert not segmenter(FRAMES[:1], TIMES[:1]).ids.any()


def test_every_domain_has_its_own_prompts():
    assert Sam3Config(domain="room").asked == PROMPTS["room"]
    assert Sam3Config(domain="endoscopic").asked != Sam3Config(domain="room").asked
    assert Sam3Config(prompts=("robotic arm",)).asked == ("robotic arm",)


@pytest.mark.parametrize(("save", "kind"), [(save_sam2, "Sam2VideoModel"), (save_edgetam, "EdgeTamVideoModel")])
def test_sam2_and_edgetam_follow_what_the_rough_segmenter_points_at(tmp_path, save, kind):
    save(tmp_path)
    rough = MotionSegmenter(MotionSegmenterConfig(scene="room"))
    segmenter = Sam2Segmenter(Sam2Config(weights=tmp_path), rough)
    assert type(segmenter.model).__name__ == kind
    found = segmenter(FRAMES, TIMES)
    assert found.linked
    assert found.ids.shape == (4, 90, 120)
    assert found.names == {1: "person"}
    segmenter.config = Sam2Config(weights=tmp_path, min_frames=99)
    assert not segmenter(FRAMES, TIMES).ids.any()


def test_sam2_follows_no_more_things_than_asked_for(tmp_path):
    save_sam2(tmp_path)
    two = scene({1: moves(20, 30, 3, 0), 2: moves(90, 60, 3, 0)}, frames=4, shape=(90, 120))
    segmenter = Sam2Segmenter(Sam2Config(weights=tmp_path), lambda frames, times_s: two)
    assert len(segmenter(FRAMES, TIMES).names) == 2
    segmenter.config = Sam2Config(weights=tmp_path, max_objects=1)
    assert len(segmenter(FRAMES, TIMES).names) == 1


def test_models_go_to_the_device_they_are_told(tmp_path):
    save_sam2(tmp_path / "sam2")
    save_sam3(tmp_path / "sam3")
    rough = MotionSegmenter(MotionSegmenterConfig())
    assert Sam2Segmenter(Sam2Config(weights=tmp_path / "sam2", device="meta"), rough).model.device.type == "meta"
    assert Sam3Segmenter(Sam3Config(weights=tmp_path / "sam3", device="meta")).model.device.type == "meta"


def test_weights_of_another_model_are_refused(tmp_path):
    save_sam2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["mask_decoder_config"]["mlp_dim"] = 96
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="Sam2VideoModel"):
        Sam2Segmenter(Sam2Config(weights=tmp_path), MotionSegmenter(MotionSegmenterConfig()))
