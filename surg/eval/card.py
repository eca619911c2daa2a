"""The model card that goes with an export: what the file says of itself, what was measured, what it is not for.

Every number comes from result.json files and every fact from the checkpoint's header; what neither says is named as unknown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surg.eval.results import Metric, Result
from surg.model.bundle import read_header
from surg.model.saved import find_bundle
from surg.runs import file_sha256

WARNING = "**Not a medical device.** For research only: not for diagnosis, treatment, or to guard sterility or safety in a real operating room."
SIMULATED = "**Simulated data only.** What is measured here was measured on drawings; it says nothing about how the model does on a patient's video."
HEADLINES = {
    "probe-action": ("top1", "top5", "macro_f1"),
    "classify": ("top1", "top5"),
    "sterility": (
        "auprc",
        "balanced_auprc",
        "auroc",
        "recall_at_5_per_hour",
        "event_recall",
        "false_alarms_per_hour",
        "ece",
        "prior",
    ),
    "world-model": ("unexplained@1", "skill@1", "auroc", "paired"),
    "retrieval": ("top1", "map@10", "ndcg@10"),
    "phases": ("accuracy", "f1_phase", "jaccard", "edit", "f1@10", "f1@50"),
    "parity": ("max_abs", "flips"),
}
"""Last words of the metrics that a card tells, by kind of evaluation; report.md has all of them."""


def model_card(checkpoint: Path, results: Sequence[Result]) -> str:
    """The card as Markdown."""
    path = find_bundle(checkpoint)
    parts, meta, _ = read_header(path)
    sha256 = file_sha256(path)
    name = path.stem if path.stem not in ("best", "last") else path.resolve().parent.parent.name
    lines = [f"# Model card: {name}", "", WARNING]
    sources = _sources(results)
    if sources and all(source.startswith("synth") for source in sources):
        lines += ["", SIMULATED]
    lines += ["", "## The model", "", "| what | value |", "|---|---|", *_facts(path, sha256, parts, meta)]
    lines += ["", "## Training", "", "| what | value |", "|---|---|", *_training(meta)]
    lines += ["", "## Measured", ""]
    if not results:
        lines += [
            "Nothing was measured yet: `surg eval all --checkpoint RUN --out DIR`, then `surg eval card RUN --results DIR`.",
            "",
        ]
    for result in results:
        lines += _measured(result, sha256)
    lines += ["## Failures to look at", "", *_failures(results)]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in _limits(results, sources))]
    return "\n".join(lines) + "\n"


def _facts(path: Path, sha256: str, parts: dict[str, Any], meta: dict[str, Any]) -> list[str]:
    spec = meta.get("preprocess") or {}
    pixels = (
        f"{spec.get('num_frames', '?')} frames at {spec.get('fps', '?')} a second, {spec.get('size', '?')} px" if spec else None
    )
    crop = "cropped around the zone where one is given" if spec.get("zone_crop") else "the whole picture"
    encoder = parts.get("encoder") or {}
    shape = (
        f"width {encoder['embed_dim']}, {encoder['depth']} blocks, {encoder['num_heads']} heads"
        if "embed_dim" in encoder
        else ""
    )
    rows = {
        "file": f"`{path.name}`, {path.stat().st_size / 1e6:.1f} MB",
        "sha256": f"`{sha256}`",
        "architecture": ", ".join(filter(None, (meta.get("architecture"), shape))),
        "parts": ", ".join(sorted(parts)),
        "input": f"{pixels}, {crop}" if pixels else None,
        "actions": ", ".join(meta.get("classes") or []) or "none",
        "breach horizons": ", ".join(f"{h:g} s" for h in meta.get("horizons_s") or []) or "none",
        "alarm threshold": (meta.get("thresholds") or {}).get("breach", "none stored"),
    }
    return _rows(rows)


def _training(meta: dict[str, Any]) -> list[str]:
    data = meta.get("data") or {}
    sets = [
        f"{name}: {one.get('clips', '?')} clips, fingerprint `{str(one.get('fingerprint', '?'))[:16]}`"
        for name, one in data.items()
    ]
    scores = ", ".join(f"{name} {value:g}" for name, value in (meta.get("scores") or {}).items())
    rows = {
        "recipe": meta.get("recipe"),
        "steps": meta.get("step"),
        "seed": meta.get("seed"),
        "data": "<br>".join(sets),
        "data fingerprint": f"`{meta['data_fingerprint']}`" if meta.get("data_fingerprint") else None,
        "began from": f"`{meta['init_sha256'][:16]}`" if meta.get("init_sha256") else "random weights, as far as the file says",
        "encoder trained": meta.get("trained_encoder"),
        "weights of": meta.get("encoder_from"),
        "label of the motion aux loss": meta.get("aux_label") or "none",
        "on its own val set": scores,
    }
    return _rows(rows)


def _measured(result: Result, sha256: str) -> list[str]:
    evidence = result.evidence
    judged = {str(value) for value in _deep(evidence, "checkpoint_sha256")}
    lines = [f"### {result.title}", "", result.headline, ""]
    if judged and sha256 not in judged:
        lines += ["> **Beware.** These numbers were measured on another file than this card's.", ""]
    lines += [f"- {sentence}" for sentence in result.protocol]
    prints = {f"data fingerprint `{value[:16]}`" for value in map(str, _deep(evidence, "data_fingerprint"))}
    served = {str(value) for value in _deep(evidence, "server")}
    lines += [f"- {', '.join(sorted(prints | served))}"] if prints | served else []
    lines += ["", "| score | value [95 % interval over cases] | cases |", "|---|---|---|"]
    wanted = HEADLINES.get(result.kind)
    for name, metric in result.metrics.items():
        if (wanted is None or name.rsplit("/", 1)[-1] in wanted) and metric.value == metric.value:
            lines.append(f"| {name} | {_number(metric)} | {metric.cases or '–'} |")
    lines += [""]
    lines += [f"> **Beware.** {warning}" for warning in result.warnings]
    return [*lines, ""]


def _failures(results: Sequence[Result]) -> list[str]:
    lines = []
    for result in results:
        for table in result.tables:
            if table.title.startswith("Per class") and "recall" in table.columns:
                place = table.columns.index("recall")
                known = [row for row in table.rows if row[place] != "–"]
                worst = sorted(known, key=lambda row: float(row[place].split()[0]))[:3]
                lines += [
                    f"- {result.title}: `{row[0]}` is found in {row[place]}, most often taken for {row[-1]}." for row in worst
                ]
        recall = result.metrics.get("model/event_recall")
        if recall is not None and recall.value == recall.value:
            false = result.metrics["model/false_alarms_per_hour"]
            lines.append(f"- {result.title}: {1 - recall.value:.0%} of the events are missed at {false} false alarms an hour.")
        strips = [plot for plot in result.plots if plot.stem.startswith("strip_")]
        lines += [f"- {result.title}: plots/{plot.stem}.png. {plot.caption}" for plot in strips]
    return lines or ["None were recorded."]


def _limits(results: Sequence[Result], sources: set[str]) -> list[str]:
    limits = list(dict.fromkeys(limit for result in results for limit in result.limits))
    limits.append(
        "Rooms, cameras, staff, tools and lighting unlike those of the data above may behave otherwise; measure on your own."
    )
    if not sources:
        limits.append("The results do not say what data they were measured on.")
    return limits


def _sources(results: Sequence[Result]) -> set[str]:
    return {str(source) for result in results for sources in _deep(result.evidence, "sources") for source in sources}


def _deep(value: Any, key: str) -> list[Any]:
    """Every value of `key` at any depth."""
    if not isinstance(value, dict):
        return []
    own = [value[key]] if key in value else []
    return own + [found for inner in value.values() for found in _deep(inner, key)]


def _number(metric: Metric) -> str:
    return str(metric) if abs(metric.value) >= 1e-3 or metric.value == 0 else f"{metric.value:.1e}"


def _rows(facts: dict[str, Any]) -> list[str]:
    return [f"| {name} | {'not recorded' if value in (None, '', [], {}) else value} |" for name, value in facts.items()]
