"""Does adaptation help, and which kind? Every arm on the same yardstick, over seeds, with intervals over cases.

A base is pretrained on one appearance family (a) of the tissue simulator, with the budget of the arms. Each arm adapts it to another
family (b) without using its labels; then a frozen-encoder probe reads the action on unseen cases of b. Whichever sign comes out is
printed.

    python benchmarks/ablation.py --hardware xeon-2core --clips 800 --steps 1500 --seeds 3
    python benchmarks/ablation.py --small          # minutes: proves that the table can be made, says nothing about the arms
"""

import argparse
import platform
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from surg.data.executor import run
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.motion import MotionConfig, describe_clip
from surg.data.synth import tissue
from surg.eval.probe_action import Arm, ProbeActionConfig, probe_action
from surg.metrics.comparison import compare_paired
from surg.runs import git_state, write_json, write_text
from surg.train.loop import train
from surg.train.recipes import load_recipe

# Arm -> recipe and what it takes beside the budget. Surgery on raw clips has the stages and the recipe, not the factor data.
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pretrain": ("pretrain", ()),
    "pretrain-2x": ("pretrain", ("steps={twice}",)),
    "surgery": ("surgery", ()),
    "surgery-raw": ("surgery-raw", ()),
    "lora": ("lora", ()),
    "head-only": ("pretrain-head", ()),
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--hardware", default="this-machine")
    words.add_argument("--work", type=Path, default=Path("runs/ablation"))
    words.add_argument("--clips", type=int, default=800, help="clips of each family; a case has eight")
    words.add_argument("--steps", type=int, default=1500)
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--size", type=int, default=96)
    words.add_argument("--model", default="tiny")
    words.add_argument("--arms", nargs="*", default=list(ARMS))
    words.add_argument(
        "--factors", type=Path, help="factor manifest of family b (surg data factors); without it surgery is left out"
    )
    words.add_argument("--small", action="store_true", help="a few steps of a nano encoder")
    words.add_argument("--out", type=Path, default=Path("benchmarks"))
    options = words.parse_args()
    if options.small:
        options.clips, options.steps, options.seeds, options.size, options.model = 64, 6, 1, 48, "nano"
        options.arms = [arm for arm in options.arms if arm in ("pretrain", "lora", "head-only")]
    arms = [arm for arm in options.arms if arm != "surgery" or options.factors is not None]
    began = time.monotonic()

    manifests = {family: make_family(options.work / family, options.clips, family) for family in ("a", "b")}
    correct: dict[str, list[np.ndarray]] = {}
    cases = np.array([])
    for seed in range(options.seeds):
        base = fit("pretrain", manifests["a"], options.work / f"base-{seed}", options, seed, None, ())
        chosen = {"frozen base": base}
        for arm in arms:
            recipe, more = ARMS[arm]
            chosen[arm] = fit(recipe, manifests["b"], options.work / f"{arm}-{seed}", options, seed, base, more)
        chosen["random weights"] = fit(
            "scratch", manifests["b"], options.work / f"random-{seed}", options, seed, None, ("steps=1", "optim.lr=0")
        )
        found, cases = judge(chosen, manifests["b"], options.work / f"probe-{seed}", seed, options.small)
        for name, rows in found.items():
            correct.setdefault(name, []).append(rows)
    write(options, correct, cases, time.monotonic() - began)


def make_family(folder: Path, clips: int, family: str) -> Path:
    """Simulated clips; a quarter of the cases for testing, so that 30 cases judge an arm from 960 clips on."""
    path = folder / "ablation.parquet"
    if path.is_file():
        return path
    made = Manifest.read(tissue.generate(folder, clips, seed={"a": 1, "b": 2}[family], family=family))
    names = sorted({clip.case for clip in made.clips()})
    side = {name: ("test" if n % 4 == 0 else "val" if n % 4 == 1 and n % 8 == 1 else "train") for n, name in enumerate(names)}
    written = write_manifest(path, (Clip(**{**clip.__dict__, "split": side[clip.case]}) for clip in made.clips()))
    # What moves, measured by optical flow: the motion_aux head learns this and never the simulator's labels.
    run(partial(describe_clip, config=MotionConfig(fps=8.0, size=128)), written.clips(), folder / "motion.parquet")
    return path


