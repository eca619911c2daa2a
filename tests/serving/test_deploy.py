"""What is deployed agrees with what is tested: the entry point really runs, files and flags match."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml

from surg.serving.client import connect
from surg.serving.engine import Server
from surg.serving.engines.embedded import BACKENDS, find_environment
from surg.serving.engines.guardian import born, free_ports
from tests.serving.toy import toy_repository

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


@pytest.mark.parametrize("status", [200, 503])
def test_health_is_asked_of_the_container_and_not_of_a_proxy(status: int) -> None:
    """Docker hands the proxies of its settings to every container: a server behind one was never healthy."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]["healthcheck"]["test"][1:]
    checks = [json.loads(text) for text in re.findall(r"HEALTHCHECK .*\n *CMD (\[.*\])", (ROOT / "Dockerfile").read_text())]
    assert len(checks) == 2

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            for _, flag, code in [compose, *checks]:
                here = re.sub(r"\b(8000|7860)\b", str(server.server_address[1]), code)
                done = subprocess.run(
                    [sys.executable, flag, here], env={"http_proxy": "http://127.0.0.1:9"}, capture_output=True
                )
                assert (done.returncode == 0) is (status == 200), done.stderr
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.triton
def test_the_entry_point_serves_a_repository_and_ends_on_sigterm(tmp_path: Path) -> None:
    repo, clip = toy_repository(tmp_path)
    http, grpc, metrics = free_ports([0, 0, 0])
    env = {
        "PATH": "/usr/bin:/bin", "SURG_REPOSITORY": str(repo), "SURG_ADDRESS": "127.0.0.1", "SURG_TRITON_ENV": str(find_environment().root),
        "SURG_BACKENDS": str(BACKENDS), "SURG_HTTP_PORT": str(http), "SURG_GRPC_PORT": str(grpc), "SURG_METRICS_PORT": str(metrics),
    }  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [DEPLOY / "entrypoint.sh", "tritonserver", "--log-verbose=0"], env=env, cwd=ROOT, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready", timeout=2).status == 200:
                    break
            except OSError:
                time.sleep(0.1)
        with connect(f"127.0.0.1:{grpc}") as client:
            np.testing.assert_allclose(client.clip(clip).embedding[0], clip.reshape(-1, 3).mean(0), rtol=1e-5)
    finally:
        server.send_signal(signal.SIGTERM)
        rc = server.wait(60)
    assert rc == 0, (tmp_path / "log").read_text()[-2000:]
    assert not born(server.pid)


def test_the_entry_point_refuses_an_empty_repository(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "SURG_REPOSITORY": str(tmp_path)}
    done = subprocess.run([DEPLOY / "entrypoint.sh"], env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "surg export" in done.stderr


def test_everything_the_dockerfile_copies_exists_and_is_sent_to_the_engine() -> None:
    text = (ROOT / "Dockerfile").read_text()
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]]
    assert len(copied) >= 8
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source
    assert set(re.findall(r" AS (\w+)$", text, re.MULTILINE)) >= {"serve", "train", "demo"}
    assert text.count("\nUSER 1000:1000") == 3


def test_the_folder_of_engines_is_writable_for_the_user_of_the_image() -> None:
    """A new volume takes the owner of the folder it is mounted on, and root's where there is none."""
    serve = (ROOT / "Dockerfile").read_text().split(" AS serve\n")[1].split("\nFROM ")[0]
    (volume,) = (
        v for v in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]["volumes"] if "engines:" in v
    )
    made = re.findall(r"^RUN install -d -o (\d+) -g (\d+) (\S+)$", serve, re.MULTILINE)
    assert made == [("1000", "1000", volume.split(":")[1])]


def test_the_page_pushes_the_image_that_its_chart_is_told_to_pull() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    tag = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text())["image"]["tag"]
    (pushed,) = re.findall(r"docker push (\S+)", page)
    (pulled,) = re.findall(r"--set image\.repository=(\S+)", page)
    assert pushed == f"{pulled}:{tag}"


def test_ports_and_the_image_are_the_same_everywhere() -> None:
    from surg.serving.engines.docker import IMAGE

    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    helm = (DEPLOY / "helm" / "templates" / "deployment.yaml").read_text()
    assert IMAGE in (ROOT / "Dockerfile").read_text()
    assert IMAGE in (DEPLOY / "compose.yaml").read_text()
    for port in ("8000", "8001", "8002"):
        assert any(entry.endswith(f":{port}") for entry in compose["services"]["triton"]["ports"])
        assert f"containerPort: {port}" in helm
        assert port in (DEPLOY / "entrypoint.sh").read_text()
    for service in ("triton", "demo"):
        assert compose["services"][service]["read_only"] is True
        assert all(entry.startswith("127.0.0.1:") for entry in compose["services"][service]["ports"])
    assert compose["services"]["prometheus"]["image"].count(":") == 1


