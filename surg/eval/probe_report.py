"""probe_plot: from the predictions of probe_action to tables, differences between arms, and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from surg.eval import plots
from surg.eval.classification import Predictions, confusion, per_class, score
from surg.eval.probe_action import Outcome, ProbeActionConfig
from surg.eval.results import Metric, Result, Table, signed
from surg.metrics.bootstrap import how_far_to_trust
from surg.metrics.calibration import reliability
from surg.metrics.comparison import Comparison, compare_paired, holm


def summarise(
    outcome: Outcome,
    config: ProbeActionConfig,
    arms: Sequence[str],
    folder: Path,
    protocol: Sequence[str],
    kind: str = "probe-action",
) -> Result:
    """The result with its tables and plots; nothing is written but the plots."""
    result = Result(
        kind, f"{kind}: {config.label}", protocol=list(protocol), evidence=outcome.evidence, warnings=list(outcome.warnings)
    )
    tests = list(dict.fromkeys(p.test for p in outcome.predictions))
    chance = 1 / len(outcome.classes)
    result.metrics["chance/top1"] = Metric(chance)
    for test in tests:
        rows = [p for p in outcome.predictions if p.test == test]
        result.tables.append(_scores(rows, outcome.classes, test, result))
    result.tables += _differences(outcome.predictions, arms, config, outcome.same)
    lead = _lead(outcome.predictions, arms, tests[0])
    _pictures(result, outcome, lead, arms, tests, chance, folder)
    result.tables.append(per_class(lead, outcome.classes))
    top1 = result.metrics[_key(lead, "top1")]
    result.headline = (
        f"{lead.name}: top-1 {top1} on {len(lead.truth)} clips of {len(set(lead.cases))} unseen cases; chance {chance:.3f}."
    )
    trust = how_far_to_trust(len(set(lead.cases)))
    if trust:
        result.warnings.append(trust)
    result.limits += [
        "The probe's score says what can be read off the features with labels; it does not say that the encoder was taught to tell it.",
        "Intervals are over cases, at fixed probes; the spread over probe seeds is given apart where there is more than one.",
    ]
    return result


def _key(p: Predictions, name: str) -> str:
    where = "" if p.test == "test" else f"@{p.test}"
    return f"{p.name}{where}/{name}"


def _scores(rows: list[Predictions], classes: list[str], test: str, result: Result) -> Table:
    lines = []
    for p in rows:
        metrics = score(p, classes)
        result.metrics |= {_key(p, name): metric for name, metric in metrics.items()}
        spread = f" ± {metrics['seed_std'].value:.3f}" if "seed_std" in metrics else ""
        chosen = ", ".join(f"{name} {value:g}" for name, value in p.chosen.items()) or "–"
        lines.append(
            [
                p.arm,
                p.probe,
                f"{metrics['top1']}{spread}",
                *(str(metrics[name]) for name in ("balanced_accuracy", "macro_f1", "ece")),
                chosen,
            ]
        )
    lines.append(["chance", "–", f"{1 / len(classes):.3f}", f"{1 / len(classes):.3f}", "–", "–", "–"])
    cases = {str(p.cases[i]) for p in rows for i in range(len(p.cases))}
    note = f"{len(rows[0].truth)} clips of {len(cases)} cases. Top-1 with its 95 % interval over cases; ± is the deviation over probe seeds."
    return Table(f"Scores on {test}", ["arm", "reader", "top-1", "balanced", "macro F1", "ECE", "chosen on val"], lines, note)


def _differences(
    predictions: list[Predictions], arms: Sequence[str], config: ProbeActionConfig, same: Mapping[str, str] | None = None
) -> list[Table]:
    """Other arms against the first with the same reader, and the last arm against every baseline. `same`: arms with the first one's encoder,
    between which there is no difference to look for."""
    by_key = {(p.arm, p.probe, p.test): p for p in predictions}
    pairs: list[tuple[Predictions, Predictions]] = []
    for p in predictions:
        first = by_key.get((arms[0], p.probe, p.test))
        if p.arm in arms[1:] and first is not None:
            pairs.append((p, first))
    lead_probe = config.probes[0]
    for p in predictions:
        lead = by_key.get((arms[-1], lead_probe, p.test))
        if p.arm not in arms and lead is not None:
            pairs.append((lead, p))
    words = same or {}
    told = [
        [f"{a.name} − {b.name}", a.test, words[a.arm], "–", "–", "–", "–"]
        for a, b in pairs
        if b.arm == arms[0] and a.arm in words
    ]
    pairs = [(a, b) for a, b in pairs if b.arm != arms[0] or a.arm not in words]
    header = ["pair", "test", "difference", "p", "p (Holm)", "could see", "p < 0.05"]
    if not pairs:
        return [Table("Differences in top-1", header, told)] if told else []
    found = [_paired(a, b, config.seed) for a, b in pairs]
    adjusted = holm([comparison.permutation.p for comparison in found])
    rows = []
    for (a, b), comparison, p in zip(pairs, found, adjusted):
        test = comparison.permutation
        floor = " (floor)" if test.p <= test.floor * 1.0001 else ""
        rows.append([
            f"{a.name} − {b.name}", a.test, signed(comparison.delta),
            f"{test.p:.4f}{floor}", f"{p:.4f}", f"{comparison.detectable:.3f}" if comparison.detectable > 0 else "–", "yes" if p < 0.05 else "no",
        ])  # fmt: skip
    method = "Student's t" if found[0].delta.method == "t" else "BCa bootstrap"
    note = (
        f"Paired over clips; cases resampled whole ({method}); p by swapping arms within whole cases, at its floor where marked; "
        "Holm over this table. `could see` is the true difference that these cases find with 80 % power."
    )
    return [Table("Differences in top-1", header, [*told, *rows], note)]


def _paired(a: Predictions, b: Predictions, seed: int) -> Comparison:
    # Tables may stand in different orders (several windows a clip), and one may lack a clip that could not be read.
    _, left, right = np.intersect1d(a.clips, b.clips, return_indices=True)
    return compare_paired(a.right[:, left], b.right[:, right], a.cases[left], seed=seed)


def _lead(predictions: list[Predictions], arms: Sequence[str], test: str) -> Predictions:
    return next(p for p in predictions if p.arm == arms[-1] and p.test == test)


def _pictures(
    result: Result, outcome: Outcome, lead: Predictions, arms: Sequence[str], tests: list[str], chance: float, folder: Path
) -> None:
    out = folder / "plots"
    for test in tests:
        rows = [(f"{p.arm} · {p.probe}", result.metrics[_key(p, "top1")]) for p in outcome.predictions if p.test == test]
        result.plots.append(plots.bars(rows, out, f"top1_{plots_name(test)}", f"Top-1 on {test}", chance=chance))
    for test in tests:
        shown = next(p for p in outcome.predictions if p.arm == arms[-1] and p.test == test)
        counts = confusion(shown, len(outcome.classes))
        result.plots.append(
            plots.confusion(
                counts, outcome.classes, out, f"confusion_{plots_name(test)}", f"Confusion of {shown.name} on {test}"
            )
        )
    lines = {
        name: (np.array([row["epoch"] for row in curve]), np.array([row["train_loss"] for row in curve]))
        for name, curve in outcome.curves.items()
    }
    if lines:
        result.plots.append(plots.curves(lines, out, "loss", "Probe's training loss", "epoch", "cross-entropy", logy=True))
        lines = {
            name: (np.array([row["epoch"] for row in curve]), np.array([row["val_top1"] for row in curve]))
            for name, curve in outcome.curves.items()
        }
        result.plots.append(plots.curves(lines, out, "val_top1", "Probe's top-1 on val", "epoch", "top-1"))
    points = [(b.confidence, b.accuracy, b.count) for b in reliability(lead.mean, lead.truth, bins=10)]
    result.plots.append(plots.reliability({lead.name: points}, out, "calibration", f"Calibration of {lead.name}"))
    features = outcome.vectors.get(arms[-1])
    if features is not None and len(features) > 2:
        place, method = plots.project(features.vectors())
        labels = [outcome.classes[i] for i in lead.truth]
        result.plots.append(plots.embedding(place, labels, out, "embedding", f"Test clips in {arms[-1]}'s features", method))


def plots_name(test: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in test)
