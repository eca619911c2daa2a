"""`surg weights` as a user meets it, and fetching from a real server on this machine."""

import hashlib
import http.server
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from surg.cli.weights import app
from surg.errors import CheckpointError, ConfigError
from surg.model import pull as pulling
from surg.model import zoo
from surg.model.checkpoint import load_bundle
from tests.model.golden import meta_checkpoint

Surg = Callable[..., "subprocess.CompletedProcess[str]"]
PARTS = {"encoder": "v2_encoder", "target_encoder": "v2_target_encoder", "predictor": "v2_predictor"}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of these tests is on this machine; one that lets nothing out but through a proxy would ask that for it."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def meta_file(tmp_path: Path) -> Path:
    torch.save(meta_checkpoint(PARTS), tmp_path / "meta.pt")
    return tmp_path / "meta.pt"


def test_list_names_every_model_with_its_facts() -> None:
    rows = {row["name"]: row for row in json.loads(run("list", "--json"))}
    assert set(rows) == set(zoo.ENCODERS)
    assert rows["vitl"]["url"] == "https://dl.fbaipublicfiles.com/vjepa2/vitl.pt"
    assert rows["vitl"]["key"] == "target_encoder"
    assert rows["vitb-2.1"]["key"] == "ema_encoder"
    assert rows["vitg-384"]["pixels"] == 384
    for row in rows.values():
        assert row["licence"]
        assert row["weights_bytes"] < row["inference_bytes"] < row["training_bytes"]
    assert "vitgigantic-2.1" in run("list")


def test_convert_then_inspect(tmp_path: Path, meta_file: Path) -> None:
    out = run("convert", meta_file, tmp_path / "a.safetensors", "--set", "num_heads=2", "--key", "encoder")
    assert "encoder: 28 tensors loaded" in out
    assert "Next: surg weights inspect" in out
    found = json.loads(run("inspect", tmp_path / "a.safetensors", "--json"))
    assert found["layout"] == "bundle"
    assert found["meta"]["trees"]["encoder"] == "encoder"
    assert found["trees"]["encoder"]["shapes"]["patch_embed.proj.weight"] == [48, 3, 2, 16, 16]
    assert found["trees"]["encoder"]["finite"]
    assert "blocks.1.attn.qkv.weight  144x48" in run("inspect", meta_file, "--keys")


@pytest.mark.parametrize("command", ["convert", "pack"])
def test_weights_are_not_written_under_the_name_of_another_kind_of_file(tmp_path: Path, meta_file: Path, command: str) -> None:
    answer = CliRunner().invoke(app, [command, str(meta_file), str(tmp_path / "o.txt")])
    assert isinstance(answer.exception, ConfigError)
    assert "should end in .safetensors" in str(answer.exception)


def test_key_chooses_the_tree(tmp_path: Path, meta_file: Path) -> None:
    for key in ("encoder", "target_encoder"):
        run("convert", meta_file, tmp_path / f"{key}.safetensors", "--set", "num_heads=2", "--key", key)
    first, second = (
        load_bundle(tmp_path / f"{key}.safetensors").part("encoder").state_dict() for key in ("encoder", "target_encoder")
    )
    assert not torch.equal(first["norm.weight"], second["norm.weight"])


def test_model_checks_the_sizes(tmp_path: Path, meta_file: Path) -> None:
    with pytest.raises(CheckpointError, match="has embed_dim = 48, the config asks for 1024"):
        CliRunner().invoke(
            app, ["convert", str(meta_file), str(tmp_path / "x.safetensors"), "--model", "vitl"], catch_exceptions=False
        )
    assert not (tmp_path / "x.safetensors").exists()


