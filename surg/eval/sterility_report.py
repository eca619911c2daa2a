"""From scored takes to tables, timelines and the frames of every miss and false alarm."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from surg.data.sources import read_clip
from surg.data.timeline import Timeline
from surg.errors import DataError
from surg.eval import plots
from surg.eval.results import Metric, Result, Table
from surg.eval.side_tables import add_side_tables
from surg.eval.sterility import (
    SterilityConfig,
    Verdict,
    area,
    area_metric,
    average_precision,
    baseline_scores,
    choose_threshold,
    clip_scores,
    composition,
    judge,
    long_ones,
    roc_area,
)
from surg.eval.takes import Scored
from surg.metrics.bootstrap import how_far_to_trust, interval, ratio_of_sums, row_statistic
from surg.metrics.calibration import reliability
from surg.metrics.detection import Matches, Take, alarms
from surg.serving.contract import UNCHOSEN_THRESHOLD

LONG_S = 60.0


def summarise(
    sets: dict[str, list[Scored]],
    horizons_s: tuple[float, ...],
    stored: tuple[float, ...] | None,
    config: SterilityConfig,
    folder: Path,
    protocol: Sequence[str],
    *,
    timelines: Sequence[Timeline] = (),
    classes: Sequence[str] = (),
) -> Result:
    """timelines: side tables of the manifests; classes: of the model's action head."""
    test, val = long_ones(sets["test"], config), long_ones(sets.get("val", []), config)
    result = Result("sterility", "Sterility breaches", protocol=list(protocol))
    thresholds = _thresholds(val, horizons_s, stored, config, result)
    verdicts = [
        judge("model", [take.breach[:, i] for take in test], test, h, thresholds[i], config) for i, h in enumerate(horizons_s)
    ]
    for name, scores in baseline_scores(test).items():
        threshold = (
            choose_threshold(baseline_scores(val)[name], val, 0.0, config)
            if val
            else float(np.quantile(np.concatenate(scores), 0.995))
        )
        verdicts.append(judge(name, scores, test, 0.0, threshold, config))
    result.tables.append(_windows_table(verdicts, result))
    result.tables.append(_early_table(test, horizons_s, config))
    own = []
    if val and stored is not None:
        # What the server alarms at: the checkpoint's own threshold, from the val clips of its training.
        own = [judge("model as served", [take.breach[:, 0] for take in test], test, horizons_s[0], stored[0], config)]
        result.protocol.append(f"`model as served` alarms at the checkpoint's own threshold, {stored[0]:.3f}.")
    result.tables.append(_events_table([*verdicts, *own], test, result))
    result.tables += _by_group(verdicts[0], test)
    add_side_tables(timelines, test, val, classes, thresholds[0], config.graph_rule, result)
    _clips(sets["test"], config, result, folder)
    _pictures(verdicts[0], test, config, folder, result)
    cases = {take.truth.case for take in test}
    trust = how_far_to_trust(len(cases))
    if trust:
        result.warnings.append(trust)
    hours = sum(take.truth.seconds for take in test) / 3600
    if len(test) < len(sets["test"]):
        result.protocol.append(
            f"Windows, events and false alarms: the {len(test)} takes of at least {config.long_s:g} s ({hours:.2f} h). Clips: rows shorter than that."
        )
    elif not any(take.truth.seconds >= LONG_S for take in test):
        result.warnings.append(
            f"All takes are shorter than {LONG_S:.0f} s ({hours:.2f} h in all): false alarms per hour of such clips say little about a long day."
        )
    lead = verdicts[0]
    at5 = result.metrics["model/recall_at_5_per_hour"]
    result.headline = (
        f"Windows: average precision {lead.auprc} (prior {lead.prior:.3f}). Events: {len(lead.events.caught)} of "
        f"{len(lead.events.caught) + len(lead.events.missed)} found at {lead.events.false_per_hour:.1f} false alarms an hour"
        f"; at most 5 an hour allow a recall of {at5}."
    )
    if "clips/auprc" in result.metrics:
        clips = result.metrics.get("clips/balanced_auprc", result.metrics["clips/auprc"])
        result.headline = f"Clips: average precision {clips}. {result.headline}"
    result.limits.append(
        "Research use. A score is no proof that an operating field is sterile; rooms unlike those of the test takes may behave otherwise."
    )
    return result


