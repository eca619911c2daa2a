"""`surg eval`: judge models through the server that would serve them; write numbers, pictures and one report."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surg.cli.asked import BackendChoice, BackendOption, Checkpoint, Repository, Server, open_model, require_one_model

if TYPE_CHECKING:
    from surg.eval.results import Result

app = typer.Typer(
    help="Judge models through the server: probe-action, sterility, world-model, retrieval, parity; compare and report.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ProjectionChoice(StrEnum):
    auto = "auto"
    umap = "umap"
    pca = "pca"


class ProtocolChoice(StrEnum):
    small = "small"
    full = "full"


Out = Annotated[Path, typer.Option(help="Folder for result.json, report.md, report.html and plots/.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, as name=value; which there are: surg config schema EVALUATION.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the evaluation that --out holds.")]
Json = Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")]
Data = Annotated[Path, typer.Option("--data", "--test-data", help="Manifest.")]
Resume = Annotated[bool, typer.Option("--resume/--afresh", help="Go on from what an earlier run left, or begin anew.")]


@app.command("probe-action")
def probe_action(
    data: Data,
    out: Out = Path("runs/probe-action"),
    checkpoint: Annotated[list[str] | None, typer.Option(help="NAME=RUN, once per arm; the first is the reference.")] = None,
    server: Server = None,
    repository: Repository = None,
    also: Annotated[
        list[str] | None, typer.Option("--also-test", help="NAME=MANIFEST: a further test set, such as an unseen appearance.")
    ] = None,
    label: Annotated[str, typer.Option(help="Label to be told.")] = "action",
    backend: BackendOption = BackendChoice.triton,
    set_: Settings = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Frozen features, three readers, every baseline beside them: the yardstick for all arms."""
    _vacant(out, overwrite)
    _probe("probe-action", data, out, checkpoint, server, repository, also, {"label": label}, backend, set_, json_)


