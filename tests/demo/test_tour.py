"""The notebook runs from its first cell to its last, and what is stored of it tells nothing about a machine."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOK = DOCS / "tour.ipynb"
# jupyter_client warns of its own event loop's move to another default.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def tour() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_tour", DOCS / "run_tour.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.xdist_group("demo-tour")
def test_every_cell_runs_and_shows_its_picture(
    tour: ModuleType, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURG_TOUR_REPOSITORY", str(repository))
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = tour.run()
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 6
    assert all(cell.execution_count for cell in code)
    assert "8 clips" in json.dumps(done)
    assert str(tmp_path) not in json.dumps(done)


def test_a_cell_that_fails_fails_the_run(tour: ModuleType, tmp_path: Path) -> None:
    import nbformat
    from nbclient.exceptions import CellExecutionError

    bad = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("1 / 0")], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    nbformat.write(bad, tmp_path / "bad.ipynb")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        tour.run(tmp_path / "bad.ipynb")


def test_folders_are_taken_out_of_what_was_printed(tour: ModuleType) -> None:
    assert tour.PATHS.sub("", "wrote /home/someone/data/clip.mp4, 3 of 4/5") == "wrote clip.mp4, 3 of 4/5"


def test_what_is_stored_names_no_folder_and_is_small() -> None:
    text = NOTEBOOK.read_text()
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", text)
    assert NOTEBOOK.stat().st_size < 1_500_000
