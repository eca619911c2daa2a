"""The real page in a real browser, served by the real Triton."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.triton, pytest.mark.xdist_group("demo-browser")]
# Chromium, a server and a model share two cores with the other tests.
PATIENT = 60_000


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 1600})
    opened.set_default_timeout(PATIENT)
    opened.goto(address, wait_until="domcontentloaded")
    expect(opened.locator("#analyse")).to_be_visible(timeout=PATIENT)
    yield opened
    opened.close()


def choose(page: Page, title: str) -> None:
    page.get_by_label("Examples").click()
    page.get_by_role("option", name=title).click()
    expect(page.locator("#zone-picture img")).to_be_visible(timeout=PATIENT)


def analyse(page: Page) -> None:
    page.locator("#analyse").click()
    expect(page.locator("#verdict")).to_contain_text("not a medical device", timeout=PATIENT)
    expect(page.locator("#moment img")).to_be_visible(timeout=PATIENT)


def upload(page: Page, path: Path) -> None:
    page.locator("#player input[type=file]").set_input_files(str(path))


def test_an_example_is_analysed_and_a_click_on_the_timeline_moves_the_player(page: Page) -> None:
    choose(page, "Room: breach field")
    expect(page.locator("#corners textarea, #corners input")).not_to_have_value("")
    analyse(page)
    buttons = page.locator("#timeline [data-window]")
    last = buttons.count() - 1
    time_s = float(buttons.nth(last).get_attribute("data-time"))
    buttons.nth(last).click()
    expect(page.locator("#moment-words")).to_contain_text(f"At {time_s:.1f} s", timeout=PATIENT)
    assert abs(page.evaluate("document.querySelector('#player video').currentTime") - time_s) < 0.3
    expect(page.locator("#timeline .chosen")).to_have_count(1)


def test_an_upload_is_analysed_and_the_keyboard_walks_the_timeline(page: Page, video: Path) -> None:
    upload(page, video)
    expect(page.locator("#zone-picture img")).to_be_visible(timeout=PATIENT)
    analyse(page)
    page.locator("#timeline [data-window='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    label = page.locator("#timeline [data-window='1']").get_attribute("aria-label")
    seconds = float(re.match(r"0:(\d+\.\d)", label).group(1))
    expect(page.locator("#moment-words")).to_contain_text(f"At {seconds:.1f} s", timeout=PATIENT)


def test_clicks_on_the_picture_draw_the_zone(page: Page, video: Path) -> None:
    upload(page, video)
    picture = page.locator("#zone-picture img")
    expect(picture).to_be_visible(timeout=PATIENT)
    corners = page.locator("#corners textarea, #corners input")
    for number, (x, y) in enumerate(((0.3, 0.3), (0.7, 0.3), (0.5, 0.7)), start=1):
        box = picture.bounding_box()
        picture.click(position={"x": box["width"] * x, "y": box["height"] * y})
        expect(corners).to_have_value(re.compile(rf"^[^;]+(;[^;]+){{{number - 1}}}$"), timeout=PATIENT)
    analyse(page)


def test_a_broken_video_gives_a_sentence_and_no_traceback(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0" * 4096)
    upload(page, bad)
    toast = page.locator(".toast-body")
    expect(toast).to_be_visible(timeout=PATIENT)
    assert "Traceback" not in toast.inner_text()
    assert "bad.mp4" in toast.inner_text() or "video" in toast.inner_text()


def test_analyse_without_a_video_says_what_to_do(page: Page) -> None:
    page.locator("#analyse").click()
    expect(page.locator(".toast-body")).to_contain_text("Upload one", timeout=PATIENT)


def test_two_visitors_do_not_see_each_other(page: Page, browser: Browser, address: str, video: Path) -> None:
    upload(page, video)
    expect(page.locator("#zone-picture img")).to_be_visible(timeout=PATIENT)
    analyse(page)
    other = browser.new_page()
    other.goto(address, wait_until="domcontentloaded")
    expect(other.locator("#verdict")).to_contain_text("Nothing analysed yet", timeout=PATIENT)
    expect(other.locator("#zone-picture img")).to_have_count(0)
    other.close()


def test_dark_and_phone_width_keep_everything_on_the_page(browser: Browser, address: str) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    phone.goto(address + "?__theme=dark", wait_until="domcontentloaded")
    expect(phone.locator("#analyse")).to_be_visible(timeout=PATIENT)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 392
    phone.close()


def test_the_api_takes_a_file(address: str, video: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    body = client.predict(handle_file(str(video)), "0.25 0.25; 0.75 0.25; 0.5 0.75", 0.5, api_name="/analyse")
    assert len(body["windows"]) > 3
    assert body["zone"][0] == [0.25, 0.25]
    client.close()
