"""What is wrong with a manifest: videos that cannot be read, clips beyond their end, copies, patients on two sides, classes, licences."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from surg.data.breach_spans import breach_spans
from surg.data.executor import Report, run
from surg.data.hashing import near_duplicates, signature, signature_times
from surg.data.manifest import Clip, Manifest
from surg.data.overlap import Span, conflicts, seen_twice
from surg.data.sources import image_rate, probe_clip, read_clip
from surg.data.video import END_SLACK_S, iter_frames
from surg.errors import DataError

Depth = Literal["none", "sample", "full"]
# A label with more values than this is a number or a name, not a class.
MAX_CLASSES = 64
ROWS = 65_536


@dataclass
class Findings:
    """All that a check found. `problems` are sentences; none of them means that the manifest is sound."""

    clips: int = 0
    videos: int = 0
    hours: float = 0.0
    fingerprint: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    """split -> number of cases"""
    classes: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """label -> class -> split -> clips"""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(video, error)"""
    beyond: list[tuple[str, float, float]] = field(default_factory=list)
    """(video, end of its last clip, its duration)"""
    duplicates: list[tuple[str, str, float, bool]] = field(default_factory=list)
    """(video, video, mean bits of difference out of 64, are they on two sides of the split?)"""
    leaks: list[str] = field(default_factory=list)
    """Patients and recordings on two sides."""
    breaches: list[str] = field(default_factory=list)
    """Labels of breaches that cannot be read."""
    shared: int = 0
    """Videos on two sides, at times of their own: a room's camera that runs all day sees many patients."""
    missed: int = 0
    """Clips with a breach that lies outside of them."""

    @property
    def problems(self) -> list[str]:
        across = sum(split for *_, split in self.duplicates)
        counted = (
            (len(self.unreadable), "videos cannot be read"),
            (len(self.beyond), "videos are shorter than their clips say"),
            (len(self.leaks), "patients are on two sides of the split"),
            (across, "pairs of near-duplicate videos lie on two sides of the split"),
            (len(self.breaches), "clips have breach labels that cannot be read"),
        )
        found = [f"{count} {what}" for count, what in counted if count]
        return [*found, self.notes["leak"]] if self.notes.get("leak") else found

    @property
    def remarks(self) -> list[str]:
        """Worth knowing, but no error."""
        same_side = sum(not split for *_, split in self.duplicates)
        counted = (
            (same_side, "pairs of near-duplicate videos on one side"),
            (
                self.shared,
                "videos are on two sides of the split, at times that do not overlap; sound only where another patient was seen then",
            ),
            (self.licences.get("", 0), "clips without a licence"),
            (self.missed, "clips are labelled as a breach whose times lie outside the clip"),
        )
        return [f"{count} {what}" for count, what in counted if count]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "problems": self.problems, "remarks": self.remarks}


def check(manifest: Manifest, work: Path, *, depth: Depth = "sample", workers: int | None = None) -> Findings:
    """Look at every row and, unless `depth` is none, into every video: some frames of it (sample) or all (full).

    `work` is a Parquet file of what the videos said; a check that was interrupted goes on from it.
    """
    found = Findings(clips=len(manifest), fingerprint=manifest.fingerprint, notes=manifest.notes)
    videos = _gather(manifest, found)
    found.videos = len(videos)
    if not videos:
        raise DataError(f"{manifest.path} has no clips to check.")
    if depth != "none":
        _look_into(videos, found, work, depth, workers)
    return found


@dataclass
class _Video:
    clip: Clip
    """The whole video as one clip, with the meta of its first row."""
    end_s: float = 0.0
    splits: set[str] = field(default_factory=set)
    cases: set[str] = field(default_factory=set)


