"""Run the notebook docs/tour.ipynb from its first cell to its last and store it with what it showed.

    python docs/run_tour.py [--repository REPO] [--out FILE]

Without --repository the shipped model is shown. What depends on this machine is taken out: paths, times, warnings.
"""

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent / "tour.ipynb"
PATHS = re.compile(r"(?:/[\w.@+-]+){2,}/")


def run(notebook: Path = NOTEBOOK, timeout_s: int = 240) -> Any:
    """The notebook with its outputs. Raises CellExecutionError with the traceback of a cell that failed."""
    tour = nbformat.read(notebook, as_version=4)
    NotebookClient(
        tour, timeout=timeout_s, kernel_name="python3", resources={"metadata": {"path": str(notebook.parent)}}
    ).execute()
    return cleaned(tour)


def cleaned(tour: Any) -> Any:
    """Without what another machine would show otherwise: folders, execution times, what went to stderr."""
    tour.metadata = {"kernelspec": tour.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in tour.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "text" in output:
                output["text"] = PATHS.sub("", output["text"])
            output.get("metadata", {}).clear()
    return tour


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, help="model repository; the shipped model's when not given")
    parser.add_argument("--out", type=Path, default=NOTEBOOK)
    arguments = parser.parse_args()
    if arguments.repository:
        os.environ["SURG_TOUR_REPOSITORY"] = str(arguments.repository.resolve())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        nbformat.write(run(), arguments.out)
    print(arguments.out, arguments.out.stat().st_size // 1000, "KB")


if __name__ == "__main__":
    main()
