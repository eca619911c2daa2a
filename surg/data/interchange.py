"""Manifests in and out of the formats that others use.

    csv         all columns of the manifest as text; `labels` and `meta` are JSON, `zone` a JSON polygon
    vjepa       one file per split, `SPLIT.csv`: `path label`, space-separated; classes are numbered in `classes.json`
    surgmotion  `SPLIT_metadata.csv`: Index, clip_path (a .txt list of frames), label, label_name, case_id, clip_idx

V-JEPA and SurgMotion know no times within a video: exporting writes each clip as a file, or as frames, of its own.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pacsv

from surg.advice import quoted
from surg.data.contact_sheet import write_image
from surg.data.manifest import SCHEMA, Clip, Manifest, settled, write_manifest
from surg.data.sources import kept_part, probe_clip, read_clip
from surg.data.stills import is_stills
from surg.data.video import iter_frames, write_video
from surg.errors import DataError
from surg.runs import atomic_file, write_json, write_text

Format = Literal["csv", "vjepa", "surgmotion"]
# A clip that leaves out less than this of its video is the whole video.
WHOLE_S = 0.1


def export_csv(manifest: Manifest, out: Path) -> int:
    """All rows as CSV, in a stream. Paths are relative to the CSV when it lies beside the manifest, absolute elsewhere."""
    beside = settled(out.parent) == manifest.folder
    with atomic_file(out) as file, pacsv.CSVWriter(file, SCHEMA) as writer:
        for batch in manifest.batches():
            for name in () if beside else ("video", "masks"):
                place = batch.schema.get_field_index(name)
                paths = [manifest.absolute(path) if path else None for path in batch.column(name).to_pylist()]
                batch = batch.set_column(place, SCHEMA.field(name), pa.array(paths, pa.string()))
            writer.write_batch(batch)
    return len(manifest)


def import_csv(table: Path, out: Path) -> Manifest:
    """The CSV that `export_csv` writes, or that a spreadsheet made of it. Missing optional columns are empty.

    Other tables are read by `surg data index --format csv`.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return write_manifest(out, _clips_of_csv(table, csv.DictReader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as CSV: {error}") from error


def _clips_of_csv(table: Path, rows: "csv.DictReader[str]") -> Iterator[Clip]:
    missing = [name for name in ("video", "start_s", "end_s", "case") if name not in (rows.fieldnames or ())]
    if missing:
        raise DataError(
            f"{table} lacks the columns {', '.join(missing)}; it has {', '.join(rows.fieldnames or ('none',))}.\n"
            f"A table of another shape: surg data index --format csv {quoted(table)}"
        )
    for row in rows:
        try:
            yield Clip(
                video=str(table.absolute().parent / row["video"]) if row["video"] else "",
                start_s=float(row["start_s"]),
                end_s=float(row["end_s"]),
                case=row["case"],
                split=row.get("split") or "",
                source=row.get("source") or "",
                licence=row.get("licence") or "",
                labels=json.loads(row.get("labels") or "{}"),
                zone=json.loads(row.get("zone") or "null"),
                masks=str(table.absolute().parent / row["masks"]) if row.get("masks") else None,
                meta=json.loads(row.get("meta") or "{}"),
            )
        except (ValueError, TypeError) as error:
            raise DataError(f"{table} line {rows.line_num}: {error}.") from error


def export_vjepa(manifest: Manifest, out: Path, label: str) -> dict[str, int]:
    """`out/SPLIT.csv` and `out/classes.json`. A clip that is part of its video is cut out to `out/clips/N.mp4`."""
    classes = class_numbers(manifest, label)
    rows: dict[str, list[str]] = {}
    for number, clip in enumerate(manifest.clips()):
        path = Path(clip.video)
        if is_stills(path) or clip.meta.get("crop") or not _is_whole(clip):
            path = (out / "clips" / f"{number:07d}.mp4").absolute()
            _cut(clip, path)
        # The reader splits at spaces and takes pandas' quotes.
        text = f'"{path}"' if " " in str(path) else str(path)
        rows.setdefault(clip.split or "all", []).append(f"{text} {classes[str(clip.labels[label])]}\n")
    for split, of_split in rows.items():
        write_text(out / f"{split}.csv", "".join(of_split))
    write_json(out / "classes.json", classes)
    return {split: len(of_split) for split, of_split in rows.items()}


def _case_of(path: Path, beside: Path) -> str:
    """The video's path without suffix, from the table's folder, or its last two parts: a case must not change when the set is moved."""
    bare = path.with_suffix("")
    return (bare.relative_to(beside) if bare.is_relative_to(beside) else Path(*bare.parts[-2:])).as_posix()


def import_vjepa(source: Path, out: Path, label: str = "label") -> Manifest:
    """One file of `path label` lines, or a folder of them named after their splits. Every video is a case of its own."""
    files = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source} holds no .csv files of `path label` lines.")
    names = {str(number): name for name, number in _read_json(source / "classes.json").items()} if source.is_dir() else {}

    def clips() -> Iterator[Clip]:
        for file in files:
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                # As pandas reads it: an apostrophe in a path is no quote.
                parts = next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True), [])
                if not parts:
                    continue
                if len(parts) != 2 or not parts[1].lstrip("-").isdigit():
                    raise DataError(f"{file} line {number} is {line!r}; expected a path, a space and the number of a class.")
                path = Path(parts[0]) if parts[0].startswith("/") else (file.parent / parts[0]).absolute()
                value = names.get(parts[1], int(parts[1]))
                yield _whole(
                    Clip(
                        str(path),
                        0,
                        0,
                        _case_of(path, file.parent.absolute()),
                        file.stem if source.is_dir() else "",
                        labels={label: value},
                    )
                )

    return write_manifest(out, clips())


