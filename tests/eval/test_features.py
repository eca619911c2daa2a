"""Features: what is shown to the model, and that a broken run loses nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surg.cli.embed import embed
from surg.config import load_config
from surg.data.feature_table import VideoNames, clip_key, read_features
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.preprocess import PreprocessSpec
from surg.errors import ConfigError, DataError, ServerError
from surg.eval.backends import Backend
from surg.eval.features import FeatureConfig, embed_manifest, pool_tokens, show, square_views, window_ends
from surg.eval.probe_action import ProbeActionConfig, by_clip
from surg.eval.sterility import SterilityConfig, takes_by_split
from surg.eval.torch_transport import TorchTransport
from surg.serving.client import Client
from surg.serving.transport import Answer, Request, TransportError


class Dying(TorchTransport):
    """A server that answers so many times and is gone."""

    def __init__(self, checkpoint: Path, answers: int) -> None:
        super().__init__(checkpoint)
        self.left = answers

    def infer(self, request: Request) -> Answer:
        self.left -= 1
        if self.left < 0:
            raise TransportError("unreachable", "connection refused")
        return super().infer(request)


def test_a_server_that_dies_leaves_what_is_done_and_the_next_run_goes_on(
    checkpoint: Path, motion_manifest: Path, tmp_path: Path, torch_backend: Backend
) -> None:
    manifest, config = Manifest.read(motion_manifest), FeatureConfig()
    whole = embed_manifest(torch_backend, manifest, tmp_path / "whole.parquet", config)
    out = tmp_path / "broken.parquet"
    with (
        Client(Dying(checkpoint, 20), max_in_flight=1, patience_s=0) as client,
        pytest.raises(ServerError, match="run the same command again"),
    ):
        embed_manifest(Backend("torch", client), manifest, out, config)
    assert not out.exists()
    counted = Dying(checkpoint, 10_000)
    with Client(counted, max_in_flight=1) as client:
        resumed = embed_manifest(Backend("torch", client), manifest, out, config)
    assert 10_000 - counted.left < len(whole)  # the first clips were not asked for again
    assert np.array_equal(resumed.values, whole.values)
    assert resumed.clips.tolist() == whole.clips.tolist()


def test_another_checkpoint_does_not_resume_the_old_features(
    motion_manifest: Path, tmp_path: Path, torch_backend: Backend
) -> None:
    import small

    from surg.eval.backends import open_backend

    manifest = Manifest.read(motion_manifest).select("val")
    first = embed_manifest(torch_backend, manifest, tmp_path / "f.parquet", FeatureConfig())
    with open_backend("torch", checkpoint=small.checkpoint(tmp_path / "other.safetensors", seed=9)) as other:
        second = embed_manifest(other, manifest, tmp_path / "f.parquet", FeatureConfig())
    assert not np.allclose(first.values, second.values)
    assert read_features(tmp_path / "f.parquet").meta["checkpoint_sha256"] == second.meta["checkpoint_sha256"]


@pytest.mark.parametrize(
    "change",
    [
        {"level": "tokens"},
        {"level": "levels"},
        {"segments": 2},
        {"views": 2},
        {"variant": "reversed"},
        {"variant": "single"},
        {"variant": "shuffled"},
        {"level": "tokens", "pool": 2},
        {"stride_s": 0.1},
    ],
)
def test_every_setting_changes_the_features(
    change: dict[str, Any], motion_manifest: Path, tmp_path: Path, torch_backend: Backend
) -> None:
    manifest = Manifest.read(motion_manifest).select("val", where=lambda clip: clip.case == "case2")
    plain = embed_manifest(torch_backend, manifest, tmp_path / "plain.parquet", FeatureConfig())
    changed = embed_manifest(torch_backend, manifest, tmp_path / "changed.parquet", FeatureConfig(**change))
    assert changed.values.shape != plain.values.shape or not np.allclose(changed.values, plain.values)


def test_what_a_manifest_cuts_off_no_evaluation_sees(tmp_path: Path, torch_backend: Backend) -> None:
    """A strip that names the tools would answer for the model."""
    from surg.data.factor_disk import write_lossless
    from surg.eval.parity import _prepare
    from surg.eval.takes import TakeTruth, windows_of

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (16, 48, 64, 3), np.uint8)
    write_lossless(tmp_path / "cut.mkv", frames[:, :36], 8.0)
    write_lossless(tmp_path / "whole.mkv", frames, 8.0)
    whole = Clip(str(tmp_path / "whole.mkv"), 0.0, 1.875, "a", "val", meta={"crop": "0,0,1,0.75"})
    cut = Clip(str(tmp_path / "cut.mkv"), 0.0, 1.875, "b", "val")
    manifest = write_manifest(tmp_path / "m.parquet", [whole, cut])
    values = embed_manifest(torch_backend, manifest, tmp_path / "f.parquet", FeatureConfig()).values
    assert np.array_equal(values[0], values[1])
    one, other = (_prepare(clip, torch_backend.spec).frames for clip in (whole, cut))
    assert np.array_equal(one, other)
    takes = (TakeTruth("", clip.video, clip.case, "val", None, 0.0, 1.875, (), (clip,)) for clip in (whole, cut))
    seen, known = ([prepared.frames for _, prepared in windows_of(take, torch_backend.spec, 0.25)] for take in takes)
    assert np.array_equal(seen, known)


def recorders(folder: Path) -> Manifest:
    """One case, two days, two cameras, and every file is called 00000."""
    from surg.data.factor_disk import write_lossless

    rng, clips = np.random.default_rng(0), []
    for number, place in enumerate(("mon/left", "mon/right", "tue/left")):
        path = folder / place / "00000.mkv"
        path.parent.mkdir(parents=True)
        write_lossless(path, rng.integers(0, 255, (16, 32, 32, 3), np.uint8), 8.0)
        labels = {"action": "ab"[number % 2], "breach": 0}
        clips.append(Clip(str(path), 0.0, 1.875, "p1", "test", labels=labels, meta={"place": place}))
    return write_manifest(folder / "m.parquet", clips)


def test_videos_of_one_case_and_one_name_stay_several(tmp_path: Path, torch_backend: Backend) -> None:
    manifest = recorders(tmp_path / "a")
    features = embed_manifest(torch_backend, manifest, tmp_path / "f.parquet", FeatureConfig(segments=2))
    assert len(set(features.clips.tolist())) == len(set(features.videos.tolist())) == 3
    probed = by_clip(features)
    assert sorted(row["action"] for row in probed.labels) == ["a", "a", "b"]
    # Of which video a row is can be told again where the set lies elsewhere.
    (tmp_path / "a").rename(tmp_path / "b")
    moved = VideoNames.of(Manifest.read(tmp_path / "b/m.parquet").clips())
    assert [clip_key(clip, moved) for clip in Manifest.read(tmp_path / "b/m.parquet").clips()] == list(features.clips[::2])
    takes = takes_by_split([Manifest.read(tmp_path / "b/m.parquet")], SterilityConfig())
    assert len({take.key for take in takes["test"]}) == 3


def test_a_clip_under_two_labels_stays_two_rows(tmp_path: Path, torch_backend: Backend) -> None:
    """Two tools over one whole part: the second was lost, or its label was."""
    first, *_ = recorders(tmp_path / "a").clips()
    both = [first, replace(first, labels={"action": "b", "breach": 0})]
    manifest = write_manifest(tmp_path / "both.parquet", both)
    features = embed_manifest(torch_backend, manifest, tmp_path / "f.parquet", FeatureConfig(segments=2))
    assert [row["action"] for row in by_clip(features).labels] == ["a", "b"]
    # The first row has the name that it has alone.
    alone = write_manifest(tmp_path / "alone.parquet", [first])
    assert clip_key(first, VideoNames.of(alone.clips())) == features.clips[0]
    # A run that is taken up again finds both.
    again = embed_manifest(torch_backend, manifest, tmp_path / "f.parquet", FeatureConfig(segments=2))
    assert again.clips.tolist() == features.clips.tolist()


def test_windows_lie_inside_the_clip() -> None:
    clip, spec = Clip("v.mp4", 10.0, 20.0, "c"), PreprocessSpec(num_frames=16, fps=4.0)
    assert window_ends(clip, spec, FeatureConfig()) == [(13.75 + 20) / 2]
    assert window_ends(clip, spec, FeatureConfig(segments=2)) == [13.75, 20.0]
    assert window_ends(Clip("v.mp4", 0, 1.0, "c"), spec, FeatureConfig()) == [1.0]


def test_pooling_is_the_mean_of_squares_also_at_an_odd_rim() -> None:
    tokens = np.arange(2 * 9, dtype=np.float32).reshape(18, 1)
    pooled = pool_tokens(tokens, 3, 2).reshape(2, 2, 2)
    assert pooled[0].tolist() == [[2.0, 3.5], [6.5, 8.0]]


def test_views_are_squares_at_both_ends_and_between() -> None:
    frames = np.zeros((2, 10, 30, 3), np.uint8)
    frames[:, :, 25:] = 200
    views = square_views(frames, 3)
    assert [view.shape for view in views] == [(2, 10, 10, 3)] * 3
    assert [bool(view.any()) for view in views] == [False, False, True]


def test_a_single_frame_shows_no_motion_and_a_shuffle_keeps_the_frames() -> None:
    frames = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    rng = np.random.default_rng(0)
    assert set(show(frames, "single", rng).ravel().tolist()) == {7}
    shuffled = show(frames, "shuffled", rng).ravel().tolist()
    assert sorted(shuffled) == list(range(8))
    assert shuffled != list(range(8))


def test_too_many_unreadable_clips_end_the_run(motion_manifest: Path, tmp_path: Path, torch_backend: Backend) -> None:

    good = next(Manifest.read(motion_manifest).clips())
    bad = tmp_path / "broken.mp4"
    bad.write_bytes(b"no video")
    manifest = write_manifest(tmp_path / "m.parquet", [good, Clip(str(bad), 0, 1, "c", "val")])
    with pytest.raises(DataError, match="1 of 2 clips could not be read"):
        embed_manifest(torch_backend, manifest, tmp_path / "f.parquet", FeatureConfig())
    kept = embed_manifest(torch_backend, manifest, tmp_path / "f.parquet", FeatureConfig(failed_share=0.5))
    assert len(kept) == 1


def test_options_that_would_do_nothing_are_refused(motion_manifest: Path, tmp_path: Path) -> None:
    for asked, message in (
        ({"pool": 2}, "--pool 2 averages tokens"),
        ({"segments": 2, "stride_s": 0.5}, "cannot also be 2 segments"),
    ):
        with pytest.raises(ConfigError, match=message):
            embed(motion_manifest, tmp_path / "t.parquet", **asked)


def test_making_the_probes_features_smaller_keeps_them_tokens() -> None:
    assert load_config(ProbeActionConfig, overrides=["features.pool=4"]).features == FeatureConfig(level="tokens", pool=4)
