"""The timeline under the player: actions, breach score with alarms, surprise against motion. SVG whose parts are buttons."""

from html import escape

from surg.demo.analysis import Analysis, scaled

WIDTH, LEFT, RIGHT = 1000, 92, 8
ROW_ACTION, ROW_BREACH, ROW_SURPRISE = 34, 96, 64
GAP = 14
# Okabe and Ito's palette: told apart with any kind of colour vision, and in grey by the pattern of light and dark.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")

CSS = """
/* A phone scrolls the chart, not the page: contained, its width does not widen what is around it. */
.timeline { overflow-x: auto; contain: inline-size; }
.timeline h3 { font-size: .95rem; margin: .25rem 0; }
.timeline .empty { border: 1px dashed var(--border-color-primary); border-radius: 6px; padding: 1.25rem; text-align: center; margin: 0; }
.timeline ul { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0; margin: .25rem 0 0; font-size: .85rem; }
.timeline li { display: flex; align-items: center; gap: .4rem; margin: 0; }
.timeline li svg { width: 1.4rem; height: .8rem; min-width: 0; flex: none; }
@media (max-width: 640px) { .timeline > svg { min-width: 680px; } }
.timeline svg { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; color: var(--body-text-color); }
.timeline .frame { fill: none; stroke: var(--border-color-primary); }
.timeline .alarm { fill: #D55E00; opacity: .28; }
.timeline .score { fill: none; stroke: #D55E00; stroke-width: 2; }
.timeline .threshold { stroke: currentColor; stroke-dasharray: 5 4; opacity: .7; }
.timeline .surprise { fill: none; stroke: #0072B2; stroke-width: 2; }
.timeline .motion { fill: none; stroke: currentColor; stroke-width: 1.5; stroke-dasharray: 3 3; opacity: .65; }
.timeline text { fill: currentColor; }
.timeline .hit { fill: transparent; cursor: pointer; }
.timeline .hit:hover, .timeline .hit:focus { fill: currentColor; fill-opacity: .15; outline: none; }
.timeline .chosen { fill: none; stroke: currentColor; stroke-width: 2; }
"""

# A click, Enter or Space on a window tells the page which one; the page moves the player there.
JS = """
const pick = (target) => {
  const hit = target.closest('[data-window]');
  if (hit) trigger('select', { index: Number(hit.dataset.window), value: Number(hit.dataset.time) });
};
element.addEventListener('click', (event) => pick(event.target));
element.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); pick(event.target); }
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const hit = step && event.target.closest('[data-window]');
  const next = hit && element.querySelector(`[data-window="${Number(hit.dataset.window) + step}"]`);
  if (next) { event.preventDefault(); next.focus(); }
});
"""


def draw(analysis: Analysis | None, chosen: int | None = None, *, title: str = "") -> str:
    """SVG of what is known so far; the part of the video not seen yet stays empty."""
    if analysis is None or not analysis.windows:
        return '<div class="timeline"><p class="empty">The timeline appears here once the first window is analysed.</p></div>'
    chart = _Chart(max(analysis.duration_s, analysis.windows[-1].end_s))
    has_actions = bool(analysis.classes)
    has_breach = analysis.windows[0].breach == analysis.windows[0].breach
    has_surprise = any(window.surprise is not None for window in analysis.windows)
    if has_actions:
        _draw_actions(chart, analysis)
    if has_breach:
        _draw_breach(chart, analysis)
    if has_surprise:
        _draw_surprise(chart, analysis)
    _draw_windows(chart, analysis, chosen)
    heading = f"<h3>{escape(title)} · {escape(analysis.model)}</h3>" if title else ""
    return f'<div class="timeline">{heading}{chart.svg(_summary(analysis))}{_key(analysis, has_breach, has_surprise)}</div>'


