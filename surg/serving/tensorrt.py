"""TensorRT plans from exported graphs, on the GPU that will serve them.

A plan fits one TensorRT version and one GPU architecture, so each carries a sidecar that says for what it was built, and a
deploy that does not match is refused here instead of failing in the server. Precision is the graph's own (strongly typed):
TensorRT 11 has no precision flags, and for TensorRT 10 the same is asked for explicitly.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from surg.errors import ExportError
from surg.runs import atomic_file, file_sha256, write_json
from surg.serving.contract import Contract, ModelSpec
from surg.serving.plans import SIDECAR, Sidecar
from surg.serving.repository import PLAN

logger = logging.getLogger(__name__)

ACCELERATOR_ROUTE = (
    "What works without it: the ONNX repository served by NVIDIA's image, which builds the engines itself at its first start and keeps them:\n"
    "  surg export RUN --out repo --set queue.accelerator=tensorrt --set queue.engine_cache=/cache/trt\n"
    "  surg serve start repo --engine docker"
)


def require_tensorrt() -> ModuleType:
    """The tensorrt module, on a machine with a GPU. Raises ExportError that says what is missing and which way works now."""
    import torch

    missing = [] if torch.cuda.is_available() else ["an NVIDIA GPU (a plan fits only the kind it was built on)"]
    try:
        import tensorrt
    except ImportError:
        missing.append("the package tensorrt (pip install 'surg[tensorrt]'; its libraries come from NVIDIA's own index)")
        raise ExportError(
            f"A TensorRT plan cannot be built here. Missing: {' and '.join(missing)}.\n{ACCELERATOR_ROUTE}"
        ) from None
    if missing:
        raise ExportError(f"A TensorRT plan cannot be built here. Missing: {missing[0]}.\n{ACCELERATOR_ROUTE}")
    return tensorrt  # type: ignore[no-any-return]


def profiles(spec: ModelSpec) -> dict[str, dict[str, list[int]]]:
    """Smallest, usual and largest shape of each input: batch 1, half and all of the contract's."""
    largest = max(1, spec.max_batch_size)
    bounds = {"min": 1, "opt": max(1, largest // 2), "max": largest}
    return {tensor.name: {bound: [batch, *tensor.shape] for bound, batch in bounds.items()} for tensor in spec.inputs}


def build_plan(
    onnx: Path, spec: ModelSpec, trt: Any, *, timing_cache: Path | None = None, compute_capability: str | None = None
) -> bytes:
    """Build one engine with the `tensorrt` module given (or `tensorrt_rtx`, whose parser and builder need no GPU).

    Raises ExportError with the parser's own words when it does not take the graph.
    """
    log = trt.Logger(trt.Logger.VERBOSE if logger.isEnabledFor(logging.DEBUG) else trt.Logger.ERROR)
    builder = trt.Builder(log)
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # the default from TensorRT 11 on
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    # From the file, not from bytes: the weights of large models lie beside the graph.
    if not parser.parse_from_file(str(onnx)):
        problems = "\n  ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ExportError(f"TensorRT does not take {onnx.name} of {spec.name}:\n  {problems}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shapes in profiles(spec).items():
        profile.set_shape(name, tuple(shapes["min"]), tuple(shapes["opt"]), tuple(shapes["max"]))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT refused the batch sizes 1 to {spec.max_batch_size} of {spec.name}.")
    if compute_capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, compute_capability), 0)
    cache = _open_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT could not build an engine for {spec.name}; run with --verbose for its log.")
    if cache is not None and timing_cache is not None:
        with atomic_file(timing_cache) as file:
            file.write(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def add_plans(contract: Contract, files: dict[str, dict[str, Path | str]], timing_cache: Path) -> None:
    """Build a plan beside every ONNX file for this machine's GPU, with its sidecar, and add both to `files`.

    timing_cache: start of the name of a file that is kept from one build to the next.
    """
    trt = require_tensorrt()
    import torch

    major, minor = torch.cuda.get_device_capability()
    gpu, sm = torch.cuda.get_device_name(), f"{major}{minor}"
    for spec in (spec for spec in contract.models if spec.kind == "onnx"):
        onnx = files[spec.name]["model.onnx"]
        assert isinstance(onnx, Path)
        cache = timing_cache.with_name(f"{timing_cache.name}-{trt.__version__}-sm{sm}.cache")
        plan, sidecar = onnx.with_name(PLAN), onnx.with_name(SIDECAR)
        plan.write_bytes(build_plan(onnx, spec, trt, timing_cache=cache))
        write_json(sidecar, asdict(Sidecar(trt.__version__, gpu, sm, file_sha256(onnx), contract.precision, profiles(spec))))
        files[spec.name] |= {PLAN: plan, SIDECAR: sidecar}


def _open_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None or not hasattr(config, "create_timing_cache"):
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
