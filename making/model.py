"""Train the model that ships with the package again: simulate, learn in four stages, pack.

    python making/model.py [--work runs/model] [--out surg/model/shipped/surg-tiny.safetensors]      (make model)

About two hours on two CPU cores; a broken run goes on where it stopped. Every stage is a public command and is printed.
Afterwards: `make eval`, whose numbers go into the card (docs/evaluation.md says how).
"""

import argparse
from pathlib import Path

from surg.model.saved import SHIPPED
from surg.quickstart.tour import Stage, run_tour

TISSUE, ROOM = ("--clips", "3200", "--seed", "11"), ("--clips", "800", "--seed", "21")


def stages(work: Path, out: Path) -> list[Stage]:
    tissue, room, marks = work / "tissue", work / "room", work / ".done"
    data = ("--data", f"tissue={tissue}/manifest.parquet", "--data", f"room={room}/manifest.parquet")
    cache = ("--set", f"data.cache={work / 'cache'}")
    made = [
        Stage(
            f"Simulate {place}",
            ("data", "synth", place, "--out", str(work / place), *clips),
            work / place / "manifest.parquet",
            marks / place,
        )
        for place, clips in (("tissue", TISSUE), ("room", ROOM))
    ]
    before: tuple[str, ...] = ()
    run = work
    for recipe in (SHIPPED, f"{SHIPPED}-fine", f"{SHIPPED}-deep", f"{SHIPPED}-world"):
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
