"""The tab for one video: its boxes, and which of them each press of a button fills."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from surg.data.preprocess import Polygon
from surg.demo import timeline
from surg.demo.examples import Example
from surg.demo.exports import write_all, write_annotated
from surg.demo.pages import Page, sentence
from surg.demo.visitor import or_sentence, visit_of
from surg.demo.visits import Visit

logger = logging.getLogger(__name__)

REDRAW_S = 0.5
"""The page draws no oftener while an analysis runs: ten thousand windows drawn one by one would be the slowest part."""
# Moves the player when a moment is chosen on the timeline.
SEEK = "(time) => { const video = document.querySelector('#player video'); if (video && time >= 0) { video.currentTime = time; video.pause(); } return time; }"
UNPLAYABLE = (
    "Your browser cannot play this kind of video. If a picture of it appears in step 2, surg can read it, and everything else "
    "works: the timeline, the picture of each moment, and an annotated video that plays."
)
EMPTY = "Nothing analysed yet."


@dataclass(frozen=True)
class Source:
    """Where a visitor chooses a video and marks its zone."""

    choice: gr.Dropdown
    video: gr.Video
    picture: gr.Image
    corners: gr.Textbox
    clear: gr.Button


@dataclass(frozen=True)
class Controls:
    """Where an analysis is set and started, and what it draws while it runs."""

    stride: gr.Slider
    threshold: gr.Slider
    compare: gr.Checkbox
    start: gr.Button
    cancel: gr.Button
    verdict: gr.HTML
    chart: gr.HTML
    second: gr.HTML


@dataclass(frozen=True)
class Results:
    """One moment of the analysed video, and what can be taken away; hidden until there is one."""

    column: gr.Column
    moment: gr.Image
    words: gr.Markdown
    heat: gr.Checkbox
    follow: gr.Checkbox
    classes: gr.Label
    nearest: gr.Gallery
    save: gr.Button
    files: gr.File
    film: gr.Button
    annotated: gr.Video


def clip_tab(page: Page, examples: Sequence[Example]) -> None:
    """Lay the boxes out, top to bottom, and say what fills which."""
    source, controls = _source(examples), _controls(page)
    place, index = gr.Number(-1, visible=False), gr.State(0)
    shown, answers = _results(page), Answers(page, examples)
    private: dict[str, Any] = {"api_visibility": "private"}
    quiet: dict[str, Any] = {**private, "show_progress": "hidden"}
    new = [
        source.picture,
        source.corners,
        controls.stride,
        controls.verdict,
        controls.chart,
        controls.second,
        shown.column,
        shown.files,
        shown.annotated,
        controls.cancel,
    ]
    source.video.change(answers.opened, source.video, new, **private)
    source.choice.change(answers.chosen_example, source.choice, source.video, **private)
    source.picture.select(answers.clicked, None, [source.picture, source.corners], **quiet)
    source.corners.submit(answers.typed, source.corners, source.picture, **quiet)
    source.corners.blur(answers.typed, source.corners, source.picture, **quiet)
    source.clear.click(lambda: "", None, source.corners, **quiet).then(answers.typed, source.corners, source.picture, **quiet)
    charts = [controls.chart, controls.second, controls.verdict, controls.cancel]
    moments = [shown.moment, shown.words, shown.classes, shown.nearest, controls.chart, shown.column]
    running = controls.start.click(
        answers.begin, source.corners, [source.picture, controls.verdict, controls.cancel], **quiet
    ).success(answers.run, [controls.stride, controls.threshold, controls.compare], charts, concurrency_limit=4, **quiet)
    running.success(answers.first_look, None, index, **quiet).then(
        answers.show, [index, shown.heat, shown.follow], moments, **quiet
    )
    # Without Gradio's own `cancels`: it closes the page's stream, and now and then loses what is sent on the next one.
    controls.cancel.click(answers.cancelled, None, [controls.verdict, controls.cancel], **quiet)
    controls.chart.select(answers.picked, None, [index, place], **quiet).then(
        answers.show, [index, shown.heat, shown.follow], moments, **quiet
    )
    place.change(None, place, place, js=SEEK, **private)
    for switch in (shown.heat, shown.follow):
        switch.change(answers.show, [index, shown.heat, shown.follow], moments, **private)
    shown.save.click(answers.saved, None, shown.files, **private)
    shown.film.click(answers.filmed, None, shown.annotated, **private)


def _source(examples: Sequence[Example]) -> Source:
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            _step("1 · Choose a video")
            choice = gr.Dropdown(
                [example.title for example in examples],
                label="Examples",
                value=None,
                info="Clips made by the simulators. Or put your own video below.",
                visible=bool(examples),
            )
            video = gr.Video(label="Video", elem_id="player", sources=["upload"], include_audio=True, height=360, buttons=[])
            gr.HTML(f'<p role="status">{UNPLAYABLE}</p>', elem_id="unplayable")
        with gr.Column(scale=2, min_width=300):
            _step("2 · Mark the sterile zone, if it is a room")
            picture = gr.Image(
                label="Click the zone's corners, one after the other",
                elem_id="zone-picture",
                interactive=False,
                type="numpy",
                alt_text="A frame of the video with the sterile zone drawn on it",
                buttons=[],
                height=300,
            )
            with gr.Row():
                corners = gr.Textbox(
                    label="Zone corners",
                    placeholder="0.2 0.3; 0.8 0.3; 0.5 0.9",
                    info="x and y from 0 to 1, three or more. Empty is the whole picture.",
                    elem_id="corners",
                    scale=4,
                    min_width=200,
                )
                clear = gr.Button("Clear zone", size="sm", scale=1, min_width=100)
    return Source(choice, video, picture, corners, clear)


def _controls(page: Page) -> Controls:
    _step("3 · Analyse")
    with gr.Row():
        stride = gr.Slider(0.1, 5, value=0.5, step=0.1, label="Seconds between windows", min_width=220, elem_id="stride")
        threshold = gr.Slider(0.01, 0.99, value=page.threshold, step=0.01, label="Alarm at breach score", min_width=220)
        compare = gr.Checkbox(label="Compare with the second model", visible=page.other is not None, min_width=200)
    with gr.Row():
        start = gr.Button("Analyse", variant="primary", elem_id="analyse", scale=3)
        cancel = gr.Button("Cancel", elem_id="cancel", scale=1, interactive=False)
    verdict = gr.HTML(_status(EMPTY), elem_id="verdict")
    chart = gr.HTML(timeline.draw(None), elem_id="timeline", js_on_load=timeline.JS)
    second = gr.HTML("", elem_id="timeline-second", visible=page.other is not None)
    return Controls(stride, threshold, compare, start, cancel, verdict, chart, second)


def _results(page: Page) -> Results:
    with gr.Column(visible=False) as column:
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                _step("This moment")
                moment = gr.Image(
                    label="The picture at this moment",
                    interactive=False,
                    elem_id="moment",
                    alt_text="The chosen moment with the breach heat map",
                    buttons=["fullscreen"],
                )
                words = gr.Markdown(elem_id="moment-words")
                with gr.Row():
                    heat = gr.Checkbox(value=True, label="Heat map", info="Where a breach is seen", min_width=140)
                    follow = gr.Checkbox(value=False, label="Tracks", info="What moves, found without a model", min_width=140)
            with gr.Column(scale=2, min_width=300):
                _step("What it is like")
                classes = gr.Label(
                    label="Motion", num_top_classes=4, elem_id="motion", visible=bool(page.client.contract.classes)
                )
                nearest = gr.Gallery(
                    label="Nearest moments of the reference set",
                    columns=2,
                    height=320,
                    object_fit="contain",
                    buttons=[],
                    elem_id="nearest",
                )
        _step("Take it with you")
        with gr.Row():
            with gr.Column(min_width=300):
                save = gr.Button("Make event and label files", elem_id="save")
                files = gr.File(
                    label="Events (JSON, CSV), labels for CVAT and Label Studio",
                    file_count="multiple",
                    interactive=False,
                    elem_id="files",
                )
            with gr.Column(min_width=300):
                film = gr.Button("Make annotated video", elem_id="film")
                annotated = gr.Video(label="Annotated video", interactive=False, elem_id="annotated", height=240)
    return Results(column, moment, words, heat, follow, classes, nearest, save, files, film, annotated)


@dataclass(frozen=True)
class Answers:
    """What the page answers to each thing pressed, typed or chosen."""

    page: Page
    examples: Sequence[Example]

    def opened(self, path: str | None, request: gr.Request) -> tuple[Any, ...]:
        visit = visit_of(self.page, request)
        if visit.analysis is not None and path is not None and visit.video == Path(path):
            return (gr.skip(),) * 10
        zone = next((example.zone for example in self.examples if path is not None and example.matches(Path(path))), None)
        image, words = None, EMPTY
        try:
            image = self.page.open_video(visit, path, zone)
        except Exception as error:  # noqa: BLE001 - not raised, for what is shown of the video before must go all the same
            words = escape(sentence(error))
            gr.Warning(words)
        fresh = (_status(words), timeline.draw(None), "", gr.update(visible=False), None, None, gr.update(interactive=False))
        return image, _write_corners(visit.corners), self.page.usual_stride(visit), *fresh

    def chosen_example(self, title: str | None) -> str | None:
        return next((str(example.path) for example in self.examples if example.title == title), None)

    def clicked(self, event: gr.SelectData, request: gr.Request) -> tuple[Any, str]:
        visit = visit_of(self.page, request)
        image = or_sentence(lambda: self.page.add_corner(visit, event.index[0], event.index[1]))
        return image, _write_corners(visit.corners)

    def typed(self, text: str, request: gr.Request) -> Any:
        return or_sentence(lambda: self.page.set_corners(visit_of(self.page, request), text))

    def begin(self, text: str, request: gr.Request) -> tuple[Any, ...]:
        visit = visit_of(self.page, request)
        image = self.typed(text, request)
        if visit.video is None:
            return image, gr.skip(), gr.skip()
        visit.begin()
        return image, _status("Reading the first seconds …", 0.0), gr.update(interactive=True)

    def run(self, stride_s: float, level: float, both: bool, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        visit, drawn = visit_of(self.page, request), 0.0
        stop = visit.stop
        try:
            for share, text in self.page.analyse(visit, stride_s, level, both):
                if time.monotonic() - drawn > REDRAW_S:
                    yield *_charts(visit, both), _status(text, share), gr.skip()
                    drawn = time.monotonic()
        except Exception as error:
            if visit.stop is not stop:  # the visitor looks at another video by now
                logger.info("an analysis ended with its video: %s", type(error).__name__)
                return
            yield (
                *_charts(visit, both),
                _status(f"Stopped by an error. {self.page.outcome(visit)}"),
                gr.update(interactive=False),
            )
            raise gr.Error(sentence(error), print_exception=False) from error
        if visit.stop is stop:
            yield *_charts(visit, both), _status(self.page.outcome(visit)), gr.update(interactive=False)

    def cancelled(self, request: gr.Request) -> tuple[Any, Any]:
        visit = visit_of(self.page, request)
        visit.stop.set()
        # What is under way notices within a window, and has the last word: two writers could overtake each other.
        words = gr.skip() if visit.running else _status(self.page.outcome(visit))
        return words, gr.update(interactive=False)

    def first_look(self, request: gr.Request) -> int:
        analysis = visit_of(self.page, request).analysis
        return analysis.most_telling if analysis is not None else 0

    def show(self, number: int, with_heat: bool, with_tracks: bool, request: gr.Request) -> tuple[Any, ...]:
        visit = visit_of(self.page, request)
        if visit.analysis is None or not visit.analysis.windows:
            return (gr.skip(),) * 6
        frame, text, probabilities, neighbours = or_sentence(lambda: self.page.moment(visit, number, with_heat, with_tracks))
        gallery = [(neighbour.picture, f"{neighbour.caption} {neighbour.similarity:.2f}") for neighbour in neighbours]
        title = "First model" if visit.other is not None else ""
        chart_now = timeline.draw(visit.analysis, number, title=title)
        return frame, text, probabilities or None, gallery, chart_now, gr.update(visible=True)

    def picked(self, event: gr.EventData) -> tuple[int, float]:
        return int(event.index), float(event.value)

    def saved(self, request: gr.Request) -> list[str]:
        visit = self._analysed(request)
        return [str(path) for path in or_sentence(lambda: write_all(visit.analysis, visit.folder))]

    def filmed(self, request: gr.Request) -> str:
        visit = self._analysed(request)
        return str(or_sentence(lambda: write_annotated(visit.analysis, visit.folder / "annotated.mp4")))

    def _analysed(self, request: gr.Request) -> Any:
        visit = visit_of(self.page, request)
        if visit.analysis is None or not visit.analysis.windows:
            raise gr.Error("Press Analyse first.", print_exception=False)
        return visit


def _write_corners(corners: Polygon) -> str:
    return "; ".join(f"{x:g} {y:g}" for x, y in corners)


def _step(title: str) -> None:
    gr.HTML(f"<h2>{escape(title)}</h2>", elem_classes="step")


def _status(text: str, share: float | None = None) -> str:
    """What a screen reader is told when it changes; `share` draws how far it is."""
    bar = "" if share is None else f'<progress value="{share:.3f}" max="1" aria-label="Share of the video seen"></progress>'
    return f'<div role="status">{text}{bar}</div>'


def _charts(visit: Visit, both: bool) -> tuple[str, str]:
    """The timeline of the first model, and of the second where two are compared."""
    if not both:
        return timeline.draw(visit.analysis), ""
    return timeline.draw(visit.analysis, title="First model"), timeline.draw(visit.other, title="Second model")
