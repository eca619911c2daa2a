"""What happens in a simulated operating room: breaches of sterility, and the everyday movements that look like one.

A script only says how people move. Whether that is a breach is measured on the bodies (room_truth), never assumed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from surg.data.synth.room_motion import Actor, Point, Reach, Walk, facing, working_hands
from surg.data.synth.room_stage import TRAY_TOP, ZONES

# How often each occurs among breaches and among the rest.
BREACHES = {"breach_tray": 0.30, "breach_field": 0.30, "elbow_contact": 0.14, "gown_contact": 0.13, "dropped_item": 0.13}
HARMLESS = {"near_miss": 0.38, "gloved_reach": 0.22, "occluded_hand": 0.20, "walk_by": 0.15, "routine": 0.05}
EVENTS = (*BREACHES, *HARMLESS)
# Places in the cast. The first three are scrubbed in.
SURGEON, ASSISTANT, NURSE, CIRCULATOR = range(4)
FALL_SECONDS = 0.44


@dataclass
class Item:
    """A steel dish on the tray's edge; after `drop_s` it lies on the floor."""

    place: Point
    drop_s: float | None = None
    slide: tuple[float, float] = (0.0, 0.0)

    def at(self, time: float) -> Point:
        if self.drop_s is None or time <= self.drop_s:
            return self.place
        since = time - self.drop_s
        fallen = min(since / FALL_SECONDS, 1.0)
        hop = 0.06 * abs(np.sin(np.pi * (since - FALL_SECONDS) / 0.3)) if 0 < since - FALL_SECONDS < 0.3 else 0.0
        share = min(1.0, since / 0.6)
        x, y, z = self.place
        return x + self.slide[0] * share, y + self.slide[1] * share, 0.012 + (z - 0.012) * (1 - fallen**2) + hop


@dataclass
class Script:
    event: str
    cast: list[Actor | None]
    """By place; None where nobody stands."""
    item: Item
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    """(event, first, last second) of everything that was scheduled."""


@dataclass(frozen=True)
class Team:
    """Who stands where in one simulated procedure."""

    side: float
    """+1: the surgeon stands at y < 0."""
    assistant: bool
    nurse_x: float
    item: Point

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Team":
        side = float(rng.choice([-1.0, 1.0]))
        edge = (rng.uniform(0.70, 0.96), -side * 0.19, TRAY_TOP + 0.02)
        return cls(side, bool(rng.random() < 0.5), float(rng.uniform(0.78, 0.95)), edge)


def write_script(rng: np.random.Generator, team: Team, event: str, peak_s: float) -> Script:
    """One event whose moment is `peak_s`."""
    script = Script(event, base_cast(rng, team), Item(team.item))
    stage_event(rng, team, script, event, peak_s)
    return script


def write_take(rng: np.random.Generator, team: Team, seconds: float, breaches_per_hour: float) -> Script:
    """A long procedure: something every 20 to 40 s, a breach now and then."""
    script = Script("take", base_cast(rng, team), Item(team.item))
    time = rng.uniform(8, 20)
    while time < seconds - 12:
        gap = rng.uniform(20, 40)
        if rng.random() < breaches_per_hour * gap / 3600:
            event = _choice(rng, {name: share for name, share in BREACHES.items() if name != "dropped_item"})
        else:
            event = _choice(rng, HARMLESS)
        stage_event(rng, team, script, event, time)
        time += gap
    return script


def choose_event(rng: np.random.Generator, breach: bool) -> str:
    return _choice(rng, BREACHES if breach else HARMLESS)


def base_cast(rng: np.random.Generator, team: Team) -> list[Actor | None]:
    """Everybody at work: surgeon and assistant over the field, the scrub nurse at the tray, the circulator apart."""

    def at_field(side: float, x: float) -> Actor:
        y = -0.62 * side
        hands = working_hands(rng, (x, -0.07 * side, 1.05), 0.1 * side)
        return Actor(Walk.standing(x, y, facing((x, y), (x, 0))), [], hands, rng.uniform(0.16, 0.26), rng.uniform(0, 6))

    surgeon = at_field(team.side, rng.normal(0.0, 0.05))
    assistant = at_field(-team.side, rng.normal(-0.05, 0.05)) if team.assistant else None
    spot = (team.nurse_x, -0.66 * team.side)
    nurse_hands = working_hands(rng, (spot[0], -0.40 * team.side, 1.12), 0.09 * team.side)
    nurse = Actor(Walk.standing(*spot, facing(spot, (spot[0] - 0.1, 0))), [], nurse_hands, 0.06, rng.uniform(0, 6))
    home = (rng.uniform(1.5, 2.3), team.side * rng.uniform(1.1, 1.8))
    circulator = Actor(Walk.standing(*home, facing(home, (0.3, 0.0))), [], None, 0.03, rng.uniform(0, 6))
    return [surgeon, assistant, nurse, circulator]


