"""How often does a 95 % interval hold chance when there is nothing to find?

Null control: clips of a case share a case effect, labels are shuffled among cases, a nearest-centroid reader is fitted on train cases
and scored on unseen ones. Its true accuracy is chance. Counts how many of the intervals (percentile, BCa, t) hold it, by the number
of test cases.    python benchmarks/eval_null_coverage.py [--repeats 1000] [--write]
"""

import argparse
import time

import numpy as np
from recording import write_result

from surg.metrics.bootstrap import interval, ratio_of_sums

CASES = (5, 8, 12, 20, 30, 50)
METHODS = ("percentile", "bca", "t")
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
                found = interval(ratio_of_sums(sums, counts), cases, method=method, repeats=1000, seed=repeat, bounds=(0, 1))
                held[method] += found.low <= 1 / CLASSES <= found.high
                widths[method] += (found.high - found.low) / options.repeats
        coverage = {method: held[method] / options.repeats for method in METHODS}
        best = min(METHODS, key=lambda m: abs(coverage[m] - 0.95))
        rows.append({"cases": cases, "coverage": coverage, "width": {m: round(widths[m], 4) for m in METHODS}, "best": best})
        print(rows[-1], flush=True)
    error = 1.96 * np.sqrt(0.95 * 0.05 / options.repeats)
    results = {
        "repeats": options.repeats, "monte_carlo_error": round(float(error), 4), "rows": rows, "seconds": round(time.time() - begun, 1),
    }  # fmt: skip
    note = (
        f"Coverage of the intervals under the null, {options.repeats} experiments a row; chance is 1/{CLASSES}; "
        f"± {100 * error:.1f} points of Monte Carlo error."
    )
    lines = ["| cases | " + " | ".join(METHODS) + " | nearest to 95 % | mean width of t |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['cases']} | "
        + " | ".join(f"{100 * r['coverage'][m]:.1f} %" for m in METHODS)
        + f" | {r['best']} | {r['width']['t']:.3f} |"
        for r in rows
    ]
    table = "\n".join(lines)
    print(note, table, sep="\n\n")
    if options.write:
        print("Wrote", write_result("eval_null_coverage", results, table, note, seed=SEED))


if __name__ == "__main__":
    main()