@pytest.mark.triton
def test_dashboard_alerts_and_autoscaler_name_metrics_that_triton_has(tmp_path: Path) -> None:
    from surg.serving.engine import start_server

    repo, clip = toy_repository(tmp_path)
    with start_server(repo, threads=1) as server, connect(server.grpc_url) as client:
        client.clip(clip)
        metrics = urllib.request.urlopen(server.metrics_url).read().decode()
    offered = set(re.findall(r"^(nv_\w+)", metrics, re.MULTILINE))
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "serving.json").read_text())
    text = (
        json.dumps(dashboard)
        + (DEPLOY / "prometheus" / "alerts.yaml").read_text()
        + (DEPLOY / "helm" / "templates" / "hpa.yaml").read_text()
    )
    used = set(re.findall(r"\bnv_\w+", text))
    on_gpu = {name for name in used if name.startswith("nv_gpu_")}
    assert len(used) > 8
    assert used - on_gpu <= offered, used - on_gpu - offered
    # Prometheus pairs series whose labels are all equal, and answers nothing where there are none.
    paired = re.findall(r"rate\((nv_\w+)[^()]*\)\s*[-+*/]\s*rate\((nv_\w+)", text)
    assert len(paired) > 3
    labels = {
        name: set(re.findall(r"(\w+)=", held)) for name, held in re.findall(r"^(nv_\w+)\{([^}]*)\}", metrics, re.MULTILINE)
    }
    assert [pair for pair in paired if labels[pair[0]] != labels[pair[1]]] == []


def test_the_demo_image_installs_all_that_the_demo_imports() -> None:
    """Loaded at start or inside functions; what the named packages need themselves comes along."""
    text = (ROOT / "Dockerfile").read_text()
    line = text[text.index("AS demo") :].split("pip install --no-cache-dir -c requirements/lock.txt \\")[1].split("\n")[1]
    named = [_distribution(word.strip('"')) for word in line.split()]
    assert "gradio" in named
    installed, waiting = set(), list(named)
    while waiting:
        name = waiting.pop()
        if name in installed:
            continue
        installed.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system
        waiting += [
            re.split(r"[ \[<>=!~;(]", need)[0].lower() for need in needs if "extra ==" not in need or name == "tritonclient"
        ]
    # What is loaded at run time would not do: gradio takes along whatever it finds, IPython for one.
    loaded: set[str] = set()
    files = [
        ROOT / "surg" / name
        for name in ("cli/demo.py", "serving/client.py", "serving/stream.py", "data/video.py", "data/preprocess.py")
    ]
    for path in (*files, *(ROOT / "surg" / "demo").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            loaded |= {name.split(".")[0] for name in names}
    owners = metadata.packages_distributions()
    missing = {
        module: owners[module]
        for module in loaded - {"surg"}
        if module in owners and not {_distribution(owner) for owner in owners[module]} & installed
    }
    assert "gradio" in loaded
    assert not {"torch", "timm"} & loaded
    assert not missing, missing


def _distribution(requirement: str) -> str:
    """Normalised name of a requirement such as `tritonclient[grpc,http]>=2`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[ \[<>=!~;(]", requirement)[0]).lower()


@pytest.mark.triton
def test_the_demos_entry_point_and_health_check_run_as_plain_processes(server: Server, tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["demo"]
    demo_stage = (ROOT / "Dockerfile").read_text().split(" AS demo")[1].split(" AS train")[0]
    entry = json.loads(re.findall(r"^ENTRYPOINT (.+)$", demo_stage, re.MULTILINE)[0])
    health = json.loads(re.findall(r"CMD (\[.+\])$", demo_stage, re.MULTILINE)[0])
    assert entry == ["surg", "demo"]
    (port,) = free_ports([0])
    change = {"triton:8001": server.grpc_url, "7860": str(port), "0.0.0.0": "127.0.0.1"}
    command = [sys.executable, "-m", *entry, *(change.get(word, word) for word in compose["command"])]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "MPLCONFIGDIR": str(tmp_path),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    with (tmp_path / "log").open("w") as log:
        demo = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log)
    try:
        check = [sys.executable, "-c", health[2].replace("7860", str(port))]
        deadline = time.monotonic() + 120
        while (
            (rc := subprocess.run(check, capture_output=True).returncode)
            and time.monotonic() < deadline
            and demo.poll() is None
        ):
            time.sleep(0.3)
        assert rc == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        demo.terminate()
        demo.wait(30)


def test_hadolint_and_the_compose_schema_pass() -> None:
    bin_folder = Path(shutil.which("hadolint") or Path(sys.executable).with_name("hadolint"))
    done = subprocess.run([bin_folder, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    check = Path(sys.executable).with_name("check-jsonschema")
    files = [DEPLOY / "compose.yaml", DEPLOY / "compose.gpu.yaml"]
    done = subprocess.run([check, "--builtin-schema", "vendor.compose-spec", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_docker_engine_says_what_works_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surg.errors import ServerError
    from surg.serving.engines import docker

    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ServerError, match=r"(?s)No Docker engine.*--engine embedded.*docker run"):
        docker.engine()
