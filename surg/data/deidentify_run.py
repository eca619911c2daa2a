"""De-identify many videos: give them names that say nothing, work on all cores, and write what was done.

OUT/videos/<id>.mp4     OUT/deidentify.json     OUT/manifest.parquet (when the input was a manifest)
OUT.names.csv           which id is which original: beside OUT, because it names patients
"""

import csv
import dataclasses
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from surg.data import executor
from surg.data.adapters.files import is_video, videos_under
from surg.data.adapters.frame_list import write_frame_list
from surg.data.deidentify import DeidentifyConfig, Finding, copies_at, deidentified, deidentify
from surg.data.faces import open_detector
from surg.data.manifest import Clip, Label, Manifest, write_manifest
from surg.data.segment.given import mask_pictures
from surg.data.sources import image_rate
from surg.data.stills import open_stills
from surg.errors import ConfigError, DataError
from surg.runs import atomic_file, check_place, write_json

Names = dict[str, str]
SHORTEST = 3
"""Shorter pieces of a name stand in other words by chance."""
_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Deidentified:
    """What a run left behind. `names` and `manifest` are None where there is none."""

    findings: dict[str, Finding]
    failed: list[tuple[str, str]]
    report: Path
    manifest: Path | None
    names: Path | None
    folders: tuple[str, ...] = ()
    """Labels and meta of the new manifest whose values still are folders, names or cases of originals, or are another in every case."""

    @property
    def all_black(self) -> list[str]:
        """Copies in which no picture is left."""
        return [name for name, one in self.findings.items() if one.blanked and one.blanked_s >= one.duration_s - 1e-3]

    def summary(self) -> str:
        total = sum(finding.duration_s for finding in self.findings.values())
        blanked = sum(finding.blanked_s for finding in self.findings.values())
        marked = sum(bool(finding.overlay_boxes) for finding in self.findings.values())
        untold = sum(not finding.overlay_told for finding in self.findings.values())
        faces = sum(finding.faces for finding in self.findings.values())
        lines = [
            f"{len(self.findings)} videos, {total:.0f} s; {blanked:.0f} s outside the body made black",
            (
                f"burnt-in text taken out of {marked} videos; metadata out of {sum(bool(one.metadata_removed) for one in self.findings.values())}, "
                f"sound and other streams out of {sum(one.streams_removed > 0 for one in self.findings.values())}; {faces} faces covered"
            ),
        ]
        if self.all_black:
            lines.append(
                f"BEWARE: {len(self.all_black)} of {len(self.findings)} copies are black from beginning to end: {', '.join(self.all_black[:5])}"
                f"{', …' if len(self.all_black) > 5 else ''}.\n"
                "Nothing in them looked like the inside of a body. Recordings of rooms: --out-of-body keep    too strict: a lower --threshold"
            )
        if untold:
            lines.append(f"{untold} videos stand still or are short: whether text is burnt in could not be told. Look at them.")
        if self.folders:
            lines.append(
                f"{', '.join(self.folders)} in the manifest still tell folders, names or cases of the originals, or are another in every case. "
                "Where those name people, index with --set labels=none, or take them out."
            )
        if self.failed:
            lines.append(f"{len(self.failed)} videos failed; they are listed in {self.report.name}")
        return "\n".join(lines)


