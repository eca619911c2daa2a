"""`surg data`: everything about videos and manifests. Each subcommand is a module of its own with `register(app)`."""

import importlib

import typer

app = typer.Typer(
    help="Manifests, splits, checks, simulators and labels: from videos to what training eats.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order in which a data set goes through them.
PARTS = (
    "index",
    "check",
    "split",
    "merge",
    "show",
    "interchange",
    "synth",
    "deidentify",
    "motion",
    "classes",
    "segment",
    "factors",
    "tag",
)

for _part in PARTS:
    importlib.import_module(f"surg.cli.data_{_part}").register(app)
