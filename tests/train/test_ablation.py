"""The ablation's table comes out whole from one command: simulators, base, every arm, probe, intervals."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_small_setting_makes_the_whole_table(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "ablation.py"), "--small", "--work", str(tmp_path / "work")]
    done = subprocess.run([*command, "--threads", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "30 unseen test cases" in done.stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    arms = {row[0]: row for row in rows if len(row) == 7}
    asked = {"pretrain", "pretrain-2x", "surgery", "surgery-raw", "lora", "head-only", "pretrain on a"}
    assert asked | {"frozen base", "random weights"} < set(arms)
    # Its encoder is the base's own.
    assert arms["head-only"][3] == "+0.000"
    assert all(" to " in arms[name][4] for name in asked)
    assert ["surgery", "surgery-raw"] in [row[:2] for row in rows if len(row) == 6]
