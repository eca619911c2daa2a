"""Do all ways of running a model give the same numbers on real, preprocessed clips? Differences, flipped decisions, time."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surg.data.manifest import Clip, Manifest
from surg.data.preprocess import Prepared, PreprocessSpec, preprocess
from surg.data.sources import read_clip
from surg.errors import DataError
from surg.eval.backends import Backend, BackendName, open_backend
from surg.eval.features import FeatureConfig, window_ends, window_times
from surg.eval.results import Metric, Result, Table

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Answers:
    outputs: dict[str, Array]
    milliseconds: Array
    evidence: dict[str, Any]


def compare(
    backends: Sequence[BackendName],
    manifest: Manifest,
    *,
    checkpoint: Path | None,
    repository: Path | None,
    server: str | None,
    clips: int = 16,
    opened: Backend | None = None,
) -> Result:
    """Hold every backend against the first on the same clips. `opened` stands for the backend of its name."""
    chosen = [clip for _, clip in zip(range(clips), manifest.clips())]
    if not chosen:
        raise DataError("The manifest is empty; parity needs real clips.")
    found: dict[str, Answers] = {}
    with ExitStack() as stack:
        if repository is None and checkpoint is not None and set(backends) - {"torch"}:
            from surg.eval.backends import exported

            repository = stack.enter_context(exported(checkpoint))
        for name in backends:
            found[name] = ask(name, chosen, checkpoint, repository, server, opened if opened and opened.name == name else None)
    return report(found, len(chosen))


def ask(
    name: BackendName,
    clips: Sequence[Clip],
    checkpoint: Path | None,
    repository: Path | None,
    server: str | None,
    opened: Backend | None = None,
) -> Answers:
    outputs: dict[str, list[Array]] = {}
    took = []
    with ExitStack() as stack:
        backend = opened or stack.enter_context(open_backend(name, server=server, checkpoint=checkpoint, repository=repository))
        for number, clip in enumerate([clips[0], *clips]):
            prepared = _prepare(clip, backend.spec)
            begun = time.perf_counter()
            result = backend.clip(prepared.frames, prepared.zone)
            if number == 0:
                continue  # the first call pays for warming up
            took.append(1e3 * (time.perf_counter() - begun))
            for key in ("embedding", "action", "breach", "breach_map"):
                value = getattr(result, key)
                if value.size:
                    outputs.setdefault(key, []).append(value[0])
        evidence = backend.finish()
    return Answers({key: np.stack(values) for key, values in outputs.items()}, np.array(took), evidence)


def report(found: dict[str, Answers], clips: int) -> Result:
    (first, truth), *others = found.items()
    result = Result("parity", "Parity of backends", evidence={name: answers.evidence for name, answers in found.items()})
    rows = []
    for name, answers in others:
        for key, expected in truth.outputs.items():
            got = answers.outputs[key]
            a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (expected, got))
            cosine = float(np.min((a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)))
            worst, flips = float(np.abs(a - b).max()), flipped(key, a, b)
            rows.append([f"{name} against {first}", key, f"{worst:.2e}", f"{cosine:.7f}", "–" if flips is None else str(flips)])
            result.metrics[f"{name}/{key}/max_abs"] = Metric(worst, better="lower")
            if flips is not None:
                result.metrics[f"{name}/{key}/flips"] = Metric(float(flips), better="lower")
    note = "Flips: clips whose most probable action, or whose breach at 0.5, differs."
    result.tables.append(
        Table(
            f"Differences over {clips} clips",
            ["backends", "output", "largest difference", "smallest cosine", "flips"],
            rows,
            note,
        )
    )
    times = [
        [name, f"{np.median(a.milliseconds):.1f}", f"{np.quantile(a.milliseconds, 0.95):.1f}"] for name, a in found.items()
    ]
    result.tables.append(
        Table(
            "Milliseconds per clip, one at a time",
            ["backend", "median", "p95"],
            times,
            "Prepared frames to result, at the client; this machine, as busy as it was.",
        )
    )
    worst = max((metric.value for name, metric in result.metrics.items() if name.endswith("max_abs")), default=0.0)
    result.headline = f"Largest difference between {', '.join(found)}: {worst:.1e} over {clips} clips."
    result.protocol = [f"{clips} clips of the manifest, prepared once by the same code, sent one at a time."]
    return result


def flipped(output: str, expected: Array, got: Array) -> int | None:
    if output == "action":
        return int(np.sum(expected.argmax(1) != got.argmax(1)))
    if output == "breach":
        return int(np.sum((expected > 0) != (got > 0)))
    return None


def _prepare(clip: Clip, spec: PreprocessSpec) -> Prepared:
    times = window_times(window_ends(clip, spec, FeatureConfig())[0], clip.start_s, spec)
    frames, zone = read_clip(clip, times, threads=1)
    return preprocess(frames, spec, zone)
