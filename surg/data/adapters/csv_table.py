"""A CSV table of clips: `video` is needed; start_s, end_s, case and split are known names; every other column is a label.

    video,start_s,end_s,case,split,phase,meta.site
    a/one.mp4,0,12.5,patient1,train,suturing,north

Paths are absolute or relative to the table. Without end_s a clip lasts to the end of its video.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from surg.data.adapters.files import duration_s, read_rows
from surg.data.adapters.ledger import Ledger
from surg.data.manifest import Clip, Label
from surg.errors import ConfigError, DataError

LICENCE = ""
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+(e[+-]?[0-9]+)?|e[+-][0-9]+)", re.IGNORECASE)
KNOWN = ("video", "start_s", "end_s", "case", "split", "source", "licence")


def read(root: Path, ledger: Ledger, *, case: str = "case", delimiter: str = ",") -> Iterator[Clip]:
    """case: the column that names the patient; without a column `case` each video is a case of its own.
    delimiter: one sign, or `tab`.

    Raises DataError when another column was named and is not there; a row that leaves its patient open is missing.
    """
    delimiter = "\t" if delimiter in ("tab", r"\t") else delimiter
    if len(delimiter) != 1:
        raise ConfigError(f"--set delimiter={delimiter!r} is not one sign; expected for example ; or tab.")
    table = root
    if root.is_dir():
        tables = sorted(root.glob("*.csv"))
        if len(tables) != 1:
            raise DataError(f"{root} holds {len(tables)} .csv files; name the one to read.")
        table = tables[0]
    for line, row in enumerate(read_rows(table, delimiter), start=2):
        if not row.get("video"):
            if line == 2 and "video" not in row:
                raise DataError(f"{table} has no column `video`; it has {', '.join(row)}." + _other_delimiter(row))
            ledger.lack("row without a video", f"line {line}")
            continue
        if case not in row and case != "case":
            raise DataError(f"{table} has no column `{case}` to name the patient; it has {', '.join(row)}.")
        if case not in row and not ledger.remarks:
            ledger.remarks.append(
                "No column `case` names the patient: each video counts as a patient of its own, and a split may put two of one patient on "
                "two sides. Name the column: --set case=COLUMN"
            )
        if case in row and not row[case]:
            # A patient of its own it need not be: it may be one of the others, on another side of the split.
            ledger.lack("patient of a row", f"line {line}: {row['video']}")
            continue
        video = (table.parent / row["video"]).absolute()
        if not video.exists():
            ledger.lack("video file", f"line {line}: {row['video']}")
            continue
        try:
            start = float(row.get("start_s") or 0.0)
            end = float(row["end_s"]) if row.get("end_s") else duration_s(video)
        except (ValueError, DataError) as error:
            ledger.lack("readable row", f"line {line}: {error}")
            continue
        ledger.find()
        yield Clip(
            video=str(video),
            start_s=start,
            end_s=end,
            case=row.get(case) or Path(row["video"]).with_suffix("").as_posix(),
            split=row.get("split", ""),
            source=row.get("source") or "csv",
            licence=row.get("licence", ""),
            labels={
                name: _typed(text)
                for name, text in row.items()
                if text not in ("", "nan", "NaN") and name not in (*KNOWN, case) and not name.startswith("meta.")
            },
            meta={name.removeprefix("meta."): text for name, text in row.items() if text and name.startswith("meta.")},
        )


def _other_delimiter(row: dict[str, str]) -> str:
    """A table that is all one column is cut by another sign: `;` where Excel writes decimals with a comma."""
    name = next(iter(row), "")
    sign = next((sign for sign in (";", "\t", "|", ",") if sign in name), None)
    if len(row) > 1 or sign is None:
        return ""
    return f"\nIts columns seem to be cut by {sign!r}: --set delimiter='{'tab' if sign == chr(9) else sign}'"


def _typed(text: str) -> Label:
    """A number where the text is how a number is written, else the text: 007, 1_2 and 5e3 are names."""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
