"""Make the pictures of the README and the guides: the demo's page in light, dark and on a phone, its timeline, the confusion of the
motion classes, and the grid of factors.

    python docs/pictures/make_pictures.py [--repository REPO] [--only demo timeline confusion factors] [--out docs/pictures]

Without --repository the shipped model is shown. Each picture stays under 300 KB, or the command fails. Needs Chromium; look at what it made.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 300_000
PATIENCE_MS = 600_000
EXAMPLE = "Room: breach field"
SEED = "4242"
"""Of clips that the shipped model has never seen."""
KINDS = ("demo", "timeline", "confusion", "factors")


def keep(picture: np.ndarray, path: Path) -> None:
    """JPEG as good as the limit allows. picture: BGR."""
    for quality in (92, 88, 84, 80, 75, 70):
        cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if path.stat().st_size < LIMIT:
            print(path.name, f"{picture.shape[1]} x {picture.shape[0]}, {path.stat().st_size // 1000} KB")
            return
    sys.exit(f"{path} is over {LIMIT // 1000} KB even at the lowest quality; show less in it.")


def decoded(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture)


@contextmanager
def demo(repository: Path | None) -> Iterator[str]:
    chosen = ["--repository", str(repository)] if repository else []
    command = [sys.executable, "-m", "surg", "demo", *chosen, "--port", "0", "--no-open"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address.startswith("http"):
            sys.exit("The demo did not start; what it said stands above.")
        yield address
        process.terminate()


def visited(browser: Browser, address: str, scheme: str, width: int) -> Page:
    """The page after an example was analysed."""
    scale = 1.5 if width < 640 else 1
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=scale)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{address}?__theme={scheme}", wait_until="domcontentloaded")
    page.get_by_label("Examples").click()
    page.get_by_role("option", name=EXAMPLE).click()
    expect(page.locator("#zone-picture img")).to_be_visible(timeout=PATIENCE_MS)
    page.locator("#analyse").click()
    expect(page.locator("#verdict")).to_contain_text("not a medical device", timeout=PATIENCE_MS)
    expect(page.locator("#nearest img").first).to_be_visible(timeout=PATIENCE_MS)
    page.wait_for_timeout(1500)
    return page


def of_the_demo(out: Path, repository: Path | None, kinds: set[str], chromium: str) -> None:
    with demo(repository) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        if "demo" in kinds:
            for name, scheme, width in (("demo", "light", 1240), ("demo-dark", "dark", 1240), ("demo-phone", "light", 390)):
                page = visited(browser, address, scheme, width)
                keep(decoded(page.screenshot(full_page=True)), out / f"{name}.jpg")
                page.context.close()
        if "timeline" in kinds:
            page = visited(browser, address, "light", 1240)
            page.mouse.move(0, 0)  # what the pointer is over is drawn grey
            keep(decoded(page.locator("#timeline").screenshot()), out / "demo-timeline.jpg")
            page.context.close()
        browser.close()


def surg(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "surg", *map(str, arguments)], cwd=ROOT, check=True)


def of_the_confusion(out: Path, repository: Path | None, clips: int) -> None:
    """What the model's own head says of simulated tissue that it has never seen, each clip once."""
    from surg.data.clips import ClipConfig, frame_times
    from surg.data.manifest import Manifest
    from surg.data.preprocess import preprocess
    from surg.data.video import read_frames
    from surg.eval.plots import confusion
    from surg.serving.client import connect
    from surg.serving.shipped import shipped_repository

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        surg("data", "synth", "tissue", "--out", folder / "tissue", "--clips", clips, "--seed", SEED)
        with connect(f"local:{repository or shipped_repository()}") as client:
            spec, classes = client.contract.preprocess, client.contract.classes
            config = ClipConfig(num_frames=spec.num_frames, fps=spec.fps, size=spec.size)
            counts = np.zeros((len(classes), len(classes)), np.int64)
            for clip in Manifest.read(folder / "tissue" / "manifest.parquet").clips():
                frames = read_frames(Path(clip.video), frame_times(clip.end_s, config).clip(clip.start_s))
                found = client.clip(preprocess(frames, spec).frames)
                counts[classes.index(str(clip.labels["action"])), int(found.action[0].argmax())] += 1
        right = int(np.trace(counts))
        plot = confusion(
            counts, classes, folder, "confusion", f"Tool motions, simulated tissue: {right} of {counts.sum()} right"
        )
        keep(decoded((folder / f"{plot.stem}.png").read_bytes()), out / "confusion.jpg")


def of_the_factors(out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        surg("data", "synth", "tissue", "--out", folder / "tissue", "--clips", 8, "--seed", SEED)
        surg("data", "segment", folder / "tissue" / "manifest.parquet", "--out", folder / "masks")
        surg("data", "factors", "show", folder / "masks" / "manifest.parquet", "--out", folder / "factors.jpg")
        picture = cv2.imread(str(folder / "factors.jpg"))
        assert picture is not None
        keep(np.asarray(picture), out / "factors.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, help="model repository; the shipped model's when not given")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--clips", type=int, default=160, help="clips behind the confusion")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    kinds = set(arguments.only)
    if kinds & {"demo", "timeline"}:
        of_the_demo(arguments.out, arguments.repository, kinds, arguments.chromium)
    if "confusion" in kinds:
        of_the_confusion(arguments.out, arguments.repository, arguments.clips)
    if "factors" in kinds:
        of_the_factors(arguments.out)


if __name__ == "__main__":
    main()
