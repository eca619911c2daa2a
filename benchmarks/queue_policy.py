"""What a limit on Triton's queue costs requests that overlap: the same model served with and without one, in turns.

Pairs of requests, the second a little after the first, with pauses between pairs. With any queue policy (a limit, a time-out) Triton's
dynamic batcher is not woken by a request that comes while its one instance works, and sleeps up to half a second.

    python benchmarks/queue_policy.py [REPO] [--pairs 20] [--write]
"""

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from recording import write_result

from surg.serving import repository
from surg.serving.client import Client, connect
from surg.serving.engine import start_server
from surg.serving.shipped import shipped_repository

LATER_S, PAUSE_S = 0.03, 0.4


def limited(repo: Path, into: Path) -> Path:
    """The same repository with a limit of 64 waiting requests a model."""
    shutil.copytree(repo, into)
    for path in into.glob("*/config.pbtxt"):
        config = repository.read_config(into, path.parent.name)
        if config.HasField("dynamic_batching"):
            config.dynamic_batching.default_queue_policy.max_queue_size = 64
            path.write_text(text_format.MessageToString(config))
    return into


def pair(client: Client, feed: dict[str, np.ndarray], found: list[list[float]]) -> None:
    def ask(number: int) -> None:
        time.sleep(number * LATER_S)
        begun = time.perf_counter()
        client.raw("surg_clip", feed)
        found[number].append(1e3 * (time.perf_counter() - begun))

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    time.sleep(PAUSE_S)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("repo", nargs="?", type=Path, help="a repository of surg export; the shipped model's when not given")
    words.add_argument("--pairs", type=int, default=20)
    words.add_argument("--write", action="store_true", help="write benchmarks/queue_policy_<hardware>_<yyyy-mm>.json and .md")
    options = words.parse_args()
    repo = options.repo or shipped_repository()
    repository.lead_model(repo)  # or a sentence that says what is no repository about it
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        served = {"no limit (as shipped)": repo, "max_queue_size 64": limited(repo, Path(scratch) / "limited")}
        with (
            start_server(served["no limit (as shipped)"]) as one,
            start_server(served["max_queue_size 64"]) as other,
            connect(one.grpc_url) as first,
            connect(other.grpc_url) as second,
        ):
            clients = dict(zip(served, (first, second)))
            spec = first.contract.model("surg_clip")
            feed = {
                "frames": np.random.default_rng(0).integers(0, 256, (1, *spec.input("frames").shape), dtype=np.uint8),
                "zone": np.ones((1, *spec.input("zone").shape), np.float32),
            }
            times: dict[str, list[list[float]]] = {name: [[], []] for name in served}
            for _ in range(options.pairs + 2):
                for name, client in clients.items():
                    pair(client, feed, times[name])
    for name, (early, late) in times.items():
        rows.append(
            {
                "served": name,
                **{
                    f"{which}_p50_ms": round(statistics.median(each[2:]), 1)
                    for which, each in (("first", early), ("second", late))
                },
                "second_most_ms": round(max(late[2:]), 1),
                "second_over_400_ms": sum(value > 400 for value in late[2:]),
            }
        )
    note = f"{options.pairs} pairs of requests for one clip each, the second {LATER_S:g} s after the first; embedded server."
    lines = [
        "| served with | first, p50 ms | second, p50 ms | its longest | times it took over 400 ms |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['served']} | {r['first_p50_ms']} | {r['second_p50_ms']} | {r['second_most_ms']} | {r['second_over_400_ms']} of {options.pairs} |"
        for r in rows
    ]
    print(note, "\n".join(lines), sep="\n\n")
    if options.write:
        print("Wrote", write_result("queue_policy", {"pairs": options.pairs, "rows": rows}, "\n".join(lines), note))


if __name__ == "__main__":
    main()
