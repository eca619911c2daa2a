"""Fetch released weights: resumable, hashed, and helpful when there is no way out."""

import hashlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from surg.errors import CheckpointError
from surg.model import zoo
from surg.runs import write_json

logger = logging.getLogger(__name__)

Source = Literal["meta", "hf"]
CHUNK = 1 << 20


@dataclass(frozen=True)
class Pulled:
    """A fetched file and its hash; `fresh` is False when it was there already."""

    path: Path
    bytes: int
    sha256: str
    fresh: bool


def pull(name: str, target: Path | None = None, source: Source = "meta", *, timeout_s: float = 30.0) -> list[Pulled]:
    """Fetch a model of the zoo. A download cut short goes on where it stopped; a whole file is not fetched again.

    From Meta, `target` is a file (by default weights/NAME.pt); from Hugging Face a folder (weights/NAME) that transformers opens.
    """
    facts = zoo.released(name)
    if source == "meta":
        path = target or Path("weights") / f"{name}.pt"
        return [_fetch(facts.url, path, _way_out(name, source, facts.url, path), timeout_s)]
    if facts.hub is None:
        raise CheckpointError(
            f"{name} is not at Hugging Face in a form that transformers opens. Fetch it with: surg weights pull {name}"
        )
    folder = target or Path("weights") / name
    files = ("config.json", "model.safetensors")
    base = os.environ.get("HF_ENDPOINT", zoo.HUB).rstrip("/")
    return [
        _fetch(url, folder / file, _way_out(name, source, url, folder / file), timeout_s)
        for file in files
        for url in (f"{base}/{facts.hub}/resolve/main/{file}",)
    ]


def _fetch(url: str, path: Path, way_out: str, timeout_s: float) -> Pulled:
    record = path.with_name(path.name + ".sha256.json")
    if path.exists():
        return Pulled(path, path.stat().st_size, _sha256(path), fresh=False)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part, timeout_s)
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"{url} answered {error.code} {error.reason}.\n{way_out}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        kept = f" {part.stat().st_size / 1e6:.0f} MB are kept; the same command goes on from there." if part.exists() else ""
        raise CheckpointError(f"{url} cannot be reached ({reason}).{kept}\n{way_out}") from error
    except OSError as error:
        raise CheckpointError(f"{part} cannot be written: {error.strerror or error}. Choose another --save-path.") from error
    digest = _sha256(part)
    part.replace(path)
    write_json(record, {"url": url, "bytes": path.stat().st_size, "sha256": digest})
    return Pulled(path, path.stat().st_size, digest, fresh=True)


def _download(url: str, part: Path, timeout_s: float) -> None:
    """Append to `part` from where it ends; a server that cannot do that starts it again."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "surg", **({"Range": f"bytes={have}-"} if have else {})})
    with _opened(request, timeout_s, have) as response:
        if response is None:
            return
        resumed = response.status == 206
        total = int(response.headers.get("Content-Length") or 0) + (have if resumed else 0)
        done, told = (have if resumed else 0), time.monotonic()
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    logger.info("%.0f of %.0f MB", done / 1e6, total / 1e6)
    if total and done != total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


@contextmanager
def _opened(request: urllib.request.Request, timeout_s: float, have: int) -> Iterator[Any]:
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            yield response
    except urllib.error.HTTPError as error:
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if error.code == 416 and total == str(have):  # all of it is here already
            yield None
        else:
            raise


def _way_out(name: str, source: Source, url: str, path: Path) -> str:
    facts = zoo.released(name)
    other = None
    if source == "hf":
        other = f"surg weights pull {name} --source meta"
    elif facts.hub is not None:
        other = f"surg weights pull {name} --source hf"
    lines = [f"Try the other source: {other}"] if other else []
    lines.append(f"Without a connection: fetch {url} elsewhere and put it at {path}, then run the same command.")
    return "\n".join(lines)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