def deidentify_all(
    inputs: Sequence[Path],
    out: Path,
    config: DeidentifyConfig,
    *,
    faces: Path | None = None,
    keep_names: bool = False,
    workers: int | None = None,
    max_failed: float = 0.0,
) -> Deidentified:
    """Raises DataError when more than `max_failed` of the videos failed; their originals are as they were."""
    check_place(out / "videos")
    if faces is not None:
        open_detector(faces)  # A wrong file is found out before the first video.
    manifest = _manifest(inputs)
    videos = (
        list(dict.fromkeys(clip.video for clip in manifest.clips())) if manifest else [str(path) for path in _videos(inputs)]
    )
    if not videos:
        raise DataError(f"There are no videos in {', '.join(map(str, inputs))}.")
    if any(Path(video).resolve().is_relative_to(out.resolve()) for video in videos):
        raise ConfigError(f"The originals lie in {out}. Choose another folder for the copies: --out.")
    if manifest and manifest.path.resolve() == (out / "manifest.parquet").resolve():
        raise ConfigError(
            f"{manifest.path} is where the manifest of the copies is written. Choose another folder for them: --out."
        )
    names_file = out.with_name(out.name + ".names.csv")
    names = {video: Path(video).stem for video in videos} if keep_names else _random_names(names_file, "video", videos)
    if len(set(names.values())) < len(names):
        raise ConfigError("Two originals have the same file name, so their copies cannot keep it. Leave out --keep-names.")
    masked = () if keep_names or not manifest else dict.fromkeys(clip.masks for clip in manifest.clips() if clip.masks)
    if missing := next((str(file) for masks in masked for file in _mask_files(Path(masks)) if not file.exists()), None):
        raise DataError(
            f"There are no masks {missing}, which the manifest names. Index the data again, or leave the masks out."
        )
    work = partial(_one, folder=str(out / "videos"), config=config, faces=str(faces) if faces else None)
    rates = {clip.video: image_rate(clip) for clip in manifest.clips()} if manifest else {}
    table = out / "done.parquet"
    # They are of copies that this run replaces one by one: were it broken off, they would pass for its own.
    for earlier in (out / "deidentify.json", out / "manifest.parquet"):
        earlier.unlink(missing_ok=True)
    report = executor.run(
        work,
        [{"video": video, "name": names[video], "fps": rates.get(video)} for video in videos],
        table,
        workers=workers,
        key=_key,
        resume=False,
    )
    rows = {row["name"]: (row["copy"], json.loads(row["finding"])) for row in pq.read_table(table).to_pylist()}
    table.unlink()
    findings = {name: _finding(values) for name, (_, values) in rows.items()}
    done = Deidentified(
        findings,
        report.failed,
        out / "deidentify.json",
        out / "manifest.parquet" if manifest else None,
        None if keep_names else names_file,
    )
    write_json(
        done.report,
        {
            "settings": config.model_dump(mode="json"),
            "faces": faces is not None,
            "videos": {name: asdict(finding) for name, finding in findings.items()},
            # The kind alone: what an error says in full names the original.
            "failed": {name: error.partition(":")[0] for name, error in report.failed},
        },
    )
    if report.failed_share > max_failed:
        key, error = report.failed[0]
        raise DataError(
            f"{len(report.failed)} of {len(videos)} videos failed (allowed: {max_failed:.0%}), and have no copy. The first, {key}: {error}\n"
            f"All are listed in {done.report}."
        )
    if manifest and done.manifest:
        cases = None if keep_names else _random_names(names_file, "case", dict.fromkeys(clip.case for clip in manifest.clips()))
        # A leak stays a leak. Other notes and the timeline may name what was taken away.
        leak = {"leak": manifest.notes["leak"]} if manifest.notes.get("leak") else {}
        folders: set[str] = set()
        masks = None if keep_names else _copied_masks(manifest, names, findings, out / "masks", names_file)
        write_manifest(done.manifest, _rewritten(manifest, names, rows, findings, cases, masks, folders), leak)
        done = dataclasses.replace(done, folders=tuple(sorted(folders)))
    return done


def _one(item: dict[str, Any], folder: str, config: DeidentifyConfig, faces: str | None) -> dict[str, str]:
    detect = open_detector(Path(faces)) if faces else None
    # An earlier run's copy was made under other settings: when this run fails, there is none.
    for earlier in copies_at(Path(folder) / item["name"]):
        shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink(missing_ok=True)
    copy, finding = deidentify(Path(item["video"]), Path(folder) / item["name"], config, detect, rate=item["fps"])
    return {"name": item["name"], "copy": str(copy), "finding": json.dumps(asdict(finding))}


def _key(item: dict[str, Any]) -> str:
    return str(item["name"])


def _finding(values: dict[str, Any]) -> Finding:
    as_tuples = {name: tuple(map(tuple, values[name])) for name in ("blanked", "overlay_boxes")}
    crop = values["crop"] and tuple(values["crop"])
    return Finding(**{**values, **as_tuples, "crop": crop, "metadata_removed": tuple(values["metadata_removed"])})


def _rewritten(
    manifest: Manifest,
    names: Names,
    rows: dict[str, tuple[str, Any]],
    findings: dict[str, Finding],
    cases: Names | None,
    masks: Names | None,
    folders: set[str],
) -> Iterator[Clip]:
    """`folders` is filled with the labels and meta that still tell a part of an original's path or case, or tell its cases apart."""
    telling = _telling_cases(manifest) if cases else set()
    values: dict[str, dict[str, set[str]]] = {}
    for clip in manifest.clips():
        name = names[clip.video]
        if name in findings:
            copy = deidentified(clip, Path(rows[name][0]).absolute(), findings[name])
            if cases is None:
                yield copy
                continue
            labels = {key: value for key, value in copy.labels.items() if key not in telling}
            meta = {key: value for key, value in copy.meta.items() if key not in telling}
            bare, words = _words_of(clip)
            for key, value in (*labels.items(), *meta.items()):
                text = _text(value)
                # A class 1 of a file 1.mp4 says nothing.
                known = text in words and (isinstance(value, str) or len(text) >= SHORTEST)
                if known or (len(bare) >= SHORTEST and bare in text):
                    folders.add(key)
                values.setdefault(key, {}).setdefault(clip.case, set()).add(text)
            masks_copy = masks[clip.masks] if masks and clip.masks else None
            yield dataclasses.replace(copy, case=cases[clip.case], labels=labels, meta=meta, masks=masks_copy)
    folders.update(key for key, of_key in values.items() if _one_a_case(of_key))


