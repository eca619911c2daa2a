import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surg.cli.config import SETTINGS
from surg.cli.main import app
from surg.errors import ConfigError

Surg = Callable[..., "subprocess.CompletedProcess[str]"]
HEAVY = ("torch", "tritonclient", "transformers", "cv2", "gradio", "onnxruntime", "pyarrow")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['surg', '--help']\ntry:\n    from surg.cli.main import app; app()\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    assert not [name for name in HEAVY if name in loaded]
    assert "doctor" in done.stdout


def test_short_help_flag_and_version_work(surg: Surg) -> None:
    assert surg("-h").returncode == 0
    assert surg("--version").stdout.startswith("surg ")


def test_a_mistyped_command_is_answered_with_the_nearest(surg: Surg) -> None:
    done = surg("docter")
    assert done.returncode == 2
    assert "doctor" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("serve start repo --engine docker --threads 2", "--threads goes with --engine embedded"),
        ("serve start repo --image mine:1", "--image mine:1 goes with --engine docker"),
        ("demo --server localhost:1 --repository repo", "--server is asked for its own model"),
        ("export run --format onnx --set queue.delay_us=1", "--format onnx writes the files alone"),
        ("data motion m.parquet --address ray://head:10001", "Add --engine ray"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(words: str, message: str) -> None:
    error = CliRunner().invoke(app, words.split()).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)


@pytest.mark.parametrize("words", ["quickstart", "data motion", "embed", "eval sterility"])
def test_beginning_anew_has_one_name(words: str, surg: Surg) -> None:
    shown = surg(*words.split(), "--help").stdout
    assert not any(other in shown for other in ("--again", "--no-resume"))
    assert "--afresh" in shown


def test_user_errors_are_sentences_on_stderr_and_exit_2(surg: Surg) -> None:
    done = surg("config", "show", "nothing-like-this")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "nothing-like-this" in done.stderr


def test_doctor_prints_results_on_stdout_and_json_for_machines(surg: Surg) -> None:
    done = surg("doctor", "--json")
    sections = json.loads(done.stdout)
    names = [finding["name"] for finding in sections["Machine"]]
    assert {"Python", "torch", "FFmpeg in PyAV", "onnxruntime", "Triton, embedded", "Free disk", "/dev/shm"} <= set(names)
    assert done.returncode == 0


def test_doctor_fails_when_the_two_onnxruntimes_are_installed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from surg.doctor import machine

    monkeypatch.setattr(machine, "_version", lambda name: "1.0")
    (finding,) = machine.onnx_runtimes()
    assert finding.fails
    assert "never both" in finding.advice


def test_doctor_checks_weights_without_a_data_set(surg: Surg) -> None:
    done = surg("doctor", "--weights", "nothing.pt", "--json")
    (found,) = json.loads(done.stdout)["Before training"]
    assert (found["name"], found["status"], done.returncode) == ("Weights", "missing", 1)


def test_doctor_says_what_to_do_about_a_dead_server(surg: Surg) -> None:
    done = surg("doctor", "--server", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "does not answer" in done.stdout


def test_doctor_tells_the_grpc_port_from_the_http_port(surg: Surg) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as caller:
                caller.recv(1000)
                caller.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00 settings of HTTP/2\n")

        threading.Thread(target=answer, daemon=True).start()
        done = surg("doctor", "--server", f"127.0.0.1:{server.getsockname()[1]}")
    assert done.returncode == 1
    assert "gRPC port" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_port_that_the_demo_cannot_have_is_refused_before_a_server_starts(surg: Surg) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--port", "--metrics-port"):
            done = surg("demo", option, port)
            assert done.returncode == 2
            assert f"cannot be served at 127.0.0.1:{port}" in done.stderr
            assert f"{option} {port + 1}" in done.stderr
            assert "Traceback" not in done.stderr
            assert "Triton" not in done.stderr
    assert surg("demo", "--port", -4).returncode == 2


def test_doctor_names_a_checkpoint_that_the_next_command_finds(surg: Surg, tmp_path: Path) -> None:
    from surg.model.saved import shipped

    (tmp_path / "runs/a/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/a/config.yaml").write_text("")
    (tmp_path / "runs/a/checkpoints/best.safetensors").symlink_to(shipped())
    done = surg("doctor", "--run", "runs/a")
    assert "surg train stage2 --init runs/a --data" in done.stdout


def test_config_show_set_and_diff_agree(surg: Surg, tmp_path: Path) -> None:
    shown = surg("config", "show", "pretrain", "--set", "seed=7")
    assert shown.returncode == 0, shown.stderr
    (tmp_path / "changed.yaml").write_text(shown.stdout)
    difference = surg("config", "diff", "pretrain", "changed.yaml")
    # A file of one's own is a recipe by that name.
    assert [line.split()[0] for line in difference.stdout.splitlines()] == ["recipe", "seed"]


def test_config_schema_carries_the_help_of_each_setting(surg: Surg) -> None:
    schema = json.loads(surg("config", "schema").stdout)
    assert schema["additionalProperties"] is False
    assert all(
        "description" in field for field in schema["properties"].values() if "$ref" not in field and "allOf" not in field
    )


def test_every_command_that_takes_settings_can_say_which(surg: Surg) -> None:
    import typer

    def taking(command: Any, name: str) -> set[str]:
        if subcommands := getattr(command, "commands", {}):
            inner = {found for sub, one in subcommands.items() for found in taking(one, sub)}
            # `surg data factors make` and `show` take the same ones.
            return {name} if inner & {"make"} else inner
        return {name} if any("--set" in option.opts for option in command.params) else set()

    others = {"index", "convert", "show"}  # options of a format, of a model, and of the recipe that is shown
    assert taking(typer.main.get_command(app), "surg") - others == set(SETTINGS)
    for command in set(SETTINGS) - {"train"}:
        done = CliRunner().invoke(app, ["config", "schema", command])
        assert any("description" in field for field in json.loads(done.stdout)["properties"].values()), command
    refused = surg("config", "schema", "demo")
    assert refused.returncode == 2
    assert "sterility" in refused.stderr


@pytest.mark.parametrize(
    "typed",
    [
        "data check m.parquet --workers 0",
        "data deidentify . --out o --max-failed 2",
        "data export m.parquet --out o --fps 0",
        "data show m.parquet --seed -1",
        "data split m.parquet --seed -1",
        "embed m.parquet --out f.parquet --stride-s 0",
        "eval parity --data m.parquet --tolerance -1",
        "export surg-tiny --tolerance -1",
        "infer a.mp4 --stride nan",
        "serve start --http-port -1",
        "weights pull vitl --timeout 0",
        "bench serve --seconds 0",
    ],
)
def test_numbers_that_cannot_be_are_refused_by_the_name_of_their_option(typed: str) -> None:
    answer = CliRunner().invoke(app, typed.split())
    assert answer.exit_code == 2
    assert "Invalid value for" in answer.output
