import math
from pathlib import Path

import numpy as np
import pytest

from surg.data.manifest import Clip, write_manifest
from surg.data.timeline import Sample, Timeline, timeline_path, write_timeline
from surg.errors import DataError


def written(path: Path, samples: list[Sample]) -> Timeline:
    write_timeline(path, samples)
    return Timeline(path)


def test_numbers_and_words_come_back(tmp_path: Path) -> None:
    samples = [
        Sample("p", 0.5, "state", value=(1.0, 2.0)),
        Sample("p", 0.0, "state", value=(3.0, 4.0)),
        Sample("p", 1.0, "phase", text="cut"),
    ]
    timeline = written(tmp_path / "a.timeline.parquet", samples)
    state = timeline.track("p", "state")
    assert state.times_s.tolist() == [0.0, 0.5]
    assert state.values is not None
    assert state.values.tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert (state.texts, timeline.track("p", "phase").texts, timeline.track("p", "phase").values) == (None, ["cut"], None)
    assert (timeline.names("p"), timeline.cases()) == (["phase", "state"], ["p"])


def test_what_is_known_at_a_moment_never_comes_from_later(tmp_path: Path) -> None:
    track = written(tmp_path / "a.parquet", [Sample("p", float(t), "x", value=(float(t),)) for t in (1, 2, 5)]).track("p", "x")
    assert [track.at(time) for time in (0.9, 1.0, 1.9, 2.0, 4.999, 9.0)] == [None, 0, 0, 1, 1, 2]
    assert track.at(9.0, max_age_s=1.0) is None


def test_a_span_takes_its_start_and_not_its_end(tmp_path: Path) -> None:
    track = written(tmp_path / "a.parquet", [Sample("p", float(t), "x", value=(0.0,)) for t in range(5)]).track("p", "x")
    assert track.times_s[track.between(1.0, 3.0)].tolist() == [1.0, 2.0]


def test_clocks_of_several_videos_are_not_mixed(tmp_path: Path) -> None:
    samples = [Sample("p", 0.0, "x", value=(1.0,), video="a.avi"), Sample("p", 0.0, "x", value=(2.0,), video="b.avi")]
    timeline = written(tmp_path / "a.parquet", samples)
    with pytest.raises(DataError, match="several videos' clocks"):
        timeline.track("p", "x")
    assert np.asarray(timeline.track("p", "x", video="b.avi").values).tolist() == [[2.0]]


def test_a_name_that_is_not_there_says_which_are(tmp_path: Path) -> None:
    timeline = written(tmp_path / "a.parquet", [Sample("p", 0.0, "breach", value=(0.0,))])
    with pytest.raises(DataError, match="it has breach"):
        timeline.track("p", "braech")
    with pytest.raises(DataError, match="the case is not in it"):
        timeline.track("q", "breach")


def test_a_number_that_is_none_stays_none(tmp_path: Path) -> None:
    track = written(tmp_path / "a.parquet", [Sample("p", 0.0, "next_action", value=(math.nan,), text="none")]).track(
        "p", "next_action"
    )
    assert track.values is not None
    assert math.isnan(track.values[0, 0])


def test_no_samples_leave_no_file_and_remove_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.timeline.parquet"
    assert write_timeline(path, [Sample("p", 0.0, "x", value=(0.0,))]) == 1
    assert write_timeline(path, []) == 0
    assert not path.exists()


def test_a_manifest_is_no_timeline(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", [Clip("a.mp4", 0.0, 1.0, "p")])
    with pytest.raises(DataError, match="no timeline"):
        Timeline(tmp_path / "m.parquet")
    with pytest.raises(DataError, match="no readable timeline"):
        Timeline(tmp_path / "gone.parquet")


def test_a_timeline_lies_beside_its_manifest() -> None:
    assert timeline_path(Path("data/or.parquet")) == Path("data/or.timeline.parquet")


def test_more_samples_than_one_group_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surg.data.timeline._GROUP", 10)
    assert (
        len(
            written(tmp_path / "a.parquet", [Sample("p", t / 10, "x", value=(0.0,)) for t in range(35)]).track("p", "x").times_s
        )
        == 35
    )
