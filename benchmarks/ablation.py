"""Does adaptation help, and which kind? Every arm on the same yardstick, over seeds, with intervals over cases.

A base is pretrained on one appearance family (a) of the tissue simulator, with the budget of the arms. Each arm adapts it to another
family (b) without using its labels; then a frozen-encoder probe reads the action on unseen cases of b. Whichever sign comes out is
printed. Surgery's factor clips are made from the simulator's own masks, as `surg data segment --segmenter given` and `surg data factors` would.

    python benchmarks/ablation.py             # in full: hours
    python benchmarks/ablation.py --medium    # about two hours of two cores
    python benchmarks/ablation.py --small     # minutes: proves that the table can be made, says nothing about the arms, and is not kept

An option that is given wins over a preset. What is there already in --work (data, arms) is not made again. Because it takes hours, the
result is always written: benchmarks/ablation_<hardware>_<yyyy-mm>.json and .md, with --medium benchmarks/ablation_medium_….
"""

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from recording import write_result

from surg.data.executor import run
from surg.data.factor_clips import plan_factors
from surg.data.factors import KINDS, FactorConfig
from surg.data.manifest import Clip, Manifest, write_manifest
from surg.data.motion import MotionConfig, describe_clip
from surg.data.segment.build import SegmentConfig, segment_clip
from surg.data.synth import tissue
from surg.eval.probe_action import Arm, ProbeActionConfig, probe_action
from surg.eval.probes import ProbeConfig
from surg.metrics.comparison import Comparison, compare_paired, holm
from surg.train.loop import train
from surg.train.recipes import load_recipe

# Arm -> recipe and what it takes beside the budget. Surgery on raw clips has the stages and the recipe, not the factor data; what stays
# with family a tells how much of the gain is more training and not the other look.
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pretrain": ("pretrain", ()),
    "pretrain-2x": ("pretrain", ("steps={twice}",)),
    "surgery": ("surgery", ()),
    "surgery-raw": ("surgery-raw", ()),
    "lora": ("lora", ()),
    "head-only": ("pretrain-head", ()),
    "pretrain on a": ("pretrain", ()),
}
# What an arm is told apart from, beside the base: the other look, factor data, the same steps or compute without surgery.
CONTRASTS = (
    ("pretrain", "pretrain on a"), ("surgery", "surgery-raw"), ("surgery", "pretrain"), ("surgery", "pretrain-2x"), ("lora", "pretrain"),
)  # fmt: skip


