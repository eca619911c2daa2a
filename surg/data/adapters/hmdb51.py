"""HMDB51: 6,766 clips of 51 actions by its official lists.

    <class>/<video>.avi      testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt     "<video>.avi 0|1|2"

1 is train, 2 is test, 0 is neither in that split. Names begin with the film they are cut from and end in marks such as
`_u_nm_np1_fr_goo_0`: clips of one film are one case.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from surg.data.adapters.files import duration_s, first_folder, read_fields
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip
from surg.errors import DataError

LICENCE = "CC BY 4.0"
SPLITS = {"1": "train", "2": "test"}
_MARKS = re.compile(r"_[fulh]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:bad|med|goo)_\d+$")


def read(root: Path, ledger: Ledger, *, fold: Literal["1", "2", "3"] = "1", unused: bool = False) -> Iterator[Clip]:
    """fold: which of the three official splits. unused: also yield what the split uses for neither, without a split."""
    lists = (
        first_folder(root, "testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "splits", "") or root
    )
    videos = first_folder(root, "hmdb51_org", "videos", "") or root
    for table in sorted(lists.glob(f"*_test_split{fold}.txt")):
        action = table.name.removesuffix(f"_test_split{fold}.txt")
        for line, fields in read_fields(table, r"\s+"):
            if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
                ledger.lack("readable line", f"{table.name} line {line}")
                continue
            if fields[1] == "0" and not unused:
                continue
            path = videos / action / fields[0]
            try:
                length_s = duration_s(path)
            except DataError:
                ledger.lack("readable video", f"{action}/{fields[0]}")
                continue
            ledger.find()
            case = _MARKS.sub("", path.stem).removesuffix(f"_{action}")
            yield Clip(
                video=str(path),
                start_s=0.0,
                end_s=length_s,
                case=case,
                split=SPLITS.get(fields[1], ""),
                labels={"class": action},
            )
