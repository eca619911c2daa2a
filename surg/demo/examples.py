"""The examples that ship with the demo: one simulated clip of each tool motion and of each event in a room."""

import json
from dataclasses import dataclass
from pathlib import Path

from surg.data.manifest import Clip
from surg.data.preprocess import Polygon
from surg.errors import DataError

FOLDER = Path(__file__).parent / "clips"


@dataclass(frozen=True)
class Example:
    title: str
    path: Path
    zone: Polygon | None
    label: str

    def matches(self, path: Path) -> bool:
        """Whether an uploaded copy is this example: Gradio keeps the name."""
        return path.name == self.path.name

    def as_clip(self, duration_s: float) -> Clip:
        return Clip(str(self.path), 0.0, duration_s, case=self.path.stem, zone=self.zone, labels={"event": self.label})


def shipped(folder: Path = FOLDER) -> list[Example]:
    """Examples of the folder's `examples.json`. Raises DataError when it is damaged; an absent folder has none."""
    index = folder / "examples.json"
    if not index.is_file():
        return []
    try:
        rows = json.loads(index.read_text())
        return [Example(row["title"], folder / row["file"], row["zone"], row["label"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"The demo's own list of examples is damaged: {error}. Install surg again.") from error
