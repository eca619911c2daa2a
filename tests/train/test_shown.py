"""Which tokens show who acts and who is not sterile: the map follows crops, and the loss teaches it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from surg.data.manifest import Clip
from surg.errors import DataError
from surg.train.losses import acting, covered
from surg.train.shown import acting_of, unsterile_of

WHOLE = (0.0, 0.0, 1.0, 1.0)


def truth(path: Path, corner: tuple[int, int]) -> Clip:
    """Four frames of 112 px; in the last two a square of 28 px acts at `corner` (x, y)."""
    ids = np.zeros((4, 112, 112), np.uint8)
    ids[:, 84:, :28] = 1  # somebody else, bottom left
    ids[2:, corner[1] : corner[1] + 28, corner[0] : corner[0] + 28] = 2
    np.savez(path, ids=ids, mover=np.array(2))
    return Clip("clip.mp4", 10.0, 13.0, "case", masks=str(path))


def test_the_map_shows_the_one_that_acts_at_its_time(tmp_path: Path) -> None:
    found = acting_of(truth(tmp_path / "a.npz", (56, 28)))
    assert found is not None
    early, late = found.at([10.0, 13.0], WHOLE, (0, 0, 100, 100), 100, 4)
    assert early.max() == 0
    expected = np.zeros((4, 4))
    expected[1, 2] = 1
    np.testing.assert_allclose(late, expected, atol=0.02)


def test_the_map_follows_the_crop(tmp_path: Path) -> None:
    found = acting_of(truth(tmp_path / "a.npz", (56, 28)))
    assert found is not None
    # The right half of the stored square's upper half: the instrument fills its lower left quarter.
    (shown,) = found.at([13.0], WHOLE, (50, 0, 100, 50), 100, 2)
    np.testing.assert_allclose(shown, [[0, 0], [1, 0]], atol=0.02)
    # A stored square that is itself the right half of the picture (x from 0.5) shows it at the left edge.
    (stored,) = found.at([13.0], (0.5, 0.0, 1.0, 0.5), (0, 0, 100, 100), 100, 2)
    np.testing.assert_allclose(stored, [[0, 0], [1, 0]], atol=0.02)


def test_a_truth_without_a_mover_teaches_nothing_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "room.npz", boxes=np.zeros((2, 4)))
    assert acting_of(Clip("a.mp4", 0, 1, "c", masks=str(tmp_path / "room.npz"))) is None
    assert acting_of(Clip("a.mp4", 0, 1, "c")) is None
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match=r"bad\.npz cannot be read"):
        acting_of(Clip("a.mp4", 0, 1, "c", masks=str(tmp_path / "bad.npz")))


def test_the_unsterile_are_shown_and_nobody_else(tmp_path: Path) -> None:
    ids = np.zeros((2, 112, 112), np.uint8)
    ids[:, :56, :56], ids[:, :56, 56:], ids[1, 56:, 56:] = 3, 5, 7  # a surgeon, a circulator; a visitor comes in below
    np.savez(tmp_path / "room.npz", ids=ids, instances=np.uint8([3, 5, 7]), sterile=np.array([True, False, False]))
    found = unsterile_of(Clip("a.mp4", 0, 1, "c", masks=str(tmp_path / "room.npz")))
    assert found is not None
    first, last = found.at([0.0, 1.0], WHOLE, (0, 0, 100, 100), 100, 2)
    np.testing.assert_allclose(first, [[0, 1], [0, 0]], atol=0.03)
    np.testing.assert_allclose(last, [[0, 1], [0, 1]], atol=0.03)
    assert acting_of(Clip("a.mp4", 0, 1, "c", masks=str(tmp_path / "room.npz"))) is None


def test_what_is_covered_is_wanted_and_the_unknown_does_not_count() -> None:
    share = torch.tensor([[1.0, 0.0, torch.nan]])
    assert covered(torch.tensor([[20.0, -20.0, 20.0]]), share) < 1e-6
    assert covered(torch.tensor([[-20.0, 20.0, 20.0]]), share) > 10


def test_the_loss_wants_the_action_where_it_is_and_nothing_elsewhere() -> None:
    share = torch.tensor([[0.9, 0.0, torch.nan]])
    right = torch.full((1, 3, 4), -9.0)
    right[0, 0, 2], right[0, 1, 3] = 9.0, 9.0
    assert acting(right, share, torch.tensor([2])) < 1e-3
    wrong = right.clone()
    wrong[0, 0] = torch.tensor([-9.0, 9.0, -9.0, -9.0])
    assert acting(wrong, share, torch.tensor([2])) > 5
    unknown = right.clone()
    unknown[0, 2, 0] = 50.0  # a token of which nothing is known does not count
    assert acting(unknown, share, torch.tensor([2])) < 1e-3
    assert acting(right, torch.full((1, 3), torch.nan), torch.tensor([2])) == 0