# 30 test cases are the fewest that judge an arm.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {
        "clips": 800,
        "steps": 1500,
        "seeds": 3,
        "size": 96,
        "model": "tiny",
        "test_cases": 60,
        "picture": 224,
        "probe": "full",
    },
    # Four blocks that begin with filters for motion, one mask and a shallow predictor: about two hours of two cores.
    "medium": {
        "clips": 1600,
        "steps": 400,
        "seeds": 3,
        "size": 96,
        "model": "tiny",
        "depth": 4,
        "start": "motion-energy",
        "base": ["model.encoder.rope=interleaved", "model.predictor.depth=2"],
        "tasks": ["jepa", "motion_aux", "flow"],
        "set": [
            "loss.weights.jepa=0.3",
            "loss.weights.motion_aux=1",
            "loss.weights.flow=3",
            "masks.groups=[[2,0.7]]",
            "optim.lr=1e-3",
        ],
        "test_cases": 60,
        "picture": 128,
        "probe": "short",
        "beside": 3,
    },
    "small": {
        "clips": 64,
        "steps": 6,
        "seeds": 1,
        "size": 48,
        "model": "nano",
        "test_cases": 30,
        "picture": 96,
        "probe": "shortest",
    },
}
PROBES: dict[str, dict[str, Any]] = {
    "full": {},
    "short": {"depth": 2, "epochs": 15, "lr": (1e-3,), "weight_decay": (0.01,)},
    "shortest": {"depth": 1, "epochs": 2, "lr": (1e-3,), "weight_decay": (0.01,)},
}
FPS, BATCH = 4.0, 16


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--work", type=Path, help="where data and runs are kept; runs/ablation-PRESET when not given")
    words.add_argument("--small", action="store_const", dest="preset", const="small", default="full")
    words.add_argument("--medium", action="store_const", dest="preset", const="medium")
    words.add_argument("--clips", type=int, help="training clips of each family; a case has eight")
    words.add_argument("--test-cases", type=int, help="unseen cases of family b")
    words.add_argument("--steps", type=int)
    words.add_argument("--seeds", type=int)
    words.add_argument("--size", type=int, help="side of the encoder's picture")
    words.add_argument("--picture", type=int, help="side of the simulator's picture")
    words.add_argument("--model")
    words.add_argument("--depth", type=int, help="blocks of the encoder, where fewer are wanted than the model has")
    words.add_argument("--start", default="random", help="weights of the base before its training: random or motion-energy")
    words.add_argument("--base", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the base alone")
    words.add_argument(
        "--tasks", nargs="*", default=[], help="what base and arms learn from; their recipes' own when not given"
    )
    words.add_argument("--probe", choices=list(PROBES))
    words.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    words.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of base and arms, as in surg train --set"
    )
    words.add_argument("--beside", type=int, default=1, help="seeds at once, in processes of their own")
    words.add_argument("--threads", type=int, help="of each process; the cores are shared out when not given")
    words.set_defaults(**PRESETS["full"])
    words.set_defaults(**PRESETS[words.parse_args().preset])
    options = words.parse_args()
    options.work = options.work or Path("runs") / f"ablation-{options.preset}"
    options.beside = min(options.beside, options.seeds)
    options.threads = options.threads or max(1, len(os.sched_getaffinity(0)) // options.beside)
    began, worked = time.monotonic(), processor_seconds()

    manifests = {
        "a": make_family(options, "a", test_cases=0),
        "b": make_family(options, "b", test_cases=options.test_cases),
    }
    factors = make_factors(options, manifests["b"]) if "surgery" in options.arms else None
    of_seed = partial(one_seed, options, manifests, factors)
    if options.beside > 1:
        with ProcessPoolExecutor(options.beside, mp_context=get_context("spawn")) as processes:
            judged = list(processes.map(of_seed, range(options.seeds)))
    else:
        judged = [of_seed(seed) for seed in range(options.seeds)]
    correct = {name: [found[name] for found, _ in judged] for name in judged[0][0]}
    fingerprint = Manifest.read(manifests["b"]).fingerprint
    write(options, correct, judged[0][1], fingerprint, time.monotonic() - began, processor_seconds() - worked)


def one_seed(
    options: Any, manifests: dict[str, Path], factors: Path | None, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Train and judge the base and every arm of one seed."""
    torch.set_num_threads(options.threads)
    start = (
        f"model.start={options.start}",
        *options.base,
        *((f"model.encoder.depth={options.depth}",) if options.depth else ()),
    )
    base = fit("scratch", manifests["a"], options.work / f"base-{seed}", options, seed, None, start)
    chosen = {"frozen base": base}
    for arm in options.arms:
        recipe, more = ARMS[arm]
        manifest = manifests["a" if arm.endswith("on a") else "b"]
        folder = options.work / f"{arm.replace(' ', '-')}-{seed}"
        chosen[arm] = fit(recipe, manifest, folder, options, seed, base, more, factors)
    untrained = (*start, "steps=1", "optim.lr=0")
    chosen["random weights"] = fit("scratch", manifests["b"], options.work / f"random-{seed}", options, seed, None, untrained)
    return judge(chosen, manifests["b"], options.work / f"probe-{seed}", seed, options)


def make_family(options: Any, family: str, test_cases: int) -> Path:
    """Simulated clips, split by case: `clips` to train on, an eighth as many cases for val, and the test cases."""
    folder = options.work / family
    path = folder / "ablation.parquet"
    if path.is_file():
        return path
    train = -(-options.clips // tissue.CLIPS_PER_CASE)
    val = max(2, train // 8)
    count = (train + val + test_cases) * tissue.CLIPS_PER_CASE
    made = Manifest.read(tissue.generate(folder, count, seed={"a": 1, "b": 2}[family], family=family, size=options.picture))
    names = sorted({clip.case for clip in made.clips()})
    side = {name: "train" if n < train else "val" if n < train + val else "test" for n, name in enumerate(names)}
    written = write_manifest(path, (Clip(**{**clip.__dict__, "split": side[clip.case]}) for clip in made.clips()))
    # What moves, measured by optical flow: the motion_aux head learns this and never the simulator's labels.
    learnt = written.select(split="train")
    run(
        partial(describe_clip, config=MotionConfig(fps=FPS, size=min(128, options.picture))),
        learnt.clips(),
        folder / "motion.parquet",
    )
    return path


def make_factors(options: Any, manifest: Path) -> Path:
    """Rows for D_L, D_A and D_I of the training clips; they are composed while training."""
    path = options.work / "factors.parquet"
    if path.is_file():
        return path
    folder = options.work / "masks"
    config = SegmentConfig(segmenter="given", fps=FPS, size=max(64, options.picture))
    learnt = Manifest.read(manifest).select(split="train")
    run(partial(segment_clip, config=config, out=folder), learnt.clips(), folder / "masks.parquet")
    masks = {(row["video"], row["start_s"]): row["masks"] for row in pq.read_table(folder / "masks.parquet").to_pylist()}
    rows: list[Clip] = []
    for clip in learnt.clips():
        if (clip.video, clip.start_s) in masks:
            masked = Clip(**{**clip.__dict__, "masks": masks[clip.video, clip.start_s]})
            rows += plan_factors(masked, KINDS, FactorConfig()).clips
    counts = {kind: sum(row.meta["factor"] == kind for row in rows) for kind in KINDS}
    print(f"factor clips of {len(learnt)} clips: {counts}")
    return write_manifest(path, rows).path


def fit(
    recipe: str,
    manifest: Path,
    out: Path,
    options: Any,
    seed: int,
    base: Path | None,
    more: tuple[str, ...],
    factors: Path | None = None,
) -> Path:
    """Train one arm, unless it is there already; returns its last weights (nothing is chosen on labels)."""
    weights, done = out / "checkpoints" / "last.safetensors", out / ".done"
    if done.is_file():
        return weights
    plain = load_recipe(recipe)
    sources = {
        name: {
            "manifest": str(factors if "factor" in source.where else manifest),
            "motion": str(manifest.parent / "motion.parquet"),
            "label": "not_the_action",
            "tasks": [task for task in options.tasks if task != "jepa" or "jepa" in source.tasks] or list(source.tasks),
        }
        for name, source in plain.data.sources.items()
    }
    extra: dict[str, Any] = {
        "data": {"size": options.size, "fps": FPS, "sources": sources, "cache": str(options.work / "cache")},
        "model": {"size": options.model}, "steps": options.steps, "seed": seed, "batch_size": BATCH,
        "tensorboard": False, "curves": False, "watch": {"every": 0}, "validate_every": 10 * options.steps, "val_batches": 1, "save_every": 10 * options.steps,
        "threads": options.threads,
    }  # fmt: skip
    if base is not None:
        extra["init"] = str(base)
    overrides = [*options.set, *(word.format(twice=2 * options.steps) for word in more)]
    outcome = train(load_recipe(recipe, extra=extra, overrides=overrides), out, overwrite=True)
    if outcome.interrupted:
        raise SystemExit(
            f"Stopped at step {outcome.step} of {out.name}. The arms that are done are kept in {options.work}: the same command goes on."
        )
    done.touch()
    return weights


def judge(
    chosen: dict[str, Path], manifest: Path, folder: Path, seed: int, options: Any
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Right or wrong of every test clip for every arm, by the attentive probe; and the clips' cases."""
    arms = [Arm(name, checkpoint=path) for name, path in chosen.items()]
    config = ProbeActionConfig(
        probes=("attentive",), baselines=("majority",), seed=seed, probe=ProbeConfig(**PROBES[options.probe])
    )
    probe_action(arms, Manifest.read(manifest), {}, config, folder, "torch")
    return read_right(folder / "predictions.parquet", list(chosen))


def read_right(predictions: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Right or wrong of every test clip for every arm, as the probe left it; and the clips' cases."""
    table = pq.read_table(predictions)
    table = table.filter(pc.equal(table["probe"], "attentive"))
    table = table.append_column("right", pc.cast(pc.equal(table["truth"], table["predicted"]), pa.float64()))
    found: dict[str, np.ndarray] = {}
    for name in names:
        # The probe's own seeds are averaged clip by clip.
        rows = table.filter(pc.equal(table["arm"], name)).group_by(["case", "clip"]).aggregate([("right", "mean")])
        rows = rows.sort_by([("case", "ascending"), ("clip", "ascending")])
        found[name], cases = rows["right_mean"].to_numpy(), np.array(rows["case"].to_pylist())
    return found, cases


def write(
    options: Any, correct: dict[str, list[np.ndarray]], cases: np.ndarray, fingerprint: str, seconds: float, worked: float
) -> None:
    base = np.stack(correct["frozen base"])
    found = {name: compare_paired(np.stack(seeds), base, cases) for name, seeds in correct.items() if name != "frozen base"}
    adjusted = dict(zip(found, holm([comparison.permutation.p for comparison in found.values()])))
    pairs = [pair for pair in CONTRASTS if set(pair) <= set(correct)]
    against = [compare_paired(*(np.stack(correct[name]) for name in pair), cases) for pair in pairs]
    settled = holm([comparison.permutation.p for comparison in against]) if against else []
    contrasts = [
        {"arm": one, "control": other, **difference(comparison, p)}
        for (one, other), comparison, p in zip(pairs, against, settled)
    ]  # fmt: skip
    rows = []
    for name, seeds in correct.items():
        row: dict[str, Any] = {
            "arm": name, "top1": round(float(np.mean(seeds)), 4), "by_seed": [round(float(seed.mean()), 4) for seed in seeds],
        }  # fmt: skip
        if name in found:
            row |= difference(found[name], adjusted[name])
        rows.append(row)
    results = {
        "what": "adaptation of a base from family a to family b of the tissue simulator; probe_action on unseen cases of b", "preset": options.preset,
        "clips": options.clips, "steps": options.steps, "batch": BATCH, "seeds": options.seeds, "size": options.size, "model": options.model,
        "depth": options.depth, "start": options.start, "base": options.base, "tasks": options.tasks, "settings": options.set, "probe": options.probe, "test_cases": len(set(cases)), "test_clips": len(cases),
        "chance": 1 / len(tissue.ACTIONS), "minutes": round(seconds / 60, 1), "processor_minutes": round(worked / 60, 1), "arms": rows,
        "contrasts": contrasts,
    }  # fmt: skip
    learnt = f"learning {', '.join(options.tasks)}; " if options.tasks else ""
    note = (
        f"`{options.model}`{f' with {options.depth} blocks' if options.depth else ''} at {options.size} px, base from a {options.start} start, "
        f"{learnt}{options.clips} training clips a family, {options.steps} steps of {BATCH} clips "
        f"(pretrain-2x: {2 * options.steps}), {options.seeds} seed(s), {results['test_cases']} unseen test cases ({results['test_clips']} clips), "
        f"chance {results['chance']:.3f}; {results['minutes']} minutes, {results['processor_minutes']} of a processor, without "
        "what --work held already. "
        "Differences are to the frozen base, paired over cases, 95 % intervals; p is adjusted for the arms (Holm); the last column is the true "
        "difference that would be found with 80 % power."
        + (
            " A small run: it shows that the table can be made, and nothing about the arms."
            if options.preset == "small"
            else ""
        )
    )
    lines = ["| arm | top-1 | by seed | difference | interval | p | detectable |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        each = ", ".join(f"{value:.3f}" for value in row["by_seed"])
        change = cells(row) if "difference" in row else " |  |  | "
        lines.append(f"| {row['arm']} | {row['top1']:.3f} | {each} | {change} |")
    if contrasts:
        lines += [
            "",
            "Arms against their controls, Holm over these rows:",
            "",
            "| arm | control | difference | interval | p | detectable |",
            "|---|---|---|---|---|---|",
        ]
        lines += [f"| {row['arm']} | {row['control']} | {cells(row)} |" for row in contrasts]
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    if options.preset == "small":
        return  # nothing to keep
    name = "ablation" if options.preset == "full" else f"ablation_{options.preset}"
    print("Wrote", write_result(name, results, table, note, data_fingerprint=fingerprint))


def difference(comparison: Comparison, adjusted: float) -> dict[str, float]:
    delta = comparison.delta
    return {
        "difference": round(delta.estimate, 4), "low": round(delta.low, 4), "high": round(delta.high, 4),
        "p_holm": round(float(adjusted), 4), "detectable": round(comparison.detectable, 4),
    }  # fmt: skip


def cells(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.3f} | {row['low']:+.3f} to {row['high']:+.3f} | {row['p_holm']:.3f} | {row['detectable']:.3f}"


def processor_seconds() -> float:
    """Of this process and of those it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
