"""Triton's `onnxruntime` backend, as a Python-based backend, for the embedded server.

NVIDIA's image brings a C++ backend of the same name, so one repository serves in both. Runs inside Triton's Python stub, in the
server's own environment (numpy < 2): nothing of surg may be imported here.

A request that fails alone fails alone: when a batch breaks, its requests are run one by one and only the culprit gets the error.
"""

import json
import os
from pathlib import Path
from typing import Any

# Before the import: onnxruntime sends events to its maker unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(
            os.environ.get("SURG_INTRA_OP_THREADS") or parameters.get("intra_op_thread_count") or 0
        )
        # Spinning threads of idle models would take the cores from the model that works: four of them share two cores here.
        options.add_session_config_entry("session.intra_op.allow_spinning", os.environ.get("SURG_ORT_SPIN", "0"))
        if config.get("optimization", {}).get("execution_accelerators"):
            pb_utils.Logger.log_info("execution accelerators need NVIDIA's image; this stand-in runs on the CPU provider")
        path = Path(args["model_repository"], args["model_version"], config.get("default_model_filename") or "model.onnx")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        self.batched = config["max_batch_size"] > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            feeds = [self.feed(request) for request in requests]
            if self.batched and len(feeds) > 1:
                return self.split(self.session.run(self.outputs, self.join(feeds)), feeds)
        except Exception as error:  # noqa: BLE001 - whatever broke, each request below gets its own answer
            pb_utils.Logger.log_warn(
                f"a batch of {len(requests)} failed ({type(error).__name__}); running its requests one by one"
            )
        return [self.single(request) for request in requests]

    def single(self, request: Any) -> Any:
        try:
            return self.respond(self.session.run(self.outputs, self.feed(request)))
        except Exception as error:  # noqa: BLE001 - one request's failure is that request's answer
            message = f"onnxruntime could not run this request: {str(error).splitlines()[0][:500]}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))

    def feed(self, request: Any) -> dict[str, Any]:
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}

    def join(self, feeds: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}

    def split(self, results: list[Any], feeds: list[dict[str, Any]]) -> list[Any]:
        ends = np.cumsum([len(feed[self.inputs[0]]) for feed in feeds])
        starts = ends - [len(feed[self.inputs[0]]) for feed in feeds]
        return [self.respond([result[start:end] for result in results]) for start, end in zip(starts, ends)]

    def respond(self, results: list[Any]) -> Any:
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in zip(self.outputs, results)])
