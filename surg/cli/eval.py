"""`surg eval`: judge models through the server that would serve them; write numbers, pictures and one report."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from surg.cli import eval_kept
from surg.cli.asked import BackendChoice, BackendOption, Checkpoint, Repository, Server, open_model, require_one_model
from surg.cli.eval_written import Json, Out, Overwrite, finish, hold_against, vacant, write_card

app = typer.Typer(
    help="Judge models through the server: probe-action, sterility, world-model, retrieval, parity; compare and report.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(eval_kept.app)


class ProtocolChoice(StrEnum):
    small = "small"
    full = "full"


Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, as name=value; which there are: surg config schema EVALUATION.")
]
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
    vacant(out, overwrite)
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
    vacant(out, overwrite)
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
    vacant(out, overwrite)
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
    finish([result], out, json_, config.seed)


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
    vacant(out, overwrite)
    from surg.config import load_config
    from surg.data.manifest import Manifest
    from surg.eval.runs import judge_world
    from surg.eval.world_model import WorldConfig

    config, manifest = load_config(WorldConfig, {}, overrides=set_ or []), Manifest.read(data)
    with open_model(backend, server, checkpoint, repository) as opened:
        result = judge_world(opened, manifest, out, config)
        result.evidence |= opened.finish()
    finish([result], out, json_, config.seed)


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
    vacant(out, overwrite)
    from surg.config import load_config
    from surg.data.feature_table import read_features
    from surg.eval.retrieval import RetrievalConfig, evaluate

    config = load_config(RetrievalConfig, {"label": label}, overrides=set_ or [])
    result = evaluate(read_features(features), config, out, read_features(second) if second else None)
    finish([result], out, json_, 0)


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
    vacant(out, overwrite)
    from surg.config import load_config
    from surg.eval.phases import PhasesConfig, evaluate

    finish([evaluate(table, load_config(PhasesConfig, {}, overrides=set_ or []), out)], out, json_, 0)


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
    vacant(out, overwrite)
    from surg.data.manifest import Manifest
    from surg.errors import CheckFailed
    from surg.eval.parity import compare as compare_backends

    manifest = Manifest.read(data)
    names: list[Any] = [choice.value for choice in backend or [BackendChoice.torch, BackendChoice.onnx, BackendChoice.triton]]
    result = compare_backends(names, manifest, checkpoint=checkpoint, repository=repository, server=server, clips=clips)
    finish([result], out, json_, 0)
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
    vacant(out, overwrite)
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
    finish(results, out, json_, 0)
    if checkpoint is not None:
        write_card(checkpoint, results, out / "card.md")
    if baseline:
        hold_against(results, baseline)


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
    finish([result], out, json_, config.seed)


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