def fit(recipe: str, manifest: Path, out: Path, options: Any, seed: int, base: Path | None, more: tuple[str, ...]) -> Path:
    """Train one arm, unless it is there already; returns its last weights (nothing is chosen on labels)."""
    weights = out / "checkpoints" / "last.safetensors"
    if weights.is_file():
        return weights
    plain = load_recipe(recipe)
    sources = {
        name: {
            "manifest": str(options.factors if "factor" in source.where else manifest),
            "motion": str(manifest.parent / "motion.parquet"),
            "label": "not_the_action",
        }
        for name, source in plain.data.sources.items()
    }
    extra: dict[str, Any] = {
        "data": {"size": options.size, "fps": 8.0, "sources": sources, "cache": str(options.work / "cache")},
        "model": {"size": options.model}, "steps": options.steps, "seed": seed, "batch_size": 16,
        "tensorboard": False, "curves": False, "watch": {"every": 0}, "validate_every": options.steps,
    }  # fmt: skip
    if base is not None:
        extra["init"] = str(base)
    overrides = [word.format(twice=2 * options.steps) for word in more]
    train(load_recipe(recipe, extra=extra, overrides=overrides), out, overwrite=True)
    return weights


def judge(
    chosen: dict[str, Path], manifest: Path, folder: Path, seed: int, small: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Right or wrong of every test clip for every arm, by the attentive probe; and the clips' cases."""
    arms = [Arm(name, checkpoint=path) for name, path in chosen.items()]
    plain = ProbeActionConfig(probes=("attentive",), baselines=("majority",), seed=seed)
    config = plain.model_copy(update={"probe": plain.probe.model_copy(update={"epochs": 2})}) if small else plain
    probe_action(arms, Manifest.read(manifest), {}, config, folder, "torch")
    table = pq.read_table(folder / "predictions.parquet")
    table = table.filter(pc.equal(table["probe"], "attentive"))
    table = table.append_column("right", pc.cast(pc.equal(table["truth"], table["predicted"]), pa.float64()))
    found: dict[str, np.ndarray] = {}
    for name in chosen:
        # The probe's own seeds are averaged clip by clip.
        rows = table.filter(pc.equal(table["arm"], name)).group_by(["case", "clip"]).aggregate([("right", "mean")])
        rows = rows.sort_by([("case", "ascending"), ("clip", "ascending")])
        found[name], cases = rows["right_mean"].to_numpy(), np.array(rows["case"].to_pylist())
    return found, cases


def write(options: Any, correct: dict[str, list[np.ndarray]], cases: np.ndarray, seconds: float) -> None:
    base = np.stack(correct["frozen base"])
    rows = []
    for name, seeds in correct.items():
        found = compare_paired(np.stack(seeds), base, cases) if name != "frozen base" else None
        rows.append(
            {
                "arm": name,
                "top1": round(float(np.mean(seeds)), 4),
                "by_seed": [round(float(seed.mean()), 4) for seed in seeds],
                "difference": None if found is None else round(found.delta.estimate, 4),
                "low": None if found is None else round(found.delta.low, 4),
                "high": None if found is None else round(found.delta.high, 4),
                "detectable": None if found is None else round(found.detectable, 4),
            }
        )
    result = {
        "what": "adaptation of a base from family a to family b of the tissue simulator; probe_action on unseen cases of b",
        "command": f"python benchmarks/ablation.py --hardware {options.hardware} --clips {options.clips} --steps {options.steps} --seeds {options.seeds}",
        "small": options.small, "clips": options.clips, "steps": options.steps, "seeds": options.seeds, "size": options.size,
        "model": options.model, "test_cases": len(set(cases)), "test_clips": len(cases), "chance": 0.125,
        "date": datetime.now(UTC).date().isoformat(), "git": (git_state() or {}).get("commit"), "minutes": round(seconds / 60, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__}, "arms": rows,
    }  # fmt: skip
    stem = options.out / f"ablation_{options.hardware}_{datetime.now(UTC):%Y-%m}"
    write_json(stem.with_suffix(".json"), result)
    lines = [
        "# Ablation on the simulators", "",
        f"{result['clips']} clips a family, {result['steps']} steps, {result['seeds']} seed(s), {result['test_cases']} test cases "
        f"({result['test_clips']} clips), chance 0.125. Differences to the frozen base, paired over cases, 95 %."
        + (" A small run: it shows that the table can be made, and nothing about the arms." if options.small else ""), "",
        "| arm | top-1 | difference | interval | detectable |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        spread = "" if row["difference"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}"
        change = "" if row["difference"] is None else f"{row['difference']:+.3f}"
        lines.append(f"| {row['arm']} | {row['top1']:.3f} | {change} | {spread} | {row['detectable'] or ''} |")
    lines += ["", f"`{result['command']}`, {result['date']}, {result['minutes']} minutes", ""]
    write_text(stem.with_suffix(".md"), "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
