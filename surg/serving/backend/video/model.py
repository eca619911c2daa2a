"""surg_video: a long run of frames in, one answer per window out, as they are ready.

Runs in Triton's Python backend (embedded or NVIDIA's image). The frames travel once; the window slides here and every window is
an ordinary request to surg_clip of the same version, so it shares that model's queue, batches and instances.
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.version = int(args["model_version"])
        self.outputs = [entry["name"] for entry in config["output"] if entry["name"] != "window"]
        self.window = int(config["parameters"]["window_frames"]["string_value"])
        # Beside Triton's own counters, which take every answer of a Python backend for a success, errors too (2.51).
        self.failures = pb_utils.MetricFamily(
            name="surg_request_failure",
            description="Requests that a Python backend answered with an error",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        labels = {"model": args["model_name"], "version": args["model_version"], "reason": "ANSWERED"}
        self.failed = self.failures.Metric(labels=labels)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.slide(request, sender)
            except Exception as error:  # noqa: BLE001 - one request's failure is that request's answer
                self.failed.increment(1)
                sender.send(
                    pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)[:500], pb_utils.TritonError.INVALID_ARG))
                )
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def slide(self, request: Any, sender: Any) -> None:
        frames = pb_utils.get_input_tensor_by_name(request, "frames").as_numpy()
        zone = pb_utils.get_input_tensor_by_name(request, "zone").as_numpy()
        stride = int(pb_utils.get_input_tensor_by_name(request, "stride").as_numpy()[0])
        if stride < 1 or len(frames) < self.window:
            raise ValueError(
                f"{len(frames)} frames at stride {stride}; expected at least {self.window} frames and a stride of 1 or more"
            )
        starts = list(range(0, len(frames) - self.window + 1, stride))
        for index, start in enumerate(starts):
            if request.is_cancelled():
                return
            inputs = [
                pb_utils.Tensor("frames", np.ascontiguousarray(frames[None, start : start + self.window])),
                pb_utils.Tensor("zone", np.ascontiguousarray(zone[None])),
            ]
            answer = pb_utils.InferenceRequest(
                model_name="surg_clip",
                model_version=self.version,
                requested_output_names=self.outputs,
                inputs=inputs,
                # A model on the GPU would else leave its answer there, which numpy cannot read.
                preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
            ).exec()
            if answer.has_error():
                self.failed.increment(1)
                sender.send(pb_utils.InferenceResponse(error=answer.error()))
                return
            window = pb_utils.Tensor("window", np.array([index], np.int32))
            results = [
                pb_utils.Tensor(name, pb_utils.get_output_tensor_by_name(answer, name).as_numpy()[0]) for name in self.outputs
            ]
            sender.send(pb_utils.InferenceResponse([window, *results]))
