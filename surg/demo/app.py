"""The page: what is where, and which method of `Page` each thing calls."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from surg.data.preprocess import Polygon
from surg.demo import timeline
from surg.demo.examples import Example
from surg.demo.exports import write_all, write_annotated
from surg.demo.live import Ring, Stream, read
from surg.demo.overlay import draw_heat, draw_zone
from surg.demo.pages import Page, Visit, sentence, uploaded

logger = logging.getLogger(__name__)

MAX_UPLOAD = "2gb"
KEEP_S = 3600
TITLE = "surg: what a video world model sees in the operating room"
CSS = (
    timeline.CSS
    + """
.gradio-container { max-width: 1280px !important; margin: auto; }
.notice { border-left: 4px solid #D55E00; padding: .25rem .75rem; }
#zone-picture img { cursor: crosshair; }
@media (max-width: 640px) { .gradio-container { padding: .5rem !important; } }
"""
)
# Moves the player when a moment is chosen on the timeline.
SEEK = "(time) => { const video = document.querySelector('#player video'); if (video && time >= 0) { video.currentTime = time; video.pause(); } return time; }"


def build(page: Page, examples: Sequence[Example] = ()) -> gr.Blocks:
    """The whole page. Every visitor has a Visit; uploads older than an hour go, and all of a visit's files with the visit."""
    blocks: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEEP_S)) as blocks:
        gr.Markdown(
            f"# {TITLE}\nUpload a clip or choose an example, draw the sterile zone if the picture shows a room, press **Analyse**."
        )
        gr.Markdown(
            "Trained on simulated video only. Research software, **not a medical device**. Uploads are deleted after your visit.",
            elem_classes="notice",
        )
        with gr.Tabs():
            with gr.Tab("Clip"):
                _clip_tab(page, examples)
            with gr.Tab("Live"):
                _live_tab(page)
    return blocks


