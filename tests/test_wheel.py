"""The wheel on its own: built, installed into a fresh environment, used outside the tree."""

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; dependencies come from ours by path, which does not bring our editable install along."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = {"check": True, "capture_output": True, "text": True, "timeout": 240}
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)], **quiet)
    (wheel,) = folder.glob("surg-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], **quiet)
    python = folder / "env" / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-qq", "--no-deps", "--no-index", str(wheel)], **quiet)
    (packages,) = (folder / "env").glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python


def run(python: Path, *arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([str(python), *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


def test_the_wheel_works_outside_the_tree(fresh: Path, tmp_path: Path) -> None:
    where = run(fresh, "-c", "import surg; print(surg.__file__)", cwd=tmp_path)
    assert str(fresh.parents[1]) in where.stdout, where.stderr
    shown = run(fresh.with_name("surg"), "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "quickstart" in shown.stdout
    listed = run(fresh, "-m", "surg", "train", "list", cwd=tmp_path)
    assert "surgery" in listed.stdout + listed.stderr


def test_a_shipped_recipe_runs_dry_from_the_wheel(fresh: Path, tmp_path: Path) -> None:
    made = run(
        fresh,
        "-m",
        "surg",
        "data",
        "synth",
        "tissue",
        "--out",
        "tissue",
        "--clips",
        "40",
        "--seed",
        "1",
        "--workers",
        "1",
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    settings = ["--set", "model.size=nano", "--set", "data.size=64", "--set", "batch_size=2"]
    dry = run(
        fresh, "-m", "surg", "train", "pretrain", "--data", "tissue/manifest.parquet", "--dry-run", *settings, cwd=tmp_path
    )
    assert dry.returncode == 0, dry.stderr[-2000:]
    assert not (tmp_path / "runs").exists()
