import json
import math
from pathlib import Path

import pytest

from surg.data.adapters.ledger import Ledger
from surg.data.adapters.mmor_rule import OUR_SETS, BreachSets, breaches
from surg.data.adapters.registry import adapter
from surg.data.manifest import Clip
from surg.data.stills import open_stills
from surg.data.timeline import Sample
from surg.errors import ConfigError, DataError
from tests.data.adapters import trees


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.mmor(tmp_path_factory.mktemp("mmor"))


def clips(root: Path, lists: Path, take: str = "001_PKA", **options: object) -> list[Clip]:
    options.setdefault("cameras", "azure1")
    found = adapter("mmor").read(root, max_missing=1.0, lists=lists, **options)
    return [clip for clip in found if clip.case == f"mmor/{take}"]


def samples(root: Path, name: str, take: str = "001_PKA") -> list[Sample]:
    return [sample for sample in adapter("mmor").timeline(root) if sample.name == name and sample.case == f"mmor/{take}"]


def test_a_key_is_an_index_into_the_time_stamps_and_no_picture_number(root: Path, tmp_path: Path) -> None:
    breach = [clip for clip in clips(root, tmp_path) if clip.labels["breach"] == 1]
    assert [(clip.start_s, clip.end_s) for clip in breach] == [(3.0, 4.0)]
    shown = open_stills(Path(breach[0].video))
    assert shown.files[3].name == "camera01_colorimage-000109.jpg"
    assert shown.times_s[3] == 3.0


def test_an_empty_list_of_triplets_is_no_breach(root: Path, tmp_path: Path) -> None:
    found = [(clip.start_s, clip.end_s, clip.labels["breach"]) for clip in clips(root, tmp_path)]
    assert found == [(0.0, 3.0, 0), (3.0, 4.0, 1), (4.0, 6.0, 0)]


def test_time_points_without_a_key_are_unlabelled_and_not_breach_free(root: Path, tmp_path: Path) -> None:
    assert max(clip.end_s for clip in clips(root, tmp_path)) == 6.0
    assert len(samples(root, "breach")) == 6
    assert clips(root, tmp_path, label="take")[0].end_s == 8.0


def test_in_a_shared_folder_the_list_with_the_takes_name_comes_first(root: Path, tmp_path: Path) -> None:
    (take,) = clips(root, tmp_path, "016_PKA", label="take")
    shown = open_stills(Path(take.video))
    assert len(shown.files) == 5
    assert shown.files[0].name == "camera01_colorimage-002000.jpg"


def test_the_other_take_of_a_shared_folder_has_the_plain_list(root: Path, tmp_path: Path) -> None:
    (take,) = clips(root, tmp_path, "015_PKA", label="take")
    assert open_stills(Path(take.video)).files[0].name == "camera01_colorimage-001000.jpg"


def test_a_take_with_the_azure_list_alone_is_read(root: Path, tmp_path: Path) -> None:
    assert [clip.split for clip in clips(root, tmp_path, "010_PKA")] == ["train"]


def test_cameras_of_one_take_share_the_case_and_the_clock(root: Path, tmp_path: Path) -> None:
    found = clips(root, tmp_path, cameras="azure,simstation,trackercam", label="take")
    assert {clip.meta["camera"] for clip in found} == {"azure1", "azure2", "simstation0", "trackercam"}
    assert len({clip.video for clip in found}) == 4
    assert {(clip.case, clip.start_s, clip.end_s) for clip in found} == {("mmor/001_PKA", 0.0, 8.0)}


def test_a_room_need_not_have_all_cameras_of_a_group_but_those_named(root: Path, tmp_path: Path) -> None:
    ledger = Ledger()
    list(adapter("mmor").read(root, lists=tmp_path, label="take", ledger=ledger))
    assert not ledger.lacks
    assert ("camera that a take does not have", "001_PKA azure3") in ledger.left_out
    with pytest.raises(DataError, match="001_PKA azure3"):
        list(adapter("mmor").read(root, lists=tmp_path, label="take", cameras="azure1,azure3"))


def test_an_unknown_camera_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trackercam"):
        clips(root, tmp_path, cameras="ceiling")


def test_takes_have_the_official_splits(root: Path, tmp_path: Path) -> None:
    splits = {
        clip.case: clip.split
        for clip in adapter("mmor").read(root, max_missing=1.0, lists=tmp_path, label="take", cameras="azure1")
    }
    assert splits == {
        "mmor/001_PKA": "train",
        "mmor/004_PKA": "test",
        "mmor/010_PKA": "train",
        "mmor/015_PKA": "short",
        "mmor/016_PKA": "short",
    }


def test_robot_phases_of_004_PKA_are_left_out(root: Path, tmp_path: Path) -> None:
    ledger = Ledger()
    assert not clips(root, tmp_path, "004_PKA", label="robot_phase", ledger=ledger)
    assert ("robot phases that the set's makers leave out", "004_PKA") in ledger.left_out
    assert not samples(root, "robot_phase", "004_PKA")
    assert [clip.labels["robot_phase"] for clip in clips(root, tmp_path, label="robot_phase")] == ["turn on"]


