"""The room simulator: sterility and its breaches in an operating room, as short clips and as long takes.

A case is a simulated procedure: its room, staff and cameras. Of its four clips two hold a breach.
    OUT/manifest.parquet   OUT/videos/CASE-N.mp4   OUT/truth/CASE-N.npz (see `truth_of`)
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.manifest import Clip
from surg.data.synth.export import Item, check_request, row, save_truth, split_cases, write_clips
from surg.data.synth.room_camera import Camera
from surg.data.synth.room_scene import Frame, RoomCase, choose_renderer, keeps_its_word
from surg.data.synth.room_script import Script, choose_event, write_script, write_take
from surg.data.synth.room_truth import Contact, box_of, zone_polygon
from surg.data.synth.version import LICENCE, SIMULATOR_VERSION, generator
from surg.data.video import write_video
from surg.errors import ConfigError

FAMILIES = ("a", "b")
FPS = 4.0
SECONDS = 8.0
CLIPS_PER_CASE = 4
ATTEMPTS = 40


def generate(
    out: Path,
    clips: int,
    seed: int,
    family: str = "a",
    workers: int | None = None,
    *,
    size: int = 224,
    split: str | None = None,
    seconds: float = SECONDS,
    cameras: int = 1,
    renderer: str = "auto",
) -> Path:
    """Render `clips` clips, half of them with a breach, each seen by `cameras` cameras (one video and row each).

    Returns the manifest's path. Cases are dealt to train, val and test (70/10/20) unless `split` names one side for all.
    """
    check_request(clips, family, FAMILIES, size)
    if not 4 <= seconds <= 60:
        raise ConfigError(f"Clips of {seconds:g} s cannot hold an event; expected 4 to 60. For longer ones: --takes.")
    cases = -(-clips // CLIPS_PER_CASE)
    shared = _shared(out, seed, family, size, cameras, renderer) | {"seconds": seconds}
    items: list[Item] = [
        shared | {"case": case, "split": side, "clips": min(CLIPS_PER_CASE, clips - case * CLIPS_PER_CASE)}
        for case, side in enumerate(split_cases(seed, cases, split))
    ]
    return write_clips(render_case, items, Path(out), workers)


def generate_takes(
    out: Path,
    takes: int,
    minutes: float,
    seed: int,
    family: str = "a",
    workers: int | None = None,
    *,
    size: int = 224,
    split: str | None = None,
    breaches_per_hour: float = 6.0,
    cameras: int = 1,
    renderer: str = "auto",
) -> Path:
    """Render long videos of everyday work with a few breaches an hour. Frames stream to disk. Returns the manifest's path."""
    check_request(takes, family, FAMILIES, size)
    if not 0.5 <= minutes <= 240:
        raise ConfigError(f"Takes of {minutes:g} minutes are not offered; expected 0.5 to 240.")
    shared = _shared(out, seed, family, size, cameras, renderer) | {"seconds": minutes * 60, "rate": breaches_per_hour}
    items: list[Item] = [shared | {"case": case, "split": side} for case, side in enumerate(split_cases(seed, takes, split))]
    return write_clips(render_take, items, Path(out), workers)


def render_case(item: Item) -> list[dict[str, str]]:
    cv2.setNumThreads(1)
    seed, family, number = item["seed"], item["family"], item["case"]
    case = RoomCase(seed, family, number)
    # Two breaches and two without, in an order of the case's own; every clip keeps its number if fewer are asked for.
    breaches = generator(seed, "room order", family, number).permutation([True, True, False, False])
    times = _times(item["seconds"])
    rows = []
    for index in range(item["clips"]):
        script, contacts = draw_clip(case, seed, number * CLIPS_PER_CASE + index, bool(breaches[index]), times)
        name = f"room-{family}{seed}-{number:05d}"
        rows += _export(item, case, script, contacts, times, name, f"{name}-{index}", number * CLIPS_PER_CASE + index, ids=True)
    return rows


def render_take(item: Item) -> list[dict[str, str]]:
    cv2.setNumThreads(1)
    seed, family, number = item["seed"], item["family"], item["case"]
    case = RoomCase(seed, f"{family}", 1_000_000 + number)
    times = _times(item["seconds"])
    script = write_take(generator(seed, "room take", family, number), case.team, item["seconds"], item["rate"])
    contacts, _ = case.contacts(script, times)
    name = f"take-{family}{seed}-{number:04d}"
    return _export(item, case, script, contacts, times, name, name, number, ids=False)


def draw_clip(
    case: RoomCase, seed: int, number: int, breach: bool, times: npt.NDArray[np.float64]
) -> tuple[Script, list[list[Contact]]]:
    """Draw scripts until the bodies do what the script says. The event is drawn once, so that hard ones are not thinned out."""
    event = choose_event(generator(seed, "room event", case.family, number), breach)
    for attempt in range(ATTEMPTS):
        rng = generator(seed, "room script", case.family, number, attempt)
        script = write_script(rng, case.team, event, float(rng.uniform(0.28, 0.68) * times[-1]))
        contacts, nearest = case.contacts(script, times)
        if keeps_its_word(event, contacts, nearest, FPS):
            return script, contacts
    raise AssertionError(f"no {event} in {ATTEMPTS} attempts for seed {seed}, clip {number}")