def stage_event(rng: np.random.Generator, team: Team, script: Script, event: str, peak_s: float) -> None:
    _STAGES[event](_Scene(rng, team, script, peak_s))
    script.spans.append((event, peak_s - 6.0, peak_s + 6.0))


@dataclass
class _Scene:
    rng: np.random.Generator
    team: Team
    script: Script
    peak_s: float

    def actor(self, place: int) -> Actor:
        actor = self.script.cast[place]
        assert actor is not None
        return actor

    def timing(self) -> tuple[float, float, float, float]:
        start = self.peak_s - self.rng.uniform(0.7, 1.3)
        end = self.peak_s + self.rng.uniform(0.5, 1.8)
        return start, self.peak_s, end, end + self.rng.uniform(0.7, 1.2)

    def free_side(self) -> float:
        """The sign of y where the circulator can stand: opposite the nurse when reaching the tray."""
        return self.team.side

    def approach(self, stand: tuple[float, float], look_at: tuple[float, float], arrive: float) -> None:
        """The circulator walks in, so as to stand there in time, and afterwards away again."""
        walk = self.actor(CIRCULATOR).walk
        here = walk.places[-1]
        way = float(np.hypot(stand[0] - here[0], stand[1] - here[1]))
        longest = self.rng.uniform(0.5, 1.8)
        around = np.sign(here[1]) != np.sign(stand[1])
        if walk.times[-1] == 0.0 and way > longest and not around:
            # In a clip somebody may be on the way already: nearer, on the same line.
            share = longest / way
            walk.places[-1] = (stand[0] + (here[0] - stand[0]) * share, stand[1] + (here[1] - stand[1]) * share)
            way = longest
        corners = [(2.0, here[1]), (2.0, stand[1])] if around else []
        total = (
            sum(float(np.hypot(b[0] - a[0], b[1] - a[1])) for a, b in zip([here, *corners], [*corners, stand]))
            if around
            else way
        )
        walk.wait_until(arrive - total / 0.9 - 0.35 * (len(corners) + 1) - 0.5)
        for corner in corners:
            walk.go(*corner)
        walk.go(*stand)
        walk.turn(facing(stand, look_at), 0.45)

    def leave(self, time: float) -> None:
        walk = self.actor(CIRCULATOR).walk
        walk.wait_until(time + self.rng.uniform(0.1, 0.6))
        x, y = walk.places[-1]
        out = self.rng.uniform(0.7, 1.5)
        walk.go(float(np.clip(x + out * 0.6, -2.5, 2.6)), float(np.clip(y + np.sign(y) * out, -2.3, 2.3)))

    def stand_for(self, point: Point, far: float) -> tuple[float, float]:
        """Where the circulator stands to reach a point: beside the table, clear of the others."""
        side = float(np.sign(point[1]))
        turn = self.rng.uniform(-0.45, 0.45)
        return point[0] + far * np.sin(turn), point[1] + side * far * np.cos(turn)

    def hand_reach(self, fingers: Point, far: float) -> None:
        """The circulator comes, reaches with bare fingers to a place and goes."""
        stand = self.stand_for(fingers, far)
        start, full, end, back = self.timing()
        self.approach(stand, (fingers[0], fingers[1]), start)
        toward = np.array([fingers[0] - stand[0], fingers[1] - stand[1]])
        toward /= np.linalg.norm(toward)
        wrist = (fingers[0] - 0.13 * toward[0], fingers[1] - 0.13 * toward[1], fingers[2] + 0.05)
        lean = float(np.clip(0.1 + (far - 0.5) * 0.9 + (1.05 - fingers[2]) * 0.5, 0.08, 0.6))
        self.actor(CIRCULATOR).reaches.append(Reach(start, full, end, back, bool(self.rng.random() < 0.5), wrist, lean))
        self.leave(back)

    def nurse_reach(self, fingers: Point) -> tuple[float, float]:
        nurse = self.actor(NURSE)
        start, full, end, back = self.timing()
        x, y = nurse.walk.places[-1]
        toward = np.array([fingers[0] - x, fingers[1] - y])
        far = float(np.linalg.norm(toward))
        toward /= far
        wrist = (fingers[0] - 0.13 * toward[0], fingers[1] - 0.13 * toward[1], fingers[2] + 0.05)
        nurse.reaches.append(
            Reach(start, full, end, back, bool(self.rng.random() < 0.5), wrist, float(np.clip(far - 0.35, 0.08, 0.5)))
        )
        return full, back


