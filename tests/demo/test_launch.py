"""Where the page is opened: networks with a proxy, addresses of the sixth version."""

import socket
import urllib.request

import pytest

from surg.demo.launch import _free_port, _without_proxy


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
