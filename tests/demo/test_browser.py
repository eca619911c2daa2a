"""The real page in a real browser, served by the real Triton."""

import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from surg.serving.engine import Server
from tests.demo.videos import looped, moving_square, recoded

pytestmark = [pytest.mark.triton, pytest.mark.xdist_group("demo-browser")]
# Chromium, a server and a model share two cores with the other tests.
PATIENT = 60_000
expect.set_options(timeout=PATIENT)
WINDOWS = 5983
"""Of ten minutes, one each tenth of a second after the first 1.75 s."""


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 1600})
    opened.set_default_timeout(PATIENT)
    opened.goto(address, wait_until="domcontentloaded")
    expect(opened.locator("#analyse")).to_be_visible()
    yield opened
    opened.close()


def opened(browser: Browser, address: str, *, scheme: str = "light", width: int = 1280) -> Page:
    """One more browser of its own: no cookies, no session in common with another."""
    page = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme).new_page()
    page.set_default_timeout(PATIENT)
    page.goto(f"{address}?__theme={scheme}", wait_until="domcontentloaded")
    expect(page.locator("#analyse")).to_be_visible()
    return page


def choose(page: Page, title: str) -> None:
    page.get_by_label("Examples").click()
    page.get_by_role("option", name=title).click()
    expect(page.locator("#zone-picture img")).to_be_visible()


def analyse(page: Page) -> None:
    page.locator("#analyse").click()
    expect(page.locator("#verdict")).to_contain_text("not a medical device")
    expect(page.locator("#moment img")).to_be_visible()


def upload(page: Page, path: Path) -> None:
    page.locator("#player input[type=file]").set_input_files(str(path))


