"""What must be true of the tree itself."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 25 * 1024**2


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name]


@pytest.mark.parametrize("name", ["cli", "model", "serving", "eval", "demo"])
def test_the_names_at_the_top_are_relative_links_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("surg") / name


def test_no_file_is_too_large() -> None:
    assert not [path.name for path in tracked() if path.is_file() and path.stat().st_size > LIMIT]


def test_no_secret_machine_path_or_registry_host_is_committed() -> None:
    # Written in pieces, so that this file does not find itself.
    forbidden = [
        r"-----BEGIN [A-Z ]*PRIVATE" + " KEY",
        r"\bAKIA[0-9A-Z]{16}\b",
        r"\bhf_[A-Za-z]{30,}",
        "/ro" + "ot/",
        "/wo" + "rk/",
        "pypi" + r"\.org",
        "pythonhosted" + r"\.org",
        "npmjs" + r"\.org",
    ]
    pattern = re.compile("|".join(forbidden))
    found = []
    for path in tracked():
        if path.is_symlink() or not path.is_file() or path.suffix in {".png", ".npz", ".safetensors", ".pt", ".mp4", ".jpg"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert not found


def test_no_module_hides_a_well_known_one() -> None:
    bad = {"utils.py", "helpers.py", "common.py", "types.py", "logging.py"}
    assert not [path for path in (ROOT / "surg").rglob("*.py") if path.name in bad]
    assert not [path for path in (ROOT / "surg").rglob("triton") if path.is_dir()]


def test_package_inits_stay_empty() -> None:
    assert not [
        path for path in (ROOT / "surg").rglob("__init__.py") if path.parent != ROOT / "surg" and path.read_text().strip()
    ]
