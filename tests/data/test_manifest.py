"""The manifest: what is written comes back, in a stream, with a fingerprint that follows the rows."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surg.data.manifest import SCHEMA, Clip, Manifest, write_batches, write_manifest
from surg.errors import ConfigError, DataError

ONE = Clip(
    "/videos/a b.mp4", 0.5, 4.25, "case ü", "train", "surgvu", "CC BY-NC-SA 4.0", {"action": "cut", "n": 3, "score": 0.5},
    [[0.1, 0.2], [0.9, 0.2], [0.5, 0.8]], "/masks/a.npz", {"fps": "25", "crop": "0,0,1,0.9"},
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


def test_everything_that_is_written_is_read(tmp_path: Path) -> None:
    bare = Clip("/v.mp4", 0, 0, "c")
    manifest = write_manifest(tmp_path / "m.parquet", [ONE, bare])
    assert list(manifest.clips()) == [ONE, bare]
    assert len(manifest) == 2


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.builds(
            Clip,
            video=TEXT.map(lambda name: "/" + name),
            start_s=st.floats(0, 10),
            end_s=st.floats(10, 1e6),
            case=TEXT,
            labels=st.dictionaries(TEXT, TEXT | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False), max_size=3),
            meta=st.dictionaries(TEXT, TEXT, max_size=3),
        ),
        max_size=5,
    )
)
def test_any_labels_and_names_survive(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]) -> None:
    path = tmp_path_factory.mktemp("any") / "m.parquet"
    assert list(write_manifest(path, clips).clips()) == clips


def test_numpy_values_become_plain_ones(tmp_path: Path) -> None:
    clip = Clip("/v.mp4", np.float32(0), np.float64(1), "c", labels={"n": np.int64(3), "x": np.float32(0.5)})
    (back,) = write_manifest(tmp_path / "m.parquet", [clip]).clips()
    assert back.labels == {"n": 3, "x": 0.5}


def test_paths_under_the_folder_are_relative_so_that_it_can_be_moved(tmp_path: Path) -> None:
    clips = [
        Clip(str(tmp_path / "old/videos/a.mp4"), 0, 1, "c", masks=str(tmp_path / "old/m.npz")),
        Clip("videos/b.mp4", 0, 1, "c"),
    ]
    fingerprint = write_manifest(tmp_path / "old/m.parquet", clips).fingerprint
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Manifest.read(tmp_path / "new/m.parquet")
    assert [clip.video for clip in moved.clips()] == [str(tmp_path / "new/videos/a.mp4"), str(tmp_path / "new/videos/b.mp4")]
    assert next(moved.clips()).masks == str(tmp_path / "new/m.npz")
    assert moved.fingerprint == fingerprint


def test_a_clip_has_one_name_however_its_manifest_was_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    video = tmp_path / "set" / "a.mp4"
    for named in (str(video), f"{tmp_path}/beside/../set/a.mp4"):
        write_manifest("../set/set.parquet", [Clip(named, 0, 1, case="p")])
        assert next(Manifest.read("../set/set.parquet").batches(["video"])).column("video").to_pylist() == ["a.mp4"]
    assert [clip.video for clip in Manifest.read("../set/set.parquet")] == [str(video)]


def test_behind_a_link_the_folder_above_is_that_of_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "disk" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "inner")
    write_manifest(tmp_path / "disk" / "set.parquet", [Clip(str(tmp_path / "disk" / "a.mp4"), 0, 1, case="p")])
    found = Manifest.read(tmp_path / "link" / ".." / "set.parquet")
    assert [clip.video for clip in found] == [str((tmp_path / "disk" / "a.mp4").resolve())]


def test_select_narrows_by_split_and_by_question(tmp_path: Path) -> None:
    clips = [Clip("/v.mp4", n, n + 1, f"c{n % 2}", ("train", "val")[n % 2], labels={"n": n}) for n in range(10)]
    manifest = write_manifest(tmp_path / "m.parquet", clips)
    train = manifest.select("train")
    assert (len(train), {clip.case for clip in train.clips()}) == (5, {"c0"})
    late = train.select(where=lambda clip: clip.start_s >= 4)
    assert [clip.labels["n"] for clip in late.clips()] == [4, 6, 8]
    assert len(late.select(where=lambda clip: clip.labels["n"] == 8)) == 1
    assert len(train.select("val")) == 0
    assert manifest.counts("split") == {"train": 5, "val": 5}
    assert late.counts("case") == {"c0": 3}


def test_fingerprint_follows_every_column_and_the_order(tmp_path: Path) -> None:
    def of(*clips: Clip) -> str:
        return write_manifest(tmp_path / "m.parquet", clips).fingerprint

    from dataclasses import replace

    other = replace(ONE, video="/b.mp4")
    prints = {of(ONE), of(ONE, ONE), of(ONE, other), of(other, ONE), of()}
    changes = {
        "start_s": 0.1,
        "end_s": 9.0,
        "case": "d",
        "split": "val",
        "source": "x",
        "licence": "y",
        "labels": {},
        "zone": None,
    }
    prints |= {of(replace(ONE, **{name: value})) for name, value in {**changes, "masks": None, "meta": {}}.items()}
    assert len(prints) == 5 + 10
    assert of(ONE) == of(ONE)


def test_fingerprint_is_that_of_the_rows_however_they_are_batched_or_rewritten(tmp_path: Path) -> None:
    clips = [Clip("/v.mp4", n, n + 1, "c" * (n % 3 + 1), labels={"n": n}) for n in range(50)]
    manifest = write_manifest(tmp_path / "m.parquet", clips)
    small = write_batches(tmp_path / "s.parquet", manifest.batches(rows=7))
    assert small.fingerprint == manifest.fingerprint
    assert manifest.select("").fingerprint == manifest.fingerprint
    table = pq.read_table(manifest.path).replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "foreign.parquet")
    assert Manifest.read(tmp_path / "foreign.parquet").fingerprint == manifest.fingerprint


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip("/v.mp4", 2, 1, "c"), "lasts from 2 to 1"),
        (Clip("/v.mp4", -1, 1, "c"), "0 <= start_s"),
        (Clip("/v.mp4", 0, float("nan"), "c"), "nan"),
        (Clip("/v.mp4", 0, 1, ""), "no case"),
        (Clip("", 0, 1, "c"), "no video"),
        (Clip("/v.mp4", 0, 1, "c", zone=[[0, 0], [1, 1]]), "2 corners"),
    ],
)
def test_a_clip_that_makes_no_sense_is_refused_and_nothing_is_left(clip: Clip, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"Row 1 .*{message}|{message}"):
        write_manifest(tmp_path / "m.parquet", [ONE, clip])
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_is_not_written_under_the_name_of_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"should end in \.parquet"):
        write_manifest(tmp_path / "m.csv", [ONE])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_its_manifest_is_answered_with_the_manifests_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="surg data index"):
        Manifest.read(tmp_path).counts("split")
    (tmp_path / "manifest.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"It holds one: .*manifest\.parquet$"):
        Manifest.read(tmp_path).counts("split")


def test_what_is_no_manifest_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no manifest.*\n.*surg data index"):
        Manifest.read(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("video,start_s\n")
    with pytest.raises(DataError, match="surg data import"):
        Manifest.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"video": ["a"], "case": ["b"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="it lacks start_s, end_s"):
        Manifest.read(tmp_path / "other.parquet")
    newer = pq.read_table(write_manifest(tmp_path / "m.parquet", [ONE]).path)
    pq.write_table(newer.replace_schema_metadata({"surg.schema": "99"}), tmp_path / "newer.parquet")
    with pytest.raises(DataError, match="schema 99"):
        Manifest.read(tmp_path / "newer.parquet")


def test_rows_stream_in_memory_that_does_not_grow_with_their_number(tmp_path: Path) -> None:
    def endless() -> Iterator[pa.RecordBatch]:
        rows = 6_000
        text = {name: pa.array(["x"] * rows) for name in ("case", "split", "source", "licence")}
        for part in range(10):
            columns = {**text, "video": pa.array([f"v{part}_{row}.mp4" for row in range(rows)])}
            columns |= {"start_s": pa.array(np.zeros(rows)), "end_s": pa.array(np.ones(rows))}
            columns |= {"labels": pa.array(['{"a":1}'] * rows), "meta": pa.array(["{}"] * rows)}
            columns |= {"zone": pa.nulls(rows, pa.string()), "masks": pa.nulls(rows, pa.string())}
            yield pa.record_batch([columns[name] for name in SCHEMA.names], schema=SCHEMA)

    manifest = write_batches(tmp_path / "m.parquet", endless())
    tracemalloc.start()
    assert sum(1 for _ in manifest.select("x").clips()) == len(manifest) == 60_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
