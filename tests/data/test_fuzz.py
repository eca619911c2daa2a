"""Damaged and hostile files: never a crash, a hang or unbounded memory; a DataError at worst."""

import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import painted

# Decodes every file it is given in every way there is. Anything but frames or a DataError is a failure.
CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from surg.data.video import iter_frames, probe, read_frames
from surg.errors import DataError
worst = 0.0
for name in sys.stdin.read().split("\\n"):
    began = time.monotonic()
    outcome = []
    for what in (
        lambda: probe(name),
        lambda: read_frames(name, np.arange(8) / 4),
        lambda: read_frames(name, [1.0, 3.5]),
        lambda: [None for _, (_, frame) in zip(range(500), iter_frames(name, fps=5))],
    ):
        try:
            what()
            outcome.append("read")
        except DataError as error:
            assert str(error)
            outcome.append("refused")
    print(Path(name).name, *outcome, f"{time.monotonic() - began:.1f}", flush=True)
# Not getrusage: its peak is inherited through fork and exec from the process that runs the tests.
status = open("/proc/self/status").read()
print("peak", int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""

SOURCES = {
    "a.mp4": {},
    "b.mkv": {},
    "c.avi": {"codec": "mpeg4"},
    "d.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "e.ts": {"format": "mpegts"},
    "f.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
}


def sources(folder: Path) -> list[Path]:
    made = [painted.write(folder / name, 60, 15, **how) for name, how in SOURCES.items()]
    pictures = [Image.fromarray(painted.paint(index)) for index in range(20)]
    pictures[0].save(folder / "g.gif", save_all=True, append_images=pictures[1:], duration=250)
    pictures[5].save(folder / "h.png")
    pictures[5].save(folder / "i.jpg")
    return [*made, folder / "g.gif", folder / "h.png", folder / "i.jpg"]


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    mutable = bytearray(data)
    kind = rng.integers(0, 5)
    if kind == 0:
        return data[: rng.integers(0, len(data))]
    if kind == 1:
        for place in rng.integers(0, len(data), rng.integers(1, 60)):
            mutable[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == 2:
        # The headers are where lies do most harm.
        for place in rng.integers(0, min(len(data), 800), rng.integers(1, 10)):
            mutable[place] = int(rng.integers(0, 256))
    elif kind == 3:
        start = int(rng.integers(0, len(data)))
        mutable[start : start + 500] = bytes(len(mutable[start : start + 500]))
    else:
        start = int(rng.integers(0, len(data)))
        mutable[start : start + 200] = b"\xff" * len(mutable[start : start + 200])
    return bytes(mutable)


def decode_all(files: list[Path], timeout_s: float) -> tuple[dict[str, list[str]], int]:
    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD],
        input="\n".join(map(str, files)), capture_output=True, text=True, timeout=timeout_s, preexec_fn=bounded, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    *rows, peak = done.stdout.splitlines()
    return {row.split()[0]: row.split()[1:] for row in rows}, int(peak.split()[1])


def fuzz(folder: Path, rounds: int, seed: int) -> None:
    originals = sources(folder)
    rng = np.random.default_rng(seed)
    files = list(originals)
    for number in range(rounds):
        for path in originals:
            files.append(folder / f"{number}_{path.name}")
            files[-1].write_bytes(damage(path.read_bytes(), rng))
    outcomes, peak_mb = decode_all(files, timeout_s=60 + 2 * len(files))
    assert all(outcomes[path.name][:4] == ["read"] * 4 for path in originals), outcomes
    assert len(outcomes) == len(files)
    assert max(float(found[4]) for found in outcomes.values()) < 30
    assert peak_mb < 1000


def test_damaged_files_of_every_kind_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, rounds=12, seed=0)


@pytest.mark.slow
def test_thousands_of_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, rounds=400, seed=1)


def huge_png(path: Path, side: int) -> Path:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    return path


def huge_gif(path: Path) -> Path:
    data = bytearray(path.with_name("g.gif").read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))
    return path


def huge_avi(path: Path) -> Path:
    """Raw video whose header claims 100,000 x 100,000 pixels."""
    painted.write(path, 3, 5, codec="rawvideo", pixels="bgr24")
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 8
    data[at + 4 : at + 12] = struct.pack("<ii", 100_000, 100_000)
    path.write_bytes(bytes(data))
    return path


def huge_mkv(path: Path) -> Path:
    painted.write(path, 3, 5, codec="mjpeg", pixels="yuvj420p", format="matroska")
    data = path.read_bytes()
    # PixelWidth and PixelHeight, one byte each, and JPEG's own size.
    data = data.replace(b"\xb0\x81\x80\xba\x81\x60", b"\xb0\x81\xff\xba\x81\xff")
    at = data.index(b"\xff\xc0") + 5
    path.write_bytes(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    return path


def test_headers_that_claim_a_hundred_thousand_pixels_a_side_take_no_memory(tmp_path: Path) -> None:
    sources(tmp_path)
    files = [
        huge_png(tmp_path / "x.png", 100_000),
        huge_gif(tmp_path / "x.gif"),
        huge_avi(tmp_path / "x.avi"),
        huge_mkv(tmp_path / "x.mkv"),
    ]
    outcomes, peak_mb = decode_all(files, timeout_s=120)
    assert {name: found[0] for name, found in outcomes.items() if name != "x.mkv"} == {
        f"x.{kind}": "refused" for kind in ("png", "gif", "avi")
    }
    assert "read" not in outcomes["x.mkv"][1:3]
    assert peak_mb < 600


def test_wrong_extensions_and_empty_files_are_read_or_refused(tmp_path: Path) -> None:
    originals = {path.name: path.read_bytes() for path in sources(tmp_path)}
    files = []
    for name, content in {
        "v.mp4": originals["b.mkv"],
        "v.png": originals["a.mp4"],
        "v.avi": originals["h.png"],
        "v.gif": originals["i.jpg"],
    }.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    for name in ("empty.mp4", "empty.png", "empty.gif", "empty.txt", "text.mkv", "zeros.avi"):
        files.append(tmp_path / name)
        files[-1].write_bytes({"text.mkv": b"hello\n" * 1000, "zeros.avi": bytes(100_000)}.get(name, b""))
    outcomes, _ = decode_all(files, timeout_s=120)
    assert outcomes["v.mp4"][:4] == ["read"] * 4
    assert outcomes["v.png"][:4] == ["refused"] * 4
    assert all(outcomes[path.name][:4] == ["refused"] * 4 for path in files[4:])
