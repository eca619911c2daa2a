import gzip
from importlib.util import find_spec
from pathlib import Path

import pytest

DEBIAN = Path("/usr/share/doc/opencv-doc")
DEBIAN_VIDEOS = (
    "examples/data/vtest.avi",
    "examples/data/tree.avi",
    "examples/data/Megamind.avi",
    "examples/data/Megamind_bugy.avi",
    "opencv4/html/cup.mp4",
    "opencv4/html/box.mp4",
)
OTHERS = (Path("/usr/share/doc/node-opencv/examples/files/motion.mov"),)


@pytest.fixture(scope="session")
def real_videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Videos that nobody here made. gradio's is always there; Debian's when its package opencv-doc is installed."""
    folder = tmp_path_factory.mktemp("real")
    found = [path for path in OTHERS if path.exists()]
    for name in DEBIAN_VIDEOS:
        plain, packed = DEBIAN / name, DEBIAN / (name + ".gz")
        if plain.exists():
            found.append(plain)
        elif packed.exists():
            unpacked = folder / plain.name
            unpacked.write_bytes(gzip.decompress(packed.read_bytes()))
            found.append(unpacked)
    gradio = find_spec("gradio")
    assert gradio is not None
    assert gradio.origin is not None
    found.append(Path(gradio.origin).parent / "media_assets/videos/world.mp4")
    return found