def _thresholds(
    val: list[Scored], horizons_s: tuple[float, ...], stored: tuple[float, ...] | None, config: SterilityConfig, result: Result
) -> list[float]:
    if val:
        result.protocol.append(
            f"Thresholds were chosen on {len(val)} val takes: the best recall with at most {config.false_per_hour:g} false alarms an hour."
        )
        if not any(take.truth.events for take in val):
            result.warnings.append(
                "No val take holds a breach, so that no recall was to be had: the threshold is the lowest with so few false alarms there."
            )
        scores = [[take.breach[:, i] for take in val] for i in range(len(horizons_s))]
        chosen = [choose_threshold(own, val, h, config) for own, h in zip(scores, horizons_s)]
        if chosen[0] > max(float(take_of(take).scores.max()) for take in val):
            hours = sum(take.truth.seconds for take in val) / 3600
            result.warnings.append(
                f"No threshold on val gives at most {config.false_per_hour:g} false alarms an hour (one in its {hours:.2f} h is {1 / hours:.1f} an hour): "
                "the threshold is above all of its scores. Allow more with --set false_per_hour=N, or give longer val takes."
            )
        return chosen
    if stored is not None:
        result.protocol.append(f"The thresholds ({stored[0]:.3f} for now) came with the checkpoint; there were no val takes.")
        return list(stored)
    result.warnings.append(
        f"There are no val takes and the checkpoint brings no threshold: {UNCHOSEN_THRESHOLD} was used, which nobody chose."
    )
    return [UNCHOSEN_THRESHOLD] * len(horizons_s)


def _windows_table(verdicts: list[Verdict], result: Result) -> Table:
    rows = []
    for v in verdicts:
        name = v.name if v.name != "model" else f"model, {_ahead(v.horizon_s)}"
        rows.append(
            [name, str(v.windows), str(v.auprc), f"{v.prior:.3f}", str(v.auroc), "–" if np.isnan(v.ece) else f"{v.ece:.3f}"]
        )
        key = v.name.replace(" ", "-") + ("" if v.horizon_s == 0 else f"@{v.horizon_s:g}s")
        result.metrics[f"{key}/auprc"] = v.auprc
        result.metrics[f"{key}/auroc"] = v.auroc
        if v.name == "model":
            result.metrics[f"{key}/ece"] = Metric(v.ece, better="lower")
            result.metrics[f"{key}/prior"] = Metric(v.prior)
    note = "Per window. The prior is the share of positive windows: a score that knows nothing has that average precision, and AUROC 0.5."
    return Table("Windows", ["score", "windows", "average precision", "prior", "AUROC", "ECE"], rows, note)


def _early_table(test: list[Scored], horizons_s: tuple[float, ...], config: SterilityConfig) -> Table:
    """Does looking ahead say more than the present does?"""
    rows = []
    for index, horizon in enumerate(horizons_s):
        if horizon <= 0:
            continue
        truth = [take.targets((horizon,))[:, 0] for take in test]
        present = [take.targets((0.0,))[:, 0] for take in test]
        # Only windows without a breach now: telling the future of a breach that is on is no art.
        quiet = [(p == 0) & np.isfinite(t) for p, t in zip(present, truth)]
        y = np.concatenate([t[q] for t, q in zip(truth, quiet)])
        cases = np.concatenate([np.full(int(q.sum()), take.truth.case) for q, take in zip(quiet, test)])
        if not len(y) or not y.any():
            rows.append([_ahead(horizon), str(len(y)), "–", "–", "–"])
            continue
        ahead = np.concatenate([take.breach[q, index] for take, q in zip(test, quiet)])
        now = np.concatenate([take.breach[q, 0] for take, q in zip(test, quiet)])
        rows.append([_ahead(horizon), f"{len(y)} ({int(y.sum())} with a breach to come)", str(area(average_precision, y, ahead, cases, config)),
                     str(area(average_precision, y, now, cases, config)), f"{y.mean():.3f}"])  # fmt: skip
    note = "Only windows in which no breach is on yet. Persistence is the score for now used for later; the true present would score the prior here."
    return Table("Early warning", ["horizon", "quiet windows", "average precision", "persistence", "prior"], rows, note)


