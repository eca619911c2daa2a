"""Where the model's benchmarks leave their figures: benchmarks/<what>_<hardware>_<yyyy-mm>.json and .md."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from surg.runs import describe_environment, write_json, write_text


def record(what: str, note: str, results: dict[str, Any], table: str) -> None:
    family = "cpu"
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text().lower()
        family = next((name for name in ("xeon", "epyc", "ryzen") if name in text), family)
    now = datetime.now(UTC)
    path = Path(__file__).parent / f"{what}_{family}-{os.cpu_count()}core_{now:%Y-%m}.json"
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    environment = describe_environment(seed=0, data_fingerprint=None)
    write_json(path, {"command": command, "note": note, "environment": environment, "results": results})
    write_text(path.with_suffix(".md"), f"`{command}`, {now:%Y-%m-%d}\n\n{note}\n\n{table}\n")
    print(f"{table}\nwrote {path} and .md")
