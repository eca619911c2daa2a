"""What the pages say can be typed: every `surg` line in them parses, every link between them leads somewhere.

Commands are resolved and parsed, not run: a renamed command or option turns this red, a slow one costs nothing.
"""

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.is_file()]

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})[ ]*([\w-]*).*?\n(.*?)^\1\2`*[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
SHELL = {"", "bash", "console", "sh", "shell"}


def fenced(text: str, languages: set[str]) -> list[tuple[int, str]]:
    """(line, body) of every fenced block in one of the languages."""
    return [(text.count("\n", 0, found.start(4)) + 1, found[4]) for found in _FENCE.finditer(text) if found[3] in languages]


def surg_lines(text: str) -> list[tuple[int, str]]:
    """(line, command) of every line of a shell block that runs surg; lines that end in a backslash are joined."""
    commands = []
    for first, body in fenced(text, SHELL):
        held, began = "", first
        for number, line in enumerate(body.splitlines(), start=first):
            began = number if not held else began
            held += line.strip().removeprefix("$ ")
            if held.endswith("\\"):
                held = held[:-1].rstrip() + " "
                continue
            if held.startswith("surg "):
                commands.append((began, held))
            held = ""
    return commands


def words(command: str) -> list[str]:
    """The arguments of the first command of a line: no comment, nothing after a pipe, && or a redirection."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found = []
    for word in lexer:
        if word and set(word) <= set("|&;<>"):
            break
        found.append(word)
    return found[1:]


@functools.cache
def root_command() -> Any:
    import typer.main

    from surg.cli.main import app

    return typer.main.get_command(app)


def complaint(command: str) -> str | None:
    """Why `surg` would refuse these words before it does anything, or None. Each level parses as it would when run."""
    node, name, rest = root_command(), "surg", words(command)
    context = None
    while True:
        try:
            context = node.make_context(name, list(rest), parent=context)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            # Pages name files that a reader has and this machine has not.
            said = str(error.format_message())
            return None if "does not exist" in said else f"{name}: {said or type(error).__name__}"
        left = [*getattr(context, "_protected_args", []), *context.args]
        children = getattr(node, "commands", {})
        if not left:
            return f"{name} needs one of {', '.join(children)}" if children and not node.invoke_without_command else None
        if left[0] not in children:
            return f"{name} does not know {left[0]!r}" + (f"; it has {', '.join(children)}" if children else "")
        node, name, rest = children[left[0]], left[0], left[1:]


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


def broken(page: Path, target: str) -> str | None:
    """Why a relative link of a page leads nowhere, or None."""
    path, _, anchor = target.partition("#")
    place = (page.parent / path).resolve() if path else page
    if not place.exists():
        return f"there is no {path}"
    if not place.is_relative_to(ROOT):
        return f"{path} lies outside the repository"
    if anchor and place.suffix == ".md" and anchor not in headings(place):
        return f"{place.name} has no heading #{anchor}"
    return None


COMMANDS = [pytest.param(command, id=f"{page.name}:{line}") for page in PAGES for line, command in surg_lines(page.read_text())]
LINKS = [
    pytest.param(page, found[1], id=f"{page.name}:{found[1]}")
    for page in PAGES
    for found in _LINK.finditer(_FENCE.sub("", page.read_text()))
    if not re.match(r"[a-z]+:", found[1])
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_surg_line_in_the_pages_would_be_accepted(command: str) -> None:
    assert complaint(command) is None


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_every_link_between_the_pages_leads_somewhere(page: Path, target: str) -> None:
    assert broken(page, target) is None


TRAINING = [parameter for parameter in COMMANDS if words(str(parameter.values[0]))[0] == "train"]


@pytest.mark.parametrize("command", TRAINING)
def test_recipes_flags_and_settings_of_the_pages_go_together(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from surg.train import launch
    from surg.train.recipes import names

    recipe = words(command)[1]
    if recipe.isupper() or recipe.endswith(".yaml"):
        return  # the reader's own
    assert recipe in (*names(), "list"), f"no recipe {recipe!r}"
    if recipe == "list" or "--resume" in command:
        return

    def only_its_settings(choices: launch.Choices) -> launch.Report:
        launch.resolve(choices)
        return launch.Report([])

    monkeypatch.setattr(launch, "launch", only_its_settings)
    node = root_command().commands["train"]
    node.invoke(node.make_context("train", words(command)[1:]))


def test_every_guide_with_commands_says_what_they_need() -> None:
    guides = [page for page in PAGES if page.parent.name == "docs" and surg_lines(page.read_text())]
    assert [page.name for page in guides if not re.search(r"^\*Needs: .{5,}", page.read_text(), re.MULTILINE)] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {found[1].partition("#")[0] for found in _LINK.finditer(index)}
    missing = {page.name for page in PAGES if page.parent.name == "docs" and page.name != "README.md"} - linked
    assert not missing


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("surg trian stage1", "does not know 'trian'"),
        ("surg data idnex VIDEOS", "does not know 'idnex'"),
        ("surg train stage1 --learning-rat 1", "--learning-rat"),
        ("surg data factors make M --out F --kindz D_L", "--kindz"),
        ("surg export", "checkpoint"),
        ("surg export RUN --format caffe", "caffe"),
        ("surg config show pretrain more", "more"),
    ],
)
def test_a_wrong_line_would_be_found(command: str, why: str) -> None:
    assert why in str(complaint(command))


def test_comments_pipes_and_continued_lines_are_understood() -> None:
    text = "```bash\n$ surg export RUN \\\n    --out repo   # publish\nsurg train list | head -3\nmake env\n```\n\n```python\nsurg = 1\n```\n"
    found = surg_lines(text)
    assert [line for line, _ in found] == [2, 4]
    assert [words(command) for _, command in found] == [["export", "RUN", "--out", "repo"], ["train", "list"]]