@app.command()
def classify(
    data: Data,
    out: Out = Path("runs/classify"),
    checkpoint: Annotated[list[str] | None, typer.Option(help="NAME=RUN, once per arm.")] = None,
    server: Server = None,
    repository: Repository = None,
    label: Annotated[str, typer.Option(help="Label to be told.")] = "label",
    segments: Annotated[int, typer.Option(min=1, help="Windows per clip: SSv2 2, K400 8, Diving48 4.")] = 2,
    views: Annotated[int, typer.Option(min=1, help="Square crops per window.")] = 3,
    backend: BackendOption = BackendChoice.triton,
    set_: Settings = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """UCF101, HMDB51, K400, SSv2 and the like: segments x views, attentive probe, top-1 and top-5."""
    _vacant(out, overwrite)
    features = {"level": "tokens", "pool": 1, "segments": segments, "views": views}
    defaults: dict[str, Any] = {"label": label, "features": features, "baselines": ["majority"]}
    _probe("classify", data, out, checkpoint, server, repository, None, defaults, backend, set_, json_)


@app.command()
def sterility(
    data: Data,
    out: Out = Path("runs/sterility"),
    takes: Annotated[
        Path | None, typer.Option(help="A further manifest, of long takes: events and false alarms are judged on those.")
    ] = None,
    checkpoint: Checkpoint = None,
    server: Server = None,
    repository: Repository = None,
    backend: BackendOption = BackendChoice.triton,
    set_: Settings = None,
    resume: Resume = True,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Breaches over whole takes and over clips: found, how late, at how many false alarms."""
    _vacant(out, overwrite)
    from surg.config import load_config
    from surg.data.manifest import Manifest
    from surg.eval.runs import judge_sterility
    from surg.eval.sterility import SterilityConfig, takes_by_split

    config = load_config(SterilityConfig, {}, overrides=set_ or [])
    manifest, long = Manifest.read(data), Manifest.read(takes) if takes else None
    # Before a model is exported and served for nothing.
    takes_by_split([manifest, *([long] if long else [])], config)
    with open_model(backend, server, checkpoint, repository) as opened:
        result = judge_sterility(opened, manifest, out, config, takes=long, resume=resume)
        result.evidence |= opened.finish()
    _finish([result], out, json_, config.seed)


@app.command("world-model")
def world_model(
    data: Data,
    out: Out = Path("runs/world-model"),
    checkpoint: Checkpoint = None,
    server: Server = None,
    repository: Repository = None,
    backend: BackendOption = BackendChoice.triton,
    set_: Settings = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Future latents against copying the last and against the mean; drift, arrow of time, rank."""
    _vacant(out, overwrite)
    from surg.config import load_config
    from surg.data.manifest import Manifest
    from surg.eval.runs import judge_world
    from surg.eval.world_model import WorldConfig

    config, manifest = load_config(WorldConfig, {}, overrides=set_ or []), Manifest.read(data)
    with open_model(backend, server, checkpoint, repository) as opened:
        result = judge_world(opened, manifest, out, config)
        result.evidence |= opened.finish()
    _finish([result], out, json_, config.seed)


@app.command()
def retrieval(
    features: Annotated[Path, typer.Argument(help="Table made by surg embed.")],
    out: Out = Path("runs/retrieval"),
    label: Annotated[str, typer.Option(help="Label that says what is relevant.")] = "action",
    second: Annotated[
        Path | None, typer.Option(help="Table of the same clips by another model: how far do the rankings agree?")
    ] = None,
    set_: Settings = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Do neighbours of other cases show the same? top-1, mAP, nDCG, cycle, overlap."""
    _vacant(out, overwrite)
    from surg.config import load_config
    from surg.data.feature_table import read_features
    from surg.eval.retrieval import RetrievalConfig, evaluate

    config = load_config(RetrievalConfig, {"label": label}, overrides=set_ or [])
    result = evaluate(read_features(features), config, out, read_features(second) if second else None)
    _finish([result], out, json_, 0)


@app.command()
def phases(
    table: Annotated[
        Path,
        typer.Argument(help="Table of video, time_s, truth, predicted (CSV or Parquet), or features: surg embed --stride-s 1"),
    ],
    out: Out = Path("runs/phases"),
    set_: Settings = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Phases of whole operations, per video: strict and relaxed, each F1 by name, edit score, F1@{10,25,50}."""
    _vacant(out, overwrite)
    from surg.config import load_config
    from surg.eval.phases import PhasesConfig, evaluate

    _finish([evaluate(table, load_config(PhasesConfig, {}, overrides=set_ or []), out)], out, json_, 0)


@app.command()
def parity(
    data: Data,
    out: Out = Path("runs/parity"),
    checkpoint: Checkpoint = None,
    server: Server = None,
    repository: Repository = None,
    backend: Annotated[
        list[BackendChoice] | None,
        typer.Option(help="Backends, the first is the truth; torch, onnx and triton when not given."),
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips of the manifest.")] = 16,
    tolerance: Annotated[float, typer.Option(min=0, help="A larger difference fails.")] = 1e-3,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """torch, ONNX and the server on the same clips: cosine, largest difference, flipped decisions, milliseconds."""
    _vacant(out, overwrite)
    from surg.data.manifest import Manifest
    from surg.errors import CheckFailed
    from surg.eval.parity import compare as compare_backends

    manifest = Manifest.read(data)
    names: list[Any] = [choice.value for choice in backend or [BackendChoice.torch, BackendChoice.onnx, BackendChoice.triton]]
    result = compare_backends(names, manifest, checkpoint=checkpoint, repository=repository, server=server, clips=clips)
    _finish([result], out, json_, 0)
    worst = max(metric.value for name, metric in result.metrics.items() if name.endswith("max_abs"))
    if worst > tolerance:
        raise CheckFailed(f"The backends differ by {worst:.2e}; allowed is {tolerance:g}. The table is in {out}/report.md.")


@app.command("all")
def everything(
    out: Out = Path("runs/eval"),
    checkpoint: Checkpoint = None,
    server: Server = None,
    tissue: Annotated[Path | None, typer.Option(help="Manifest with action labels; simulated when not given.")] = None,
    shifted: Annotated[Path | None, typer.Option(help="More of them, of an appearance that train has not.")] = None,
    room: Annotated[
        Path | None, typer.Option("--room", "--data", help="Manifest with breach labels; simulated when not given.")
    ] = None,
    takes: Annotated[Path | None, typer.Option(help="Long videos with breach labels.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Stored numbers; exit 1 when one got worse.")] = None,
    protocol: Annotated[
        ProtocolChoice, typer.Option(help="small: minutes on two cores; full: hours, the numbers to quote.")
    ] = ProtocolChoice.small,
    backend: BackendOption = BackendChoice.triton,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Everything at once through one server, one report: what `make eval` runs. Of surg-tiny when no model is named."""
    _vacant(out, overwrite)
    from surg.data.manifest import Manifest
    from surg.eval.regression import read_baseline
    from surg.eval.suite import PROTOCOLS, Data, run_suite
    from surg.model.saved import SHIPPED

    if checkpoint is None and server is None:
        checkpoint = Path(SHIPPED)
    data = Data(tissue, shifted, room, takes)
    for manifest in filter(None, (tissue, shifted, room, takes)):
        Manifest.read(manifest)
    if baseline:
        read_baseline(baseline)
    # With both, the server is judged and the checkpoint is what its parity is held against.
    with open_model(backend, server, None if server else checkpoint, None) as opened:
        results = run_suite(opened, out, PROTOCOLS[protocol.value], data, checkpoint=checkpoint)
        proof = opened.finish()
    for result in results:
        result.evidence |= proof
    _finish(results, out, json_, 0)
    if checkpoint is not None:
        _write_card(checkpoint, results, out / "card.md")
    if baseline:
        _check(results, baseline)


@app.command()
def card(
    checkpoint: Annotated[Path, typer.Argument(help="Run folder or .safetensors.")],
    results: Annotated[list[Path] | None, typer.Option(help="Folders of evaluations, such as that of surg eval all.")] = None,
    out: Annotated[Path, typer.Option(help="Markdown file to write.")] = Path("card.md"),
) -> None:
    """The model card that goes with an export: data, seeds, fingerprints, numbers with intervals, failures, limits."""
    _write_card(checkpoint, _results(results or []), out)


def _write_card(checkpoint: Path, results: "list[Result]", out: Path) -> None:
    from surg.eval.card import model_card
    from surg.runs import write_text

    write_text(out, model_card(checkpoint, results))
    typer.echo(f"Wrote {out}\nNext: read it, and put it beside the model: surg export {checkpoint} --out repo", err=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluations of one kind; the first is the reference.")],
    out: Out = Path("runs/compare"),
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """The table of arms, with paired differences where the runs predicted the same clips."""
    _vacant(out, overwrite)
    from surg.eval.compare import compare as compare_runs

    _finish([compare_runs(runs, out)], out, json_, 0)


@app.command("probe-plot")
def probe_plot(
    paths: Annotated[list[Path], typer.Argument(help="Run folders of surg train or surg eval, tables of surg embed.")],
    out: Out = Path("runs/probe-plot"),
    label: Annotated[str, typer.Option(help="Label that colours the features.")] = "action",
    method: Annotated[ProjectionChoice, typer.Option(help="How features come into a plane.")] = ProjectionChoice.auto,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Pictures of runs side by side: drift per block, trajectory over training, arms compared, features in a plane."""
    _vacant(out, overwrite)
    from surg.eval.probe_plot import draw

    _finish([draw(paths, out, label, method.value)], out, json_, 0)


@app.command()
def check(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluations.")],
    baseline: Annotated[Path | None, typer.Option(help="Stored numbers to hold them against.")] = None,
    write: Annotated[Path | None, typer.Option(help="Store these runs' numbers as the baseline instead.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="How much worse a number may be, for --write; 0.03 when not given.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="For --write: metrics whose name holds this word; the leading ones when not given."),
    ] = None,
) -> None:
    """Exit 1 when a number got worse than the stored baseline."""
    from surg.errors import ConfigError
    from surg.eval.regression import HEADLINE, TOLERANCE, write_baseline

    if write and baseline:
        raise ConfigError("--baseline checks against stored numbers, --write stores these in their place. Give one of them.")
    if not write and (tolerance is not None or only):
        raise ConfigError(
            "--tolerance and --only go with --write: a baseline holds the numbers it checks, each with its own tolerance.\n"
            "Store them anew: surg eval check GOOD_RUN --write FILE --tolerance 0.05"
        )
    results = _results(runs)
    if write:
        count = len(write_baseline(results, write, TOLERANCE if tolerance is None else tolerance, only or HEADLINE))
        typer.echo(f"Wrote {write}: {count} numbers\nNext: surg eval check RUN --baseline {write}")
        return
    if baseline is None:
        raise ConfigError("Give --baseline FILE to check against, or --write FILE to make one.")
    _check(results, baseline)


def _check(results: "list[Result]", baseline: Path) -> None:
    from surg.errors import CheckFailed
    from surg.eval.regression import check as check_results

    verdicts = check_results(results, baseline)
    for verdict in verdicts:
        typer.echo(str(verdict))
    worse = [verdict for verdict in verdicts if not verdict.ok]
    if worse:
        raise CheckFailed(
            f"{len(worse)} of {len(verdicts)} numbers are worse than {baseline} allows, or missing:\n"
            + "\n".join(f"  {verdict}" for verdict in worse)
            + f"\nIf that is meant to be, store the new ones: surg eval check RUN --write {baseline}"
        )


def _probe(
    kind: str, data: Path, out: Path, checkpoints: list[str] | None, server: str | None, repository: Path | None,
    also: list[str] | None, defaults: dict[str, Any], backend: BackendChoice, overrides: list[str] | None, json_: bool,
) -> None:  # fmt: skip
    from surg.config import load_config
    from surg.data.manifest import Manifest
    from surg.eval.probe_action import Arm, ProbeActionConfig
    from surg.eval.runs import judge_probe

    require_one_model(backend, server, checkpoints, repository)
    config = load_config(ProbeActionConfig, defaults, overrides=overrides or [])
    arms = [Arm(name, Path(path)) for name, path in _named(checkpoints, "model")]
    if not arms:
        arms = [Arm("model", None, repository, server)]
    tests = {name: Manifest.read(path) for name, path in _named(also, "other")}
    result = judge_probe(kind, arms, Manifest.read(data), tests, config, out, backend.value)
    _finish([result], out, json_, config.seed)


def _named(entries: list[str] | None, fallback: str) -> list[tuple[str, str]]:
    from surg.errors import ConfigError

    pairs = []
    for number, entry in enumerate(entries or []):
        name, equals, path = entry.partition("=")
        pairs.append((name, path) if equals else (fallback if number == 0 else f"{fallback}{number + 1}", entry))
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        # Their features and predictions would lie under one name, the later over the earlier.
        raise ConfigError(f"The name {', '.join(twice)} was given twice; every arm and test set needs its own: NAME=PATH.")
    return pairs


def _results(folders: list[Path]) -> "list[Result]":
    """Every evaluation under the folders; one that holds none was mistyped, or its evaluation did not end."""
    from surg.errors import DataError
    from surg.eval.results import Result

    found = []
    for folder in folders:
        paths = sorted(folder.glob("**/result.json"))
        if not paths:
            raise DataError(
                f"{folder} holds no evaluation (no result.json){'' if folder.is_dir() else ': there is no such folder'}.\n"
                f"Make one: surg eval all --checkpoint RUN --out {folder}"
            )
        found += [Result.read(path) for path in paths]
    return found


def _vacant(out: Path, overwrite: bool) -> None:
    """Before any work: an evaluation that is whole is not replaced unless asked; one that was cut off goes on."""
    from surg.errors import RunError

    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; an evaluation needs a folder. Choose another --out.")
    if not overwrite and any((out / name).is_file() for name in ("result.json", "report.html")):
        raise RunError(f"{out} holds an evaluation already.\nReplace it: --overwrite    or choose another --out.")


def _finish(results: "list[Result]", out: Path, json_: bool, seed: int) -> None:
    """Write what there is to write, say where it lies and what to do next."""
    import json

    from surg.eval.report import write_report
    from surg.runs import describe_environment, write_json

    for result in results:
        result.write(out if len(results) == 1 else out / result.kind)
    write_json(
        out / "environment.json", describe_environment(seed=seed, data_fingerprint=results[0].evidence.get("data_fingerprint"))
    )
    report = write_report(results, out, title=results[0].title if len(results) == 1 else "Evaluation")
    if json_:
        typer.echo(
            json.dumps({result.kind: {name: metric.value for name, metric in result.metrics.items()} for result in results})
        )
        return
    for result in results:
        typer.echo(f"{result.title}: {result.headline}")
        for warning in result.warnings:
            typer.echo(f"  beware: {warning}", err=True)
    typer.echo(f"Wrote {report}")
    typer.echo(f"Next: open it in a browser, or hold it against another run: surg eval compare {out} RUN")