def test_model_records_the_preprocessing(tmp_path: Path) -> None:
    from surg.model.encoder import Encoder

    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in Encoder(zoo.encoder_config("vitb-2.1")).state_dict().items()}
    torch.save({"ema_encoder": {key: torch.zeros(shape) for key, shape in shapes.items()}}, tmp_path / "b.pt")
    run("convert", tmp_path / "b.pt", tmp_path / "b.safetensors", "--model", "vitb-2.1")
    meta = json.loads(run("inspect", tmp_path / "b.safetensors", "--json"))["meta"]
    assert meta["preprocess"]["size"] == 384
    assert meta["trees"] == {"encoder": "ema_encoder"}


def test_to_hf_writes_a_folder_that_converts_back(tmp_path: Path, meta_file: Path) -> None:
    run("convert", meta_file, tmp_path / "a.safetensors", "--set", "num_heads=2")
    run("to-hf", tmp_path / "a.safetensors", tmp_path / "hf")
    run("convert", tmp_path / "hf", tmp_path / "b.safetensors")
    one, other = (load_bundle(tmp_path / f"{name}.safetensors") for name in "ab")
    for part in ("encoder", "predictor"):
        for key, value in one.part(part).state_dict().items():
            assert torch.equal(value, other.part(part).state_dict()[key])


def test_a_broken_file_is_a_sentence_and_exit_2(surg: Surg, tmp_path: Path) -> None:
    (tmp_path / "vitl.pt").write_text("<html>Access denied</html>")
    done = surg("weights", "inspect", "vitl.pt")
    assert done.returncode == 2
    assert "web page" in done.stderr
    assert "Traceback" not in done.stderr


class Server(http.server.ThreadingHTTPServer):
    content = b""
    break_after: int | None = None
    ranges: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if "missing" in self.path:
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", wanted)[0]) if wanted else 0
        if start >= len(self.server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.server.content)}")
            self.end_headers()
            return
        body = self.server.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.break_after])

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.content, running.ranges = bytes(range(256)) * 5000, []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{running.server_address[1]}/"
        monkeypatch.setattr(zoo, "META", base)
        monkeypatch.setenv("HF_ENDPOINT", base)
        yield running
        running.shutdown()


def test_pull_fetches_records_the_hash_and_does_not_fetch_twice(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "deep/vitl.pt"
    out = run("pull", "vitl", "--save-path", target)
    digest = hashlib.sha256(server.content).hexdigest()
    assert target.read_bytes() == server.content
    assert digest in out
    assert "surg weights convert" in out
    assert json.loads((tmp_path / "deep/vitl.pt.sha256.json").read_text())["sha256"] == digest
    assert "was there" in run("pull", "vitl", "--save-path", target)
    assert len(server.ranges) == 1


def test_a_download_cut_short_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "vitl.pt"
    server.break_after = 700_000
    with pytest.raises(CheckpointError, match="goes on from there"):
        pulling.pull("vitl", target)
    assert not target.exists()
    server.break_after = None
    (file,) = pulling.pull("vitl", target)
    assert file.sha256 == hashlib.sha256(server.content).hexdigest()
    assert server.ranges[1] == "bytes=700000-"


def test_a_whole_part_file_is_taken_as_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "vitl.pt.part").write_bytes(server.content)
    (file,) = pulling.pull("vitl", tmp_path / "vitl.pt")
    assert file.bytes == len(server.content)


def test_hugging_face_gives_a_folder(server: Server, tmp_path: Path) -> None:
    out = run("pull", "vitl", "--source", "hf", "--save-path", tmp_path / "vitl", "--json")
    assert [Path(file["path"]).name for file in json.loads(out)] == ["config.json", "model.safetensors"]
    with pytest.raises(CheckpointError, match="not at Hugging Face"):
        pulling.pull("vitb-2.1", tmp_path / "b", "hf")


def test_each_source_names_the_other_and_the_way_without_a_connection(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "META", zoo.META + "missing/")
    with pytest.raises(CheckpointError, match=r"404(.|\n)*--source hf(.|\n)*put it at"):
        pulling.pull("vitl", tmp_path / "vitl.pt")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"cannot be reached(.|\n)*--source meta"):
        pulling.pull("vitl", tmp_path / "vitl", "hf", timeout_s=2)
