"""The executor's Ray engine: the same functions, the same rows, on the cores of a cluster. Needs the extra `cluster`."""

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any

from surg.errors import ConfigError, DataError


def run_on_ray(
    function: Callable[[Any], Any], items: Iterator[tuple[str, Any]], *, workers: int | None, address: str | None
) -> Generator[tuple[str, list[dict[str, Any]] | None, str]]:
    """Outcomes as they come. Joins the cluster at `address`, or starts one on this machine and stops it at the end."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed, so --engine ray cannot run. Install it: pip install 'surg[cluster]'"
        ) from error
    from surg.data.executor import attempt

    started = not ray.is_initialized()
    if started:
        try:
            cores = workers if address is None else None
            ray.init(address=address, num_cpus=cores, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"There is no Ray cluster at {address}: {error}\nStart one: ray start --head") from error
    try:
        remote = ray.remote(max_retries=1)(attempt)
        # The function travels once, not with every item.
        shared = ray.put(function)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        width = 4 * max(1, int(resources.get("CPU", 1)))
        running: dict[Any, str] = {}
        while True:
            for name, item in islice(items, width - len(running)):
                running[remote.remote(shared, name, item)] = name
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                name = running.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise DataError(f"Ray could not run item {name}: {error}") from error
                except ray.exceptions.RayError as error:
                    yield name, None, f"the worker process died ({type(error).__name__})"
    finally:
        if started:
            ray.shutdown()
