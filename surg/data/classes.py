"""Motion classes: strength by direction of what moves. Quantiles and the fate of rare classes are learnt on the train split alone."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from surg.advice import quoted
from surg.config import Config
from surg.data.manifest import Clip, Label
from surg.data.motion import FEATURES
from surg.errors import DataError
from surg.runs import write_json

COMPASS = {1: ("any",), 2: ("right", "left"), 4: ("right", "down", "left", "up")}
COMPASS[8] = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
OTHER = "other"


class ClassConfig(Config):
    source: Literal["foreground", "flow"] = "foreground"
    """foreground is what moves besides the camera; flow is everything, so that a pan makes a class."""
    magnitudes: int = Field(2, ge=1, le=8)
    """Strength bins with as many train clips each: 2 x 4 directions make the default's 8 classes."""
    directions: Literal[1, 2, 4, 8] = 4
    """Directions on the screen, each centred on its name."""
    classes: int = Field(8, ge=2)
    """Most classes kept; of the others, the least frequent on train are treated as rare."""
    min_share: float = Field(0.02, ge=0, lt=1)
    """A class with a smaller share of the train clips is rare: an 8-way score on 12 clips would be noise."""
    rare: Literal["merge", "drop"] = "merge"
    """merge: into the nearest kept class (same direction first, then the neighbouring one; plain labels go to `other`).
    drop: its clips get no label."""
    label: str | None = None
    """Take this label of the manifest (a gesture, a phase, the simulator's action) instead of motion; rare values are treated alike."""


