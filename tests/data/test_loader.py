"""The training loader: what comes follows from seed and position alone."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from surg.data.augment import AugmentConfig
from surg.data.clips import ClipConfig, frame_times
from surg.data.loader import Batch, ClipLoader, LoaderConfig, centre_window, last_window
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.preprocess import PreprocessSpec
from surg.errors import DataError
from tests.data import painted

CLIP = ClipConfig(num_frames=4, fps=5.0, size=32)
SPEC = PreprocessSpec(num_frames=4, fps=5.0, size=32, fit="stretch")
ZONE = [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("loader")
    painted.write(folder / "a.mp4", 100, 25, options={"preset": "veryfast"})
    clips = [
        Clip(
            str(folder / "a.mp4"),
            0.2 * n,
            0.2 * n + 2.0,
            f"case{n % 3}",
            "train" if n < 8 else "val",
            labels={"n": n, "rare": int(n == 3)},
        )
        for n in range(10)
    ]
    return write_manifest(folder / "m.parquet", clips)


def loader(manifest: Manifest, **changes: object) -> ClipLoader:
    keywords = {name: changes.pop(name) for name in ("augment", "window", "rank", "world") if name in changes}
    config = LoaderConfig(**{"batch_size": 3, "workers": 0, **changes})
    return ClipLoader(manifest, CLIP, SPEC, config, **keywords)


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a.frames, b.frames) and torch.equal(a.end_s, b.end_s) and a.clips == b.clips for a, b in pairs)


def test_batches_have_the_promised_shapes(manifest: Manifest) -> None:
    batch = next(loader(manifest).train())
    assert (batch.frames.shape, batch.frames.dtype) == ((3, 4, 32, 32, 3), torch.uint8)
    assert (batch.zone.shape, batch.zone.dtype) == ((3, 2, 2), torch.float32)
    assert batch.zone.min() == 1
    assert [set(clip.labels) for clip in batch.clips] == [{"n", "rare"}] * 3


def test_resume_at_a_step_gives_the_batches_of_an_unbroken_run(manifest: Manifest) -> None:
    whole = list(loader(manifest, augment=AugmentConfig(brightness=0.3)).train(steps=9))
    assert same(whole[5:], list(loader(manifest, augment=AugmentConfig(brightness=0.3)).train(start_step=5, steps=4)))


def test_the_number_of_workers_changes_nothing(manifest: Manifest) -> None:
    here = list(loader(manifest, augment=AugmentConfig()).train(steps=4))
    assert same(here, list(loader(manifest, workers=2, prefetch=2, augment=AugmentConfig()).train(steps=4)))


def test_seed_decides_the_order_and_the_windows(manifest: Manifest) -> None:
    one, other = list(loader(manifest).train(steps=3)), list(loader(manifest, seed=1).train(steps=3))
    assert not same(one, other)
    assert same(one, list(loader(manifest).train(steps=3)))


def test_an_epoch_takes_every_clip_once_and_the_next_another_order(manifest: Manifest) -> None:
    split = manifest.select("train")
    batches = list(loader(split, batch_size=2).train(steps=8))
    order = [int(clip.labels["n"]) for batch in batches for clip in batch.clips]
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))
    assert order[:8] != order[8:]


def test_ranks_share_an_epoch_without_overlap(manifest: Manifest) -> None:
    seen = []
    for rank in range(2):
        part = loader(manifest.select("train"), batch_size=2, rank=rank, world=2)
        assert part.steps_per_epoch == 2
        seen += [int(clip.labels["n"]) for batch in part.train(steps=2) for clip in batch.clips]
    assert sorted(seen) == list(range(8))
    once = [clip.labels["n"] for rank in range(2) for b in loader(manifest, rank=rank, world=2).once() for clip in b.clips]
    assert sorted(once) == list(range(10))


def test_once_goes_through_all_in_order_with_a_short_last_batch(manifest: Manifest) -> None:
    batches = list(loader(manifest, window=centre_window).once())
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    assert [clip.labels["n"] for batch in batches for clip in batch.clips] == list(range(10))


def test_the_frames_seen_are_those_of_the_window(manifest: Manifest) -> None:
    batch = next(loader(manifest, window=last_window).once())
    for frames, end_s, clip in zip(batch.frames, batch.end_s.tolist(), batch.clips):
        assert end_s == clip.end_s
        assert painted.numbers_of(frames.numpy()) == [int(time * 25 + 1e-6) for time in frame_times(end_s, CLIP)]


def test_windows_stay_inside_their_clip(manifest: Manifest) -> None:
    for batch in loader(manifest).train(steps=20):
        for frames, end_s, clip in zip(batch.frames, batch.end_s.tolist(), batch.clips):
            assert clip.start_s + CLIP.span_s <= end_s <= clip.end_s
            assert painted.number_of(frames[0].numpy()) >= int(clip.start_s * 25)


def test_balance_draws_a_rare_class_as_often_as_the_others(manifest: Manifest) -> None:
    rare = [clip.labels["rare"] for batch in loader(manifest, balance="rare").train(steps=20) for clip in batch.clips]
    assert np.mean(rare) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(DataError, match="No clip has the label `colour`"):
        loader(manifest, balance="colour")


def test_unreadable_clips_are_listed_and_never_replaced(manifest: Manifest, tmp_path: Path) -> None:
    good = next(manifest.clips())
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 100)
    mixed = write_manifest(tmp_path / "m.parquet", [good, Clip(str(tmp_path / "broken.mp4"), 0, 1, "c"), good])
    tolerant = loader(mixed, max_failed_share=0.9)
    batches = list(tolerant.once())
    assert [len(batch) for batch in batches] == [2]
    assert [clip.video for clip, _ in tolerant.failed] == [str(tmp_path / "broken.mp4")]
    with pytest.raises(DataError, match="1 of 3 clips could not be read"):
        list(loader(mixed, max_failed_share=0.0).once())


def test_an_empty_split_is_an_error_that_says_so(manifest: Manifest) -> None:
    with pytest.raises(DataError, match="no clips of the wanted split"):
        loader(manifest.select("test"))


def test_zones_are_cropped_and_carried_through(manifest: Manifest, tmp_path: Path) -> None:
    video = next(manifest.clips()).video
    zoned = write_manifest(tmp_path / "z.parquet", [Clip(video, 0, 2, "c", zone=ZONE)])
    plain = next(loader(zoned).once())
    assert 0 < plain.zone.mean() < 1
    jittered = [b.zone for b in loader(zoned, batch_size=1, augment=AugmentConfig(zone_jitter=0.3)).train(steps=4)]
    assert len({tuple(zone.flatten().tolist()) for zone in jittered}) > 1


def late(clip: Clip, config: ClipConfig, rng: np.random.Generator, by_s: float) -> float:
    return clip.end_s - by_s


def test_a_recipe_can_choose_its_own_windows(manifest: Manifest) -> None:
    batch = next(loader(manifest, window=partial(late, by_s=0.5)).once())
    assert batch.end_s.tolist() == pytest.approx([clip.end_s - 0.5 for clip in batch.clips])