def _gather(manifest: Manifest, found: Findings) -> dict[str, _Video]:
    """One pass over the rows, in Arrow: counts, sides, and each video's last moment. Only distinct values become objects."""
    videos: dict[str, _Video] = {}
    sides: set[tuple[str, str, str]] = set()
    labels: dict[tuple[str, str], int] = defaultdict(int)
    for batch in manifest.batches(
        ["video", "start_s", "end_s", "source", "case", "split", "licence", "labels", "meta"], rows=ROWS
    ):
        table = pa.table(batch)
        found.hours += (pc.sum(table["end_s"]).as_py() - pc.sum(table["start_s"]).as_py()) / 3600
        for name, counts in (("split", found.splits), ("source", found.sources), ("licence", found.licences)):
            for row in pc.value_counts(table[name]).to_pylist():
                counts[row["values"]] = counts.get(row["values"], 0) + row["counts"]
        for row in table.group_by(["source", "case", "split"]).aggregate([]).to_pylist():
            sides.add((row["source"], row["case"], row["split"]))
        for row in table.group_by(["labels", "split"]).aggregate([([], "count_all")]).to_pylist():
            labels[row["labels"], row["split"]] += row["count_all"]
        _look_at_breaches(table, found)
        for row in table.group_by(["video", "split", "case", "meta"]).aggregate([("end_s", "max")]).to_pylist():
            path = manifest.absolute(row["video"])
            if path not in videos:
                videos[path] = _Video(Clip(path, 0.0, 0.0, "-", meta=json.loads(row["meta"])))
            videos[path].end_s = max(videos[path].end_s, row["end_s_max"])
            videos[path].splits.add(row["split"])
            videos[path].cases.add(row["case"])
    found.cases = dict(Counter(split for _, _, split in sides))
    found.leaks = [str(conflict) for conflict in conflicts(sides)]
    _look_for_one_recording(manifest, videos, found)
    found.classes = _classes(labels)
    return videos


