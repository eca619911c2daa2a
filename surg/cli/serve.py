"""`surg serve`: start, look at and stop a Triton server; go back to an older model version."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from surg.advice import quoted

app = typer.Typer(help="Run a real Triton server on an exported repository.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", "-n", help="Name of the server, when several run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Engine(StrEnum):
    embedded = "embedded"
    docker = "docker"


@app.command()
def start(
    repo: Annotated[
        Path | None, typer.Argument(help="Model repository made by surg export; the shipped model's when not given.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="embedded: the Triton in our own environment. docker: NVIDIA's image.")
    ] = Engine.embedded,
    name: Name = "default",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0: 8000 when it is free, else any.")] = 0,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0: 8001 when it is free, else any.")] = 0,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="0: 8002 when it is free, else any.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Threads per model; 0 is one per core (embedded only).")] = 0,
    image: Annotated[str, typer.Option(help="Image for --engine docker; the pinned one when not given.")] = "",
    timeout: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds until it must answer; 120, and 600 more for every GB served, when not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a server on REPO and return once it has answered a synthetic inference. It keeps running."""
    from surg.errors import ConfigError
    from surg.serving import registry
    from surg.serving.shipped import shipped_repository

    if engine is Engine.docker and threads:
        raise ConfigError("--threads goes with --engine embedded: NVIDIA's image chooses its own. Leave one of them out.")
    if engine is Engine.embedded and image:
        raise ConfigError(f"--image {image} goes with --engine docker, which was not given.")
    server = registry.start(
        repo or shipped_repository(),
        name,
        engine.value,
        ports=(http_port, grpc_port, metrics_port),
        threads=threads,
        image=image,
        timeout_s=timeout,
    )
    if as_json:
        _print_json(_facts(name))
        return
    suffix = "" if name == "default" else f" --name {quoted(name)}"
    typer.echo(f"gRPC     {server.grpc_url}")
    typer.echo(f"HTTP     http://{server.http_url}")
    typer.echo(f"metrics  {server.metrics_url}")
    typer.echo(
        f"\nTry it: surg infer CLIP.mp4 --server {server.grpc_url}    look: surg serve status{suffix}    end: surg serve stop{suffix}"
    )


@app.command()
def status(name: Name = "default", as_json: Json = False) -> None:
    """What runs where: ports, versions, requests served, restarts. Exit status 1 when it does not run."""
    facts = _facts(name)
    if as_json:
        _print_json(facts)
    else:
        for key, value in facts.items():
            typer.echo(f"{key:12} {value}")
    if facts["status"] != "ready":
        raise typer.Exit(1)


@app.command(name="list")
def list_() -> None:
    """Names of the servers started here."""
    from surg.errors import ServerError
    from surg.serving import registry

    for name in registry.names():
        server = registry.find(name)
        try:
            state = "running" if server.alive else "stopped"
        except ServerError:
            state = "unknown"  # Docker is not running: the others are listed all the same
        typer.echo(f"{name:16} {state:8} {server.grpc_url}")


@app.command()
def stop(name: Name = "default") -> None:
    """Let requests in flight finish, then end the server; of one that has ended, remove entry and log."""
    from surg.errors import ServerError
    from surg.serving import registry

    server = registry.find(name)
    if not server.alive:
        server.stop()  # a container that ended by itself is removed
        registry.remove(name)
        typer.echo(f"{name} was not running; its entry and log are removed.")
        return
    ready = getattr(server, "state", {}).get("status") != "starting"
    rc = server.stop()
    if not ready:
        typer.echo(f"Stopped {name} before it was ready.")
        return
    if rc:
        raise ServerError(
            f"The server ended with status {rc}: some requests may not have finished.\nIts log: surg serve logs --name {quoted(name)}"
        )
    typer.echo(f"Stopped {name}.")


@app.command()
def logs(
    name: Name = "default", lines: Annotated[int, typer.Option("--lines", "-l", min=1, help="How many, from the end.")] = 50
) -> None:
    """The end of the server's log."""
    from surg.serving import registry

    typer.echo(registry.find(name).log_tail(lines))


@app.command()
def reload(name: Name = "default") -> None:
    """Make the running server take what was exported into its repository since it started."""
    from surg.serving import repository

    server = _running(name)
    server.reload()
    typer.echo(f"{name} serves version(s) {', '.join(map(str, repository.served_versions(_repo(server))))}.")


@app.command()
def rollback(
    name: Name = "default",
    to: Annotated[int | None, typer.Option(help="Version to go to; the one before the newest when not given.")] = None,
    repo: Annotated[Path | None, typer.Option(help="Change this repository only; its server is not asked.")] = None,
) -> None:
    """Serve an older model version (or, with --to, a newer one again) without a restart."""
    from surg.serving import repository

    before, now = repository.rollback(repo, to) if repo else _running(name).rollback(to)
    whose = f" --repo {quoted(repo)}" if repo else "" if name == "default" else f" --name {quoted(name)}"
    typer.echo(
        f"version(s) {', '.join(map(str, before))} -> {', '.join(map(str, now))}; bring it back: surg serve rollback --to {before[-1]}{whose}"
    )


def _running(name: str) -> Any:
    """Raises ServerError, before anything is changed, when the server does not run: another one may have its ports by now."""
    from surg.errors import ServerError
    from surg.serving import registry

    server = registry.find(name)
    if not server.alive:
        raise ServerError(
            f"The server named {name} does not run; nothing was changed.\n"
            f"Start it: surg serve start {quoted(_repo(server))} --name {quoted(name)}    or change its repository alone: surg serve rollback --repo {quoted(_repo(server))}"
        )
    return server


def _facts(name: str) -> dict[str, Any]:
    from surg.errors import ServerError
    from surg.serving import registry, repository
    from surg.serving.engines.admin import server_metadata, statistics

    server = registry.find(name)
    state = {**server.state} if hasattr(server, "state") else {}
    alive = server.alive
    facts: dict[str, Any] = {
        "name": name,
        "engine": state.get("engine"),
        "status": state.get("status") if alive else ("failed" if state.get("status") == "failed" else "stopped"),
        "grpc": server.grpc_url,
        "http": f"http://{server.http_url}",
        "metrics": server.metrics_url,
        "repository": state.get("repo"),
        "pid": state.get("server_pid"),
        "restarts": state.get("restarts", 0),
    }
    if state.get("error"):
        facts["error"] = state["error"]
    if alive:
        try:
            facts["triton"] = server_metadata(server.http_url)["version"]
            facts["requests"] = {
                f"{row['name']}/{row['version']}": row["inference_count"] for row in statistics(server.http_url)
            }
        except ServerError as error:
            facts["status"] = f"not answering ({str(error).splitlines()[0]})"
        try:
            facts["versions"] = repository.served_versions(_repo(server))
        except ServerError:
            # The server goes on with what it has loaded, and would not come back after a restart.
            facts["versions"] = f"unknown: {_repo(server)} holds no model repository any more"
    return facts


def _repo(server: Any) -> Path:
    return Path(server.repo)


def _print_json(facts: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(facts, indent=2))