def answered(server: Server) -> int:
    """Requests that the server has answered for a window, by its own count."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(
        int(float(line.rsplit(" ", 1)[1])) for line in lines if re.match(r'nv_inference_request_success\{.*"surg_clip"', line)
    )


def until(holds: Callable[[], bool], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def files(folder: Path) -> set[str]:
    """Names of all files below, while folders there come and go: rglob would end in an error."""
    return {name for _, _, names in os.walk(folder) for name in names}


def at_rest(server: Server) -> int:
    """The same count, once nothing is added to it: what was under way has come to its end."""
    counts = [answered(server)]

    def the_same() -> bool:
        time.sleep(2)
        counts.append(answered(server))
        return counts[-1] == counts[-2]

    until(the_same)
    return counts[-1]


def faults(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def test_an_example_is_analysed_and_a_click_on_the_timeline_moves_the_player(page: Page) -> None:
    choose(page, "Room: breach field")
    expect(page.locator("#corners textarea, #corners input")).not_to_have_value("")
    analyse(page)
    buttons = page.locator("#timeline [data-window]")
    last = buttons.count() - 1
    time_s = float(buttons.nth(last).get_attribute("data-time"))
    buttons.nth(last).click()
    expect(page.locator("#moment-words")).to_contain_text(f"At {time_s:.1f} s")
    until(lambda: abs(page.evaluate("document.querySelector('#player video').currentTime") - time_s) < 0.3)
    expect(page.locator("#timeline .chosen")).to_have_count(1)


def test_an_upload_is_analysed_and_the_keyboard_walks_the_timeline(page: Page, video: Path) -> None:
    upload(page, video)
    expect(page.locator("#zone-picture img")).to_be_visible()
    analyse(page)
    page.locator("#timeline [data-window='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    label = page.locator("#timeline [data-window='1']").get_attribute("aria-label")
    seconds = float(re.match(r"0:(\d+\.\d)", label).group(1))
    expect(page.locator("#moment-words")).to_contain_text(f"At {seconds:.1f} s")


def test_clicks_on_the_picture_draw_the_zone(page: Page, video: Path) -> None:
    upload(page, video)
    picture = page.locator("#zone-picture img")
    expect(picture).to_be_visible()
    corners = page.locator("#corners textarea, #corners input")
    for number, (x, y) in enumerate(((0.3, 0.3), (0.7, 0.3), (0.5, 0.7)), start=1):
        # A click on a picture that is still on its way has no place in it, and is dropped.
        until(lambda: picture.evaluate("image => image.complete && image.naturalWidth > 0"))
        box = picture.bounding_box()
        picture.click(position={"x": box["width"] * x, "y": box["height"] * y})
        expect(corners).to_have_value(re.compile(rf"^[^;]+(;[^;]+){{{number - 1}}}$"))
    analyse(page)


def test_a_broken_video_gives_a_sentence_and_takes_the_one_before_away(page: Page, video: Path, tmp_path: Path) -> None:
    upload(page, video)
    analyse(page)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0" * 4096)
    page.get_by_label("Clear").first.click()
    upload(page, bad)
    for place in (".toast-body", "#verdict"):
        expect(page.locator(place)).to_contain_text("bad.mp4 cannot be read as a video")
        assert "Traceback" not in page.locator(place).inner_text()
    assert "not playable" not in page.locator("body").inner_text()
    expect(page.locator("#zone-picture img")).to_have_count(0)
    expect(page.locator("#timeline [data-window]")).to_have_count(0)
    expect(page.get_by_text("Error", exact=True)).to_have_count(0)


def test_a_video_that_only_we_can_read_is_analysed_and_the_page_says_why_it_does_not_play(
    page: Page, video: Path, tmp_path: Path
) -> None:
    note = page.locator("#unplayable")
    upload(page, recoded(video, tmp_path / "recorder.mpg", "mpeg2video"))
    expect(note).to_be_visible()
    expect(note).to_contain_text("cannot play")
    analyse(page)
    expect(page.locator(".toast-body")).to_have_count(0)
    page.get_by_label("Clear").first.click()
    expect(note).to_be_hidden()
    upload(page, video)
    expect(page.locator("#player video")).to_have_js_property("readyState", 4)
    expect(note).to_be_hidden()


def test_analyse_without_a_video_says_what_to_do(page: Page) -> None:
    page.locator("#analyse").click()
    expect(page.locator(".toast-body")).to_contain_text("Upload one")


def test_two_browsers_at_once_each_get_their_own(page: Page, browser: Browser, address: str, tmp_path: Path) -> None:
    lengths = (3.0, 5.0)
    pages = [page, opened(browser, address)]
    for each, seconds in zip(pages, lengths):
        upload(each, moving_square(tmp_path / f"{seconds:.0f}.mp4", seconds))
        expect(each.locator("#zone-picture img")).to_be_visible()
    for each in pages:
        each.locator("#analyse").click()
    for each, seconds in zip(pages, lengths):
        expect(each.locator("#verdict")).to_contain_text("not a medical device")
        expect(each.locator("#timeline svg[role=group]")).to_have_attribute(
            "aria-label", re.compile(rf"Timeline of 0:0{seconds:.1f}"), timeout=PATIENT
        )
    other = browser.new_page()
    other.goto(address, wait_until="domcontentloaded")
    expect(other.locator("#verdict")).to_contain_text("Nothing analysed yet")
    expect(other.locator("#zone-picture img")).to_have_count(0)
    pages[1].close()
    other.close()


def test_cancel_in_the_middle_of_a_long_video_stops_the_server_and_the_next_is_served(
    page: Page, server: Server, video: Path, tmp_path: Path
) -> None:
    upload(page, looped(video, tmp_path / "long.mp4", 600))
    expect(page.locator("#zone-picture img")).to_be_visible()
    page.locator("#stride input[type=number]").fill("0.1")
    page.locator("#stride input[type=number]").blur()
    before = at_rest(server)
    page.locator("#analyse").click()
    bar = page.locator("#verdict progress")
    expect(page.locator("#timeline [data-window]").first).to_be_attached()
    expect(page.locator("#verdict")).to_contain_text(re.compile(r"of 10:00\.0 seen, about .+ left"))
    seen = float(bar.get_attribute("value"))
    assert 0 < seen < 0.9
    page.locator("#cancel").click()
    expect(page.locator("#verdict")).to_contain_text("Cancelled after")
    expect(page.locator("#moment img")).to_be_visible()
    assert at_rest(server) - before < 0.95 * WINDOWS
    assert page.locator("#timeline [data-window]").count() > 0
    choose(page, "Room: near miss")
    expect(page.locator("#stride input[type=number]")).to_have_value("0.5")
    analyse(page)
    expect(page.locator("#timeline svg[role=group]")).to_have_attribute(
        "aria-label", re.compile("Timeline of 0:0"), timeout=PATIENT
    )


def test_a_page_that_is_closed_ends_its_work_and_leaves_no_upload(
    browser: Browser, address: str, server: Server, kept: Path, video: Path, tmp_path: Path
) -> None:
    page = opened(browser, address)
    upload(page, looped(video, tmp_path / "left.mp4", 600))
    expect(page.locator("#zone-picture img")).to_be_visible()
    page.locator("#stride input[type=number]").fill("0.1")
    page.locator("#stride input[type=number]").blur()
    before = at_rest(server)
    page.locator("#analyse").click()
    expect(page.locator("#timeline [data-window]").first).to_be_attached()
    assert "left.mp4" in files(kept)
    page.close()
    until(lambda: "left.mp4" not in files(kept))
    assert at_rest(server) - before < 0.95 * WINDOWS


@pytest.mark.slow
def test_ten_minutes_are_watched_to_the_end_with_a_bar_and_the_time_left(page: Page, video: Path, tmp_path: Path) -> None:
    # Slow: three hundred windows, and 7200 frames to decode.
    upload(page, looped(video, tmp_path / "long.mp4", 600))
    expect(page.locator("#stride input[type=number]")).to_have_value("2")
    page.locator("#analyse").click()
    shares: list[float] = []
    status, bar = page.locator("#verdict"), page.locator("#verdict progress")
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and "medical device" not in status.inner_text():
        value = bar.get_attribute("value", timeout=1000) if bar.count() else None
        shares += [float(value)] if value is not None else []
        time.sleep(0.2)
    assert len(set(shares)) >= 3
    assert shares == sorted(shares)
    assert page.locator("#timeline [data-window]").count() == 300  # that end at 1.75 s, 3.75 s … 599.75 s


def test_a_network_stream_is_watched_stopped_and_watched_again(page: Page, video: Path, tmp_path: Path) -> None:
    looped(video, tmp_path / "camera.mp4", 120)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as camera:
        threading.Thread(target=camera.serve_forever, daemon=True).start()
        page.get_by_role("tab", name="Live").click()
        page.locator("#live-address input, #live-address textarea").fill(f"http://127.0.0.1:{camera.server_port}/camera.mp4")
        for _ in range(2):
            page.locator("#live-start").click()
            expect(page.locator("#live-words")).to_contain_text("ms after the frame")
            page.locator("#live-stop").click()
            expect(page.locator("#live-words")).to_contain_text("Stopped.")
        page.locator("#live-address input, #live-address textarea").fill(str(video))
        page.locator("#live-start").click()
        expect(page.locator(".toast-body")).to_contain_text("no address of a stream")
        camera.shutdown()


def test_no_serious_fault_for_people_who_do_not_see_or_use_a_keyboard(browser: Browser, address: str) -> None:
    for scheme in ("light", "dark"):
        page = opened(browser, address, scheme=scheme)
        assert faults(page) == [], scheme
        choose(page, "Room: breach field")
        analyse(page)
        assert faults(page) == [], f"{scheme}, with a result"
        page.get_by_role("tab", name="Live").click()
        expect(page.locator("#live-address")).to_be_visible()
        assert faults(page) == [], f"{scheme}, live"
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out(browser: Browser, address: str, scheme: str) -> None:
    phone = opened(browser, address, scheme=scheme, width=390)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    choose(phone, "Room: breach field")
    analyse(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    colour = phone.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour)[:3])) > 600) == (scheme == "light"), colour
    phone.close()


def test_the_page_asks_no_other_machine_for_anything(browser: Browser, address: str) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address, wait_until="domcontentloaded")
    expect(page.locator("#analyse")).to_be_visible()
    page.close()
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_the_api_takes_a_file(address: str, video: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    body = client.predict(handle_file(str(video)), "0.25 0.25; 0.75 0.25; 0.5 0.75", 0.5, api_name="/analyse")
    assert len(body["windows"]) > 3
    assert body["zone"][0] == [0.25, 0.25]
    client.close()
