"""Where the page is opened: networks with a proxy, addresses of the sixth version; how it is closed."""

import os
import signal
import socket
import sys
import urllib.request

import pytest

from surg.cli import main
from surg.demo.launch import _free_port, _stay_open, _without_proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "surgery.local"])
def test_the_page_is_not_asked_for_through_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio opens its own page before it says that it is open, and took the proxy's answer for its own."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", _without_proxy({"NO_PROXY": "intranet"}, host))
    for name in (host, "localhost", "127.0.0.1", "intranet"):
        assert urllib.request.proxy_bypass(f"{name}:7860")
    assert not urllib.request.proxy_bypass("elsewhere:80")
    assert _without_proxy({"no_proxy": "*"}, host) == "*"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_free_port_is_found_for_either_version_of_addresses(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        pytest.skip(f"this machine has no {host}")
    assert _free_port(host)


def test_a_demo_may_be_ended_as_soon_as_it_tells_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    class Supervisor:
        told = ""

        def write(self, text: str) -> None:
            self.told += text
            if text.strip():
                os.kill(os.getpid(), signal.SIGTERM)

        def flush(self) -> None: ...

    before = signal.signal(signal.SIGTERM, main._terminate)
    supervisor = Supervisor()
    monkeypatch.setattr(sys, "stdout", supervisor)
    try:
        _stay_open("http://127.0.0.1:7860/")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert supervisor.told.startswith("http://127.0.0.1:7860/")
