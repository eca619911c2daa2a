"""Which file a person means: a run folder, a file, or the name of the model that comes with the package."""

from pathlib import Path

from surg.errors import CheckpointError

SHIPPED = "surg-tiny"
"""The small model that comes with the package, wherever weights are named."""
_FOLDER = Path(__file__).parent / "shipped"


def shipped() -> Path:
    """The file of the model that comes with the package."""
    path = _FOLDER / f"{SHIPPED}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"{SHIPPED} is not in this installation ({path}).\nInstall the package anew, or train it: make model"
        )
    return path


def find_bundle(path: Path | str) -> Path:
    """A run folder stands for its best checkpoint, or its last where there is no best; `surg-tiny` for what ships; a file for itself."""
    if str(path) == SHIPPED and not Path(path).exists():
        return shipped()
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"There are no weights at {path}.\nName a run folder of surg train, a file, or {SHIPPED}; or fetch some: surg weights pull vitl"
        )
    if path.is_file() or (path / "config.json").is_file():
        return path
    for folder in (path / "checkpoints", path):
        for name in ("best", "last"):
            if (folder / f"{name}.safetensors").is_file():
                return folder / f"{name}.safetensors"
    raise CheckpointError(
        f"{path} holds no checkpoints/best.safetensors or last.safetensors: a run saves its first checkpoint after some steps.\n"
        f"Name another run folder of surg train, a file, or {SHIPPED}."
    )
