"""A result, or several, as Markdown and as one HTML file that stands alone: pictures inside, no scripts, nothing fetched."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surg.eval.results import Plot, Result, Table
from surg.runs import write_text

EVIDENCE = "What ran"


def write_report(results: Sequence[Result], folder: Path, *, title: str = "Evaluation") -> Path:
    """Write report.md and report.html beside the results. Returns the HTML's path."""
    write_text(folder / "report.md", markdown(results, title))
    write_text(folder / "report.html", html(results, folder, title))
    return folder / "report.html"


def markdown(results: Sequence[Result], title: str) -> str:
    lines = [f"# {title}", "", "Research use; not a medical device.", ""]
    for result in results:
        lines += [f"## {result.title}", "", result.headline, ""]
        lines += [f"> **Beware.** {warning}" for warning in result.warnings] + [""]
        lines += [f"- {sentence}" for sentence in result.protocol] + [""]
        for table in result.tables:
            lines += _markdown_table(table)
        lines += [f"![{plot.title}](plots/{plot.stem}.png)" for plot in result.plots] + [""]
        if result.limits:
            lines += ["Limits:", *(f"- {limit}" for limit in result.limits), ""]
        lines += [f"{EVIDENCE}:", "", "```json", json.dumps(result.evidence, indent=1, default=str), "```", ""]
    return "\n".join(lines)


def html(results: Sequence[Result], folder: Path, title: str) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("surg.eval", "templates"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("report.html.j2")
    sections = [
        {
            "result": result,
            "anchor": f"s{number}",
            "evidence": list(_flat(result.evidence)),
            "plots": [(plot, _data_url(folder, plot)) for plot in result.plots],
        }
        for number, result in enumerate(results)
    ]
    return template.render(title=title, sections=sections)


def _data_url(folder: Path, plot: Plot) -> str:
    # PNG, not SVG: an SVG with thousands of points makes a browser crawl. The SVG lies in plots/.
    return "data:image/png;base64," + base64.b64encode((folder / "plots" / f"{plot.stem}.png").read_bytes()).decode()


def _markdown_table(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [
        f"### {table.title}",
        "",
        row(table.columns),
        "|" + "---|" * len(table.columns),
        *(row(cells) for cells in table.rows),
        "",
    ]
    return [*lines, table.note, ""] if table.note else lines


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name} · {key}" if name else str(key))]
    text = json.dumps(value, default=str) if isinstance(value, list | dict | tuple) else str(value)
    return [(name, text)]
