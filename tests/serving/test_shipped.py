"""The shipped model answers at once, offline: exported on first use, kept for the next."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from surg.errors import ServerError
from surg.model.saved import shipped as checkpoint
from surg.runs import file_sha256
from surg.serving import shipped

CLIP = Path(__file__).resolve().parents[2] / "surg" / "demo" / "clips" / "tissue-approach.mp4"


def test_infer_without_a_server_asks_the_shipped_model_and_exports_it_once(
    surg: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    first = surg("infer", CLIP, "--json", **environment)
    assert first.returncode == 0, first.stderr
    assert "asking the shipped model" in first.stderr
    (repository,) = (tmp_path / "cache" / "surg").glob("surg-tiny-*")
    config = repository / "surg_clip" / "config.pbtxt"
    written = config.stat().st_mtime_ns
    again = surg("infer", CLIP, "--json", **environment)
    assert config.stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "cache" / "surg").iterdir()] == [repository.name]
    assert json.loads(again.stdout)["videos"] == json.loads(first.stdout)["videos"]


def test_an_export_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "surg").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ServerError, match=r"surg-tiny could not be exported:(?s:.+)surg export surg-tiny --out repo"):
        shipped.shipped_repository()


def test_what_an_earlier_version_exported_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = tmp_path / "surg" / f"surg-tiny-{file_sha256(checkpoint())[:12]}-{shipped.exporter()[:8]}"
    (kept / "surg_clip").mkdir(parents=True)
    (kept / "surg_clip" / "config.pbtxt").touch()
    assert shipped.shipped_repository() == kept
    monkeypatch.setattr(shipped, "exporter", lambda: "0" * 64)
    (tmp_path / "surg" / f"{kept.name[:-8]}{'0' * 8}").write_text("in the way of the export that is asked for")
    with pytest.raises(ServerError, match="could not be exported"):
        shipped.shipped_repository()
