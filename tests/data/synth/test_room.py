"""The room simulator: labels are measured on the bodies, every camera sees the same event, both renderers draw the same room."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from surg.data.manifest import Clip, Manifest
from surg.data.synth.room import FPS, breach_spans, draw_clip, generate, generate_takes
from surg.data.synth.room_body import Body, Pose
from surg.data.synth.room_mesh import PERSON
from surg.data.synth.room_people import Person
from surg.data.synth.room_scene import RoomCase, choose_renderer
from surg.data.synth.room_script import BREACHES, CIRCULATOR, EVENTS, HARMLESS, write_script, write_take
from surg.data.synth.room_stage import ZONES
from surg.data.synth.room_truth import contacts_of, convex_hull, inside
from surg.data.video import read_frames
from surg.errors import ConfigError

TIMES = np.arange(32) / FPS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("room")
    generate(out, clips=4, seed=1, workers=1, size=64, renderer="painter", seconds=5)
    return out


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Clip]:
    return list(Manifest.read(folder / "manifest.parquet"))


def test_half_of_a_case_are_breaches_and_events_agree(clips: list[Clip]) -> None:
    assert sum(int(clip.labels["breach"]) for clip in clips) == 2
    for clip in clips:
        assert str(clip.labels["event"]) in (BREACHES if clip.labels["breach"] else HARMLESS)


def test_breach_times_and_boxes_fit_the_frames(clips: list[Clip]) -> None:
    for clip in clips:
        with np.load(str(clip.masks)) as truth:
            moments = truth["times"][truth["breach"] == 1]
            assert np.isfinite(truth["boxes"]).all(1).tolist() == truth["breach"].astype(bool).tolist()
            assert truth["ids"].shape == (20, 64, 64)
        if clip.labels["breach"]:
            assert clip.labels["breach_t0"] == moments[0]
            assert clip.labels["breach_t1"] == pytest.approx(moments[-1] + 1 / FPS)
            assert 1.0 <= moments[0] < clip.end_s
        else:
            assert len(moments) == 0
            assert clip.labels["breach_t0"] == -1.0


def test_rows_carry_a_zone_masks_and_who_is_who(clips: list[Clip]) -> None:
    for clip in clips:
        assert clip.zone is not None
        corners = np.array(clip.zone)
        assert len(corners) >= 4
        assert ((corners >= 0) & (corners <= 1)).all()
        with np.load(str(clip.masks)) as truth:
            people = dict(zip(truth["instances"].tolist(), truth["sterile"].tolist()))
            seen = set(np.unique(truth["ids"]).tolist())
        assert people[PERSON + CIRCULATOR] is False
        assert seen & set(people)
        assert clip.meta["renderer"] == "painter"


def test_true_centres_are_where_people_are_seen(clips: list[Clip]) -> None:
    near = []
    for clip in clips:
        with np.load(str(clip.masks)) as truth:
            ids, centres, instances = truth["ids"], truth["centres"], truth["instances"]
        assert centres.shape == (20, len(instances), 2)
        for frame, places in zip(ids, centres):
            for number, place in zip(instances.tolist(), places * 64):
                ys, xs = np.nonzero(frame == number)
                if len(ys) >= 100:  # most of somebody; a hand that shows behind somebody else is far from its body's middle
                    near.append(np.hypot(*(np.array([xs.mean(), ys.mean()]) + 0.5 - place)) < 8)
    assert len(near) > 20
    assert np.mean(near) > 0.9


def test_output_repeats_with_other_workers(folder: Path, tmp_path: Path) -> None:
    """Also, fewer clips are the first of more."""
    generate(tmp_path, clips=1, seed=1, workers=2, size=64, renderer="painter", seconds=5)
    (again,) = Manifest.read(tmp_path / "manifest.parquet")
    first = next(iter(Manifest.read(folder / "manifest.parquet")))
    assert again.labels == first.labels
    assert Path(again.video).read_bytes() == Path(first.video).read_bytes()
    assert Path(str(again.masks)).read_bytes() == Path(str(first.masks)).read_bytes()


def test_cameras_of_a_take_share_the_event_and_differ_in_view(tmp_path: Path) -> None:
    generate(tmp_path, clips=1, seed=2, workers=1, size=64, renderer="painter", seconds=4, cameras=2)
    first, second = Manifest.read(tmp_path / "manifest.parquet")
    assert first.case == second.case
    assert first.meta["take"] == second.meta["take"]
    assert first.labels["camera"] != second.labels["camera"]
    for label in ("event", "breach", "breach_t0", "breach_t1"):
        assert first.labels[label] == second.labels[label]
    assert first.zone != second.zone


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["--minutes", "30"], "--takes N"),
        (["--breaches-per-hour", "9"], "--takes N"),
        (["--takes", "1", "--clips", "4"], "--minutes"),
    ],
)
def test_options_of_takes_and_of_clips_are_not_mixed(words: list[str], way: str, tmp_path: Path) -> None:
    from surg.cli.data_synth import app

    answer = CliRunner().invoke(app, ["room", "--out", str(tmp_path / "room"), *words])
    assert isinstance(answer.exception, ConfigError)
    assert way in str(answer.exception)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_can_be_staged_and_is_what_it_says(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surg.data.synth.room.choose_event", lambda rng, breach: event)
    case = RoomCase(4, "a", 0)
    script, contacts = draw_clip(case, 4, 0, event in BREACHES, TIMES)
    spans = breach_spans(script, contacts, TIMES)
    assert script.event == event
    assert [name for _, _, name in spans] == ([event] if event in BREACHES else [])


def test_an_unsterile_hand_in_the_tray_is_a_contact_and_a_sterile_one_is_not() -> None:
    rng = np.random.default_rng(0)
    bare, gloved = Person(rng, 0, "a", sterile=False), Person(rng, 1, "a", sterile=True)
    pose = Pose(1.0, 0.75, 0.0, 0.15, right=(0.85, 0.22, 1.05))
    bodies = [bare.pose(pose), gloved.pose(pose)]
    assert [(found.kind, found.zone, found.person) for found in contacts_of([bare, gloved], bodies)] == [
        ("unsterile", "tray", 0)
    ]
    away = [bare.pose(replace(pose, right=(1.3, 0.9, 1.05))), None]
    assert contacts_of([bare, None], away) == []


@pytest.mark.parametrize("number", range(12))
def test_wrists_reach_their_targets(number: int) -> None:
    body = Body(number)
    target = (-0.12, -0.40, 1.15)
    _, starts = body.bones(Pose(0.0, 0.0, right=target, left=(0.15, -0.4, 1.0)))
    assert np.linalg.norm(starts[body.rig.bone("hand.R")] - target) < 0.02


def test_posing_a_person_leaves_the_baked_body_alone() -> None:
    before = Body(3).rest.copy()
    rng = np.random.default_rng(1)
    for _ in range(4):
        Person(rng, 0, "b", sterile=False).pose(Pose(1.0, 1.0))
    assert np.array_equal(before, Body(3).rest)


def test_takes_hold_breaches_at_the_wanted_rate_and_are_written_with_their_times(tmp_path: Path) -> None:
    generate_takes(tmp_path, 1, 0.5, seed=6, workers=1, size=64, renderer="painter", breaches_per_hour=400)
    (take,) = Manifest.read(tmp_path / "manifest.parquet")
    spans = json.loads(str(take.labels["breaches"]))
    assert spans
    assert all(0 <= begin < end <= take.end_s + 1 / FPS for begin, end, _ in spans)
    assert take.end_s == pytest.approx(30 - 1 / FPS)
    assert read_frames(take.video, [take.end_s]).shape == (1, 64, 64, 3)


def test_breach_rate_changes_a_take() -> None:
    team = RoomCase(1, "a", 0).team

    def planned(rate: float) -> int:
        script = write_take(np.random.default_rng(0), team, 3600, rate)
        return sum(event in BREACHES for event, _, _ in script.spans)

    assert planned(0) == 0
    assert 2 <= planned(6) <= 14
    assert planned(60) > 30


def test_a_harmless_script_never_moves_the_dish_and_a_dropped_one_falls_to_the_floor() -> None:
    team = RoomCase(1, "a", 0).team
    dropped = write_script(np.random.default_rng(0), team, "dropped_item", 3.0).item
    assert dropped.at(0.0)[2] > ZONES["tray"][0][2]
    assert dropped.at(7.0)[2] == pytest.approx(0.012)
    assert write_script(np.random.default_rng(0), team, "near_miss", 3.0).item.at(7.0)[2] > ZONES["tray"][0][2]


def test_torch_compiles_in_a_process_that_has_drawn_with_opengl() -> None:
    """Each brings an LLVM, and in the wrong order the two end the process."""
    if choose_renderer("auto") != "gl":
        pytest.skip("no OpenGL here")
    code = "from surg.data.synth.room_gl import make_context; make_context().release(); import torch._dynamo; print('both')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "both\n"), ran.stderr[-500:]


def test_renderers_agree_on_who_is_where() -> None:
    """Where OpenGL works, its masks and the painter's overlap; where it does not, asking for it says so."""
    if choose_renderer("auto") != "gl":
        with pytest.raises(ConfigError, match="painter"):
            choose_renderer("gl")
        return
    case = RoomCase(6, "a", 0)
    script = write_script(np.random.default_rng(0), case.team, "routine", 3.0)
    masks = []
    for kind in ("gl", "painter"):
        renderer = case.renderer([actor is not None for actor in script.cast], 96, kind)
        (frame,) = case.frames(renderer, script, case.cameras[0], np.array([1.0]), np.random.default_rng(0), ids=True)
        renderer.release()
        masks.append(frame.ids)
        assert frame.picture.std() > 20
    for instance in (2, PERSON, PERSON + 2):
        gl, painted = (mask == instance for mask in masks)
        assert (gl & painted).sum() / max(1, (gl | painted).sum()) > 0.7


