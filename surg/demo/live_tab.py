"""The tab that watches a webcam or a camera of the network."""

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from surg.data.preprocess import Polygon
from surg.demo.live import Ring, read, visitors_stream
from surg.demo.overlay import draw_heat, draw_zone
from surg.demo.pages import Page, parse_corners, sentence
from surg.demo.visitor import or_sentence, visit_of


def live_tab(page: Page) -> None:
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
        return state, *or_sentence(lambda: _reading(page, state, zone))

    def watched(url: str, zone: str, request: gr.Request) -> Iterator[tuple[Any, str]]:
        visit = visit_of(page, request)
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
        visit_of(page, request).stop_watching.set()

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
