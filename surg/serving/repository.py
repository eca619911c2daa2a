"""Triton's model repository on disk: configurations from the contract, versions, publishing that is never seen half done.

    REPO/<model>/config.pbtxt        names the versions to serve; the contract of each is in its parameters
    REPO/<model>/labels.txt          class names
    REPO/<model>/<version>/model.onnx (and model.onnx.data) or model.py

A version folder counts only once config.pbtxt names it, and config.pbtxt is replaced in one rename: a crash in between leaves
a folder nobody serves.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from surg.advice import quoted
from surg.config import Config
from surg.errors import ExportError, ServerError
from surg.runs import write_text
from surg.serving.contract import Contract, ModelSpec, contract_from_parameters, contract_parameters

logger = logging.getLogger(__name__)

LEAD_MODEL = "surg_clip"
KEEP = "surg.keep_versions"
PLAN = "model.plan"
"""A TensorRT engine beside model.onnx; where all versions served have one, they are what is served."""


class QueueConfig(Config):
    """How the server queues and batches.

    A limit or a time-out has its price: Triton then prepares no batch while another runs, and its batcher sleeps up to half a second
    over a request that comes meanwhile, or right after an answer (measured; its wake-up asks for an idle instance and is not
    repeated). So neither is set unless asked for: clients bound what they have under way, and a deadline that passes cancels.
    """

    max_queue_size: int = Field(0, ge=0)
    """Requests that wait per model before the next one is refused; 0: no limit."""
    timeout_ms: int = Field(0, ge=0)
    """A request that waited longer is rejected, and a request's own time-out counts in the queue too; 0: neither."""
    delay_us: int = Field(0, ge=0)
    """How long a batch may wait for company. Pays on a GPU; on a CPU it only adds itself to the latency."""
    keep_versions: int = Field(2, ge=1)
    """Newest versions that are served side by side. Older ones stay on disk, for a rollback, until their folders are removed."""
    threads: int = Field(0, ge=0)
    """Threads of onnxruntime per model; 0 means one per core."""
    accelerator: Literal["none", "tensorrt"] = "none"
    """`tensorrt`: onnxruntime builds TensorRT engines at the first load, cached under `engine_cache` (NVIDIA's image, GPU only)."""
    engine_cache: str = "/cache/trt"
    """A writable volume that outlives the container."""


def publish(
    repo: Path, contract: Contract, files: Mapping[str, Mapping[str, Path | str]], queue: QueueConfig | None = None
) -> int:
    """Put one new version of every model of `contract` into `repo` and return its number.

    files: per model the files of its version folder; a Path is copied (or linked), a str is written as text.
    Raises ExportError when the repository serves another interface: its callers would be broken.
    """
    queue = queue or QueueConfig()
    repo = Path(repo)
    repo.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(repo))
        before = interchangeable(repo, contract)
        number = max([0, *(version for spec in contract.models for version in _folders(repo / spec.name))]) + 1
        ready = {}
        for spec in contract.models:
            (repo / spec.name).mkdir(exist_ok=True)
            ready[spec.name] = stack.enter_context(_scratch(repo / spec.name)) / str(number)
            ready[spec.name].mkdir()
            for name, content in files[spec.name].items():
                _place(content, ready[spec.name] / name)
        for name, folder in ready.items():
            folder.replace(repo / name / str(number))
        everything = {**before, number: contract}
        served = _served(repo, contract, _on_disk(repo, everything), queue.keep_versions)
        _write_configs(repo, everything, served, queue)
    return number


@contextmanager
def _alone(repo: Path) -> Iterator[None]:
    """Whoever changes the versions of `repo` waits here for another that does: both would take the same number, and the second name
    in the configurations only what the first had not yet published. The lock lies on the folder itself; nothing is left behind."""
    import fcntl

    folder = os.open(repo, os.O_RDONLY)
    try:
        # Some network disks know no locks of folders: there one publishes at a time by oneself, as before.
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def interchangeable(repo: Path, contract: Contract) -> dict[int, Contract]:
    """The versions that `repo` has. Raises ExportError when `contract` has another interface than theirs."""
    before = contracts(repo) if is_repository(repo) else {}
    for version, old in before.items():
        try:
            contract.require_same_interface(old, f"Version {version} in {repo}")
        except ServerError as error:
            raise ExportError(f"{error}\nVersions of one repository must be interchangeable: choose another --out.") from error
    return before


def is_repository(path: Path) -> bool:
    return (Path(path) / LEAD_MODEL / "config.pbtxt").is_file() or any(Path(path).glob("*/config.pbtxt"))


def contracts(repo: Path) -> dict[int, Contract]:
    """All versions of a repository with their contracts, served or not. Raises ServerError when it is none of ours."""
    config = read_config(repo, lead_model(repo))
    return contract_from_parameters({key: value.string_value for key, value in config.parameters.items()}, str(repo))


def served_versions(repo: Path) -> list[int]:
    return sorted(read_config(repo, lead_model(repo)).version_policy.specific.versions)