def _events_table(verdicts: list[Verdict], test: list[Scored], result: Result) -> Table:
    rows = []
    for v in verdicts:
        e = v.events
        delays = e.delays_s
        at = {rate: _recall_metric(matches, test) for rate, matches in v.at.items()}
        name = v.name if v.name != "model" else f"model, {_ahead(v.horizon_s)}"
        rows.append([
            name, f"{v.threshold:.3f}", f"{len(e.caught)}/{len(e.caught) + len(e.missed)}", _number(e.precision), _number(e.f1), f"{e.false_per_hour:.1f}",
            f"{np.median(delays):+.1f} s" if delays else "–", *map(str, at.values()),
        ])  # fmt: skip
        key = v.name.replace(" ", "-") + ("" if v.horizon_s == 0 else f"@{v.horizon_s:g}s")
        result.metrics[f"{key}/event_recall"] = _recall_metric(v.per_take, test)
        result.metrics[f"{key}/event_precision"] = Metric(e.precision)
        result.metrics[f"{key}/event_f1"] = Metric(e.f1)
        result.metrics[f"{key}/false_alarms_per_hour"] = Metric(e.false_per_hour, better="lower")
        result.metrics[f"{key}/median_delay_s"] = Metric(float(np.median(delays)) if delays else float("nan"), better="lower")
        result.metrics |= {f"{key}/recall_at_{rate:g}_per_hour": metric for rate, metric in at.items()}
    lead = result.metrics["model/event_recall"]
    note = (
        "An alarm counts for an event when it begins within the stated tolerance; one alarm catches one event; alarms without one are false. "
        "Delay below 0 is a warning ahead of the breach. The two last columns read the test's own curve: what a threshold could reach. "
        f"Recall with its interval over cases: {lead}."
    )
    return Table(
        "Events",
        ["score", "threshold", "found", "precision", "F1", "false/h", "median delay", "recall at 1/h", "at 5/h"],
        rows,
        note,
    )


def _recall_metric(found: Sequence[Matches], test: list[Scored]) -> Metric:
    by_case: dict[str, list[int]] = {}
    for take, matches in zip(test, found):
        entry = by_case.setdefault(take.truth.case, [0, 0])
        entry[0] += len(matches.caught)
        entry[1] += len(matches.caught) + len(matches.missed)
    kept = np.array([entry for entry in by_case.values() if entry[1]], np.float64)
    if not len(kept):
        return Metric(float("nan"))  # no events
    return Metric.of(interval(ratio_of_sums(kept[:, 0], kept[:, 1]), len(kept), bounds=(0, 1)))


def _by_group(lead: Verdict, test: list[Scored]) -> list[Table]:
    tables = []
    for title, field in (("Per camera", "camera"), ("Per case", "case")):
        groups: dict[str, list[int]] = {}
        for index, take in enumerate(test):
            groups.setdefault(str(getattr(take.truth, field)), []).append(index)
        if len(groups) < 2 or len(groups) > 40:
            continue
        rows = []
        for group, members in sorted(groups.items()):
            y = np.concatenate([test[i].targets((0.0,))[:, 0] for i in members])
            s = np.concatenate([test[i].breach[:, 0] for i in members])
            known = np.isfinite(y)
            y, s = y[known], s[known]
            caught, missed = (sum(len(getattr(lead.per_take[i], kind)) for i in members) for kind in ("caught", "missed"))
            false, hours = sum(len(lead.per_take[i].false) for i in members), sum(lead.per_take[i].hours for i in members)
            ap = average_precision(y, s)
            rows.append(
                [
                    group or "–",
                    f"{hours * 60:.1f} min",
                    _number(ap),
                    f"{y.mean():.3f}",
                    f"{caught}/{caught + missed}",
                    f"{false / hours if hours else 0:.1f}",
                ]
            )
        tables.append(Table(title, ["", "watched", "average precision", "prior", "events found", "false/h"], rows))
    return tables


