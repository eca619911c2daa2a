"""Made-up pictures with motion that is known exactly."""

import cv2
import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]


def texture(rng: np.random.Generator, height: int, width: int) -> Frames:
    """Coloured noise on several scales, so that flow has something to hold on to everywhere."""
    picture = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((6, 60.0), (24, 45.0), (64, 30.0)):
        noise = rng.standard_normal((cells, cells * width // height, 3)).astype(np.float32)
        picture += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def look(picture: Frames, matrix: npt.NDArray[np.float64], height: int, width: int) -> Frames:
    """The picture seen through `matrix` (2, 3): what was at (x, y) of the window is now at matrix @ (x, y, 1)."""
    margin_y, margin_x = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    shift = np.array([[1, 0, margin_x], [0, 1, margin_y], [0, 0, 1.0]])
    full = np.vstack([matrix, (0, 0, 1)])
    backward = shift @ np.linalg.inv(full)
    return cv2.warpAffine(
        picture, backward[:2], (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )


def similarity(
    dx: float, dy: float, zoom: float = 1.0, roll: float = 0.0, centre: tuple[float, float] = (0, 0)
) -> npt.NDArray[np.float64]:
    turn = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    middle = np.array(centre)
    return np.column_stack([turn, middle - turn @ middle + (dx, dy)])


def pan(dx: float, dy: float, count: int = 6, height: int = 160, width: int = 208, seed: int = 0) -> list[Frames]:
    """A picture whose whole content moves by (dx, dy) a frame."""
    picture = texture(np.random.default_rng(seed), height + 96, width + 96)
    return [look(picture, similarity(dx * i, dy * i), height, width) for i in range(count)]


def with_patch(
    frames: list[Frames], dx: float, dy: float, side: int = 48, seed: int = 1
) -> tuple[list[Frames], npt.NDArray[np.bool_]]:
    """Paste a patch of other texture that moves by (dx, dy) a frame on the screen; also its mask (T, H, W)."""
    height, width = frames[0].shape[:2]
    patch = texture(np.random.default_rng(seed), side, side)
    masks = np.zeros((len(frames), height, width), bool)
    out = []
    for index, frame in enumerate(frames):
        x = round(width / 2 - side / 2 + dx * (index - len(frames) / 2))
        y = round(height / 2 - side / 2 + dy * (index - len(frames) / 2))
        frame = frame.copy()
        frame[y : y + side, x : x + side] = patch
        masks[index, y : y + side, x : x + side] = True
        out.append(frame)
    return out, masks
