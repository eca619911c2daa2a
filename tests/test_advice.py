"""Commands that are printed to be pasted."""

import ast
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from surg.advice import quoted
from surg.cli.main import COMMANDS
from surg.data.video import write_video
from tests.conftest import ROOT

Surg = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = re.compile(rf"\bsurg (?:{'|'.join(COMMANDS)}) .*?(?=    |\n|[;,.:?] |$)")
# What cannot hold a space: words of ours, numbers, addresses, and what was quoted where it was made.
BARE = {
    "SHIPPED",
    "format",
    "name",
    "label",
    "suffix",
    "whose",
    "model",
    "measure",
    "before[-1]",
    "server.grpc_url",
    "', '.join(SETTINGS)",
}


def _unquoted(tree: ast.AST) -> Iterator[str]:
    """What stands in a command as it comes."""
    for text in ast.walk(tree):
        if isinstance(text, ast.JoinedStr):
            parts = [
                f"⟦{ast.unparse(part.value)}⟧" if isinstance(part, ast.FormattedValue) else ast.literal_eval(part)
                for part in text.values
            ]
            for command in COMMAND.findall("".join(map(str, parts))):
                yield from (
                    what for what in re.findall("⟦(.*?)⟧", command) if not what.startswith("quoted(") and what not in BARE
                )


def test_every_path_in_a_command_is_quoted() -> None:
    found = []
    for path in sorted((ROOT / "surg").rglob("*.py")):
        found += [f"{path.relative_to(ROOT)}: {what}" for what in _unquoted(ast.parse(path.read_text()))]
    assert found == []


@pytest.mark.parametrize("name", ["a b", "Ünïcode", "it's", 'say "so"', "$HOME", "a;b", "(1)", "*"])
def test_a_shell_takes_what_is_quoted_for_one_word(name: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf %s {quoted(Path(name))}"], capture_output=True, text=True, check=True)
    assert done.stdout == name


def test_usual_paths_get_no_quotes() -> None:
    assert quoted(Path("runs/pretrain-2/checkpoints/best.safetensors")) == "runs/pretrain-2/checkpoints/best.safetensors"


def test_what_is_said_after_each_command_can_be_pasted_where_paths_hold_spaces(surg: Surg, tmp_path: Path) -> None:
    folder = tmp_path / "Klinik Süd's (1)"
    for number, case in enumerate(("Ä 1", "b 2", "c 3")):
        pictures = np.random.default_rng(number).integers(0, 255, (8, 4, 4, 3), np.uint8)
        write_video(folder / case / "a take.mp4", pictures.repeat(16, 1).repeat(16, 2), 8)
    manifest = folder / "the manifest.parquet"
    command = ["data", "index", str(folder), "--out", str(manifest)]
    for wanted in ("data check", "data split", "data check", "data show"):
        done = surg(*command)
        assert done.returncode == 0, done.stderr
        command = shlex.split(done.stdout.rpartition("Next: surg ")[2])
        assert command == [*wanted.split(), str(manifest)]
    missing = surg("data", "check", folder / "no manifest.parquet")
    assert missing.returncode == 2
    assert str(folder / "no manifest.parquet") in shlex.split(missing.stderr.rpartition("Make one: ")[2])
