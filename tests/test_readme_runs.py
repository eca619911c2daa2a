"""The README's commands are run: every block, in the order of the page, in one empty folder. So are blocks of the guides that ask for it.

A comment before a block says how, and a reason where it is not run as it stands:

    <!-- tests: long -->            run with `make test-slow`, as it stands but for SHORTER
    <!-- tests: dry, REASON -->     only asked whether it could run: `make -n`
    <!-- tests: no, REASON -->      needs what a test machine has not; tests/test_docs.py parses it

A block of the README without one is run by `make test`; one of a guide is parsed by tests/test_docs.py.
"""

import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:<!-- tests: (?P<how>\w+)(?:, (?P<why>[^>]+?))? -->\n)?^```(?P<language>bash|console|python)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Long for their amount, not for their kind: the same commands with less of it.
SHORTER = (
    # Six cases, of which one each is val and test.
    (re.compile(r"--clips \d+"), "--clips 48"),
    (re.compile(r"^(surg train (?!.*--resume).*)$"), r"\1 --set steps=2 --set data.size=96 --set batch_size=2"),
    (re.compile(r"^(surg eval probe-action .*)$"), r"\1 --set probe.sweep_epochs=1 --set probe.epochs=2 --set features.pool=4"),
)


@dataclass(frozen=True)
class Block:
    line: int
    how: str
    """now, long, dry or no."""
    why: str
    language: str
    body: str

    @property
    def commands(self) -> list[str]:
        """Commands of a shell block, joined where a line ends in a backslash; of a console block those after `$`."""
        lines = self.body.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        bare = (shlex.join(shlex.split(line, comments=True)) for line in lines)
        return [line for line in bare if line]


def blocks(text: str) -> list[Block]:
    return [
        Block(
            text.count("\n", 0, found.start("body")),
            found["how"] or "now",
            found["why"] or "",
            found["language"],
            found["body"],
        )
        for found in BLOCK.finditer(text)
    ]


README = blocks((ROOT / "README.md").read_text())
LONG = {
    page.name: found
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if (found := [block for block in blocks(page.read_text()) if block.how == "long"])
}


def named(how: str) -> list[object]:
    return [pytest.param(block, id=f"line-{block.line}") for block in README if block.how == how]


def shorter(command: str) -> str:
    return functools.reduce(lambda text, change: change[0].sub(change[1], text), SHORTER, command)


@dataclass
class Newcomer:
    """Somebody who types what the README says, in an empty folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder / "home"),
            "SURG_STATE_DIR": str(self.folder / "state"),
            "SURG_TRITON_ENV": os.environ.get("SURG_TRITON_ENV", str(ROOT / ".venv-triton")),
            "NO_COLOR": "1",
            "COLUMNS": "160",
        }

    def arguments(self, command: str) -> list[str]:
        words = shlex.split(command)
        return [sys.executable, "-m", "surg", *words[1:]] if words[0] == "surg" else words

    def type(self, command: str, timeout_s: float = 900) -> str:
        if command.startswith("surg demo"):
            return self.look_at_the_page(command)
        done = subprocess.run(
            self.arguments(command), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )
        # 1 says that something is missing on this machine; doctor is there to say it.
        assert done.returncode in ((0, 1) if command.startswith("surg doctor") else (0,)), (
            f"$ {command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        )
        return done.stdout

    def look_at_the_page(self, command: str) -> str:
        with subprocess.Popen(
            [*self.arguments(command), "--port", "0", "--no-open"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            process.send_signal(signal.SIGTERM)
            assert address.startswith("http://"), f"$ {command}"
            assert process.wait(timeout=60) == 0
        return address


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    """One folder for a whole page, with a clip of one's own, as the README supposes."""
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "home").mkdir()
    shutil.copyfile(ROOT / "surg" / "demo" / "clips" / "room-breach-field.mp4", folder / "clip.mp4")
    somebody = Newcomer(folder)
    yield somebody
    if (folder / "state").exists():
        somebody.type("surg serve stop")


def test_every_block_that_is_not_run_says_why() -> None:
    assert README
    assert {block.how for block in README} <= {"now", "long", "dry", "no"}
    assert [block.line for block in README if block.how in ("dry", "no") and len(block.why) < 15] == []


def test_most_of_the_page_is_run() -> None:
    typed = sum(len(block.commands) for block in README if block.language != "python")
    run = sum(len(block.commands) for block in README if block.language != "python" and block.how in ("now", "long"))
    assert run >= 0.7 * typed


@pytest.mark.parametrize("block", named("now"))
def test_what_is_quick_runs_as_it_stands(block: Block, newcomer: Newcomer) -> None:
    for command in block.commands:
        shown = newcomer.type(command)
        if block.language == "console":
            # What stands after the command is what it prints, on this machine or another: the same lines, other values.
            told = {line[11:29].strip() for line in block.body.splitlines() if re.match(r"  (ok|missing|warning) ", line)}
            assert told
            assert {label for label in told if label not in shown} == set()


@pytest.mark.parametrize("block", named("dry"))
def test_what_would_call_itself_is_known_to_make(block: Block) -> None:
    for command in block.commands:
        program, *rest = shlex.split(command)
        assert program == "make"
        done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", LONG)
def test_the_long_blocks_of_a_page_run_one_after_the_other(page: str, newcomer: Newcomer) -> None:
    # Slow: simulates, trains, exports, serves and evaluates. One test a page, since a block goes on where the one before ended.
    for block in LONG[page]:
        if block.language == "python":
            newcomer.type(shlex.join([sys.executable, "-c", block.body]))
        for command in block.commands if block.language != "python" else ():
            newcomer.type(shorter(command))


def test_the_parser_finds_how_and_why() -> None:
    page = "<!-- tests: no, needs the moon -->\n```bash\nsurg a \\\n  --b 1  # c\n```\n\n```console\n$ surg d\n  ok  e\n```\n```text\nx\n```\n"
    first, second = blocks(page)
    assert (first.how, first.why, first.commands) == ("no", "needs the moon", ["surg a --b 1"])
    assert (second.how, second.commands) == ("now", ["surg d"])


def test_pages_ask_for_what_they_promise() -> None:
    assert {"README.md", "motion.md", "training.md"} <= set(LONG)


def test_long_commands_are_shortened_and_others_left_alone() -> None:
    assert shorter("surg data synth tissue --clips 240 --seed 1") == "surg data synth tissue --clips 48 --seed 1"
    assert shorter("surg train multitask --out r").startswith("surg train multitask --out r --set steps=2")
    assert shorter("surg train pretrain --resume r") == "surg train pretrain --resume r"
    assert shorter("surg serve stop") == "surg serve stop"
