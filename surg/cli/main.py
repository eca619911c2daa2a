"""The `surg` command: gathers the subcommands, prints errors as sentences, and maps them to exit statuses."""

import importlib
import logging
import sys
from typing import Annotated

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


class Suggesting(TyperGroup):
    """Commands in the order given; typer itself says "Did you mean" for a mistyped one."""

    def list_commands(self, ctx: object) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]


app = typer.Typer(
    name="surg",
    help="V-JEPA 2 video world models for the operating room: adapt, prove, export, serve. Research use; not a medical device.",
    cls=Suggesting,
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
    """Entry point. Exit 0 fine, 1 a check or gate said no, 2 the user's input; a bug keeps its traceback."""
    try:
        app(prog_name="surg")
    except SurgError as error:
        typer.echo(f"{typer.style('error:', fg='red', bold=True)} {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # `surg ... | head` is no error; without this Python complains once more while it shuts down.
        sys.stderr.close()
        sys.exit(141)