def test_no_next_action_is_said_and_differs_from_no_label(root: Path, tmp_path: Path) -> None:
    names = [(clip.start_s, clip.labels["next_action"]) for clip in clips(root, tmp_path, label="next_action")]
    assert names == [(0.0, "drill"), (2.0, "none"), (3.0, "saw")]
    told = samples(root, "next_action")
    assert [sample.text for sample in told] == ["drill", "drill", "none", "saw"]
    assert told[0].value == (3.0,)
    assert told[2].value is not None
    assert math.isnan(told[2].value[0])


def test_breaches_keep_their_triplets_in_the_timeline(root: Path) -> None:
    told = samples(root, "breach")
    assert [sample.value for sample in told] == [(0.0,)] * 3 + [(1.0,)] + [(0.0,)] * 2
    assert json.loads(told[3].text or "") == [["nurse", "mps", "touching"]]


def test_scene_graphs_of_mmor_and_4dor_are_told_apart(root: Path) -> None:
    assert [(sample.time_s, sample.text) for sample in samples(root, "relations")] == [(2.0, '[["nurse", "mps", "touching"]]')]


def test_takes_that_were_not_downloaded_are_named_and_no_failure(root: Path, tmp_path: Path) -> None:
    ledger = Ledger()
    list(adapter("mmor").read(root, lists=tmp_path, label="take", cameras="azure1", ledger=ledger))
    assert not ledger.lacks
    assert ("take that was not downloaded", "002_PKA") in ledger.left_out


@pytest.mark.parametrize(
    ("scale", "epoch"), [(1, 1_700_000_000), (1e3, 1_700_000_000), (1e6, 1_700_000_000), (1e9, 1_700_000_000), (1e3, 0)]
)
def test_time_stamps_in_any_unit_become_seconds(tmp_path: Path, scale: float, epoch: int) -> None:
    from surg.data.adapters.mmor_times import read_clock

    entries = [[str(int((epoch + 2 * index) * scale)), {}] for index in range(4)]
    assert read_clock(trees.dump(tmp_path / "list.json", entries)).times_s == pytest.approx([0.0, 2.0, 4.0, 6.0])


def test_a_pause_of_the_recording_belongs_to_no_interval(tmp_path: Path) -> None:
    from surg.data.adapters.mmor_times import read_clock

    clock = read_clock(trees.dump(tmp_path / "list.json", [[1_700_000_000 + second, {}] for second in (0, 1, 2, 60, 61)]))
    assert clock.end_of(2) == 4.0
    assert clock.end_of(4) == 62.0


def test_time_stamps_that_go_back_are_refused(tmp_path: Path) -> None:
    from surg.data.adapters.mmor_times import read_clock

    with pytest.raises(DataError, match="do not increase"):
        read_clock(trees.dump(tmp_path / "list.json", [[5.0, {}], [4.0, {}]]))


def test_4dor_has_its_cameras_splits_and_graphs(tmp_path: Path) -> None:
    root = trees.fourdor(tmp_path / "4dor")
    found = list(adapter("4dor").read(root, lists=tmp_path / "lists"))
    assert sorted((clip.case, clip.split, clip.meta["camera"]) for clip in found) == [
        ("4dor/take1", "train", "1"),
        ("4dor/take1", "train", "2"),
        ("4dor/take4", "val", "1"),
        ("4dor/take4", "val", "2"),
    ]
    assert {clip.end_s for clip in found} == {3.0}
    assert [(sample.case, sample.time_s) for sample in adapter("4dor").timeline(root)] == [("4dor/take4", 1.0)]


# The official rule over scene graphs.

SETS = BreachSets(
    predicates=frozenset({"touching"}), sterile=frozenset({"nurse", "instrument_table"}), unsterile=frozenset({"circulator"})
)
TOUCH = ["circulator", "instrument_table", "touching"]


def test_contact_of_sterile_and_unsterile_is_a_breach_in_either_order() -> None:
    assert list(breaches([[TOUCH], [["instrument_table", "circulator", "touching"]]], SETS)) == [
        [TOUCH],
        [["instrument_table", "circulator", "touching"]],
    ]


def test_contact_among_the_sterile_or_by_another_predicate_is_none() -> None:
    graph = [
        ["nurse", "instrument_table", "touching"],
        ["circulator", "instrument_table", "closeTo"],
        ["circulator", "monitor", "touching"],
    ]
    assert list(breaches([graph], SETS)) == [[]]


def test_the_patient_is_sterile_once_a_surgeon_works_on_the_bone() -> None:
    touch = ["circulator", "patient", "touching"]
    graphs = [[touch], [["head_surgeon", "patient", "drilling"]], [touch]]
    assert list(breaches(graphs, SETS)) == [[], [], [touch]]


def test_after_suturing_nothing_is_a_breach_any_more() -> None:
    graphs = [[TOUCH], [["head_surgeon", "patient", "suturing"]], [TOUCH]]
    assert list(breaches(graphs, SETS)) == [[TOUCH], [], []]


def test_a_new_take_begins_before_suturing() -> None:
    done = [[["head_surgeon", "patient", "suturing"]]]
    assert list(breaches(done, SETS)) == [[]]
    assert list(breaches([[TOUCH]], SETS)) == [[TOUCH]]


def test_every_set_of_the_rule_has_an_effect() -> None:
    for name in ("predicates", "sterile", "unsterile"):
        assert list(breaches([[TOUCH]], SETS.model_copy(update={name: frozenset()}))) == [[]]
    assert OUR_SETS.sterile.isdisjoint(OUR_SETS.unsterile)
