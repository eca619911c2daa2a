"""The contact sheet shows what it was asked for."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from surg.cli.main import app
from surg.data.contact_sheet import contact_sheet, pick
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.stills import read_image
from surg.errors import DataError
from tests.data import painted


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("sheet")
    painted.write(folder / "a.mp4", 100, 25, options={"preset": "veryfast"})
    clips = [
        Clip("a.mp4", n * 0.1, n * 0.1 + 1, f"c{n}", "train", labels={"kind": "rare" if n == 7 else "often", "n": n})
        for n in range(30)
    ]
    return write_manifest(folder / "m.parquet", clips)


def test_pick_is_seeded_and_shows_every_class(manifest: Manifest) -> None:
    assert pick(manifest, 5, 0) == pick(manifest, 5, 0) != pick(manifest, 5, 1)
    assert len({clip.case for clip in pick(manifest, 30, 0)}) == 30
    assert {clip.labels["kind"] for clip in pick(manifest, 4, 0, "kind")} == {"rare", "often"}


def test_every_option_of_the_sheet_has_an_effect(manifest: Manifest) -> None:
    clips = pick(manifest, 3, 0)
    plain = contact_sheet(clips, frames=4, height=96)
    cell = 128 + 4
    assert plain.shape == (3 * (96 + 22 + 4), 4 * cell, 3)
    numbers = painted.numbers_of([plain[22:118, index * cell : index * cell + 128] for index in range(4)])
    start = clips[0].start_s
    assert numbers == [int((start + (index + 0.5) / 4) * 25 + 1e-6) for index in range(4)]
    assert contact_sheet(clips, frames=2, height=48).shape == (3 * 74, 2 * 68, 3)
    assert not np.array_equal(contact_sheet(clips, frames=4, height=96, label="kind"), plain)
    zoned = [Clip(clips[0].video, 0, 1, "c", zone=[[0.2, 0.2], [0.8, 0.2], [0.8, 0.8]])]
    bare = [Clip(clips[0].video, 0, 1, "c")]
    assert not np.array_equal(contact_sheet(zoned), contact_sheet(bare))


def test_a_clip_that_cannot_be_read_has_a_row_that_says_so(manifest: Manifest) -> None:
    assert contact_sheet([Clip("/absent.mp4", 0, 1, "c")]).shape[0] == 108 + 26


def test_the_command_writes_a_picture(manifest: Manifest, tmp_path: Path) -> None:
    arguments = [
        "data",
        "show",
        str(manifest.path),
        "--clips",
        "2",
        "--frames",
        "3",
        "--height",
        "48",
        "--out",
        str(tmp_path / "s.png"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--split", "train", "--label", "kind", "--seed", "2"])
    assert done.exit_code == 0, done.output
    assert read_image(tmp_path / "s.png", 10**8).shape == (2 * 74, 3 * 68, 3)
    assert isinstance(CliRunner().invoke(app, [*arguments, "--split", "absent"]).exception, DataError)
    assert isinstance(CliRunner().invoke(app, [*arguments[:-1], "s.gif"]).exception, DataError)
