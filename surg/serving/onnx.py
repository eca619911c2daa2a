"""Modules to ONNX files: fp32, fp16 or int8; dynamic batch; opset 20; weights of large models beside the graph.

Precision is part of the graph. TensorRT 11 has no precision flags any more, and onnxruntime never had: what the file says is
what runs.
"""

import hashlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from surg.errors import ExportError
from surg.serving.contract import ModelSpec, TensorSpec
from surg.serving.graph import lay_out

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "int8"]
OPSET = 20
FUSED_DOMAIN = "com.microsoft"
"""onnxruntime's own operators; its CPU and CUDA providers both have MultiHeadAttention."""
EMBED_BELOW_BYTES = 1_500_000_000
"""Weights above this go into model.onnx.data: a protobuf file ends at 2 GB."""


def export_onnx(
    module: nn.Module, spec: ModelSpec, path: Path, precision: Precision = "fp32", *, fused: bool = False
) -> list[Path]:
    """Write `module` as `path` and return the files written. The name of the weights file is recorded inside the graph:
    the two must stay together under these names.

    fused: attention as onnxruntime's own operator, for graphs that nothing else will read. Not in fp16: its CPU kernel is fp32's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if precision == "int8":
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            _trace(module, spec, Path(scratch) / "fp32.onnx", fused=fused, whole_numbers=True)
            _quantise(Path(scratch) / "fp32.onnx", path)
    else:
        fused = fused and precision == "fp32"
        _trace(module.half() if precision == "fp16" else module, spec, path, fused=fused)
    _check(path, spec, {FUSED_DOMAIN} if fused else set())
    logger.info("%s: %.1f MB %s", spec.name, sum(file.stat().st_size for file in _files(path)) / 1e6, precision)
    return _files(path)


def _trace(module: nn.Module, spec: ModelSpec, path: Path, *, fused: bool, whole_numbers: bool = False) -> None:
    lay_out(module, fused=fused, whole_numbers=whole_numbers)
    fused = any(getattr(part, "fused", False) for part in module.modules())
    examples = tuple(_example(tensor) for tensor in spec.inputs)
    names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        warnings.simplefilter("ignore")  # of the tracer about shapes that are constants here, and of its own age
        # The tracing exporter, not dynamo's: the same operators for these modules, in 4 s instead of 25 s for tiny on one core.
        traced = Path(scratch) / "model.onnx"
        torch.onnx.export(
            module,
            examples,
            str(traced),
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_axes={name: {0: "batch"} for name in names},
            custom_opsets={FUSED_DOMAIN: 1} if fused else None,
        )
        _finish(traced, spec, path)


def _finish(traced: Path, spec: ModelSpec, path: Path) -> None:
    """State the output shapes that the tracer left open, and keep the weights inside the file as long as they fit."""
    import onnx

    model = onnx.load(str(traced))
    _share_weights(model)
    _name_after_weights(model)
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        for dim, length in zip(dims[1:], spec.output(value.name).shape):
            dim.dim_value = length
    size = sum(file.stat().st_size for file in traced.parent.iterdir())
    if size < EMBED_BELOW_BYTES:
        onnx.save(model, str(path))
    else:
        onnx.save(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=path.name + ".data")


def _example(tensor: TensorSpec) -> torch.Tensor:
    shape = (2, *tensor.shape)
    if tensor.dtype == "UINT8":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.ones(shape)


def _files(path: Path) -> list[Path]:
    data = path.with_name(path.name + ".data")
    return [path, data] if data.exists() else [path]


def _check(path: Path, spec: ModelSpec, allowed: set[str]) -> None:
    """The file must stand on its own: checked by ONNX, no operators but standard ones and those of the domains `allowed`, a
    free batch axis, the contract's tensors."""
    import onnx

    onnx.checker.check_model(str(path), full_check=path.stat().st_size < 500_000_000)
    graph = onnx.load(str(path), load_external_data=False)
    foreign = sorted({node.domain for node in graph.graph.node if node.domain not in {"", "ai.onnx", *allowed}})
    if foreign:
        raise ExportError(f"{spec.name} uses operators that only some runtimes know (domains {foreign}).")
    for found, wanted in ((graph.graph.input, spec.inputs), (graph.graph.output, spec.outputs)):
        shapes = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in found}
        for tensor in wanted:
            if tensor.name not in shapes:
                raise ExportError(f"{spec.name} lost `{tensor.name}` on the way to ONNX; it has {sorted(shapes)}.")
            batch, *rest = shapes[tensor.name]
            if not isinstance(batch, str) or tuple(rest) != tensor.shape:
                raise ExportError(
                    f"`{tensor.name}` of {spec.name} came out as {shapes[tensor.name]}; expected a free batch, then {list(tensor.shape)}."
                )


def _share_weights(model: Any) -> None:
    """Let nodes read a shared weight itself: the tracer puts an Identity before its second use."""
    names = {tensor.name for tensor in model.graph.initializer}
    kept: list[Any] = []
    same: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Identity" and (source := same.get(node.input[0], node.input[0])) in names:
            same[node.output[0]] = source
            continue
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _name_after_weights(model: Any) -> None:
    """Put a hash of the weights into the name of every value in between.

    onnxruntime finds a TensorRT engine it built before by the names of a graph's values, and by nothing else of it: of two checkpoints
    of one shape the second would be served with the engine, so the weights, of the first (onnxruntime#6455).
    """
    found = hashlib.sha256()
    for tensor in model.graph.initializer:
        found.update(tensor.name.encode())
        found.update(tensor.SerializeToString())
    for node in model.graph.node:
        found.update(node.SerializeToString())
    mark = found.hexdigest()[:16]
    outside = {value.name for value in model.graph.output}
    marked = {name: f"{name}_{mark}" for node in model.graph.node for name in node.output if name and name not in outside}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = marked.get(name, name)
    for value in model.graph.value_info:
        value.name = marked.get(value.name, value.name)


def _quantise(source: Path, target: Path) -> None:
    """Weights of the matrix products to int8 per channel, activations quantised as they come (dynamic)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = source.with_name("prepared.onnx")
    onnx.save(_without_gemm(onnx.load(str(source))), str(prepared))
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a step that would undo ours, and asks whether the graph is quantised already
    try:
        quantize_dynamic(
            str(prepared),
            str(target),
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            # Shape inference gives up on the part of the clip that surg_world cuts off; everything quantised here is float.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    finally:
        root.setLevel(level)


def _without_gemm(model: Any) -> Any:
    """Gemm as MatMul and Add. The quantiser does so too, but turns a weight that two nodes share round twice."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    turned: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or node.input[1] not in weights:
            nodes.append(node)
            continue
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0
        assert not settings.get("transA", 0)
        weight = node.input[1]
        if settings.get("transB", 0):
            if weight not in turned:
                turned[weight] = f"{weight}_turned"
                flipped = numpy_helper.to_array(weights[weight]).T.copy()
                model.graph.initializer.append(numpy_helper.from_array(flipped, turned[weight]))
            weight = turned[weight]
        product = f"{node.output[0]}_product"
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=f"{node.name}_MatMul"))
        nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_Add"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model
