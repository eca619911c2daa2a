"""The few calls to a Triton server that are no inference: load a model again, read its statistics."""

import http.client
import json
from pathlib import Path
from typing import Any

from surg.errors import ServerError

ADMIN_HEADER = "surg-admin"


def load_model(http_url: str, model: str, key_header: str = "", key: str = "") -> None:
    """Make a server in explicit mode read a model's folder again. Raises ServerError with the server's reason."""
    headers = {key_header: key} if key_header else {}
    _call(http_url, "POST", f"/v2/repository/models/{model}/load", headers)


def guarded(key: str) -> list[str]:
    """tritonserver's options that leave loading models, which runs code, to the holder of the key."""
    return [
        f"--http-restricted-api=model-repository:{ADMIN_HEADER}={key}",
        f"--grpc-restricted-protocol=model-repository:{ADMIN_HEADER}={key}",
    ]


def reload_models(http_url: str, repo: Path, key: str) -> None:
    """Make a guarded server read its whole repository again: after an export into it, or a rollback."""
    # surg_video last: it asks the others.
    for path in sorted(repo.glob("*/config.pbtxt"), key=lambda path: path.parent.name == "surg_video"):
        load_model(http_url, path.parent.name, ADMIN_HEADER, key)


def statistics(http_url: str, model: str = "") -> list[dict[str, Any]]:
    """Triton's own counts per model and version: inference_count, execution_count, times in ns."""
    path = f"/v2/models/{model}/stats" if model else "/v2/models/stats"
    return list(_call(http_url, "GET", path, {})["model_stats"])


def server_metadata(http_url: str) -> dict[str, Any]:
    return dict(_call(http_url, "GET", "/v2", {}))


def what_matters(log: str) -> str:
    """The lines of a Triton log that say what is wrong: its errors without the tables' padding, else its end."""
    lines = [" ".join(line.replace("|", " ").split()) for line in log.splitlines()]
    telling = [
        line for line in lines if line.startswith(("E1", "E0", "error:")) or "UNAVAILABLE" in line or "Exception" in line
    ]
    return "\n".join(dict.fromkeys(telling or lines[-30:]))[-4000:]


def _call(http_url: str, method: str, path: str, headers: dict[str, str]) -> Any:
    connection = http.client.HTTPConnection(http_url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, headers={"Connection": "close", **headers})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"No server answers at {http_url} ({error}).\nStart one: surg serve start REPO") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ServerError(
            f"The server at {http_url} refused {method} {path} (status {response.status}): {body.decode(errors='replace')[:800]}"
        )
    return json.loads(body) if body else {}