def _clip_tab(page: Page, examples: Sequence[Example]) -> None:
    visit = gr.State(None, time_to_live=KEEP_S, delete_callback=_close)
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            video = gr.Video(label="Video", elem_id="player", sources=["upload"], include_audio=True)
            choice = gr.Dropdown(
                [example.title for example in examples],
                label="Examples",
                value=None,
                info="Made by the simulators",
                visible=bool(examples),
            )
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(
                label="Sterile zone: click its corners",
                elem_id="zone-picture",
                interactive=False,
                type="numpy",
                alt_text="A frame of the video with the sterile zone drawn on it",
                buttons=[],
            )
            corners = gr.Textbox(
                label="Zone corners",
                placeholder="0.2 0.3; 0.8 0.3; 0.5 0.9",
                info="x and y from 0 to 1, three or more; empty is the whole picture",
                elem_id="corners",
            )
            clear = gr.Button("Clear zone", size="sm")
    with gr.Row():
        stride = gr.Slider(0.1, 5, value=0.5, step=0.1, label="Seconds between windows")
        threshold = gr.Slider(0.01, 0.99, value=page.threshold, step=0.01, label="Alarm at breach score")
        compare = gr.Checkbox(label="Compare with the second model", visible=page.other is not None)
        heat = gr.Checkbox(value=True, label="Heat map")
        follow = gr.Checkbox(value=False, label="Tracks")
    with gr.Row():
        start = gr.Button("Analyse", variant="primary", elem_id="analyse")
        cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
    verdict = gr.Markdown("Nothing analysed yet.", elem_id="verdict")
    chart = gr.HTML(timeline.draw(None), elem_id="timeline", js_on_load=timeline.JS)
    second = gr.HTML("", elem_id="timeline-second", visible=page.other is not None)
    place, index = gr.Number(-1, visible=False), gr.State(0)
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            moment = gr.Image(
                label="This moment",
                interactive=False,
                elem_id="moment",
                alt_text="The chosen moment with the breach heat map",
                buttons=["fullscreen"],
            )
            words = gr.Markdown(elem_id="moment-words")
        with gr.Column(scale=2, min_width=300):
            classes = gr.Label(label="Motion", num_top_classes=4)
            nearest = gr.Gallery(
                label="Nearest moments of the reference set", columns=4, height=180, object_fit="contain", buttons=[]
            )
    with gr.Row():
        files = gr.File(label="Events: JSON, CSV, CVAT, Label Studio", file_count="multiple", interactive=False)
        annotated = gr.Video(label="Annotated video", interactive=False)
    with gr.Row():
        save = gr.Button("Make files")
        film = gr.Button("Make annotated video")

    shown = [visit, picture, corners, chart, verdict]

    def opened(state: Visit | None, path: str | None) -> tuple[Any, ...]:
        state = state or Visit()
        if state.analysis is not None and path is not None and state.video == Path(path):
            return state, gr.skip(), gr.skip(), gr.skip(), gr.skip()
        zone = next((example.zone for example in examples if path is not None and example.matches(Path(path))), None)
        image = _or_sentence(lambda: page.open_video(state, path, zone))
        return state, image, write_corners(state.corners), timeline.draw(None), "Nothing analysed yet."

    def chosen_example(title: str | None) -> str | None:
        return next((str(example.path) for example in examples if example.title == title), None)

    def clicked(state: Visit | None, event: gr.SelectData) -> tuple[Any, str]:
        state = state or Visit()
        image = _or_sentence(lambda: page.add_corner(state, event.index[0], event.index[1]))
        return image, write_corners(state.corners)

    def typed(state: Visit | None, text: str) -> tuple[Visit, Any]:
        state = state or Visit()
        return state, _or_sentence(lambda: page.set_corners(state, text))

    def run(
        state: Visit | None, stride_s: float, level: float, both: bool, progress: gr.Progress = gr.Progress()
    ) -> Iterator[tuple[Any, ...]]:
        state = state or Visit()
        try:
            for number, (share, text) in enumerate(page.analyse(state, stride_s, level, both)):
                progress(share, desc=text)
                # The first result at once, then every few: drawing each of ten thousand would be the slowest part.
                if number < 3 or number % 8 == 0:
                    yield (
                        state,
                        timeline.draw(state.analysis),
                        timeline.draw(state.other) if both else "",
                        page.verdict(state.analysis),
                    )
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from error
        yield state, timeline.draw(state.analysis), timeline.draw(state.other) if both else "", page.verdict(state.analysis)

    def show(state: Visit | None, number: int, with_heat: bool, with_tracks: bool) -> tuple[Any, ...]:
        if state is None or state.analysis is None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        frame, text, probabilities, neighbours = _or_sentence(lambda: page.moment(state, number, with_heat, with_tracks))
        gallery = [(neighbour.picture, f"{neighbour.caption} {neighbour.similarity:.2f}") for neighbour in neighbours]
        return frame, text, probabilities, gallery, timeline.draw(state.analysis, number)

    def picked(event: gr.EventData) -> tuple[int, float]:
        return int(event.index), float(event.value)

    def saved(state: Visit | None) -> list[str]:
        analysis = _analysed(state)
        return [str(path) for path in write_all(analysis, _visit(state).folder)]

    def filmed(state: Visit | None) -> str:
        analysis = _analysed(state)
        return str(_or_sentence(lambda: write_annotated(analysis, _visit(state).folder / "annotated.mp4")))

    video.change(opened, [visit, video], shown, api_visibility="private")
    choice.change(chosen_example, choice, video, api_visibility="private")
    picture.select(clicked, visit, [picture, corners], api_visibility="private")
    corners.submit(typed, [visit, corners], [visit, picture], api_visibility="private")
    corners.blur(typed, [visit, corners], [visit, picture], api_visibility="private")
    clear.click(lambda: "", None, corners, api_visibility="private").then(
        typed, [visit, corners], [visit, picture], api_name=False
    )
    running = start.click(typed, [visit, corners], [visit, picture], api_visibility="private").success(
        run, [visit, stride, threshold, compare], [visit, chart, second, verdict], api_visibility="private", concurrency_limit=4
    )
    moments = [moment, words, classes, nearest, chart]
    running.success(show, [visit, index, heat, follow], moments, api_visibility="private")
    cancel.click(None, cancels=[running], api_visibility="private")
    chart.select(picked, None, [index, place], api_visibility="private").then(
        show, [visit, index, heat, follow], moments, api_name=False
    )
    place.change(None, place, place, js=SEEK, api_visibility="private")
    for switch in (heat, follow):
        switch.change(show, [visit, index, heat, follow], moments, api_visibility="private")
    save.click(saved, visit, files, api_visibility="private")
    film.click(filmed, visit, annotated, api_visibility="private")
    _api(page)


