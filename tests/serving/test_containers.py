"""Images and the compose file, built and run for real: `make docker-test`. Needs root on Debian, and its package mirror.

With no Docker engine at hand Debian's own is unpacked into a temporary folder and started from there; the base image comes from
debootstrap. NVIDIA's image is not pulled: what is shown is that this Dockerfile, this entry point and our Docker engine class serve.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from surg.serving.client import connect
from surg.serving.engines import docker
from tests.serving.toy import toy_repository

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "docker.io",
    "containerd",
    "runc",
    "debootstrap",
    "iptables",
    "tini",
    "libip4tc2",
    "libip6tc2",
    "libxtables12",
    "libnftnl11",
)
BASE, IMAGE = "surg-test-base:bookworm", "surg-serve-test:latest"

pytestmark = [pytest.mark.container, pytest.mark.triton, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's Docker and debootstrap, unpacked, not installed."""
    if os.getuid() != 0:
        pytest.skip("needs root to start a Docker engine")
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("needs Debian's packages (apt-get, dpkg)")
    folder = tmp_path_factory.mktemp("docker")
    fetched = subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"Debian's packages cannot be fetched here: {fetched.stderr.strip()[-200:]}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
    return folder


@pytest.fixture(scope="module")
def engine(tools: Path) -> Iterator[str]:
    """A Docker engine of our own, whose address is in DOCKER_HOST while the module runs."""
    root = tools / "root" / "usr"
    env = {
        **os.environ,
        "PATH": f"{root / 'bin'}:{root / 'sbin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(root / "lib" / "x86_64-linux-gnu"),
    }
    host = f"unix://{tools / 'docker.sock'}"
    command = [
        root / "sbin" / "dockerd", "--host", host, "--data-root", tools / "data", "--exec-root", tools / "exec",
        "--pidfile", tools / "pid", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
        f"--userland-proxy-path={root / 'sbin' / 'docker-proxy'}",
    ]  # fmt: skip
    with (tools / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = host
    try:
        deadline = time.monotonic() + 60
        while not (tools / "docker.sock").exists() and time.monotonic() < deadline and daemon.poll() is None:
            time.sleep(0.2)
        if daemon.poll() is not None:
            pytest.skip(f"dockerd does not run here: {(tools / 'dockerd.log').read_text()[-300:]}")
        yield host
    finally:
        os.environ.pop("DOCKER_HOST") if before is None else os.environ.update(DOCKER_HOST=before)
        daemon.terminate()
        daemon.wait(60)
        _unmount(tools)


def _unmount(folder: Path) -> None:
    """The engine leaves its network namespace mounted, and nobody can remove a folder that holds a mount."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in sorted((m for m in mounted if Path(m).is_relative_to(folder)), reverse=True):
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def image(tools: Path, engine: str) -> str:
    """The `serve` target on a Debian made by debootstrap."""
    root, base = tools / "root" / "usr", tools / "base"
    env = {**os.environ, "DEBOOTSTRAP_DIR": str(root / "share" / "debootstrap")}
    include = "--include=python3,python3-venv,libpython3.11,ca-certificates"
    subprocess.run(
        [root / "sbin" / "debootstrap", "--variant=minbase", include, "bookworm", base],
        env=env,
        check=True,
        capture_output=True,
    )
    # The build installs from PyPI as this machine does: with its certificates.
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", base / "etc" / "ssl" / "certs" / "ca-certificates.crt")
    (base / "etc" / "pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    archive = tools / "base.tar"
    subprocess.run(["tar", "-C", base, "-cf", archive, "."], check=True)
    client = root / "bin" / "docker"
    subprocess.run([client, "import", archive, BASE], check=True, capture_output=True)
    build = [client, "build", "--network", "host", "--target", "serve", "--build-arg", f"BASE_IMAGE={BASE}", "-t", IMAGE, ROOT]
    done = subprocess.run(build, env={**os.environ, "DOCKER_BUILDKIT": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return IMAGE


def test_the_image_serves_read_only_and_unprivileged_and_stops_cleanly(image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    repo, clip = toy_repository(tmp_path)
    server = docker.start(repo, image=image)
    try:
        with connect(server.grpc_url) as client:
            np.testing.assert_allclose(client.clip(clip).embedding[0], clip.reshape(-1, 3).mean(0), rtol=1e-5)
        container = server._container()
        assert container.attrs["HostConfig"]["ReadonlyRootfs"]
        assert container.exec_run("id -u").output.strip() == b"1000"
        assert all(port[0]["HostIp"] == "127.0.0.1" for port in container.ports.values() if port)
    finally:
        assert server.stop() == 0
    assert not server.alive


def test_a_repository_that_does_not_load_shows_the_log(image: str, tmp_path: Path) -> None:
    from surg.errors import ServerError

    tmp_path.chmod(0o755)
    repo, _ = toy_repository(tmp_path)
    (repo / "surg_clip" / "1" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ServerError, match=r"(?s)ended while it started.*surg_clip"):
        docker.start(repo, image=image)