def start_timeout_s(repo: Path) -> float:
    """How long a server may take until it answers: two minutes, and ten for every GB served. A ViT-L of 1.2 GB warms up with nine
    clips a model, each about 13 s on two cores."""
    served = set(map(str, served_versions(repo)))
    sizes = (file.stat().st_size for version in repo.glob("*/*") if version.name in served for file in version.glob("*"))
    return 120 + 600 * sum(sizes) / 1e9


def engine_cache(repo: Path) -> str | None:
    """Where in the container onnxruntime keeps TensorRT engines; None without that accelerator."""
    config = read_config(repo, lead_model(repo))
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        return str(accelerator.parameters["trt_engine_cache_path"]) or None
    return None


def rollback(repo: Path, to: int | None = None) -> tuple[list[int], list[int]]:
    """Serve versions up to `to` only (default: all but the newest served). Returns (served before, served now).

    The newer version stays on disk: `rollback(repo, to=newer)` brings it back.
    """
    lead_model(repo)  # says what is missing where there is none
    with _alone(repo):
        return _rollback(repo, to)


def _rollback(repo: Path, to: int | None) -> tuple[list[int], list[int]]:
    known, before = contracts(repo), served_versions(repo)
    on_disk = _on_disk(repo, known)
    if to is None:
        older = [version for version in on_disk if version < before[-1]]
        if not older:
            raise ServerError(
                f"{repo} serves version {before[-1]} and holds no older one to go back to (versions on disk: {on_disk})."
            )
        to = older[-1]
    if to not in on_disk:
        raise ServerError(f"{repo} has no version {to}; it holds {', '.join(map(str, on_disk)) or 'none'}.")
    keep = int(read_config(repo, lead_model(repo)).parameters[KEEP].string_value or 1)
    now = _served(repo, known[to], [version for version in on_disk if version <= to], keep)
    _write_configs(repo, known, now, None)
    return before, now


