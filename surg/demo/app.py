"""The page: its frame and looks, its two tabs, and the same work without a page."""

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from surg.demo import timeline
from surg.demo.clip_tab import clip_tab
from surg.demo.examples import Example
from surg.demo.live_tab import live_tab
from surg.demo.pages import Page, uploaded
from surg.demo.visitor import or_sentence, session_of

MAX_UPLOAD = "2gb"
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
                clip_tab(page, examples)
            with gr.Tab("Live"):
                live_tab(page)
        gr.HTML(f'<p class="about">{escape(page.about)}</p>')
        _api(page)

        def left(request: gr.Request) -> None:
            page.visits.leave(session_of(request))

        blocks.unload(left)
    return blocks


def _api(page: Page) -> None:
    """`client.predict(video, zone, stride_s, api_name="/analyse")` gives the events JSON: the same work without the page."""

    def analyse(video: dict[str, Any], zone: str, stride_s: float) -> dict[str, Any]:
        events: dict[str, Any] = or_sentence(lambda: page.events(uploaded(video), zone, stride_s))
        return events

    gr.api(analyse, api_name="analyse")  # type: ignore[attr-defined]  # exported, but not named in their __all__
