"""The page: what is where, and which method of `Page` each thing calls."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from surg.data.preprocess import Polygon
from surg.demo import timeline
from surg.demo.examples import Example
from surg.demo.exports import write_all, write_annotated
from surg.demo.live import Ring, read, visitors_stream
from surg.demo.overlay import draw_heat, draw_zone
from surg.demo.pages import Page, parse_corners, sentence, uploaded
from surg.demo.visits import Visit

logger = logging.getLogger(__name__)

MAX_UPLOAD = "2gb"
REDRAW_S = 0.5
"""The page draws no oftener while an analysis runs: ten thousand windows drawn one by one would be the slowest part."""
TITLE = "surg · what a video world model sees in the operating room"
CSS = (
    timeline.CSS
    + """
.heading h1 { font-size: 1.5rem; margin: 0; }
.heading p { margin: .15rem 0 .5rem; }
.heading .notice { border-left: 4px solid #D55E00; padding: .1rem .75rem; }
.step h2 { font-size: 1.05rem; margin: .35rem 0 0; }
.about { color: var(--body-text-color-subdued); font-size: .85rem; }
button[role="tab"][aria-selected="true"] { color: #1d4ed8 !important; }
.dark button[role="tab"][aria-selected="true"] { color: #93c5fd !important; }
#verdict { min-height: 3rem; }
#verdict progress { width: 100%; height: .6rem; accent-color: #1d4ed8; }
#zone-picture img { cursor: crosshair; }
"""
)
# The frame of the page. Gradio puts all of CSS below its own content, where this would find nothing.
HEAD = """<style>
.gradio-container > .main { max-width: 1240px !important; margin: auto; }
@media (max-width: 640px) { .gradio-container > .main > .wrap { padding: .5rem !important; } }
body:not(.unplayable:has(#player video)) #unplayable { display: none; }
</style>"""
# Moves the player when a moment is chosen on the timeline.
SEEK = "(time) => { const video = document.querySelector('#player video'); if (video && time >= 0) { video.currentTime = time; video.pause(); } return time; }"
# Gradio names its empty boxes, but gives them no role that may have a name: screen readers are then free to leave the name out.
ROLES = """() => {
  const named = () => document.querySelectorAll('.empty[aria-label]:not([role])').forEach((box) => box.setAttribute('role', 'img'));
  // Once a picture of the screen: while an analysis runs, a long timeline changes by thousands of nodes.
  let due = null;
  const later = () => { due ??= requestAnimationFrame(() => { due = null; named(); }); };
  new MutationObserver(later).observe(document.body, { childList: true, subtree: true });
  named();
}"""
# Browsers play less than we read: of MPEG-2, HEVC or ProRes they show nothing, and Gradio calls that an error.
PLAYABLE = """() => {
  const ofPlayer = (event) => event.target instanceof HTMLVideoElement && event.target.closest('#player');
  const mark = (unplayable) => document.body.classList.toggle('unplayable', unplayable);
  document.addEventListener('error', (event) => { if (ofPlayer(event)) { event.stopImmediatePropagation(); mark(true); } }, true);
  document.addEventListener('loadstart', (event) => { if (ofPlayer(event)) mark(false); }, true);
}"""
JS = f"() => {{ ({ROLES})(); ({PLAYABLE})(); }}"
UNPLAYABLE = (
    "Your browser cannot play this kind of video. If a picture of it appears in step 2, surg can read it, and everything else "
    "works: the timeline, the picture of each moment, and an annotated video that plays."
)
EMPTY = "Nothing analysed yet."
HEADING = """<header class="heading"><h1>surg</h1>
<p>What a video world model sees in the operating room: motion, breaches of the sterile zone, surprise.</p>
<p class="notice">Research software, <strong>not a medical device</strong>. A model that was trained on simulated video knows
simulated video. Your upload is deleted when you leave.</p></header>"""


def theme() -> Any:
    """Gradio's own, with text dark (or light) enough to be read by everybody: WCAG's 4.5 to 1. No fonts from elsewhere."""
    fonts = ("system-ui", "sans-serif")
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=("ui-monospace", "monospace")).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )


def build(page: Page, examples: Sequence[Example] = ()) -> gr.Blocks:
    """The whole page. A browser's session has one Visit, and all that belongs to it goes when the page is closed."""
    blocks: gr.Blocks
    # Without Gradio's own `delete_cache`: it goes by age alone, and would take a video from the visitor who still looks at it.
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.HTML(HEADING)
        with gr.Tabs():
            with gr.Tab("Clip"):
                _clip_tab(page, examples)
            with gr.Tab("Live"):
                _live_tab(page)
        gr.HTML(f'<p class="about">{escape(page.about)}</p>')

        def left(request: gr.Request) -> None:
            page.visits.leave(_session(request))

        blocks.unload(left)
    return blocks


def _clip_tab(page: Page, examples: Sequence[Example]) -> None:
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
    place, index = gr.Number(-1, visible=False), gr.State(0)
    with gr.Column(visible=False) as results:
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

    def opened(path: str | None, request: gr.Request) -> tuple[Any, ...]:
        visit = _visit(page, request)
        if visit.analysis is not None and path is not None and visit.video == Path(path):
            return (gr.skip(),) * 10
        zone = next((example.zone for example in examples if path is not None and example.matches(Path(path))), None)
        image, words = None, EMPTY
        try:
            image = page.open_video(visit, path, zone)
        except Exception as error:  # noqa: BLE001 - not raised, for what is shown of the video before must go all the same
            words = escape(sentence(error))
            gr.Warning(words)
        fresh = (_status(words), timeline.draw(None), "", gr.update(visible=False), None, None, gr.update(interactive=False))
        return image, write_corners(visit.corners), page.usual_stride(visit), *fresh

    def chosen_example(title: str | None) -> str | None:
        return next((str(example.path) for example in examples if example.title == title), None)

    def clicked(event: gr.SelectData, request: gr.Request) -> tuple[Any, str]:
        visit = _visit(page, request)
        image = _or_sentence(lambda: page.add_corner(visit, event.index[0], event.index[1]))
        return image, write_corners(visit.corners)

    def typed(text: str, request: gr.Request) -> Any:
        return _or_sentence(lambda: page.set_corners(_visit(page, request), text))

    def begin(text: str, request: gr.Request) -> tuple[Any, ...]:
        visit = _visit(page, request)
        image = typed(text, request)
        if visit.video is None:
            return image, gr.skip(), gr.skip()
        visit.begin()
        return image, _status("Reading the first seconds …", 0.0), gr.update(interactive=True)

    def run(stride_s: float, level: float, both: bool, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        visit, drawn = _visit(page, request), 0.0
        stop = visit.stop
        try:
            for share, text in page.analyse(visit, stride_s, level, both):
                if time.monotonic() - drawn > REDRAW_S:
                    yield *_charts(visit, both), _status(text, share), gr.skip()
                    drawn = time.monotonic()
        except Exception as error:
            if visit.stop is not stop:  # the visitor looks at another video by now
                logger.info("an analysis ended with its video: %s", type(error).__name__)
                return
            yield *_charts(visit, both), _status(f"Stopped by an error. {page.outcome(visit)}"), gr.update(interactive=False)
            raise gr.Error(sentence(error), print_exception=False) from error
        if visit.stop is stop:
            yield *_charts(visit, both), _status(page.outcome(visit)), gr.update(interactive=False)

    def cancelled(request: gr.Request) -> tuple[Any, Any]:
        visit = _visit(page, request)
        visit.stop.set()
        # What is under way notices within a window, and has the last word: two writers could overtake each other.
        words = gr.skip() if visit.running else _status(page.outcome(visit))
        return words, gr.update(interactive=False)

    def first_look(request: gr.Request) -> int:
        analysis = _visit(page, request).analysis
        return analysis.most_telling if analysis is not None else 0

    def show(number: int, with_heat: bool, with_tracks: bool, request: gr.Request) -> tuple[Any, ...]:
        visit = _visit(page, request)
        if visit.analysis is None or not visit.analysis.windows:
            return (gr.skip(),) * 6
        frame, text, probabilities, neighbours = _or_sentence(lambda: page.moment(visit, number, with_heat, with_tracks))
        gallery = [(neighbour.picture, f"{neighbour.caption} {neighbour.similarity:.2f}") for neighbour in neighbours]
        title = "First model" if visit.other is not None else ""
        chart_now = timeline.draw(visit.analysis, number, title=title)
        return frame, text, probabilities or None, gallery, chart_now, gr.update(visible=True)

    def picked(event: gr.EventData) -> tuple[int, float]:
        return int(event.index), float(event.value)

    def saved(request: gr.Request) -> list[str]:
        visit = _analysed(page, request)
        return [str(path) for path in _or_sentence(lambda: write_all(visit.analysis, visit.folder))]

    def filmed(request: gr.Request) -> str:
        visit = _analysed(page, request)
        return str(_or_sentence(lambda: write_annotated(visit.analysis, visit.folder / "annotated.mp4")))

    private: dict[str, Any] = {"api_visibility": "private"}
    quiet: dict[str, Any] = {**private, "show_progress": "hidden"}
    new = [picture, corners, stride, verdict, chart, second, results, files, annotated, cancel]
    video.change(opened, video, new, **private)
    choice.change(chosen_example, choice, video, **private)
    picture.select(clicked, None, [picture, corners], **quiet)
    corners.submit(typed, corners, picture, **quiet)
    corners.blur(typed, corners, picture, **quiet)
    clear.click(lambda: "", None, corners, **quiet).then(typed, corners, picture, **quiet)
    charts = [chart, second, verdict, cancel]
    moments = [moment, words, classes, nearest, chart, results]
    running = start.click(begin, corners, [picture, verdict, cancel], **quiet).success(
        run, [stride, threshold, compare], charts, concurrency_limit=4, **quiet
    )
    running.success(first_look, None, index, **quiet).then(show, [index, heat, follow], moments, **quiet)
    # Without Gradio's own `cancels`: it closes the page's stream, and now and then loses what is sent on the next one.
    cancel.click(cancelled, None, [verdict, cancel], **quiet)
    chart.select(picked, None, [index, place], **quiet).then(show, [index, heat, follow], moments, **quiet)
    place.change(None, place, place, js=SEEK, **private)
    for switch in (heat, follow):
        switch.change(show, [index, heat, follow], moments, **private)
    save.click(saved, None, files, **private)
    film.click(filmed, None, annotated, **private)
    _api(page)


def _api(page: Page) -> None:
    """`client.predict(video, zone, stride_s, api_name="/analyse")` gives the events JSON: the same work without the page."""

    def analyse(video: dict[str, Any], zone: str, stride_s: float) -> dict[str, Any]:
        events: dict[str, Any] = _or_sentence(lambda: page.events(uploaded(video), zone, stride_s))
        return events

    gr.api(analyse, api_name="analyse")  # type: ignore[attr-defined]  # exported, but not named in their __all__


def _live_tab(page: Page) -> None:
    gr.Markdown(
        "A webcam of this browser, or a camera of the network. Only the newest frames are looked at: while the model is busy, "
        "older ones are dropped, so that what you see is at most one request old."
    )
    ring = gr.State(None)
    corners = gr.Textbox(label="Zone corners", placeholder="0.2 0.3; 0.8 0.3; 0.5 0.9", info="Empty is the whole picture.")
    with gr.Row():
        camera = gr.Image(sources=["webcam"], streaming=True, label="Webcam", type="numpy", height=320)
        seen = gr.Image(
            label="What the model sees",
            interactive=False,
            alt_text="Live picture with the breach heat map",
            height=320,
            buttons=["fullscreen"],
        )
    words = gr.Markdown("Nothing is watched yet.", elem_id="live-words")
    address = gr.Textbox(label="Network stream", placeholder="rtsp://camera.local:554/stream", elem_id="live-address")
    with gr.Row():
        play = gr.Button("Watch stream", variant="primary", elem_id="live-start", scale=3)
        stop = gr.Button("Stop", elem_id="live-stop", scale=1)

    def framed(frame: Any, state: Ring | None, zone: str) -> tuple[Any, ...]:
        state = state or Ring(page.client.contract.preprocess)
        if frame is None or not state.put(frame, time.monotonic()):
            return state, gr.skip(), gr.skip()
        return state, *_or_sentence(lambda: _reading(page, state, zone))

    def watched(url: str, zone: str, request: gr.Request) -> Iterator[tuple[Any, str]]:
        visit = _visit(page, request)
        state, stop = Ring(page.client.contract.preprocess), visit.watch()
        try:
            with visitors_stream(url) as stream:
                for arrived, frame in stream.frames():
                    if stop.is_set():
                        break
                    if state.put(frame, arrived):
                        yield _reading(page, state, zone)
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from error
        yield gr.skip(), visit.last_words(stop)

    def stopped(request: gr.Request) -> None:
        _visit(page, request).stop_watching.set()

    camera.stream(
        framed,
        [camera, ring, corners],
        [ring, seen, words],
        stream_every=0.2,
        time_limit=600,
        concurrency_limit=4,
        api_visibility="private",
    )
    play.click(watched, [address, corners], [seen, words], api_visibility="private", concurrency_limit=4)
    stop.click(stopped, api_visibility="private", show_progress="hidden")


def _reading(page: Page, ring: Ring, zone: str) -> tuple[Any, str]:
    polygon: Polygon | None = parse_corners(zone) or None
    reading = read(page.client, ring, polygon)
    if reading is None:
        return None, "Waiting for the first frame."
    frame = draw_heat(reading.frame, reading.breach_map[-1], reading.box) if reading.breach_map.size else reading.frame
    parts = [f"{reading.action} {reading.action_probability:.2f}"] if reading.action else []
    parts += [f"breach {reading.breach:.2f}"] if reading.breach == reading.breach else []
    return draw_zone(frame, polygon), ", ".join(
        parts
    ) + f" · {1000 * reading.latency_s:.0f} ms after the frame, {reading.dropped} frames skipped"


def write_corners(corners: Polygon) -> str:
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


def _session(request: gr.Request) -> str:
    return str(request.session_hash)


def _visit(page: Page, request: gr.Request) -> Visit:
    return page.visits.of(_session(request))


def _analysed(page: Page, request: gr.Request) -> Any:
    visit = _visit(page, request)
    if visit.analysis is None or not visit.analysis.windows:
        raise gr.Error("Press Analyse first.", print_exception=False)
    return visit


def _or_sentence(work: Callable[[], Any]) -> Any:
    """Do it, or show the visitor a sentence instead of a traceback."""
    try:
        return work()
    except Exception as error:
        raise gr.Error(sentence(error), print_exception=False) from error
