"""What this machine has: interpreter, accelerators, codecs, runtimes, servers, disk, memory."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from surg.doctor.findings import Finding, missing, ok, warning
from surg.errors import ServerError

GIB = 1024**3
MIN_FREE_GIB = 10
MIN_SHM_MIB = 256


def check_machine(*, server_url: str | None = None, ray_address: str | None = None) -> Iterator[Finding]:
    """Every check in the order in which it is read. Slow ones (torch, EGL) are imported here, not before."""
    yield python()
    yield torch()
    yield cuda()
    yield mps()
    yield codecs()
    yield from onnx_runtimes()
    yield tensorrt()
    yield embedded_triton()
    yield docker_engine()
    if server_url:
        yield external_triton(server_url)
    yield ray(ray_address)
    yield egl()
    yield transformers()
    yield disk(Path.cwd())
    yield shared_memory()
    yield memory()


def python() -> Finding:
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036 - doctor may be run from a source tree by an older interpreter
        return missing("Python", version, "surg needs Python 3.11 or newer.", required=True)
    if sys.version_info >= (3, 13):
        return warning("Python", version, "The embedded Triton needs 3.10 to 3.12; here the in-process engine serves.")
    return ok("Python", version, required=True)


def torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return missing("torch", str(error), "make env", required=True)
    return ok(
        "torch",
        f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        required=True,
    )


def cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        cards = []
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            cards.append(f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, SM {properties.major}{properties.minor}")
        return ok("CUDA", f"{torch.version.cuda}: " + "; ".join(cards))
    if shutil.which("nvidia-smi"):
        return warning(
            "CUDA",
            "a driver is there, but torch cannot use it",
            "Compare `nvidia-smi` with torch's CUDA version; an older driver needs an older torch.",
        )
    return missing("CUDA", "no NVIDIA GPU", "Everything runs on the CPU; for ViT-L and larger use a GPU machine.")


def mps() -> Finding:
    import torch

    if torch.backends.mps.is_available():
        return ok("MPS", "Apple GPU: use --device mps")
    return missing("MPS", "not an Apple GPU", "")


def codecs() -> Finding:
    try:
        import av
    except ImportError as error:
        return missing("FFmpeg in PyAV", str(error), "make env", required=True)
    wanted = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")
    absent = [name for name in wanted if name not in av.codecs_available]
    found = f"PyAV {av.__version__}: {', '.join(name for name in wanted if name not in absent)}"
    if absent:
        return warning("FFmpeg in PyAV", found, f"Cannot decode {', '.join(absent)}: convert such videos to H.264.")
    return ok("FFmpeg in PyAV", found, required=True)


def onnx_runtimes() -> Iterator[Finding]:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(installed) == 2:
        yield missing(
            "onnxruntime",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'surg[cpu]' or 'surg[gpu]', never both.",
            required=True,
        )
        return
    if not installed:
        yield missing(
            "onnxruntime",
            "not installed",
            "pip install 'surg[cpu]', or 'surg[gpu]' on a machine with an NVIDIA GPU.",
            required=True,
        )
        return
    import onnxruntime

    # get_available_providers lists what was compiled in; what can be used shows only when a session asks for it.
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    yield ok("onnxruntime", f"{installed[0]} {_version(installed[0])}, compiled with {', '.join(providers)}", required=True)


def tensorrt() -> Finding:
    if util.find_spec("tensorrt") is None:
        return missing(
            "TensorRT",
            "not installed",
            "Only for `surg export --format tensorrt`, on the GPU that will serve: pip install 'surg[tensorrt]'.",
        )
    return ok("TensorRT", _version("tensorrt") or "installed")


def embedded_triton() -> Finding:
    name = "Triton, embedded"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return missing(
            name,
            f"{sys.platform} {platform.machine()}",
            "The server's wheel is for Linux x86_64; use --engine docker, a --server URL, or the in-process engine.",
        )
    from surg.serving.engines.embedded import find_environment

    try:
        env = find_environment()
    except ServerError as error:
        return missing(name, str(error).splitlines()[0], "make triton-env")
    return ok(name, f"nvidia-pytriton's server binary, in its own environment of Python {env.python}")


def docker_engine() -> Finding:
    name = "Triton, Docker"
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=3)
        version = client.version()["Version"]
        client.close()
    except (DockerException, OSError, KeyError):
        return missing(name, "no Docker engine answers", "Only for --engine docker: start Docker, or use --engine embedded.")
    return ok(name, f"Docker engine {version}")


def external_triton(url: str) -> Finding:
    import http.client
    import json
    import urllib.error
    import urllib.request

    address = url if "://" in url else f"http://{url}"
    if not address.startswith(("http://", "https://")):
        return missing("Triton, given", url, "Give the HTTP address, such as http://localhost:8000.", required=True)
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/v2", timeout=5) as answer:
            facts = json.load(answer)
    except http.client.HTTPException:
        return missing(
            "Triton, given",
            f"{url} answers, but does not speak HTTP",
            "This may be the gRPC port (8001 by default); give the HTTP one (8000 by default).",
            required=True,
        )
    except (urllib.error.URLError, OSError, ValueError) as error:
        return missing(
            "Triton, given",
            f"{url} does not answer: {error}",
            "Start it, or check host and HTTP port (8000 by default).",
            required=True,
        )
    return ok("Triton, given", f"{facts.get('name')} {facts.get('version')} at {url}")


def ray(address: str | None) -> Finding:
    if util.find_spec("ray") is None:
        return missing("Ray", "not installed", "Only for --engine ray: pip install 'surg[cluster]'.")
    where = f", cluster {address}" if address else ""
    return ok("Ray", f"{_version('ray')}{where}")


def egl() -> Finding:
    name = "EGL rendering"
    if util.find_spec("moderngl") is None:
        return missing(
            name,
            "moderngl is not installed",
            "The room simulator then paints with OpenCV, without shadows: pip install 'surg[render]'.",
        )
    import moderngl

    try:
        context = moderngl.create_standalone_context(backend="egl")  # type: ignore[arg-type]  # their stub types **settings as dicts
        found = f"{context.info['GL_RENDERER']}, OpenGL {context.version_code / 100:.1f}"
        context.release()
    except Exception as error:  # noqa: BLE001 - drivers raise whatever they like; the check reports it
        return missing(
            name,
            str(error).splitlines()[0][:120],
            "The room simulator then paints with OpenCV. On Debian: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri.",
        )
    return ok(name, found)


def transformers() -> Finding:
    version = _version("transformers")
    if version is None:
        return missing(
            "transformers", "not installed", "Only for SAM, VLM tags and Hugging Face weights: pip install 'surg[hf]'."
        )
    return ok("transformers", version)


def disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / GIB
    if free < MIN_FREE_GIB:
        return warning("Free disk", f"{free:.1f} GiB here", f"Training wants {MIN_FREE_GIB} GiB for checkpoints and caches.")
    return ok("Free disk", f"{free:.0f} GiB here")


def shared_memory() -> Finding:
    place = Path("/dev/shm")
    if not place.is_dir():
        return missing("/dev/shm", "not there", "Clients then send frames over the socket; that is slower but works.")
    usage = shutil.disk_usage(place)
    if usage.free < MIN_SHM_MIB * 1024**2:
        return warning(
            "/dev/shm", f"{usage.free / 1024**2:.0f} MiB free", "The server wants 256 MiB; in a container use --shm-size=1g."
        )
    return ok("/dev/shm", f"{usage.free / GIB:.1f} GiB free")


def memory() -> Finding:
    total = total_memory()
    if total is None:
        return warning("Memory", "unknown on this system", "")
    found = f"{total / GIB:.0f} GiB, {os.cpu_count()} cores"
    if total < 4 * GIB:
        return warning("Memory", found, "Use the small sizes (tiny, small) and batch 1.")
    return ok("Memory", found)


def total_memory() -> int | None:
    """Bytes of main memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