def _breach_tray(scene: _Scene) -> None:
    rng, side = scene.rng, scene.free_side()
    scene.hand_reach((rng.uniform(0.70, 0.96), side * rng.uniform(0.02, 0.19), rng.uniform(0.96, 1.08)), rng.uniform(0.5, 0.66))


def _breach_field(scene: _Scene) -> None:
    rng, side = scene.rng, scene.free_side()
    # Between assistant and tray, or where the assistant would stand.
    x = rng.uniform(0.30, 0.40) if scene.team.assistant else rng.uniform(0.0, 0.38)
    scene.hand_reach((x, side * rng.uniform(0.06, 0.20), rng.uniform(1.0, 1.10)), rng.uniform(0.5, 0.66))


def _near_miss(scene: _Scene) -> None:
    rng, team = scene.rng, scene.team
    if rng.random() < 0.15:
        _turned_away(scene, contact=False)
        return
    side = scene.free_side()
    low, high = ZONES["tray" if rng.random() < 0.5 else "field"]
    x = rng.uniform(low[0] + 0.05, high[0] - 0.05)
    if high[0] < 0.5:
        x = rng.uniform(0.30, 0.40) if team.assistant else rng.uniform(0.0, 0.38)
    scene.hand_reach((x, side * (high[1] + rng.uniform(0.07, 0.2)), rng.uniform(0.98, 1.2)), rng.uniform(0.45, 0.62))


def _occluded_hand(scene: _Scene) -> None:
    """The hand goes out of sight below the drapes, outside the zone: after a cable, a pedal."""
    rng = scene.rng
    side = scene.free_side()
    x = rng.uniform(0.45, 0.95) if scene.team.assistant else rng.uniform(0.1, 0.95)
    scene.hand_reach((x, side * rng.uniform(0.38, 0.46), rng.uniform(0.45, 0.68)), rng.uniform(0.5, 0.62))


def _elbow_contact(scene: _Scene) -> None:
    """A bare elbow touches the tray while its owner looks elsewhere."""
    rng, side = scene.rng, scene.free_side()
    right = bool(rng.random() < 0.5)
    stand = (rng.uniform(0.72, 0.94), side * (ZONES["tray"][1][1] + rng.uniform(0.17, 0.25)))
    # Sideways to the tray: the elbow's side towards it.
    toward = facing(stand, (stand[0], 0.0))
    yaw = toward + (np.pi / 2 if right else -np.pi / 2) + rng.normal(0, 0.15)
    start, full, end, back = scene.timing()
    scene.approach((stand[0], stand[1] + side * 0.12), (stand[0], 0.0), start - 0.9)
    walk = scene.actor(CIRCULATOR).walk
    walk.turn(yaw, 0.5)
    walk.wait_until(start)
    walk.go(*stand, speed=0.35, yaw=yaw)
    sign = -1.0 if right else 1.0
    c, s = float(np.cos(yaw)), float(np.sin(yaw))
    local = (0.06 * sign, -0.26)
    hand = (stand[0] + local[0] * c - local[1] * s, stand[1] + local[0] * s + local[1] * c, rng.uniform(0.98, 1.08))
    scene.actor(CIRCULATOR).reaches.append(Reach(start - 0.4, full, end, back, right, hand, 0.05, 1.0))
    walk.wait_until(end)
    walk.go(stand[0], stand[1] + side * 0.35, speed=0.6, yaw=yaw)
    scene.leave(back)


def _gown_contact(scene: _Scene) -> None:
    _turned_away(scene, contact=True)


