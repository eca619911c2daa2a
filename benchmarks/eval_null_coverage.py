"""How often does a 95 % interval hold the truth, where the truth is known?

Null control: clips of a case share a case effect, labels are shuffled among cases, a nearest-centroid reader is fitted on train cases
and scored on unseen ones. Its true accuracy is chance. Counts how many of the intervals (percentile, BCa, t) hold it, by the number
of test cases. Near a bound: shares and areas under curves of 0.8 and more, over cases of unequal length that differ from each other;
`plain t` goes equally far to both sides and is cut at the bound, `t` works on the log odds.
    python benchmarks/eval_null_coverage.py [--repeats 1000] [--write]
"""

import argparse
import time
from typing import Any

import numpy as np
from recording import write_result

from surg.eval.sterility import average_precision, roc_area
from surg.metrics.bootstrap import Interval, Statistic, interval, ratio_of_sums, row_statistic

CASES = (5, 8, 12, 20, 30, 50)
METHODS = ("percentile", "bca", "plain t", "t")
NEAR_CASES = (6, 10, 20, 40)
SHARES = (0.8, 0.95)
AREAS = {"AUROC": roc_area, "average precision": average_precision}
CLASSES, CLIPS, WIDTH = 8, 8, 16
SEED = 7


def one_null(cases: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and clips per test case of one experiment without signal."""
    total = cases + 40
    effect = rng.normal(size=(total, 1, WIDTH))
    features = effect + rng.normal(size=(total, CLIPS, WIDTH))
    labels = np.stack(
        [rng.permutation(CLASSES) for _ in range(total)]
    )  # every case shows each class once, as the simulator does
    # Some cases are longer than others.
    lengths = rng.integers(CLIPS // 2, CLIPS + 1, total)
    labels = labels[rng.permutation(total)]  # shuffled by case: a case gets another case's labels
    kept = np.arange(CLIPS)[None] < lengths[:, None]
    train = np.arange(total) < 40
    centroids = np.stack([features[train][(labels[train] == k) & kept[train]].mean(0) for k in range(CLASSES)])
    test = features[~train]
    guess = ((test[:, :, None] - centroids) ** 2).sum(-1).argmin(-1)
    right = (guess == labels[~train]) & kept[~train]
    return right.sum(1).astype(float), kept[~train].sum(1).astype(float)


def by(method: str, statistic: Statistic, cases: int, seed: int = 0, telling: int | None = None) -> Interval:
    if method == "plain t":
        found = interval(statistic, cases, method="t", telling=telling)
        return Interval(found.estimate, max(found.low, 0.0), min(found.high, 1.0), found.level, found.method, cases)
    return interval(statistic, cases, method=method, repeats=1000, seed=seed, bounds=(0, 1), telling=telling)


def one_share(cases: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Found and true events per case: some patients are harder than others, and some have many events."""
    events = np.maximum(1, rng.lognormal(1.0, 1.0, cases).round())
    return rng.binomial(events.astype(int), rng.beta(5 * share, 5 * (1 - share), cases)).astype(float), events


def some_windows(cases: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, score and case of windows; four cases in five hold one breach."""
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for case in range(cases):
        count = max(2, int(rng.lognormal(np.log(30), 0.6)))
        y = np.zeros(count)
        if rng.random() < 0.8:
            length = int(rng.integers(1, max(2, count // 3)))
            start = int(rng.integers(0, count - length + 1))
            y[start : start + length] = 1
        scores = 0.5 * rng.normal() + rng.normal(size=count) + y * (3 + 0.5 * rng.normal())
        rows.append((y, scores, np.full(count, case)))
    y, scores, owners = (np.concatenate(column) for column in zip(*rows))
    return y, scores, owners


def near_a_bound(repeats: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(what: str, truth: float, cases: int, found: list[dict[str, Interval]]) -> None:
        held = {m: float(np.mean([one[m].low <= truth <= one[m].high for one in found])) for m in found[0]}
        rows.append({"what": what, "truth": round(truth, 3), "cases": cases, "experiments": len(found), "coverage": held})
        print(rows[-1], flush=True)

    for share in SHARES:
        for cases in NEAR_CASES:
            rng = np.random.default_rng([SEED, cases])
            found = []
            for _ in range(repeats):
                hits, events = one_share(cases, share, rng)
                # All right or all wrong is Clopper and Pearson's business.
                if 0 < hits.sum() < events.sum():
                    found.append({m: by(m, ratio_of_sums(hits, events), cases) for m in ("plain t", "t")})
            add("share", share, cases, found)
    y, scores, _ = some_windows(20_000, np.random.default_rng(SEED))
    for name, function in AREAS.items():
        for cases in NEAR_CASES:
            rng = np.random.default_rng([SEED, cases])
            found = []
            for _ in range(repeats // 2):
                own, s, owners = some_windows(cases, rng)
                telling = min(len(set(owners[own == kind].tolist())) for kind in (0, 1))
                if telling > 1:
                    statistic = row_statistic(lambda r, own=own, s=s, function=function: function(own[r], s[r]), owners)
                    found.append({m: by(m, statistic, cases, telling=telling) for m in ("plain t", "t")})
            add(name, function(y, scores), cases, found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument(
        "--write", action="store_true", help="write benchmarks/eval_null_coverage_<hardware>_<yyyy-mm>.json and .md"
    )
    options = parser.parse_args()
    begun = time.time()
    rows = []
    for cases in CASES:
        rng = np.random.default_rng([SEED, cases])
        held = dict.fromkeys(METHODS, 0)
        widths = dict.fromkeys(METHODS, 0.0)
        for repeat in range(options.repeats):
            sums, counts = one_null(cases, rng)
            for method in METHODS:
                found = by(method, ratio_of_sums(sums, counts), cases, seed=repeat)
                held[method] += found.low <= 1 / CLASSES <= found.high
                widths[method] += (found.high - found.low) / options.repeats
        coverage = {method: held[method] / options.repeats for method in METHODS}
        best = min(METHODS, key=lambda m: abs(coverage[m] - 0.95))
        rows.append({"cases": cases, "coverage": coverage, "width": {m: round(widths[m], 4) for m in METHODS}, "best": best})
        print(rows[-1], flush=True)
    error = 1.96 * np.sqrt(0.95 * 0.05 / options.repeats)
    near = near_a_bound(options.repeats)
    results = {
        "repeats": options.repeats, "monte_carlo_error": round(float(error), 4), "rows": rows, "near_a_bound": near,
        "seconds": round(time.time() - begun, 1),
    }  # fmt: skip
    note = (
        f"Coverage of the intervals under the null, {options.repeats} experiments a row; chance is 1/{CLASSES}; "
        f"± {100 * error:.1f} points of Monte Carlo error."
    )
    lines = ["| cases | " + " | ".join(METHODS) + " | nearest to 95 % | mean width of t |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {r['cases']} | "
        + " | ".join(f"{100 * r['coverage'][m]:.1f} %" for m in METHODS)
        + f" | {r['best']} | {r['width']['t']:.3f} |"
        for r in rows
    ]
    lines += [
        "", "Near a bound, cases of unequal length; half as many experiments for the areas.", "",
        "| what | truth | cases | plain t, cut at the bound | t |", "|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {r['what']} | {r['truth']} | {r['cases']} | "
        + " | ".join(f"{100 * held:.1f} %" for held in r["coverage"].values())
        + " |"
        for r in near
    ]
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    if options.write:
        print("Wrote", write_result("eval_null_coverage", results, table, note, seed=SEED))


if __name__ == "__main__":
    main()
