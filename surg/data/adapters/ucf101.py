"""UCF101: 13,320 clips of 101 actions by its official lists.

    UCF-101/<Class>/v_<Class>_gGG_cCC.avi      ucfTrainTestlist/{classInd,trainlist0K,testlist0K}.txt

Clips of one group (gGG) are cut from one long video: the group is the case. Test lists have no class number and train lists
have one; class numbers count from 1.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from surg.data.adapters.files import duration_s, first_folder, read_fields
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip, Label
from surg.errors import DataError

LICENCE = "UCF101, research use"
_GROUP = re.compile(r"v_(\w+)_(g\d+)_c\d+")


def read(root: Path, ledger: Ledger, *, fold: Literal["1", "2", "3"] = "1") -> Iterator[Clip]:
    """fold: which of the three official lists."""
    videos = first_folder(root, "UCF-101", "UCF101", "videos", "") or root
    lists = first_folder(root, "ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist", "") or root
    classes = {fields[1]: int(fields[0]) for _, fields in read_fields(lists / "classInd.txt", r"\s+")}
    for split in ("train", "test"):
        for line, fields in read_fields(lists / f"{split}list0{fold}.txt", r"\s+"):
            # Made on Windows: some copies have backslashes.
            folder, _, name = fields[0].replace("\\", "/").partition("/")
            found = _GROUP.match(name)
            if folder not in classes or found is None:
                ledger.lack("readable line", f"{split}list0{fold}.txt line {line}")
                continue
            path = videos / folder / name
            try:
                length_s = duration_s(path)
            except DataError:
                ledger.lack("readable video", f"{folder}/{name}")
                continue
            ledger.find()
            labels: dict[str, Label] = {"class": folder, "class_id": classes[folder] - 1}
            yield Clip(video=str(path), start_s=0.0, end_s=length_s, case=f"{found[1]}_{found[2]}", split=split, labels=labels)
