"""The demo as a visitor meets it: time from the upload of a 60-s 720p clip to the first result and to the last, and the memory of the
demo's process with five uploads at once. The real page in Debian's Chromium, the real server, all on this machine.

    python benchmarks/demo_speed.py [--repository REPO] [--runs 3] [--visitors 5]

Writes benchmarks/demo_speed_<hardware>_<yyyy-mm>.json and .md; ends with 1 when a bar is missed. Needs a machine with nothing else to do.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from playwright.sync_api import Browser, Page, expect, sync_playwright
from recording import write_result

from surg.data.video import write_video

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_MS = 600_000
FIRST_S, WHOLE_S, MEMORY_MB = 3.0, 20.0, 500.0


def clip(path: Path, seconds: float = 60.0) -> Path:
    """A moving camera over a textured picture, 1280 x 720 at 25 frames/s, about as many bits as a recording of a room."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 100, 3)).astype(np.uint8)
    scene = cv2.resize(noise, (1440, 860), interpolation=cv2.INTER_CUBIC)

    def frames() -> Iterator[np.ndarray]:
        for number in range(int(seconds * 25)):
            x, y = int(70 + 60 * np.sin(number / 50)), int(60 + 50 * np.cos(number / 70))
            yield np.ascontiguousarray(scene[y : y + 720, x : x + 1280])

    write_video(path, frames(), 25.0, crf=23)
    return path


@contextmanager
def demo(repository: Path | None) -> Iterator[tuple[str, psutil.Process]]:
    chosen = ["--repository", str(repository)] if repository else []
    command = [sys.executable, "-m", "surg", "demo", *chosen, "--port", "0", "--no-open"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address.startswith("http"):
            sys.exit("The demo did not start: run `surg demo` and see what it says.")
        yield address, psutil.Process(process.pid)
        process.terminate()


class Peak:
    """The largest resident memory of a process while the block runs; its server and guardian are processes of their own."""

    def __init__(self, process: psutil.Process) -> None:
        self.mb, self._process, self._ended = 0.0, process, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.mb = max(self.mb, self._process.memory_info().rss / 2**20)


def opened(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address, wait_until="domcontentloaded")
    expect(page.locator("#analyse")).to_be_visible()
    return page


def start(page: Page, video: Path) -> None:
    """What a hurried visitor does: choose the file, press the button as soon as the picture is there."""
    page.locator("#player input[type=file]").set_input_files(str(video))
    expect(page.locator("#zone-picture img")).to_be_visible(timeout=PATIENCE_MS)
    page.locator("#analyse").click()


def wait_first(page: Page) -> None:
    page.locator("#timeline [data-window]").first.wait_for(state="attached")


def wait_last(page: Page) -> None:
    expect(page.locator("#verdict")).to_contain_text("not a medical device", timeout=PATIENCE_MS)


def one_visit(browser: Browser, address: str, video: Path) -> dict[str, float]:
    page = opened(browser, address)
    began = time.monotonic()
    start(page, video)
    clicked = time.monotonic()
    wait_first(page)
    first = time.monotonic()
    wait_last(page)
    last = time.monotonic()
    windows = page.locator("#timeline [data-window]").count()
    page.context.close()
    return {"opened_s": clicked - began, "first_s": first - began, "whole_s": last - began, "windows": windows}


def together(browser: Browser, address: str, video: Path, visitors: int, process: psutil.Process) -> dict[str, float]:
    pages = [opened(browser, address) for _ in range(visitors)]
    began = time.monotonic()
    with Peak(process) as peak:
        for page in pages:
            page.locator("#player input[type=file]").set_input_files(str(video))
        for page in pages:
            expect(page.locator("#zone-picture img")).to_be_visible(timeout=PATIENCE_MS)
            page.locator("#analyse").click()
        for page in pages:
            wait_last(page)
    whole = time.monotonic() - began
    for page in pages:
        page.context.close()
    return {"visitors": visitors, "peak_mb": peak.mb, "whole_s": whole}


def table(results: dict[str, Any]) -> str:
    rows = [
        ("upload to first result", f"{results['first_s']:.2f} s", f"{FIRST_S:g} s"),
        ("upload to last result", f"{results['whole_s']:.2f} s", f"{WHOLE_S:g} s"),
        ("demo's memory, one visitor", f"{results['one_peak_mb']:.0f} MB", ""),
        (
            f"demo's memory, {results['together']['visitors']} at once",
            f"{results['together']['peak_mb']:.0f} MB",
            f"{MEMORY_MB:g} MB",
        ),
    ]
    lines = ["| 60-s 720p clip, real page | median | bar |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    lines += [
        "",
        f"{results['windows']:.0f} windows a visit, {results['runs']} visits; memory is resident, without the server's processes.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, help="model repository; the shipped model's when not given")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--visitors", type=int, default=5)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        demo(arguments.repository) as (address, process),
        sync_playwright() as playwright,
    ):
        video = clip(Path(folder) / "clip.mp4")
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox", "--disable-gpu"])
        one_visit(browser, address, video)
        with Peak(process) as peak:
            visits = [one_visit(browser, address, video) for _ in range(arguments.runs)]
        crowd = together(browser, address, video, arguments.visitors, process)
        browser.close()
    results: dict[str, Any] = {
        **{name: statistics.median(visit[name] for visit in visits) for name in ("opened_s", "first_s", "whole_s", "windows")},
        "runs": arguments.runs,
        "visits": visits,
        "one_peak_mb": peak.mb,
        "together": crowd,
        "bars": {"first_s": FIRST_S, "whole_s": WHOLE_S, "peak_mb": MEMORY_MB},
    }
    text = table(results)
    print(text)
    print("Wrote", write_result("demo_speed", results, text))
    met = results["first_s"] <= FIRST_S and results["whole_s"] <= WHOLE_S and crowd["peak_mb"] <= MEMORY_MB
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