def _turned_away(scene: _Scene, *, contact: bool) -> None:
    """The scrub nurse turns her back to the tray, and steps back against it or not."""
    rng, nurse = scene.rng, scene.actor(NURSE)
    walk, side = nurse.walk, scene.team.side
    (x, y), yaw = walk.places[-1], walk.yaws[-1]
    away = yaw + np.pi + rng.normal(0, 0.2)
    walk.wait_until(scene.peak_s - 1.8)
    walk.turn(away, 1.1)
    if contact:
        walk.go(x, -side * (ZONES["tray"][1][1] + rng.uniform(0.04, 0.09)), speed=0.6, yaw=away)
    back = scene.peak_s + rng.uniform(0.6, 1.8)
    # Turned away, hands stay in front of the chest and not over the tray.
    c, s = float(np.cos(away)), float(np.sin(away))
    for right, sign in ((False, 1.0), (True, -1.0)):
        hold = (x + 0.12 * sign * c + 0.32 * s, y + 0.12 * sign * s - 0.32 * c, 1.15)
        nurse.reaches.append(Reach(scene.peak_s - 1.8, scene.peak_s - 0.7, back + 0.6, back + 1.5, right, hold, 0.03))
    walk.wait_until(back)
    if contact:
        walk.go(x, y, speed=0.6, yaw=away)
    walk.turn(yaw, 1.0)
    _distraction(scene)


def _dropped_item(scene: _Scene) -> None:
    """A reach pushes the dish over the edge."""
    x, y, z = scene.team.item
    full, _ = scene.nurse_reach((x, y + 0.04 * scene.team.side, z + 0.03))
    item = scene.script.item
    item.drop_s = full + scene.rng.uniform(0.0, 0.3)
    item.slide = (float(scene.rng.normal(0, 0.03)), -scene.team.side * scene.rng.uniform(0.12, 0.2))
    _distraction(scene)


def _gloved_reach(scene: _Scene) -> None:
    rng, side = scene.rng, scene.team.side
    if rng.random() < 0.6:
        scene.nurse_reach((rng.uniform(0.68, 0.98), -side * rng.uniform(-0.15, 0.18), rng.uniform(0.97, 1.06)))
    else:
        scene.nurse_reach((rng.uniform(0.34, 0.42), -side * rng.uniform(0.0, 0.15), rng.uniform(1.02, 1.1)))
    _distraction(scene)


def _walk_by(scene: _Scene) -> None:
    rng, actor = scene.rng, scene.actor(CIRCULATOR)
    walk = actor.walk
    side = float(np.sign(walk.places[-1][1]))
    along = side * rng.uniform(1.1, 1.7)
    left, right = rng.uniform(-1.4, -0.4), rng.uniform(1.5, 2.4)
    start, end = ((right, along), (left, along)) if walk.places[-1][0] > 0.5 else ((left, along), (right, along))
    if walk.times[-1] == 0.0:
        walk.places[-1] = start
    walk.wait_until(scene.peak_s - abs(start[0] - 0.4) / 0.9 - 0.5)
    walk.go(*end)
    walk.turn(facing(end, (0.3, 0.0)), 0.8)


def _routine(scene: _Scene) -> None:
    if scene.rng.random() < 0.5:
        _distraction(scene)


def _distraction(scene: _Scene) -> None:
    """The circulator does something of no account meanwhile, so that his standing still says nothing."""
    rng = scene.rng
    if rng.random() < 0.5:
        _walk_by(scene)
    elif rng.random() < 0.6:
        x, side = rng.uniform(0.6, 1.2), scene.free_side()
        stand = (x, side * rng.uniform(0.72, 0.95))
        scene.approach(stand, (x - 0.2, 0.0), scene.peak_s - rng.uniform(0, 2))
        scene.leave(scene.peak_s + rng.uniform(1, 3))


def _choice(rng: np.random.Generator, shares: dict[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


_STAGES: dict[str, Callable[[_Scene], None]] = {
    "breach_tray": _breach_tray,
    "breach_field": _breach_field,
    "elbow_contact": _elbow_contact,
    "gown_contact": _gown_contact,
    "dropped_item": _dropped_item,
    "near_miss": _near_miss,
    "gloved_reach": _gloved_reach,
    "occluded_hand": _occluded_hand,
    "walk_by": _walk_by,
    "routine": _routine,
}