def read_config(repo: Path, model: str) -> Any:
    """A model's configuration as Triton's own protobuf message."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    path = Path(repo) / model / "config.pbtxt"
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except FileNotFoundError as error:
        raise ServerError(
            f"{repo} is no model repository: it has no {model}/config.pbtxt. Make one with surg export RUN --out {quoted(repo)}"
        ) from error
    except text_format.ParseError as error:
        raise ServerError(f"{path} is not a Triton model configuration: {error}") from error


def lead_model(repo: Path) -> str:
    """The model whose configuration speaks for the repository."""
    if (Path(repo) / LEAD_MODEL / "config.pbtxt").is_file():
        return LEAD_MODEL
    found = sorted(path.parent.name for path in Path(repo).glob("*/config.pbtxt"))
    if not found:
        raise ServerError(
            f"{repo} is no model repository: no folder in it has a config.pbtxt.\nMake one with surg export RUN --out {quoted(repo)}"
        )
    return found[0]


def model_config(spec: ModelSpec, contracts: Mapping[int, Contract], served: list[int], queue: QueueConfig) -> Any:
    """config.pbtxt of one model as a protobuf message, so that a field Triton does not know cannot be written."""
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig(
        name=spec.name, backend="onnxruntime" if spec.kind == "onnx" else "python", max_batch_size=spec.max_batch_size
    )
    config.default_model_filename = "model.onnx" if spec.kind == "onnx" else "model.py"
    labels = contracts[served[-1]].classes
    for tensor in spec.inputs:
        config.input.add(name=tensor.name, data_type=_data_type(tensor.dtype), dims=tensor.shape)
    for tensor in spec.outputs:
        config.output.add(
            name=tensor.name,
            data_type=_data_type(tensor.dtype),
            dims=tensor.shape,
            label_filename="labels.txt" if tensor.name == "action" and labels else "",
        )
    config.version_policy.specific.versions.extend(served)
    # KIND_AUTO: the GPU where there is one, the CPU where there is none; one file for both.
    config.instance_group.add(
        kind=pb.ModelInstanceGroup.KIND_AUTO if spec.kind == "onnx" else pb.ModelInstanceGroup.KIND_CPU, count=1
    )
    config.model_transaction_policy.decoupled = spec.decoupled
    if spec.batched:
        batching = config.dynamic_batching
        batching.preferred_batch_size.extend(
            sorted({size for size in (spec.max_batch_size // 2, spec.max_batch_size) if size > 1})
        )
        batching.max_queue_delay_microseconds = queue.delay_us
        if queue.max_queue_size or queue.timeout_ms:
            policy = batching.default_queue_policy
            policy.timeout_action = pb.ModelQueuePolicy.REJECT
            policy.default_timeout_microseconds = queue.timeout_ms * 1000
            policy.allow_timeout_override = bool(queue.timeout_ms)
            policy.max_queue_size = queue.max_queue_size
    if spec.kind == "onnx":
        for batch in sorted({1, max(1, spec.max_batch_size)}):
            warm = config.model_warmup.add(name=f"batch-{batch}", batch_size=batch if spec.batched else 0, count=1)
            for tensor in spec.inputs:
                value = warm.inputs[tensor.name]
                value.data_type = _data_type(tensor.dtype)
                value.dims.extend(abs(n) for n in tensor.shape)
                value.zero_data = True
        config.parameters["intra_op_thread_count"].string_value = str(queue.threads)
        if queue.accelerator == "tensorrt":
            _add_tensorrt(config, spec, queue)
    if spec.kind == "python":
        config.parameters["window_frames"].string_value = str(contracts[served[-1]].preprocess.num_frames)
    for key, value in contract_parameters(contracts).items():
        config.parameters[key].string_value = value
    config.parameters["surg.checkpoint_sha256"].string_value = contracts[served[-1]].checkpoint_sha256
    config.parameters[KEEP].string_value = str(queue.keep_versions)
    return config


def _add_tensorrt(config: Any, spec: ModelSpec, queue: QueueConfig) -> None:
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    # No precision_mode: TensorRT 11 takes precision from the graph (export with --precision fp16).
    accelerator.parameters["trt_engine_cache_enable"] = "1"
    accelerator.parameters["trt_engine_cache_path"] = queue.engine_cache
    accelerator.parameters["trt_timing_cache_enable"] = "1"
    accelerator.parameters["trt_timing_cache_path"] = queue.engine_cache
    for bound, batch in (("min", 1), ("opt", max(1, spec.max_batch_size // 2)), ("max", max(1, spec.max_batch_size))):
        shapes = ",".join(f"{t.name}:{'x'.join(map(str, (batch, *map(abs, t.shape))))}" for t in spec.inputs)
        accelerator.parameters[f"trt_profile_{bound}_shapes"] = shapes


def _write_configs(repo: Path, known: Mapping[int, Contract], served: list[int], queue: QueueConfig | None) -> None:
    from google.protobuf import text_format

    newest = known[served[-1]]
    plans = _has_plans(repo, newest, served[-1])
    # The lead model last: its configuration is the one that clients and tools read the versions from.
    for spec in sorted(newest.models, key=lambda model: model.name == LEAD_MODEL):
        if queue is None:
            config = read_config(repo, spec.name)
            del config.version_policy.specific.versions[:]
            config.version_policy.specific.versions.extend(served)
            config.parameters["surg.checkpoint_sha256"].string_value = newest.checkpoint_sha256
        else:
            config = model_config(spec, known, served, queue)
            if newest.classes:
                write_text(repo / spec.name / "labels.txt", "\n".join(newest.classes) + "\n")
        if spec.kind == "onnx":
            _choose_backend(config, plans=plans)
        write_text(repo / spec.name / "config.pbtxt", text_format.MessageToString(config, as_utf8=True))


def _on_disk(repo: Path, known: Mapping[int, Contract]) -> list[int]:
    """Versions whose folders are all there: older ones are removed by hand, and nothing else makes room."""
    return [v for v in sorted(known) if all((repo / spec.name / str(v)).is_dir() for spec in known[v].models)]


def _has_plans(repo: Path, contract: Contract, version: int) -> bool:
    return all((repo / spec.name / str(version) / PLAN).is_file() for spec in contract.models if spec.kind == "onnx")


def _served(repo: Path, newest: Contract, versions: list[int], keep: int) -> list[int]:
    """The newest `keep` of `versions`. A model has one backend for all its versions: with plans in the newest, those that have plans."""
    if _has_plans(repo, newest, versions[-1]):
        versions = [version for version in versions if _has_plans(repo, newest, version)]
    return versions[-keep:]


def _choose_backend(config: Any, *, plans: bool) -> None:
    from tritonclient.grpc import model_config_pb2 as pb

    if plans:
        config.backend, config.default_model_filename = "tensorrt", PLAN
        config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_GPU
        config.ClearField("optimization")
    elif config.backend == "tensorrt":
        config.backend, config.default_model_filename = "onnxruntime", "model.onnx"
        config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_AUTO


def _data_type(name: str) -> int:
    from tritonclient.grpc import model_config_pb2 as pb

    return int(pb.DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"))


def _folders(model: Path) -> list[int]:
    return [int(path.name) for path in model.iterdir() if path.is_dir() and path.name.isdigit()] if model.is_dir() else []


def _place(content: Path | str, target: Path) -> None:
    if isinstance(content, str):
        target.write_text(content)
        return
    try:
        os.link(content, target)  # same disk: gigabytes of weights are not copied twice
    except OSError:
        shutil.copyfile(content, target)


@contextmanager
def _scratch(model: Path) -> Iterator[Path]:
    """A folder beside the versions, which Triton passes over: its name is no number. Not beside the repository, which may be a
    volume of its own, and nothing is renamed from one disk to another."""
    folder = Path(tempfile.mkdtemp(prefix=".publishing-", dir=model))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
