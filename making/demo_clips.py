"""Make the examples that ship with the demo: one clip of each tool motion and of each event in a room.

python making/demo_clips.py surg/demo/clips
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from surg.data.manifest import Clip, Manifest
from surg.data.synth import room, tissue

SEED = 77


def firsts(manifest: Path, label: str) -> dict[str, Clip]:
    found: dict[str, Clip] = {}
    for clip in Manifest.read(manifest).clips():
        found.setdefault(str(clip.labels[label]), clip)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--room-clips", type=int, default=40)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = [
            ("Tissue", firsts(tissue.generate(Path(folder) / "tissue", 24, SEED), "action")),
            ("Room", firsts(room.generate(Path(folder) / "room", arguments.room_clips, SEED), "event")),
        ]
        for place, clips in made:
            for name, clip in sorted(clips.items()):
                file = f"{place.lower()}-{name.replace('_', '-')}.mp4"
                shutil.copyfile(clip.video, arguments.out / file)
                title = f"{place}: {name.replace('_', ' ')}"
                rows.append({"title": title, "file": file, "zone": clip.zone, "label": name})
                print(title, (arguments.out / file).stat().st_size // 1024, "KiB")
    (arguments.out / "examples.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
