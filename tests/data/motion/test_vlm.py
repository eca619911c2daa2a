"""Tags from a vision-language model: a tiny one through its real processor, chat template, generation and the check of its answer."""

import json

import numpy as np
import pytest

from surg.config import load_config
from surg.data.manifest import Clip, write_manifest
from surg.data.tags.build import TagConfig, tag_clip
from surg.data.tags.schema import Tag
from surg.data.tags.vlm import VlmConfig, VlmTagger
from surg.data.video import write_video
from surg.errors import CheckpointError, ConfigError, DataError
from tests.data.motion.moving import pan
from tests.data.motion.tiny_vlm import save_vlm

FRAMES = np.stack(pan(2, 0, count=6, height=64, width=80))
GOOD = {
    "view": {"value": "endoscopic", "confidence": 0.91},
    "instruments": {"value": ["grasper", "hook"], "confidence": 0.72},
    "smoke": {"value": "little", "confidence": 0.6},
}
HALF = GOOD | {"lighting": {"value": "purple", "confidence": 0.8}}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folders = {}
    for name, answer in (
        ("good", json.dumps(GOOD)),
        ("half", json.dumps(HALF)),
        ("prose", "I see a kitchen."),
        ("random", None),
    ):
        folders[name] = tmp_path_factory.mktemp("vlm") / f"tiny-{name}"
        save_vlm(folders[name], answer)
    return folders


def test_a_valid_answer_of_the_model_becomes_tags(weights):
    tags = VlmTagger(VlmConfig(weights=weights["good"]))(FRAMES)
    assert tags["view"] == Tag(("endoscopic",), 0.91)
    assert tags["instruments"] == Tag(("grasper", "hook"), 0.72)
    assert tags["smoke"] == Tag(("little",), 0.6)
    assert tags["blood"] == Tag(("unknown",), 0.0)
    assert tags.by == "vlm tiny-good"


@pytest.mark.parametrize(
    ("name", "said"), [("prose", "I see a kitchen"), ("random", "JSON"), ("half", "`lighting` cannot be 'purple'")]
)
def test_an_answer_that_is_wrong_or_half_wrong_gives_no_tags(weights, name, said):
    with pytest.raises(DataError, match=said):
        VlmTagger(VlmConfig(weights=weights[name], max_tokens=400 if name == "half" else 64))(FRAMES)


def test_an_answer_cut_off_by_max_tokens_is_a_failure(weights):
    with pytest.raises(DataError, match="JSON"):
        VlmTagger(VlmConfig(weights=weights["good"], max_tokens=16))(FRAMES)


def test_frames_and_size_change_what_the_model_is_shown(weights):
    base = VlmTagger(VlmConfig(weights=weights["good"]))
    shown = base.inputs(FRAMES)
    assert shown["pixel_values"].shape == (4, 3, 28, 28)
    few = VlmTagger(VlmConfig(weights=weights["good"], frames=2)).inputs(FRAMES)
    assert few["pixel_values"].shape[0] == 2
    assert few["input_ids"].shape[1] == shown["input_ids"].shape[1] - 2 * 4  # four tokens a picture
    coarse = VlmTagger(VlmConfig(weights=weights["good"], size=32)).inputs(FRAMES)
    assert not np.allclose(coarse["pixel_values"], shown["pixel_values"])
    assert VlmTagger(VlmConfig(weights=weights["good"], device="meta")).model.device.type == "meta"


def test_other_pictures_give_the_model_other_inputs(weights):
    tagger = VlmTagger(VlmConfig(weights=weights["good"]))
    assert not np.allclose(tagger.inputs(FRAMES)["pixel_values"], tagger.inputs(FRAMES[::-1])["pixel_values"])


def test_the_command_tags_by_a_model_and_a_failed_answer_is_no_row(weights, tmp_path):
    from typer.testing import CliRunner

    from surg.cli.main import app

    write_video(tmp_path / "clip.mp4", FRAMES, 8.0)
    manifest = write_manifest(tmp_path / "m.parquet", [Clip(str(tmp_path / "clip.mp4"), 0.0, 5 / 8, "case")]).path
    words = ["data", "tag", str(manifest), "--backend", "vlm", "--workers", "1", "--json", "--out"]
    done = CliRunner().invoke(
        app, [*words, str(tmp_path / "a.parquet"), "--weights", str(weights["good"])], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"]["instruments"] == {"grasper": 1, "hook": 1}
    with pytest.raises(DataError, match=r"All 1 items failed.*purple"):
        CliRunner().invoke(
            app, [*words, str(tmp_path / "b.parquet"), "--weights", str(weights["half"])], catch_exceptions=False
        )


def test_fps_and_frames_of_a_run_change_which_moments_the_model_sees(weights, tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4", FRAMES, 8.0)
    clip = Clip(str(tmp_path / "clip.mp4"), 0.0, 5 / 8, "case")
    seen: list[int] = []
    ask = VlmTagger.inputs
    monkeypatch.setattr(VlmTagger, "inputs", lambda self, frames: seen.append(len(frames)) or ask(self, frames))
    for change in ({}, {"fps": 4.0}, {"frames": 2}):
        tag_clip(clip, load_config(TagConfig, {"backend": "vlm", "vlm": {"weights": str(weights["good"])}} | change))
    assert seen == [6, 3, 2]


def test_a_model_without_weights_or_template_is_said(weights, tmp_path):
    with pytest.raises(ConfigError, match="--backend measured"):
        VlmTagger(VlmConfig())
    with pytest.raises(CheckpointError, match=r"config\.json"):
        VlmTagger(VlmConfig(weights=tmp_path))
    save_vlm(tmp_path / "dumb", None, template=False)
    with pytest.raises(DataError, match="chat template"):
        VlmTagger(VlmConfig(weights=tmp_path / "dumb")).inputs(FRAMES)
