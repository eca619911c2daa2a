import pytest

from surg.data.adapters.cholect50 import TEST, VAL
from surg.data.overlap import conflicts, patient, refuse_overlap
from surg.errors import DataError

CHOLECT50 = [
    1,
    2,
    4,
    5,
    6,
    8,
    10,
    12,
    13,
    14,
    15,
    18,
    22,
    23,
    25,
    26,
    27,
    29,
    31,
    32,
    35,
    36,
    40,
    42,
    43,
    47,
    48,
    49,
    50,
    51,
    52,
    56,
    57,
]
CHOLECT50 += [60, 62, 65, 66, 68, 70, 73, 74, 75, 78, 79, 80, 92, 96, 103, 110, 111]


def test_cholec80_and_cholect50_share_patients_under_two_names() -> None:
    assert (
        patient("cholec80", "cholec80/video42") == patient("cholect50", "cholect50/VID42") == patient("cholectrack20", "VID42")
    )


def test_a_patient_on_two_sides_is_refused_with_both_names() -> None:
    rows = [("cholec80", "cholec80/video42", "train"), ("cholect50", "cholect50/VID42", "test")]
    with pytest.raises(DataError, match="test: cholect50 VID42; train: cholec80 video42"):
        refuse_overlap(rows)


def test_capitals_make_no_other_patient() -> None:
    assert patient("csv", "P01") == patient("csv", "p01") != patient("csv", "p02")
    assert patient("Cholec80", "Cholec80/video42") == patient("cholect50", "VID42")
    with pytest.raises(DataError, match="test: csv p-a; train: csv P-A"):
        refuse_overlap([("csv", "P-A", "train"), ("csv", "p-a", "test")])


def test_one_patient_on_one_side_is_fine() -> None:
    refuse_overlap(
        [("cholec80", "cholec80/video42", "test"), ("cholect50", "cholect50/VID42", "test"), ("cholec80", "video43", "train")]
    )


def test_rows_without_a_split_take_no_side() -> None:
    refuse_overlap([("cholec80", "video42", ""), ("cholect50", "VID42", "test")])


@pytest.mark.parametrize(
    ("endoscapes", "cholec"), [(1, 67), (2, 68), (3, 70), (4, 71), (7, 72), (121, 66), (10, 96), (33, 110), (127, 103)]
)
def test_endoscapes_numbers_are_translated(endoscapes: int, cholec: int) -> None:
    assert patient("endoscapes", f"endoscapes/endoscapes_{endoscapes}") == patient("cholect50", f"VID{cholec:02d}")


def test_other_endoscapes_numbers_are_not_cholec80s() -> None:
    assert patient("endoscapes", "endoscapes_42") != patient("cholec80", "video42")


def test_m2cai16_tool_is_part_of_cholec80() -> None:
    assert patient("m2cai16_tool", "tool_video_01") == patient("cholec80", "video67")
    assert patient("m2cai16_tool", "tool_video_15") == patient("cholec80", "video66")


def test_the_published_count_of_overlaps_comes_out() -> None:
    """CAMMA's table, in its 40/8/32 split of Cholec80: training videos that are CholecT50 test, and the like."""
    cholec = {number: "train" if number <= 40 else "val" if number <= 48 else "test" for number in range(1, 81)}
    triplet = {number: "test" if number in TEST else "val" if number in VAL else "train" for number in CHOLECT50}
    table = {
        (c, t): sum(cholec.get(n) == c and triplet[n] == t for n in CHOLECT50)
        for c in ("train", "val", "test")
        for t in ("train", "val", "test")
    }
    assert list(table.values()) == [16, 3, 4, 3, 0, 1, 12, 2, 4]
    rows = [("cholec80", f"video{n:02d}", split) for n, split in cholec.items()]
    rows += [("cholect50", f"VID{n:02d}", split) for n, split in triplet.items()]
    assert len(conflicts(rows)) == 45 - 16 - 0 - 4


def test_the_public_sample_of_surgvu_is_its_cases_122_to_132() -> None:
    rows = [("surgvu", "surgvu/case_125", "train"), ("surgvu25_vqa", "case125", "test")]
    assert [conflict.patient for conflict in conflicts(rows)] == ["surgvu/case_125"]


def test_two_halves_of_one_take_are_one_patient() -> None:
    assert patient("mmor", "mmor/012_1_PKA") == patient("mmor", "mmor/012_2_PKA")
    assert patient("mmor", "mmor/015_PKA") != patient("mmor", "mmor/016_PKA")


def test_sets_that_number_alike_and_share_nobody_stay_apart() -> None:
    assert patient("sarrarp50", "video_42") != patient("cholec80", "video42")
