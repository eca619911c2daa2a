"""What the commands that work clip by clip share: their options, a resumable run, and how it ends."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from surg.advice import quoted

if TYPE_CHECKING:
    from surg.config import Config
    from surg.data.manifest import Clip

Manifest = Annotated[Path, typer.Argument(help="Manifest of the clips.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one per core when not given.")]
Engine = Annotated[Literal["local", "ray"], typer.Option("--engine", help="local: the cores of this machine. ray: a cluster.")]
Address = Annotated[str | None, typer.Option("--address", help="Address of the Ray cluster.")]
Resume = Annotated[bool, typer.Option("--resume/--afresh", help="Go on from what an earlier run left, or begin anew.")]
MaxFailed = Annotated[
    float, typer.Option("--max-failed", min=0, max=1, help="Share of clips that may fail before the run does.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, as name=value; which there are: surg config schema COMMAND.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def key_of(clip: "Clip", config: "Config | None" = None) -> str:
    """A clip under some settings: after a change of settings nothing old is taken for done."""
    from dataclasses import asdict

    from surg.data.executor import item_key

    return item_key({"clip": asdict(clip), "config": config.model_dump(mode="json") if config is not None else None})


def work(
    function: Callable[["Clip"], Any],
    manifest: Path,
    out: Path,
    config: "Config",
    *,
    engine: Literal["local", "ray"],
    workers: int | None,
    address: str | None,
    resume: bool,
    max_failed: float,
) -> int:
    """Run `function` on every clip; its rows go to the table `out`. Returns how many clips are done.

    Failed clips are listed by their key. Raises CheckFailed (exit 1) when more than `max_failed` of them failed; the table is kept.
    """
    from surg.data import executor
    from surg.data.manifest import Manifest
    from surg.errors import CheckFailed, ConfigError, DataError

    if address is not None and engine != "ray":
        raise ConfigError(
            f"--address {address} is that of a Ray cluster, and the cores of this machine work. Add --engine ray."
        )
    clips = Manifest.read(manifest)
    if not len(clips):
        raise DataError(f"{manifest} has no clips. Index some: surg data index --format folder VIDEOS --out {quoted(manifest)}")
    report = executor.run(
        function,
        clips,
        out,
        engine=engine,
        workers=workers,
        resume=resume,
        key=partial(key_of, config=config),
        address=address,
        total=len(clips),
    )
    for key, error in report.failed:
        typer.echo(f"failed: clip {key}: {error}", err=True)
    if report.failed_share > max_failed:
        raise CheckFailed(
            f"{len(report.failed)} of {report.done + len(report.failed)} clips failed, more than {max_failed:.0%}; {out} holds the others.\n"
            "Mend or remove them and run the command again (only they are tried again), or allow more: --max-failed 0.5"
        )
    return report.done