def _telling_cases(manifest: Manifest) -> set[str]:
    """Labels and meta that say which case a clip is of, on every clip that has them: the patient's folder, a number, a take, a trial."""
    told: dict[str, bool] = {}
    same: dict[str, bool] = {}
    seen: dict[str, set[str]] = {}
    for clip in manifest.clips():
        bare = _bare(clip)
        for key, value in (*clip.labels.items(), *clip.meta.items()):
            text = _text(value)
            told[key] = told.get(key, True) and isinstance(value, str) and bare in text
            # Of cases 0 and 1 a class 0 or 1 says nothing.
            same[key] = (
                same.get(key, True) and text in (bare, clip.case.casefold()) and (isinstance(value, str) or len(text) > 1)
            )
            seen.setdefault(key, set()).add(clip.case)
    # A short name of the only case may stand in a word by chance.
    return {key for key in told if same[key] or (told[key] and len(seen[key]) > 1)}


def _words_of(clip: Clip) -> tuple[str, set[str]]:
    """The case's own name, and all words by which a path or a case is known, capitals aside."""
    path, bare = Path(clip.video), _bare(clip)
    pieces = {piece for text in (path.stem, bare) for piece in _NO_WORD.split(text.casefold()) if len(piece) >= SHORTEST}
    return bare, {part.casefold() for part in (*path.parts, path.stem)} | pieces | {bare}


def _one_a_case(values: dict[str, set[str]]) -> bool:
    """Three cases or more, each with a value of its own: a name, a date of birth, a number."""
    ones = [next(iter(found)) for found in values.values() if len(found) == 1]
    return len(values) >= 3 and len(set(ones)) == len(values)


def _bare(clip: Clip) -> str:
    return clip.case.rpartition("/")[2].casefold()


def _text(value: Label) -> str:
    """As it would stand in a name: 4711 and 4711.0 are the same number."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).casefold()


def _copied_masks(manifest: Manifest, names: Names, findings: dict[str, Finding], folder: Path, names_file: Path) -> Names:
    """{original: copy}; where masks lie, and what they are called, often names the patient."""
    originals = dict.fromkeys(clip.masks for clip in manifest.clips() if clip.masks and names[clip.video] in findings)
    copies = {}
    for original, name in _random_names(names_file, "masks", originals).items():
        source = Path(original)
        if original in originals:
            copies[original] = str((folder / name).absolute()) + ("" if source.is_dir() else source.suffix)
            target = Path(copies[original])
            if source.is_dir():
                _copy_pictures(_mask_files(source), target)
            elif source.suffix == ".txt":
                _copy_listed(source, target)
            else:
                shutil.copyfile(source, _emptied(target))
    return copies


def _mask_files(masks: Path) -> list[Path]:
    if masks.is_dir():
        return mask_pictures(masks)
    return open_stills(masks).files if masks.suffix == ".txt" and masks.exists() else [masks]


def _copy_listed(source: Path, target: Path) -> None:
    """A list names files of the original: the copy has files and names of its own."""
    stills = open_stills(source)
    pictures = _copy_pictures(stills.files, target.with_suffix(""))
    write_frame_list(target, list(zip(stills.times_s.tolist(), pictures)))


def _copy_pictures(files: Sequence[Path], folder: Path) -> list[Path]:
    """In their order, under numbers: names of pictures often begin with that of the patient."""
    pictures = [folder / f"{number:06d}{file.suffix}" for number, file in enumerate(files)]
    _emptied(folder).mkdir()
    for file, picture in zip(files, pictures):
        shutil.copyfile(file, picture)
    return pictures


def _emptied(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _manifest(inputs: Sequence[Path]) -> Manifest | None:
    tables = [path for path in inputs if path.suffix == ".parquet"]
    if tables and len(inputs) > 1:
        raise ConfigError("Give one manifest alone, or videos and folders.")
    return Manifest.read(tables[0]) if tables else None


def _videos(inputs: Sequence[Path]) -> list[Path]:
    found = [video for path in inputs for video in (videos_under(path) if path.is_dir() else [path] if is_video(path) else [])]
    strange = [path for path in inputs if path.is_file() and not is_video(path)]
    if strange:
        raise DataError(f"{strange[0]} is no video, folder of videos or manifest (.parquet).")
    return [path.absolute() for path in found]


def _random_names(path: Path, kind: str, originals: Iterable[str]) -> Names:
    """A random name for each original, kept in `path` so that another run gives the same."""
    known: dict[tuple[str, str], str] = {}
    if path.is_file():
        with path.open(newline="") as file:
            known = {(row["kind"], row["original"]): row["name"] for row in csv.DictReader(file)}
    for original in originals:
        known.setdefault((kind, original), f"{kind}-{secrets.token_hex(6)}")
    with atomic_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("kind", "name", "original"))
        writer.writerows((one, name, original) for (one, original), name in known.items())
    return {original: name for (one, original), name in known.items() if one == kind}