class _Chart:
    def __init__(self, duration_s: float) -> None:
        self.duration_s = max(duration_s, 1e-6)
        self.parts: list[str] = []
        self.top = 4

    def x(self, time_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(time_s / self.duration_s, 0.0), 1.0)

    def add(self, part: str) -> None:
        self.parts.append(part)

    def row(self, title: str, height: int) -> int:
        top = self.top
        self.add(f'<text x="0" y="{top + height / 2 + 4:.0f}">{escape(title)}</text>')
        self.add(f'<rect class="frame" x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{height}"/>')
        self.top += height + GAP
        return top

    def line(self, kind: str, points: list[tuple[float, float]]) -> None:
        self.add(f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')

    def svg(self, description: str) -> str:
        for step in range(6):
            time_s = self.duration_s * step / 5
            anchor = ("start", "middle", "end")[0 if step == 0 else 2 if step == 5 else 1]
            self.add(f'<text x="{self.x(time_s):.1f}" y="{self.top + 8}" text-anchor="{anchor}">{clock(time_s)}</text>')
        body = "".join(self.parts)
        label = escape(description, quote=True)
        return f'<svg viewBox="0 0 {WIDTH} {self.top + 14}" role="group" aria-label="{label}">{body}</svg>'


def _draw_actions(chart: _Chart, analysis: Analysis) -> None:
    top = chart.row("Action", ROW_ACTION)
    for span in analysis.actions:
        left, right = chart.x(span.start_s), chart.x(span.end_s)
        number = analysis.classes.index(span.name)
        colour = PALETTE[number % len(PALETTE)]
        chart.add(
            f'<rect x="{left:.1f}" y="{top}" width="{max(right - left, 1):.1f}" height="{ROW_ACTION}" fill="{colour}" opacity=".55"/>'
        )
        if right - left > 8 * len(span.name):
            chart.add(f'<text x="{(left + right) / 2:.1f}" y="{top + 21}" text-anchor="middle">{escape(span.name)}</text>')


def _draw_breach(chart: _Chart, analysis: Analysis) -> None:
    top = chart.row("Breach", ROW_BREACH)
    for span in analysis.alarms:
        left = chart.x(span.start_s)
        chart.add(
            f'<rect class="alarm" x="{left:.1f}" y="{top}" width="{max(chart.x(span.end_s) - left, 2):.1f}" height="{ROW_BREACH}"/>'
        )
    level = top + ROW_BREACH * (1 - analysis.threshold)
    chart.add(f'<line class="threshold" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
    chart.add(f'<text x="{WIDTH - RIGHT - 2}" y="{level - 3:.1f}" text-anchor="end">alarm at {analysis.threshold:.2f}</text>')
    chart.line("score", [(chart.x(window.end_s), top + ROW_BREACH * (1 - window.breach)) for window in analysis.windows])


def _draw_surprise(chart: _Chart, analysis: Analysis) -> None:
    top = chart.row("Surprise", ROW_SURPRISE)
    ends = [window.end_s for window in analysis.windows]
    for kind, values in (
        ("motion", scaled(analysis.motion)),
        ("surprise", scaled([window.surprise for window in analysis.windows])),
    ):
        # 3 times the median fills the row; what is higher is cut, as in any chart recorder.
        points = [
            (chart.x(end), top + ROW_SURPRISE * (1 - min(value / 3, 1)))
            for end, value in zip(ends, values)
            if value is not None
        ]
        if points:
            chart.line(kind, points)


def _draw_windows(chart: _Chart, analysis: Analysis, chosen: int | None) -> None:
    """One transparent button a window over all rows: click, or Tab and arrow keys."""
    height = chart.top - GAP - 4
    for index, window in enumerate(analysis.windows):
        left, right = chart.x(analysis.since(index)), chart.x(window.end_s)
        box = f'x="{left:.1f}" y="4" width="{max(right - left, 1.5):.1f}" height="{height}"'
        words = [clock(window.end_s), window.action]
        words.append(f"breach {window.breach:.2f}" if window.breach == window.breach else "")
        label = escape(", ".join(word for word in words if word), quote=True)
        # Only one stop of the Tab key for the whole timeline: arrow keys go on from there.
        stop = 0 if index == (chosen or 0) else -1
        chart.add(
            f'<rect class="hit" {box} data-window="{index}" data-time="{window.end_s:.3f}" role="button" tabindex="{stop}" aria-label="{label}"><title>{label}</title></rect>'
        )
        if index == chosen:
            chart.add(f'<rect class="chosen" {box}/>')


def _key(analysis: Analysis, has_breach: bool, has_surprise: bool) -> str:
    """What colours and lines mean, for those that this chart shows."""
    seen = {span.name for span in analysis.actions}
    parts = [
        (f'<rect width="28" height="16" fill="{PALETTE[number % len(PALETTE)]}" opacity=".55"/>', name)
        for number, name in enumerate(analysis.classes)
        if name in seen
    ]
    line = '<line class="{}" x1="0" x2="28" y1="8" y2="8"/>'
    if has_breach:
        parts += [(line.format("score"), "breach score"), ('<rect class="key alarm" width="28" height="16"/>', "alarm")]
    if has_surprise:
        parts += [(line.format("surprise"), "surprise"), (line.format("motion"), "motion, both over their median")]
    items = "".join(f'<li><svg viewBox="0 0 28 16" aria-hidden="true">{mark}</svg>{escape(name)}</li>' for mark, name in parts)
    return f"<ul>{items}</ul>"


def _summary(analysis: Analysis) -> str:
    return f"Timeline of {clock(analysis.duration_s)}: {len(analysis.windows)} windows, {len(analysis.alarms)} alarms"


def clock(time_s: float) -> str:
    minutes, seconds = divmod(max(time_s, 0.0), 60)
    return f"{int(minutes)}:{seconds:04.1f}"