def _look_for_one_recording(manifest: Manifest, videos: dict[str, _Video], found: Findings) -> None:
    """A stretch of one video on two sides is one patient there, although its cases have different names."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in videos:
        # Through a link a file has another name.
        files[os.path.realpath(path)].append(path)
    spans: dict[str, list[Span]] = {}
    for paths in files.values():
        sides, cases = (set().union(*(getattr(videos[path], name) for path in paths)) for name in ("splits", "cases"))
        if len(sides - {""}) > 1 and len(cases) > 1:
            shared: list[Span] = []
            spans |= dict.fromkeys(paths, shared)
    if not spans:
        return
    for batch in manifest.batches(["video", "start_s", "end_s", "split", "case"], rows=ROWS):
        for row in batch.to_pylist():
            path = manifest.absolute(row["video"])
            if path in spans:
                spans[path].append((row["start_s"], row["end_s"], row["split"], row["case"]))
    for path, of_file in {id(of_file): (path, of_file) for path, of_file in spans.items()}.values():
        if twice := seen_twice(of_file):
            found.leaks.append(f"{path}: {twice}")
        else:
            found.shared += 1


def _look_at_breaches(table: pa.Table, found: Findings) -> None:
    labelled = table.filter(pc.match_substring(table["labels"], '"breach"'))
    for row in labelled.select(["video", "start_s", "end_s", "case", "labels"]).to_pylist():
        clip = Clip(row["video"], row["start_s"], row["end_s"], row["case"], labels=json.loads(row["labels"]))
        try:
            spans = breach_spans(clip)
        except DataError as error:
            found.breaches.append(str(error))
        else:
            found.missed += spans not in (None, []) and all(
                stop < clip.start_s or start > clip.end_s for start, stop in spans or ()
            )


def _classes(labels: dict[tuple[str, str], int]) -> dict[str, dict[str, dict[str, int]]]:
    """label -> class -> split -> clips, of the labels that are classes."""
    classes: dict[str, dict[str, dict[str, int]]] = {}
    for (text, split), count in labels.items():
        for name, value in json.loads(text).items():
            of_value = classes.setdefault(name, {})
            if isinstance(value, float) or len(of_value) > MAX_CLASSES:
                continue
            of_split = of_value.setdefault(str(value), {})
            of_split[split] = of_split.get(split, 0) + count
    return {name: of_value for name, of_value in classes.items() if 0 < len(of_value) <= MAX_CLASSES}


def _look_into(videos: dict[str, _Video], found: Findings, work: Path, depth: Depth, workers: int | None) -> None:
    names = {f"video-{number}": video for number, video in enumerate(videos)}
    of_name = {video: name for name, video in names.items()}
    clips = [video.clip for video in videos.values()]
    try:
        report = run(
            partial(inspect, depth=depth), clips, work, workers=workers, resume=False, key=lambda clip: of_name[clip.video]
        )
    except DataError:
        # Every single one failed: that is a finding, too.
        report = Report(failed=[(of_name[clip.video], _error_of(clip, depth)) for clip in clips])
    found.unreadable = [(names[key], error.removeprefix("DataError: ")) for key, error in report.failed]
    rows = pq.read_table(work).to_pylist() if report.done else []
    for row in rows:
        video = videos[names[row["key"]]]
        if not row["single"] and video.end_s > row["duration_s"] + END_SLACK_S:
            found.beyond.append((video.clip.video, video.end_s, row["duration_s"]))
    for first, second, bits in near_duplicates([row["signature"] for row in rows]) if rows else ():
        one, other = (videos[names[rows[index]["key"]]] for index in (first, second))
        found.duplicates.append((one.clip.video, other.clip.video, round(bits, 2), len(one.splits | other.splits) > 1))


def inspect(clip: Clip, depth: Depth) -> dict[str, Any]:
    """Length and signature of a clip's video; with depth full every frame is decoded and counted."""
    info = probe_clip(clip)
    single = info.frames == 1
    frames, _ = read_clip(clip, signature_times(info.duration_s))
    decoded = sum(1 for _ in iter_frames(clip.video, image_rate(clip))) if depth == "full" else -1
    if depth == "full" and info.frames and decoded < 0.99 * info.frames - 2:
        raise DataError(f"only {decoded} of its {info.frames} frames can be decoded; it is damaged or cut short")
    return {
        "duration_s": info.duration_s,
        "frames": info.frames,
        "decoded": decoded,
        "single": single,
        "signature": signature(frames),
    }


def _error_of(clip: Clip, depth: Depth) -> str:
    try:
        inspect(clip, depth)
    except DataError as error:
        return str(error)
    return "the video could be read only at the second try"


def lines(found: Findings) -> Iterator[str]:
    """The findings as a person reads them."""
    yield f"{found.clips} clips of {found.videos} videos, {found.hours:.2f} h, fingerprint {found.fingerprint[:12]}"
    for split, count in found.splits.items():
        yield f"  {split or '(no split)':<14} {count:>9} clips of {found.cases.get(split, 0)} cases"
    for name, counts in (("source", found.sources), ("licence", found.licences)):
        yield f"{name}: " + ", ".join(f"{value or '(none)'} {count}" for value, count in counts.items())
    for name, of_label in sorted(found.classes.items()):
        yield f"label {name}:"
        for value, of_split in sorted(of_label.items()):
            yield f"  {value:<30} " + "  ".join(f"{split or '(no split)'} {count}" for split, count in sorted(of_split.items()))
    for video, error in found.unreadable:
        yield f"unreadable: {video}: {error}"
    for video, end_s, duration_s in found.beyond:
        yield f"too short: {video} lasts {duration_s:.2f} s, its clips go on to {end_s:.2f} s"
    for leak in found.leaks:
        yield f"leak: {leak}"
    for wrong in found.breaches:
        yield f"breach: {wrong}"
    for one, other, bits, across in found.duplicates:
        yield f"near-duplicates{' ON TWO SIDES' if across else ''}: {one} and {other} ({bits:g} of 64 bits differ)"
    for remark in found.remarks:
        yield f"remark: {remark}"