def export_surgmotion(manifest: Manifest, out: Path, label: str, fps: float) -> dict[str, int]:
    """`out/SPLIT_metadata.csv`, with the frames of every clip as JPEG at `fps` under `out/frames`."""
    classes = class_numbers(manifest, label)
    rows: dict[str, list[dict[str, Any]]] = {}
    clip_of_case: dict[str, int] = {}
    for number, clip in enumerate(manifest.clips()):
        listed = _write_frames(clip, out / "frames" / f"{number:07d}", fps)
        clip_of_case[clip.case] = clip_of_case.get(clip.case, -1) + 1
        of_split = rows.setdefault(clip.split or "all", [])
        name = str(clip.labels[label])
        row = {"Index": len(of_split), "clip_path": str(listed), "label": classes[name], "label_name": name}
        of_split.append({**row, "case_id": clip.case, "clip_idx": clip_of_case[clip.case]})
    for split, of_split in rows.items():
        with atomic_file(out / f"{split}_metadata.csv", "w") as file:
            writer = csv.DictWriter(file, list(of_split[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(of_split)
    return {split: len(of_split) for split, of_split in rows.items()}


def import_surgmotion(source: Path, out: Path, fps: float, label: str = "label") -> Manifest:
    """A folder of SPLIT_metadata.csv files, or one of them. `fps` is the rate that the frames were taken at: no file says it."""
    files = sorted(source.glob("*_metadata.csv")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source} holds no *_metadata.csv files.")

    def clips() -> Iterator[Clip]:
        for file in files:
            with file.open(newline="") as opened:
                for row in csv.DictReader(opened):
                    try:
                        path = Path(row["clip_path"])
                        value, case = row["label_name"] or int(row["label"]), row["case_id"]
                    except (KeyError, ValueError) as error:
                        raise DataError(
                            f"{file} has a row without {error}; expected Index, clip_path, label, label_name, case_id."
                        ) from error
                    path = path if path.is_absolute() else file.parent / path
                    split = file.name.removesuffix("_metadata.csv") if file.name.endswith("_metadata.csv") else ""
                    yield _whole(
                        Clip(
                            str(path.absolute()), 0, 0, case, split, "surgmotion", labels={label: value}, meta={"fps": str(fps)}
                        )
                    )

    return write_manifest(out, clips())


def class_numbers(manifest: Manifest, label: str) -> dict[str, int]:
    """Class name -> number, by the alphabet. Raises DataError when a clip has no such label."""
    names: set[str] = set()
    for row, clip in enumerate(manifest.clips()):
        if label not in clip.labels:
            raise DataError(
                f"Row {row} has no label `{label}`, it has {', '.join(clip.labels) or 'none'}; the format needs one for every clip."
            )
        names.add(str(clip.labels[label]))
    return {name: number for number, name in enumerate(sorted(names))}


def _whole(clip: Clip) -> Clip:
    """The clip from 0 to the end of its video. Raises DataError when the video cannot be read."""
    return replace(clip, end_s=probe_clip(clip).duration_s)


def _is_whole(clip: Clip) -> bool:
    return clip.start_s < WHOLE_S and probe_clip(clip).duration_s - clip.end_s < WHOLE_S


def _cut(clip: Clip, path: Path) -> None:
    """Write the clip as a video of its own, at its own rate."""
    info = probe_clip(clip)
    write_video(path, _frames_at(clip, info.fps or 25.0), info.fps or 25.0)


def _write_frames(clip: Clip, folder: Path, fps: float) -> Path:
    names = []
    for number, frame in enumerate(_frames_at(clip, fps)):
        file = folder / f"{number:06d}.jpg"
        write_image(file, frame)
        names.append(str(file.absolute()))
    listed = folder.with_suffix(".txt").absolute()
    write_text(listed, "\n".join(names) + "\n")
    return listed


def _frames_at(clip: Clip, fps: float) -> Iterable[Any]:
    """Frames of a clip one by one, cropped as the manifest says."""
    count = max(1, round((clip.end_s - clip.start_s) * fps))
    if is_stills(Path(clip.video)):
        return (read_clip(clip, [clip.start_s + index / fps])[0][0] for index in range(count))
    end_s = clip.start_s + (count - 0.5) / fps
    frames = iter_frames(clip.video, fps, start_s=clip.start_s, end_s=end_s)
    return (kept_part(frame[None], clip)[0][0] for _, frame in frames)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise DataError(f"{path} is no JSON object: {error}") from error
