"""Make the small golden files from the folder of reference numbers:  python tests/golden/make.py REFERENCE_FOLDER

The reference numbers come from the official V-JEPA 2 code (see the README there). To stay below 3 MB here

- floats are stored by byte plane and compressed as one stream per file (`read` below is the way back);
- what the training step needs is exact; other weights and clips lose a few of their 23 mantissa bits (outputs move by < 3e-5);
- of clips that are only encoded, the first of two is kept, and the outputs that belong to it;
- weights after the training step are kept as changes, every fourth entry, in 1/127 of the tensor's largest change (1e-6).
"""

import json
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
Arrays = dict[str, np.ndarray]


def write(path: Path, arrays: Arrays) -> None:
    """Floats as four byte planes over the whole file, everything else as it is, behind a JSON index."""
    order = sorted(arrays, key=lambda name: arrays[name].dtype != np.float32)
    index = [(name, arrays[name].dtype.str, arrays[name].shape) for name in order]
    floats = [arrays[name].tobytes() for name in order if arrays[name].dtype == np.float32]
    rest = [arrays[name].tobytes() for name in order if arrays[name].dtype != np.float32]
    planes = np.frombuffer(b"".join(floats), np.uint8).reshape(-1, 4).T.tobytes()
    header = json.dumps(index).encode()
    path.write_bytes(lzma.compress(len(header).to_bytes(4, "little") + header + planes + b"".join(rest), preset=9))


def read(path: Path) -> Arrays:
    content = lzma.decompress(path.read_bytes())
    start = 4 + int.from_bytes(content[:4], "little")
    index = json.loads(content[4:start])
    sizes = [np.dtype(dtype).itemsize * int(np.prod(shape)) for _, dtype, shape in index]
    floats = sum(size for size, (_, dtype, _) in zip(sizes, index) if dtype == "<f4")
    body = np.frombuffer(content[start : start + floats], np.uint8).reshape(4, -1).T.tobytes() + content[start + floats :]
    out, offset = {}, 0
    for size, (name, dtype, shape) in zip(sizes, index):
        out[name] = np.frombuffer(body, dtype, int(np.prod(shape)), offset).reshape(shape).copy()
        offset += size
    return out


def clean(state: dict[str, Any]) -> Arrays:
    return {key.replace("module.", "").replace("backbone.", ""): tensor.numpy() for key, tensor in state.items()}


def cut(array: np.ndarray, bits: int) -> np.ndarray:
    if bits == 0:
        return array
    words = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((words + np.uint32(1 << (bits - 1))) & ~np.uint32((1 << bits) - 1)).view(np.float32)


def weights(state: dict[str, Any], bits: int = 0) -> Arrays:
    return {f"weights/{key}": cut(array, bits) for key, array in clean(state).items()}


def changes(part: str, before: dict[str, Any], after: dict[str, Any]) -> Arrays:
    out, old = {}, clean(before)
    for key, new in clean(after).items():
        change = (new.astype(np.float64) - old[key]).reshape(-1)
        largest = np.abs(change).max()
        out[f"{part}/{key}"] = np.round(change[::4] / max(largest, 1e-12) * 127).astype(np.int8)
        out[f"{part}_largest/{key}"] = np.asarray(largest, np.float32)
    return out


def load(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True) if path.suffix == ".pt" else dict(np.load(path))


def main(source: Path) -> None:
    v2, v21 = source / "v2", source / "v21"
    checkpoint, step = load(v2 / "checkpoint.pt"), load(v2 / "train_step.pt")
    files: dict[str, Arrays] = {"v2_train_step": load(v2 / "train_step.npz")}
    for part in ("encoder", "target_encoder", "predictor"):
        files[f"v2_{part}"] = weights(checkpoint[part])
        files["v2_train_step"] |= changes(part, checkpoint[part], step[part])
    files["v2_probe"] = weights(load(v2 / "probe.pt")["classifiers"][0], bits=6) | load(v2 / "probe.npz")
    one = {"clip_wide", "clip_short", "encoder_wide", "encoder_short"}
    arrays = load(v2 / "inputs.npz") | load(v2 / "outputs.npz")
    files["v2_arrays"] = {
        key: cut(array, bits=3) if key.startswith("clip_") else array
        for key, array in ((key, array[:1] if key in one else array) for key, array in arrays.items())
    }
    files["hf_arrays"] = {key: array[:1] for key, array in load(source / "hf_outputs.npz").items()}
    for flavour, key in (("pretrained", "target_encoder"), ("distilled", "ema_encoder")):
        checkpoint = load(v21 / f"checkpoint_{flavour}.pt")
        for part in (key, "predictor"):
            files[f"v21_{flavour}_{part}"] = weights(checkpoint[part], bits=3 if part == "predictor" else 2)
    arrays = load(v21 / "inputs.npz") | load(v21 / "outputs.npz")
    given = {"clip", "clip_wide", "image"}
    files["v21_arrays"] = {key: cut(array[:1], bits=2) if key in given else array[:1] for key, array in arrays.items()}
    for name, content in files.items():
        write(HERE / f"{name}.xz", content)
    total = sum(path.stat().st_size for path in HERE.glob("*.xz"))
    print(f"{len(files)} files, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
