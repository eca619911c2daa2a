"""Train the model that ships with the package again: simulate, learn in five stages, pack.

    python making/model.py [--work runs/model] [--out surg/model/shipped/surg-tiny.safetensors]      (make model)

About three hours on two CPU cores (the stages' times added up); a broken run goes on where it stopped. Every stage is a public command
and is printed.
Afterwards: `make eval`, whose numbers go into the card (docs/evaluation.md says how).
"""

import argparse
from pathlib import Path

from surg.model.saved import SHIPPED
from surg.quickstart.tour import Stage, run_tour

# Where, what the simulator is asked for. Every case of the second rooms is there to learn from; the first hold val and test.
DRAWN = {
    "tissue": ("tissue", "--clips", "3200", "--seed", "11"),
    "room": ("room", "--clips", "800", "--seed", "21"),
    "more-room": ("room", "--clips", "1600", "--seed", "22", "--split", "train"),
}
STAGES = ("", "-fine", "-deep", "-rooms", "-world")


def stages(work: Path, out: Path) -> list[Stage]:
    marks = work / ".done"
    tissue, room, more, rooms = (work / name / "manifest.parquet" for name in (*DRAWN, "rooms"))
    data = ("--data", f"tissue={tissue}", "--data", f"room={rooms}")
    cache = ("--set", f"data.cache={work / 'cache'}")
    made = [
        Stage(
            f"Simulate {name}",
            ("data", "synth", kind, "--out", str(work / name), *wanted),
            work / name / "manifest.parquet",
            marks / name,
        )
        for name, (kind, *wanted) in DRAWN.items()
    ]
    made.append(Stage("Merge rooms", ("data", "merge", str(room), str(more), "--out", str(rooms)), rooms, marks / "rooms"))
    before: tuple[str, ...] = ()
    run = work
    for recipe in (f"{SHIPPED}{stage}" for stage in STAGES):
        run = work / recipe
        made.append(
            Stage(
                f"Train {recipe}",
                ("train", recipe, *data, *before, "--out", str(run), *cache),
                run / "checkpoints" / "last.safetensors",
                marks / recipe,
                ("train", recipe, "--resume", str(run)),
            )
        )
        before = ("--init", str(run))
    made.append(Stage("Pack", ("weights", "pack", str(run), str(out)), out, marks / "pack"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/model"))
    parser.add_argument("--out", type=Path, default=Path("surg/model/shipped") / f"{SHIPPED}.safetensors")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    run_tour(stages(arguments.work, arguments.out))
    print(f"wrote {arguments.out}\nNext: make eval")


if __name__ == "__main__":
    main()
