"""Several manifests become one: more sites, more seeds, a public set beside one's own. Splits stay as they are, timelines come along."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from surg.data.manifest import Clip, Manifest, check_manifest_name, write_manifest
from surg.data.overlap import Span, refuse_overlap, seen_twice
from surg.data.timeline import Timeline, check_apart, join_timelines, timeline_path
from surg.errors import DataError


def merge(manifests: Sequence[Manifest], out: Path) -> Manifest:
    """Write all clips, in order, and what the parts' timelines tell beside them.

    Raises DataError when a clip or a case's timeline stands in two parts, or a patient or a moment of a video on two sides; then nothing
    is written.
    """
    check_manifest_name(out)
    rows = {(clip.source, clip.case, clip.split) for clip in _all_clips(manifests)}
    refuse_overlap(rows)
    _refuse_twice(manifests)
    timelines = [Timeline(path) for manifest in manifests if (path := timeline_path(manifest.path)).is_file()]
    check_apart(timelines)
    notes = {f"part {number}": manifest.fingerprint for number, manifest in enumerate(manifests, start=1)}
    # A part that leaks makes the whole leak.
    notes["leak"] = next((leak for manifest in manifests if (leak := manifest.notes.get("leak"))), "")
    join_timelines(timeline_path(out), timelines)
    return write_manifest(out, _all_clips(manifests), notes)


def _all_clips(manifests: Sequence[Manifest]) -> Iterator[Clip]:
    return chain.from_iterable(manifest.clips() for manifest in manifests)


def _refuse_twice(manifests: Sequence[Manifest]) -> None:
    """Only videos that several manifests name can hold a clip, or a moment of two sides, twice; of the others no clip is remembered."""
    owners: dict[str, int] = {}
    shared: set[str] = set()
    # One file may have several names: through a link, or with `..` on the way.
    files: dict[str, str] = {}
    for number, manifest in enumerate(manifests):
        for video in manifest.counts("video"):
            path = manifest.absolute(video)
            files[path] = os.path.realpath(path)
            if owners.setdefault(files[path], number) != number:
                shared.add(files[path])
    seen: dict[tuple[str, float, float, str], Path] = {}
    spans: dict[str, list[Span]] = {}
    for manifest in manifests if shared else ():
        for clip in manifest.clips():
            if (file := files[clip.video]) in shared:
                key = (file, clip.start_s, clip.end_s, str(clip.zone))
                if key in seen:
                    raise DataError(
                        f"{clip.video}, {clip.start_s:g} to {clip.end_s:g} s, stands in {seen[key]} and again in {manifest.path}; "
                        "in one manifest it would count twice.\nMerge only one of the two, or take the clip out of one."
                    )
                seen[key] = manifest.path
                spans.setdefault(file, []).append((clip.start_s, clip.end_s, clip.split, clip.case))
    for file, of_file in spans.items():
        if twice := seen_twice(of_file):
            raise DataError(
                f"{file}: {twice}; a test would ask about what was seen in training.\n"
                "Give the case one name in both manifests, and split the whole anew: surg data split"
            )