def _api(page: Page) -> None:
    """`client.predict(video, zone, stride_s, api_name="/analyse")` gives the events JSON: the same work without the page."""

    def analyse(video: dict[str, Any], zone: str, stride_s: float) -> dict[str, Any]:
        events: dict[str, Any] = _or_sentence(lambda: page.events(uploaded(video), zone, stride_s))
        return events

    gr.api(analyse, api_name="analyse")  # type: ignore[attr-defined]  # exported, but not named in their __all__


def _live_tab(page: Page) -> None:
    gr.Markdown(
        "The newest frames only: while the server is busy, older ones are dropped, so that what you see is at most one request old."
    )
    ring, corners = (
        gr.State(None),
        gr.Textbox(label="Zone corners", placeholder="0.2 0.3; 0.8 0.3; 0.5 0.9", info="Empty is the whole picture"),
    )
    with gr.Row():
        camera = gr.Image(sources=["webcam"], streaming=True, label="Webcam", type="numpy")
        seen = gr.Image(label="What the model sees", interactive=False, alt_text="Live picture with the breach heat map")
    words = gr.Markdown(elem_id="live-words")
    with gr.Row():
        address = gr.Textbox(label="Network stream", placeholder="rtsp://camera.local:554/stream", elem_id="live-address")
        play, stop = gr.Button("Watch stream", elem_id="live-start"), gr.Button("Stop", variant="stop", elem_id="live-stop")

    def framed(frame: Any, state: Ring | None, zone: str) -> tuple[Any, ...]:
        import time

        state = state or Ring(page.client.contract.preprocess)
        if frame is None or not state.put(frame, time.monotonic()):
            return state, gr.skip(), gr.skip()
        return state, *_or_sentence(lambda: _reading(page, state, zone))

    def watched(url: str, zone: str) -> Iterator[tuple[Any, str]]:
        state = Ring(page.client.contract.preprocess)
        try:
            with Stream(url) as stream:
                for arrived, frame in stream.frames():
                    if state.put(frame, arrived):
                        yield _reading(page, state, zone)
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from error
        yield gr.skip(), "The stream has ended."

    camera.stream(
        framed,
        [camera, ring, corners],
        [ring, seen, words],
        stream_every=0.2,
        time_limit=600,
        concurrency_limit=4,
        api_visibility="private",
    )
    playing = play.click(watched, [address, corners], [seen, words], api_visibility="private", concurrency_limit=4)
    stop.click(None, cancels=[playing], api_visibility="private")


def _reading(page: Page, ring: Ring, zone: str) -> tuple[Any, str]:
    from surg.demo.pages import parse_corners

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


def _visit(state: Visit | None) -> Visit:
    if state is None:
        raise gr.Error("There is no video yet.", print_exception=False)
    return state


def _analysed(state: Visit | None) -> Any:
    if state is None or state.analysis is None or not state.analysis.windows:
        raise gr.Error("Press Analyse first.", print_exception=False)
    return state.analysis


def _close(state: Visit | None) -> None:
    if state is not None:
        state.close()


def _or_sentence(work: Callable[[], Any]) -> Any:
    """Do it, or show the visitor a sentence instead of a traceback."""
    try:
        return work()
    except Exception as error:
        raise gr.Error(sentence(error), print_exception=False) from error