def breach_spans(
    script: Script, contacts: list[list[Contact]], times: npt.NDArray[np.float64]
) -> list[tuple[float, float, str]]:
    """(first second, last second, event) of every breach; gaps under half a second are bridged."""
    spans: list[tuple[float, float, str]] = []
    for time, found in zip(times.tolist(), contacts):
        if not found:
            continue
        if spans and time - spans[-1][1] <= 2.01 / FPS:
            spans[-1] = (spans[-1][0], time, spans[-1][2])
        else:
            planned = [event for event, begin, end in script.spans if begin <= time <= end]
            names = {"unsterile": f"breach_{found[0].zone}", "back": "gown_contact", "item": "dropped_item"}
            named = "elbow_contact" if "elbow_contact" in planned[-1:] else names[found[0].kind]
            spans.append((time, time, named))
    return [(begin, end + 1 / FPS, name) for begin, end, name in spans]


def truth_of(
    case: RoomCase, script: Script, contacts: list[list[Contact]], camera: Camera, times: npt.NDArray[np.float64]
) -> dict[str, np.ndarray[Any, Any]]:
    """What the camera saw, exactly.

    times (T,).  breach (T,): 0 or 1.  boxes (T, 4): x0 y0 x1 y1 of what touches, 0..1, NaN without a breach.  kind, zone (T,): text.
    field, tray (n, 2): polygons of the zones.  camera (4, 4).  instances, roles, sterile (n,): numbers in the masks and who they are.
    centres (T, n, 2): the middle of each of them, in 0..1 of the picture, whatever hides it. What stands still keeps its place, although
    somebody who passes in front of it changes what is seen of it.
    ids (T, S, S), of clips only: the instance number of every pixel.
    """
    boxes = np.full((len(times), 4), np.nan, np.float32)
    for index, found in enumerate(contacts):
        if found:
            boxes[index] = box_of(camera, np.concatenate([contact.points for contact in found]))
    return {
        "times": times,
        "breach": np.array([bool(found) for found in contacts], np.uint8),
        "boxes": boxes,
        "kind": np.array([found[0].kind if found else "" for found in contacts]),
        "zone": np.array([found[0].zone if found else "" for found in contacts]),
        "field": np.array(zone_polygon(camera, ("field",)), np.float32),
        "tray": np.array(zone_polygon(camera, ("tray",)), np.float32),
        "camera": camera.matrix,
        **case.instances(script),
    }


def _export(
    item: Item,
    case: RoomCase,
    script: Script,
    contacts: list[list[Contact]],
    times: npt.NDArray[np.float64],
    case_name: str,
    name: str,
    number: int,
    *,
    ids: bool,
) -> list[dict[str, str]]:
    """Draw one script as its cameras see it: video, truth and row of each."""
    out, seed, family = Path(item["out"]), item["seed"], item["family"]
    rng = generator(seed, "room cameras", family, number, len(times))
    chosen = case.open_views(script, rng)[: item["cameras"]]
    renderer = case.renderer([actor is not None for actor in script.cast], item["size"], item["renderer"])
    spans = breach_spans(script, contacts, times)
    rows = []
    for index in chosen:
        camera = case.cameras[index]
        masks: list[Any] = []
        centres: list[Any] = []
        stem = name if item["cameras"] == 1 else f"{name}-{camera.name}"
        video, truth_path = out / "videos" / f"{stem}.mp4", out / "truth" / f"{stem}.npz"
        noise = generator(seed, "room noise", family, number, index)
        quality = int(noise.integers(19, 28))

        def pictures(frames: Iterator[Frame], masks: list[Any], centres: list[Any]) -> Iterator[npt.NDArray[np.uint8]]:
            for frame in frames:
                masks.append(frame.ids)
                centres.append(frame.centres)
                yield frame.picture

        drawn = case.frames(renderer, script, camera, times, noise, ids=ids)
        write_video(video, pictures(drawn, masks, centres), FPS, crf=quality, repeatable=True)
        truth = truth_of(case, script, contacts, camera, times)
        truth["centres"] = np.array(centres, np.float32)
        if ids:
            truth["ids"] = np.stack(masks)
        save_truth(truth_path, truth)
        labels: dict[str, str | float | int] = {
            "event": script.event,
            "breach": int(bool(spans)),
            "breach_t0": spans[0][0] if spans else -1.0,
            "breach_t1": spans[0][1] if spans else -1.0,
            "camera": camera.name,
            "room": case_name,
            "family": family,
        }
        if not ids:
            labels["breaches"] = json.dumps([[round(begin, 3), round(end, 3), event] for begin, end, event in spans])
        rows.append(
            row(
                Clip(
                    video=str(video.absolute()),
                    start_s=0.0,
                    end_s=float(times[-1]),
                    case=case_name,
                    split=item["split"],
                    source="synth-room",
                    licence=LICENCE,
                    labels=labels,
                    zone=zone_polygon(camera),
                    masks=str(truth_path.absolute()),
                    meta={
                        "simulator": SIMULATOR_VERSION,
                        "seed": str(seed),
                        "fps": f"{FPS:g}",
                        "crf": str(quality),
                        "renderer": renderer.name,
                        "take": name,
                    },
                )
            )
        )
    renderer.release()
    return rows


def _times(seconds: float) -> npt.NDArray[np.float64]:
    return np.arange(round(seconds * FPS), dtype=np.float64) / FPS


def _shared(out: Path, seed: int, family: str, size: int, cameras: int, renderer: str) -> Item:
    if cameras < 1:
        raise ConfigError(f"{cameras} cameras see nothing; expected 1 or more.")
    return {
        "simulator": f"room {SIMULATOR_VERSION}",
        "out": str(out),
        "seed": seed,
        "family": family,
        "size": size,
        "cameras": cameras,
        "renderer": choose_renderer(renderer),
    }