@dataclass(frozen=True)
class ClassBook:
    """What was learnt on train: enough to label any clip, and to say how it was done."""

    config: dict[str, Any]
    edges: tuple[float, ...]
    """Borders between the strength bins, in pixels per frame."""
    names: tuple[str, ...]
    """Kept classes, most frequent on train first."""
    becomes: dict[str, str | None]
    """Every class seen or possible -> the class it counts as; None is dropped."""
    train_counts: dict[str, int]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "ClassBook":
        try:
            raw = json.loads(Path(path).read_text())
            return cls(raw["config"], tuple(raw["edges"]), tuple(raw["names"]), raw["becomes"], raw["train_counts"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{path} is not a class book ({error}).\nMake one: surg data classes MANIFEST --motion motion.parquet"
            ) from error


def heading(vector: npt.NDArray[np.floating[Any]], source: str) -> tuple[float, float]:
    """(strength in pixels per frame, direction in radians on the screen, clockwise from right) of a 23-d vector."""
    strength = float(vector[FEATURES.index(f"{source}_mean")])
    first = FEATURES.index(f"{source}_right")
    shares = np.asarray(vector[first : first + 8], np.float64)
    angles = np.arange(8) * np.pi / 4
    return strength, float(np.arctan2(shares @ np.sin(angles), shares @ np.cos(angles)))


def direction_name(angle: float, directions: int) -> str:
    """The compass name nearest to an angle; an angle of 0 points right, of +90 degrees down."""
    return COMPASS[directions][round(angle / (2 * np.pi / directions)) % directions]


def raw_class(vector: npt.NDArray[np.floating[Any]], edges: Sequence[float], config: ClassConfig) -> str:
    strength, angle = heading(vector, config.source)
    level = int(np.searchsorted(edges, strength, side="right"))
    return f"{direction_name(angle, config.directions)}-{_level_name(level, config.magnitudes)}"


def fit_motion_classes(train: npt.NDArray[np.floating[Any]], config: ClassConfig) -> ClassBook:
    """Learn the classes from the 23-d vectors of the train clips.  train: (clips, 23)."""
    if len(train) < config.magnitudes:
        raise DataError(
            f"There are {len(train)} train clips; {config.magnitudes} strength bins need at least as many. Split first: surg data split"
        )
    strengths = np.array([heading(vector, config.source)[0] for vector in train])
    edges = tuple(float(edge) for edge in np.quantile(strengths, np.arange(1, config.magnitudes) / config.magnitudes))
    counts = Counter(raw_class(vector, edges, config) for vector in train)
    grid = [
        f"{way}-{_level_name(level, config.magnitudes)}"
        for way in COMPASS[config.directions]
        for level in range(config.magnitudes)
    ]
    kept = _frequent(counts, config)
    becomes: dict[str, str | None] = {name: name if name in kept else _nearest(name, kept, config) for name in grid}
    return _book(config, edges, kept, becomes, counts)


def fit_label_classes(train: Iterable[Label], config: ClassConfig) -> ClassBook:
    """The same rule for rare classes on labels that are there already."""
    counts = Counter(str(value) for value in train)
    if not counts:
        raise DataError(
            f"No train clip has the label `{config.label}`. `surg data check MANIFEST` lists the labels that there are."
        )
    kept = _frequent(counts, config)
    rare = [name for name in counts if name not in kept]
    into = OTHER if config.rare == "merge" else None
    becomes: dict[str, str | None] = dict.fromkeys(rare, into)
    becomes.update((name, name) for name in kept)
    return _book(config, (), [*kept, OTHER] if rare and into else kept, becomes, counts)


def require_kind(book: ClassBook, label: str | None) -> None:
    """Raises DataError when the book's classes are of something else than `label` (None: motion): it would label no clip."""
    learnt = ClassConfig(**book.config).label
    if learnt != label:
        have, want = (f"of the label `{name}`" if name is not None else "of motion" for name in (learnt, label))
        way = f"--label {learnt}" if learnt is not None else "--motion TABLE"
        raise DataError(
            f"The class book holds classes {have}, and the clips were to be told by those {want}. Use it with {way}."
        )


def label_clip(clip: Clip, vector: npt.NDArray[np.floating[Any]] | None, book: ClassBook) -> str | None:
    """The class of one clip, or None when it is dropped (or was not measured)."""
    config = ClassConfig(**book.config)
    if config.label is not None:
        value = clip.labels.get(config.label)
        if value is None:
            return None
        # A value that train never saw cannot be learnt: it goes where rare ones go.
        return book.becomes.get(str(value), OTHER if OTHER in book.names else None)
    return None if vector is None else book.becomes[raw_class(vector, book.edges, config)]


def vectors_by_clip(path: Path) -> dict[tuple[str, float, float], npt.NDArray[np.float64]]:
    """The table of `surg data motion`, by (video, start, end)."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["video", "start_s", "end_s", *FEATURES])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is not a table of motion features ({type(error).__name__}).\nMake one: surg data motion MANIFEST --out {quoted(path)}"
        ) from error
    matrix = np.column_stack([table.column(name).to_numpy() for name in FEATURES])
    keys = zip(*(table.column(name).to_pylist() for name in ("video", "start_s", "end_s")))
    return {clip_key(video, start, end): row for (video, start, end), row in zip(keys, matrix)}


def clip_key(video: str, start_s: float, end_s: float) -> tuple[str, float, float]:
    return video, round(start_s, 3), round(end_s, 3)


def _frequent(counts: Mapping[str, int], config: ClassConfig) -> list[str]:
    total = sum(counts.values())
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    kept = [name for name in ordered if counts[name] >= config.min_share * total][: config.classes]
    if len(kept) < 2:
        raise DataError(
            f"Only {len(kept)} class has {config.min_share:.0%} of the {total} train clips; a classification needs two.\n"
            "Ask for fewer directions or strengths, or lower min_share."
        )
    return kept


def _nearest(name: str, kept: Sequence[str], config: ClassConfig) -> str | None:
    """Same direction with the nearest strength, else the nearest direction with the same strength first."""
    if config.rare == "drop":
        return None
    compass, levels = COMPASS[config.directions], [_level_name(level, config.magnitudes) for level in range(config.magnitudes)]

    def distance(other: str) -> tuple[int, int, int]:
        (way, level), (other_way, other_level) = (text.rsplit("-", 1) for text in (name, other))
        turn = abs(compass.index(way) - compass.index(other_way))
        return min(turn, len(compass) - turn), abs(levels.index(level) - levels.index(other_level)), list(kept).index(other)

    return min(kept, key=distance)


def _level_name(level: int, magnitudes: int) -> str:
    names = {1: ("moves",), 2: ("slow", "fast"), 3: ("slow", "medium", "fast")}
    return names[magnitudes][level] if magnitudes in names else f"s{level + 1}"


def _book(
    config: ClassConfig, edges: tuple[float, ...], kept: Sequence[str], becomes: Mapping[str, str | None], counts: Counter[str]
) -> ClassBook:
    return ClassBook(config.model_dump(mode="json"), edges, tuple(kept), dict(becomes), dict(counts.most_common()))
