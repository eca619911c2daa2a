"""Where a benchmark's figures go: benchmarks/<what>_<hardware>_<yyyy-mm>.json (and .md), with command, commit, versions and date."""

import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from surg.runs import describe_environment, write_json, write_text


def hardware() -> str:
    """A short name of this machine's processor, for example xeon-2core, or xeon-spr-2core (Sapphire Rapids) where it has AMX."""
    try:
        text = Path("/proc/cpuinfo").read_text().lower()
    except OSError:
        text = ""
    family = next((name for name in ("xeon", "epyc", "ryzen", "core(tm)") if name in text), "cpu").removesuffix("(tm)")
    generation = "-spr" if family == "xeon" and "amx_bf16" in text else ""
    return f"{family}{generation}-{os.cpu_count()}core"


def without_home(argument: str) -> str:
    """An argument as it may be written down: of an absolute path, also behind NAME=, only the last folder and the name."""
    name, equals, value = argument.rpartition("=")
    path = Path(value)
    return f"{name}{equals}{Path(*path.parts[-2:])}" if path.is_absolute() and len(path.parts) > 2 else argument


def write_result(
    what: str, results: dict[str, Any], table: str = "", note: str = "", *, seed: int = 0, data_fingerprint: str | None = None
) -> Path:
    """`table`: Markdown for a page of the same name; `note`: a sentence on how the figures were taken."""
    now = datetime.now(UTC)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(without_home, sys.argv[1:])])
    path = Path(__file__).parent / f"{what}_{hardware()}_{now:%Y-%m}.json"
    write_json(
        path,
        {
            "command": command,
            "date": f"{now:%Y-%m-%d}",
            "environment": describe_environment(seed=seed, data_fingerprint=data_fingerprint),
            **({"note": note} if note else {}),
            "results": results,
        },
    )
    if table:
        write_text(path.with_suffix(".md"), "\n\n".join(filter(None, [f"`{command}`, {now:%Y-%m-%d}", note, table])) + "\n")
    return path
