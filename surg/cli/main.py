"""The `surg` command: gathers the subcommands, prints errors as sentences, and maps them to exit statuses.

Ctrl-C and SIGTERM end a command alike: what it started ends with it, and what it kept is said in the notes of the exception.
"""

import importlib
import logging
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from surg.errors import SurgError

# In the order in which a newcomer meets them. Each is a thin module of surg.cli with an `app`.
COMMANDS = (
    "quickstart",
    "doctor",
    "data",
    "weights",
    "train",
    "embed",
    "export",
    "serve",
    "infer",
    "eval",
    "demo",
    "bench",
    "config",
)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as containers and batch systems send it, or a terminal that was closed."""


class Commands(TyperGroup):
    """Commands in the order given; typer itself says "Did you mean" for a mistyped one."""

    def list_commands(self, ctx: object) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            # Typer would end without a word.
            raise typer.Exit(_stopped(error)) from error


app = typer.Typer(
    name="surg",
    help="V-JEPA 2 video world models for the operating room: adapt, prove, export, serve. Research use; not a medical device.",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"surg {version('surg')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens inside, to stderr.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log as one JSON object a line, for machines.")] = False,
) -> None:
    from surg.cli.logs import set_up_logging

    set_up_logging(logging.DEBUG if verbose else logging.INFO, as_json=log_json)


for _name in COMMANDS:
    app.add_typer(importlib.import_module(f"surg.cli.{_name}").app, name=_name)


def run() -> None:
    """Entry point. Exit 0 fine, 1 a check or gate said no, 2 the user's input, 130 Ctrl-C, 143 SIGTERM; a bug keeps its traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and so do we then
            signal.signal(number, _terminate)
    try:
        app(prog_name="surg")
    except SurgError as error:
        typer.echo(f"{typer.style('error:', fg='red', bold=True)} {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        sys.exit(_stopped(error))
    except BrokenPipeError:
        # `surg ... | head` is no error; without this Python complains once more while it shuts down.
        sys.stderr.close()
        sys.exit(141)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _stopped(error: KeyboardInterrupt) -> int:
    """Say what is kept and return the exit status."""
    typer.echo(" ".join(["Stopped.", *getattr(error, "__notes__", ["What was not finished is not kept."])]), err=True)
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
