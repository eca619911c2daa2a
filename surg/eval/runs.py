"""One call per evaluation: from an open backend and a manifest to a result, protocol in words included."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from surg.data.manifest import Manifest
from surg.data.timeline import Timeline, timeline_path
from surg.eval import world_model
from surg.eval.backends import Backend, BackendName
from surg.eval.features import FeatureConfig, embed_manifest
from surg.eval.probe_action import Arm, ProbeActionConfig, probe_action
from surg.eval.probe_report import summarise as summarise_probe
from surg.eval.results import Result
from surg.eval.retrieval import RetrievalConfig, evaluate
from surg.eval.sterility import SterilityConfig, score_sets
from surg.eval.sterility_report import summarise as summarise_sterility


def judge_probe(
    kind: str,
    arms: Sequence[Arm],
    data: Manifest,
    tests: Mapping[str, Manifest],
    config: ProbeActionConfig,
    folder: Path,
    backend: BackendName,
) -> Result:
    outcome = probe_action(arms, data, tests, config, folder, backend)
    features, probe = config.features, config.probe
    trials = len(probe.lr) * len(probe.weight_decay)
    protocol = [
        f"Label `{config.label}`, {len(outcome.classes)} classes: {', '.join(outcome.classes)}. Splits are by case.",
        f"Encoders frozen. Features: {features.level}, {features.segments} window(s) and {features.views} view(s) a clip"
        + (
            f", tokens averaged over {features.pool} x {features.pool} patches."
            if features.pool > 1 and features.level != "pooled"
            else "."
        ),
        (
            f"Attentive probe of depth {probe.depth}, {probe.epochs} epochs, AdamW, cosine to 0; {trials} settings of learning rate and weight decay "
            f"({f'{probe.sweep_epochs} epochs each' if probe.sweep_epochs else 'each in full'}), the best on val kept; {probe.seeds} seed(s)."
        ),
        "Single-frame, shuffled-frame and random-weight baselines are read by the same probe with the setting that the first arm chose on val.",
    ]
    result = summarise_probe(outcome, config, [arm.name for arm in arms], folder, protocol, kind)
    result.evidence["sources"] = _sources(data, *tests.values())
    return result


def judge_sterility(
    backend: Backend,
    manifest: Manifest,
    folder: Path,
    config: SterilityConfig,
    *,
    takes: Manifest | None = None,
    resume: bool = True,
) -> Result:
    """`manifest` may hold clips, long takes or both; `takes` adds a manifest of long takes."""
    contract = backend.client.contract
    manifests = [manifest, *([takes] if takes else [])]
    zones = (
        "Takes without a zone are seen whole."
        if any(map(_lacks_zones, manifests))
        else "Every take is cropped around its zone."
    )
    timelines = [Timeline(path) for path in (timeline_path(found.path) for found in manifests) if path.is_file()]
    if timelines:
        config = config.model_copy(update={"watch": config.watch.model_copy(update={"action": True})})
    sets = score_sets(backend, manifests, folder, config, resume=resume)
    test = sets["test"]
    protocol = [
        (
            f"{len(test)} test videos of {len({take.truth.case for take in test})} cases, {sum(take.truth.seconds for take in test) / 60:.1f} minutes, "
            f"{sum(len(take.truth.events) for take in test)} breaches; a window every {config.watch.stride_s:g} s. {zones}"
        ),
        (
            f"An alarm begins at the threshold, ends below {config.hold:g} of it, alarms within {config.merge_s:g} s are one. It counts for an event when it "
            f"begins at most {config.before_s:g} s before it (plus the horizon, for warnings) and {config.after_s:g} s after its end."
        ),
        "The prediction for time t uses frames up to t. The truth for a horizon h is a breach at some moment from t to t + h.",
    ]
    stored = tuple(contract.threshold(horizon) for horizon in contract.horizons_s) if contract.thresholds else None
    result = summarise_sterility(
        sets,
        contract.horizons_s,
        stored,
        config,
        folder,
        protocol,
        timelines=timelines,
        classes=contract.classes,
    )
    shared = {take.truth.case for take in sets.get("val", [])} & {take.truth.case for take in test}
    if shared:
        result.warnings.append(
            f"{len(shared)} cases stand in val and in test: thresholds were chosen on the cases that they are judged by. Split by case: surg data split MANIFEST"
        )
    result.evidence |= {"data_fingerprint": manifest.fingerprint, "sources": _sources(*manifests)}
    if takes:
        result.evidence["takes_fingerprint"] = takes.fingerprint
    return result


def judge_world(backend: Backend, manifest: Manifest, folder: Path, config: world_model.WorldConfig) -> Result:
    found = world_model.foresee(backend, manifest, config)
    spec = backend.spec
    step_s = backend.client.contract.world_step_s
    result = world_model.judge(found, step_s, folder)
    result.protocol = [
        (
            f"{len(found.cases)} clips of {len(set(found.cases.tolist()))} cases; {spec.num_frames} frames at {spec.fps:g} fps are seen, "
            f"{found.predicted.shape[1]} tubelets of {step_s:.2f} s are foreseen."
        ),
        "Truth is the same encoder on the clip that ends where the horizon ends, layer-normed as in training.",
    ]
    result.evidence |= {"data_fingerprint": manifest.fingerprint, "sources": _sources(manifest)}
    return result


def judge_retrieval(backend: Backend, manifest: Manifest, folder: Path, config: RetrievalConfig) -> Result:
    features = embed_manifest(backend, manifest, folder / "features" / "pooled.parquet", FeatureConfig())
    result = evaluate(features, config, folder)
    result.evidence["sources"] = _sources(manifest)
    return result


def _lacks_zones(manifest: Manifest) -> bool:
    return any(clip.zone is None for clip in manifest.clips() if "breach" in clip.labels)


def _sources(*manifests: Manifest) -> list[str]:
    return sorted({clip.source for manifest in manifests for clip in manifest.clips()})
