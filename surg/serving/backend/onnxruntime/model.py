"""Triton's `onnxruntime` backend, as a Python-based backend, for the embedded server.

NVIDIA's image brings a C++ backend of the same name, so one repository serves in both. Runs inside Triton's Python stub, in the
server's own environment (numpy < 2): nothing of surg may be imported here.

One clip alone gets all cores. As soon as there is a clip for every core, each core runs clips of its own: spread over two cores, a clip
takes a sixth more of the processor, and its threads wait for each other.

Only what is asked for is computed: a head whose output no request of a batch names costs nothing.

A request that fails alone fails alone: when a batch breaks, its requests are run one by one and only the culprit gets the error.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Before the import: onnxruntime sends events to its maker unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

TWICE_BELOW_BYTES = 512 * 1024 * 1024
"""Larger models are held once, for all cores together: there the second copy costs more than it gains."""


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        return config

    def initialize(self, args: dict[str, str]) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(
                f"numpy {np.__version__} in the server's environment: Triton's Python stub reads silent zeros from numpy 2. "
                "Make the environment again with `make triton-env` (numpy < 2)."
            )
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        if config.get("optimization", {}).get("execution_accelerators"):
            pb_utils.Logger.log_info("execution accelerators need NVIDIA's image; this stand-in runs on the CPU provider")
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        self.batched = config["max_batch_size"] > 0
        path = Path(args["model_repository"], args["model_version"], config.get("default_model_filename") or "model.onnx")
        wanted = int(os.environ.get("SURG_INTRA_OP_THREADS") or parameters.get("intra_op_thread_count") or 0)
        self.cores = wanted or len(os.sched_getaffinity(0))
        size = sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))
        twice = self.batched and self.cores > 1 and size < TWICE_BELOW_BYTES
        self.pool: Any = ThreadPoolExecutor(self.cores) if twice else None
        # Models that warm up beside each other have no cores to share out: those that can, begin with one core a clip.
        self.narrow: Any = session(path, 1) if twice else None
        self.wide: Any = None if twice else session(path, self.cores)
        self.path, self.warm_ups_left = path, len(config.get("model_warmup", []))
        # Beside Triton's own counters, which take every answer of a Python backend for a success, errors too (2.51).
        self.failures = pb_utils.MetricFamily(
            name="surg_request_failure",
            description="Requests that a Python backend answered with an error",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        labels = {"model": args["model_name"], "version": args["model_version"], "reason": "ANSWERED"}
        self.failed = self.failures.Metric(labels=labels)

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            feeds = [self.feed(request) for request in requests]
            if self.batched:
                names = self.asked(requests)
                return self.split(self.run([row for feed in feeds for row in self.rows(feed)], names), feeds, names)
        except Exception as error:  # noqa: BLE001 - whatever broke, each request below gets its own answer
            pb_utils.Logger.log_warn(
                f"a batch of {len(requests)} failed ({type(error).__name__}); running its requests one by one"
            )
        return [self.single(request) for request in requests]

    def run(self, rows: list[dict[str, Any]], names: list[str]) -> list[Any]:
        """Outputs for all rows: as many as fill the cores evenly run one to a core, the others together over all cores."""
        if self.narrow is None:
            together: list[Any] = self.wide.run(names, join(rows))
            return together
        self.warm_ups_left -= 1
        if self.warm_ups_left == -1:
            self.pool.submit(self.widen)
        if self.warm_ups_left >= 0 and alike(rows):
            # The rows of a warm-up are all zeros: one on every core has warmed what there is. A stub that was started again gets a real
            # batch instead; its rows differ, or else have one answer.
            answers = list(self.pool.map(lambda row: self.narrow.run(names, row), rows[: self.cores]))
            return [np.repeat(part, len(rows), axis=0) for part in answers[0]]
        wide = self.wide
        even = len(rows) // self.cores * self.cores if wide is not None else len(rows)
        found = list(self.pool.map(lambda row: self.narrow.run(names, row), rows[:even]))
        if rows[even:]:
            found.append(wide.run(names, join(rows[even:])))
        return [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*found)]

    def widen(self) -> None:
        """The session over all cores, made aside when the first batch after the warm-up comes: readiness does not wait for it."""
        try:
            self.wide = session(self.path, self.cores)
        except Exception as error:  # noqa: BLE001 - one core a clip goes on answering
            pb_utils.Logger.log_warn(f"no session over all cores ({type(error).__name__}): every clip keeps to one core")

    def asked(self, requests: list[Any]) -> list[str]:
        wanted = {name for request in requests for name in request.requested_output_names()}
        return [name for name in self.outputs if name in wanted] or self.outputs

    def rows(self, feed: dict[str, Any]) -> list[dict[str, Any]]:
        count = len(feed[self.inputs[0]])
        return [{name: value[row : row + 1] for name, value in feed.items()} for row in range(count)]

    def single(self, request: Any) -> Any:
        try:
            names = self.asked([request])
            runner = self.wide if self.wide is not None else self.narrow
            return respond(names, runner.run(names, self.feed(request)))
        except Exception as error:  # noqa: BLE001 - one request's failure is that request's answer
            self.failed.increment(1)
            message = f"onnxruntime could not run this request: {str(error).splitlines()[0][:500]}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))

    def feed(self, request: Any) -> dict[str, Any]:
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}

    def split(self, results: list[Any], feeds: list[dict[str, Any]], names: list[str]) -> list[Any]:
        ends = np.cumsum([len(feed[self.inputs[0]]) for feed in feeds])
        starts = ends - [len(feed[self.inputs[0]]) for feed in feeds]
        return [respond(names, [result[start:end] for result in results]) for start, end in zip(starts, ends)]


def respond(names: list[str], results: list[Any]) -> Any:
    """Triton leaves out of an answer what its request did not ask for."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in zip(names, results)])


def session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads wait for each other spinning while a request runs, and stop with it: those of idle models would take the cores from the
    # model that works.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Where attention is sure of itself most weights underflow, and on numbers below 1e-38 a processor is four times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def alike(rows: list[dict[str, Any]]) -> bool:
    return all(np.array_equal(row[name], value) for row in rows[1:] for name, value in rows[0].items())


def join(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if len(rows) == 1:
        return rows[0]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
