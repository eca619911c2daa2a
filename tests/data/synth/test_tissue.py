"""The tissue simulator: what moves, what does not, and that the truth fits the picture."""

import filecmp
from pathlib import Path

import numpy as np
import pytest

from surg.data.manifest import Clip, Manifest
from surg.data.synth.tissue import ACTIONS, FRAMES, generate
from surg.data.synth.tissue_scene import TissueCase, TissueClip
from surg.data.synth.tissue_script import ACTIONS as MOTIONS
from surg.data.synth.tissue_script import FACTORS, TRAVEL, write_script
from surg.data.video import read_frames
from surg.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tissue")
    generate(out, clips=24, seed=3, workers=1, size=64)
    return out


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Clip]:
    return list(Manifest.read(folder / "manifest.parquet"))


def test_every_full_case_shows_each_action_once(clips: list[Clip]) -> None:
    by_case: dict[str, list[str]] = {}
    for clip in clips:
        by_case.setdefault(clip.case, []).append(str(clip.labels["action"]))
    assert len(by_case) == 3
    for actions in by_case.values():
        assert sorted(actions) == sorted(ACTIONS)


def test_no_case_is_on_two_sides(clips: list[Clip]) -> None:
    sides = {case: {clip.split for clip in clips if clip.case == case} for case in {clip.case for clip in clips}}
    assert all(len(side) == 1 for side in sides.values())


def test_videos_hold_sixteen_frames_at_the_times_the_row_states(clips: list[Clip]) -> None:
    fps = float(clips[0].meta["fps"])
    frames = read_frames(clips[0].video, np.arange(FRAMES) / fps)
    assert frames.shape == (FRAMES, 64, 64, 3)
    assert clips[0].end_s == (FRAMES - 1) / fps
    assert (np.abs(np.diff(frames.astype(int), axis=0)).mean((1, 2, 3)) > 0.05).all(), "a frame stands for two moments"


def test_output_does_not_depend_on_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path, clips=24, seed=3, workers=2, size=64)
    assert Manifest.read(tmp_path / "manifest.parquet").fingerprint == Manifest.read(folder / "manifest.parquet").fingerprint
    for kind in ("videos", "truth"):
        names = sorted(path.name for path in (folder / kind).iterdir())
        same, different, missing = filecmp.cmpfiles(folder / kind, tmp_path / kind, names, shallow=False)
        assert (len(same), different, missing) == (24, [], [])


@pytest.mark.parametrize("change", [{"seed": 4}, {"family": "b"}])
def test_seed_and_family_change_the_pictures(change: dict[str, object], folder: Path, tmp_path: Path) -> None:
    generate(tmp_path, **{"clips": 1, "seed": 3, "family": "a", "workers": 1, "size": 64} | change)  # type: ignore[arg-type]
    (other,) = Manifest.read(tmp_path / "manifest.parquet")
    first = next(iter(Manifest.read(folder / "manifest.parquet")))
    difference = read_frames(other.video, [0.0]).astype(int) - read_frames(first.video, [0.0]).astype(int)
    assert np.abs(difference).mean() > 5


def test_split_can_be_given_for_all(tmp_path: Path) -> None:
    generate(tmp_path, clips=9, seed=0, workers=1, size=64, split="test")
    assert Manifest.read(tmp_path / "manifest.parquet").counts("split") == {"test": 9}


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_moves_its_factor_one_way_and_leaves_the_others_about_where_they_are(action: str) -> None:
    moving, direction = MOTIONS[action]
    for seed in range(20):
        script = write_script(np.random.default_rng(seed), action, FRAMES)
        steps = np.diff(getattr(script, moving)) * direction
        assert (steps >= -1e-12).all()
        assert steps.sum() == pytest.approx(TRAVEL)
        for factor in set(FACTORS) - {moving}:
            assert np.ptp(getattr(script, factor)) <= 0.25


def test_still_factors_are_spread_like_moving_ones() -> None:
    """Else a single frame could tell which factor moves."""
    scripts = [write_script(np.random.default_rng(seed), ACTIONS[seed % len(ACTIONS)], FRAMES) for seed in range(8000)]
    for factor in FACTORS:
        moving = np.concatenate([getattr(s, factor) for s in scripts if MOTIONS[s.action][0] == factor])
        still = np.concatenate([getattr(s, factor) for s in scripts if MOTIONS[s.action][0] != factor])
        assert np.abs(np.quantile(moving, [0.1, 0.5, 0.9]) - np.quantile(still, [0.1, 0.5, 0.9])).max() < 0.06


def test_partners_are_each_other_played_backwards() -> None:
    for action, (factor, direction) in MOTIONS.items():
        partners = [name for name, motion in MOTIONS.items() if motion == (factor, -direction)]
        assert len(partners) == 1
        assert partners[0] != action


@pytest.mark.parametrize("family", ["a", "b"])
def test_true_tips_lie_on_their_tools(family: str) -> None:
    on_tool, seen = 0, 0
    for number, action in enumerate(ACTIONS):
        case = TissueCase(1, family, number, 96)
        script = write_script(np.random.default_rng(number), action, 4)
        for index, frame in enumerate(TissueClip(case, 1, number, script).render()):
            for tool, (x, y) in enumerate(frame.tips, start=1):
                # A tip is where closed jaws end; the ends of open ones are beside it.
                if 6 < x < 90 and 6 < y < 90 and (tool == 1 or script.jaw[index] < 0.3):
                    patch = frame.ids[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6]
                    seen += 1
                    on_tool += bool((patch == tool).any())
    assert seen > 30
    # A flap or the other tool may hide a tip.
    assert on_tool / seen > 0.8


def test_nuisances_do_not_look_at_the_action() -> None:
    case = TissueCase(5, "a", 0, 64)
    clips = [TissueClip(case, 5, 7, write_script(np.random.default_rng(1), action, 4)) for action in ("approach", "close")]
    assert np.array_equal(clips[0].cameras, clips[1].cameras)
    assert clips[0].worker == clips[1].worker
    assert (clips[0].smoke is None) == (clips[1].smoke is None)
    assert np.array_equal(clips[0].grain, clips[1].grain)


def test_truth_holds_masks_tips_camera_and_factors(clips: list[Clip]) -> None:
    with np.load(str(clips[0].masks)) as truth:
        assert truth["ids"].shape == (FRAMES, 64, 64)
        assert set(np.unique(truth["ids"])) <= {0, 1, 2}
        assert truth["tips"].shape == (FRAMES, 2, 2)
        assert truth["camera"].shape == (FRAMES, 2, 3)
        moving = max(FACTORS, key=lambda factor: np.ptp(truth[factor]))
    assert MOTIONS[str(clips[0].labels["action"])][0] == moving


@pytest.mark.parametrize(
    ("change", "message"),
    [({"family": "z"}, "one of a, b"), ({"size": 100}, "multiple of 16"), ({"clips": 0}, "1 or more")],
)
def test_impossible_requests_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(tmp_path, **{"clips": 1, "seed": 0, "family": "a", "size": 64} | change)  # type: ignore[arg-type]