def test_zones_are_open_boxes() -> None:
    points = np.float32([[0.8, 0.0, 1.0], [0.8, 0.0, 0.9], [0.8, 0.26, 1.0]])
    assert inside(points, "tray").tolist() == [True, False, False]
    assert inside(points, "tray", below=0.1).tolist() == [True, True, False]
    assert inside(points, "tray", margin=0.02).tolist() == [True, False, True]


def test_hull_of_a_square_and_its_middle_is_the_square() -> None:
    hull = convex_hull(np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]]))
    assert sorted(map(tuple, hull)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seconds": 1}, "4 to 60"), ({"cameras": 0}, "1 or more"), ({"renderer": "ink"}, "auto, gl or painter")],
)
def test_impossible_requests_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(tmp_path, **{"clips": 1, "seed": 0, "renderer": "painter"} | change)  # type: ignore[arg-type]


def test_command_line_writes_takes_of_two_cameras(tmp_path: Path) -> None:
    options = "--takes 1 --minutes 0.5 --cameras 2 --size 64 --renderer painter --workers 1 --family b --split val --seed 9"
    command = [sys.executable, "-m", "surg", "data", "synth", "room", "--out", str(tmp_path), *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Wrote 2" in done.stdout
    assert "Next: surg" in done.stdout
    takes = list(Manifest.read(tmp_path / "manifest.parquet"))
    assert [take.split for take in takes] == ["val", "val"]
    assert all(take.labels["family"] == "b" for take in takes)