def _clips(test: list[Scored], config: SterilityConfig, result: Result, folder: Path) -> None:
    y, s, cases, events = clip_scores(test, max(config.long_s, LONG_S))
    if len(set(y.tolist())) < 2:
        return
    precision, roc = area(average_precision, y, s, cases, config), area(roc_area, y, s, cases, config)
    result.metrics |= {"clips/auprc": precision, "clips/auroc": roc, "clips/prior": Metric(float(y.mean()))}
    rows = [["all", str(len(y)), f"{y.mean():.3f}", str(precision), str(roc), "–"]]
    weights = composition(y, events, config.near_misses)
    if weights is not None:
        statistic = row_statistic(lambda picked: average_precision(y[picked], s[picked], weights[picked]), cases)
        balanced = area_metric(statistic, y, cases, config)
        result.metrics["clips/balanced_auprc"] = balanced
        rows.append(["half breaches, a quarter near misses", str(len(y)), "0.500", str(balanced), "–", "–"])
        result.protocol.append(
            f"Balanced clips: the same {len(y)} clips weighted so that breaches are a half ({int(y.sum())} clips), near misses a quarter "
            f"({int(((y == 0) & np.isin(events, list(config.near_misses))).sum())}) and other clips a quarter. Chance is 0.5."
        )
    for event in sorted(set(events.tolist()) - {""}):
        of = events == event
        rows.append([event, str(int(of.sum())), f"{y[of].mean():.2f}", "–", "–", f"{s[of].mean():.3f}"])
    note = (
        "One decision a clip of the manifest: its highest window score. The last column is the mean score of an event's clips."
    )
    result.tables.append(
        Table("Clips", ["clips", "number", "share of breaches", "average precision", "AUROC", "mean score"], rows, note)
    )
    points = [(b.confidence, b.accuracy, b.count) for b in reliability(s, y, bins=10)]
    result.plots.append(
        plots.reliability({"highest score of a clip": points}, folder / "plots", "calibration_clips", "Calibration on clips")
    )


def _pictures(lead: Verdict, test: list[Scored], config: SterilityConfig, folder: Path, result: Result) -> None:
    out = folder / "plots"
    if lead.curve:
        # Low thresholds melt alarms into one that catches nothing: shown is the best recall at no more false alarms than that.
        order = sorted(lead.curve, key=lambda point: point.false_per_hour)
        x, y = np.array([p.false_per_hour for p in order]), np.maximum.accumulate([p.recall for p in order])
        result.plots.append(
            plots.curves(
                {"model": (x, y)},
                out,
                "recall_false_alarms",
                "Best recall by false alarms",
                "false alarms per hour",
                "event recall",
            )
        )
    troubled = sorted(range(len(test)), key=lambda i: -(len(lead.per_take[i].missed) + len(lead.per_take[i].false)))
    for index in troubled[:6]:
        take, matches = test[index], lead.per_take[index]
        if len(take.times_s) < 3:
            continue
        found = alarms(take.times_s, take.watched(take.breach[:, 0]).scores, config.rule(lead.threshold))
        motion = take.motion / max(float(take.motion.max()), 1e-9)
        stem = f"timeline_{index:03d}"
        result.plots.append(plots.timeline(take.times_s, {"breach": take.breach[:, 0], "motion in the zone (scaled)": motion}, take.truth.events, found,
                                           lead.threshold, out, stem, f"Take {take.truth.case}", missed=matches.missed, false=matches.false))  # fmt: skip
    shown = []
    for index in troubled:
        take, matches = test[index], lead.per_take[index]
        for kind, spans in (("missed", matches.missed), ("false alarm", matches.false)):
            shown += [
                (f"{kind}, {take.truth.case}\n{start:.1f} s", take, min((start + end) / 2, start + 1.0)) for start, end in spans
            ]
    if shown:
        pictures = []
        for name, take, time_s in shown[:12]:
            try:
                pictures.append((name, read_clip(take.truth.rows[0], [time_s], threads=1)[0][0]))
            except DataError:
                continue
        if pictures:
            caption = f"{len(shown)} misses and false alarms in all; at most 12 are shown."
            result.plots.append(plots.frames_strip(pictures, out, "strip_failures", "Failures to look at", caption))


def take_of(scored: Scored, horizon: int = 0) -> Take:
    return scored.watched(scored.breach[:, horizon])


def _ahead(horizon_s: float) -> str:
    return "now" if horizon_s == 0 else f"within {horizon_s:g} s"


def _number(value: float) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"
