"""Something-Something v2: 220,847 clips of 174 actions by its official JSON files.

    20bn-something-something-v2/<id>.webm      labels.json
    something-something-v2-{train,validation,test}.json     (also without the leading "something-something-v2-")

A template carries placeholders in brackets, "Holding [something]", which labels.json has without. Class numbers there are text.
The test part has no labels; test-answers.csv is read when it is there.
"""

from collections.abc import Iterator
from pathlib import Path

from surg.data.adapters.files import duration_s, first_folder, read_fields, read_json
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip, Label
from surg.errors import DataError

LICENCE = "Something-Something v2, research use"
TABLES = {"train": "train", "validation": "val", "test": "test"}


def read(root: Path, ledger: Ledger) -> Iterator[Clip]:
    lists = first_folder(root, "labels", "annotations", "") or root
    videos = first_folder(root, "20bn-something-something-v2", "videos", "") or root
    classes = {name: int(number) for name, number in read_json(_table(lists, "labels")).items()}
    answers = _answers(lists)
    for name, split in TABLES.items():
        table = _table(lists, name)
        if not table.is_file():
            continue
        for item in read_json(table):
            action = str(item.get("template", answers.get(str(item["id"]), ""))).replace("[", "").replace("]", "")
            if action and action not in classes:
                ledger.lack("known class", f"{item['id']}: {action}")
                continue
            path = videos / f"{item['id']}.webm"
            try:
                length_s = duration_s(path)
            except DataError:
                ledger.lack("readable video", item["id"])
                continue
            ledger.find()
            # Who filmed a clip is not published: every clip is a case of its own.
            labels: dict[str, Label] = {"class": action, "class_id": classes[action]} if action else {}
            yield Clip(video=str(path), start_s=0.0, end_s=length_s, case=str(item["id"]), split=split, labels=labels)


def _table(folder: Path, name: str) -> Path:
    for stem in (f"something-something-v2-{name}", name):
        if (folder / f"{stem}.json").is_file():
            return folder / f"{stem}.json"
    return folder / f"{name}.json"


def _answers(folder: Path) -> dict[str, str]:
    for name in ("test-answers.csv", "something-something-v2-test-answers.csv"):
        if (folder / name).is_file():
            return {fields[0]: fields[1] for _, fields in read_fields(folder / name, ";") if len(fields) == 2}
    return {}
