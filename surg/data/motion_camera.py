"""Camera motion between two frames: a similarity (pan, zoom, roll) fitted to the flow by RANSAC.

A median would see the pan alone and would take a zoom for a picture full of moving things.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from surg.data.motion_flow import Flow, Gray

GRID = 12
MIN_POINTS = 24


@dataclass(frozen=True)
class CameraMotion:
    """How the still part of the picture moved, in pixels of the picture: [x', y'] = matrix @ [x, y, 1]."""

    matrix: npt.NDArray[np.float64]
    centre: tuple[float, float]
    inliers: float
    """Share of the grid points that follow it; 0 when nothing could be fitted and the camera is taken to rest."""

    @property
    def shift(self) -> tuple[float, float]:
        """Movement of the picture's centre in pixels: (dx, dy), positive to the right and down. The camera itself goes the other way."""
        x, y = self.centre
        moved = self.matrix @ (x, y, 1.0)
        return float(moved[0] - x), float(moved[1] - y)

    @property
    def zoom(self) -> float:
        """Scale from one frame to the next; above 1 the picture grows."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    @property
    def roll(self) -> float:
        """Turn in radians; positive is clockwise on the screen."""
        return float(np.arctan2(self.matrix[1, 0], self.matrix[0, 0]))

    def flow(self, height: int, width: int, step: int = 1) -> Flow:
        """The flow that this camera motion alone would cause, at every `step`-th pixel."""
        return np.stack(self.flow_planes(height, width, step), axis=-1)

    def flow_planes(self, height: int, width: int, step: int = 1) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The same as two pictures: to the right and down."""
        x = np.arange(0, width, step, dtype=np.float32)[None, :]
        y = np.arange(0, height, step, dtype=np.float32)[:, None]
        (a, b, tx), (c, d, ty) = self.matrix.astype(np.float32)
        return ((a - 1) * x + tx) + b * y, c * x + ((d - 1) * y + ty)


def fit_camera(
    flow: Flow, gray: Gray, *, threshold_px: float = 1.0, exclude: npt.NDArray[np.bool_] | None = None
) -> CameraMotion:
    """Fit the camera's motion to a flow field.  flow: (H, W, 2), gray: the earlier frame (H, W).

    Only textured points vote: flow on a blank wall, on the black around an endoscope's round picture or on a blown-out highlight is
    a guess (usually zero) and would hold the estimate back. `exclude` (H, W) takes out pixels known to move by themselves.
    """
    height, width = gray.shape
    centre = (width / 2, height / 2)
    ys, xs = np.mgrid[GRID // 2 : height : GRID, GRID // 2 : width : GRID]
    usable = textured(gray)[ys, xs]
    if exclude is not None:
        usable &= ~exclude[ys, xs]
    points = np.stack([xs[usable], ys[usable]], axis=-1).astype(np.float32)
    if len(points) < MIN_POINTS:
        return CameraMotion(np.eye(2, 3), centre, 0.0)
    moved = points + flow[ys[usable], xs[usable]]
    matrix, inliers = cv2.estimateAffinePartial2D(
        points, moved, method=cv2.RANSAC, ransacReprojThreshold=threshold_px, maxIters=200, confidence=0.99, refineIters=0
    )
    if matrix is None or inliers.sum() < MIN_POINTS // 2:
        return CameraMotion(np.eye(2, 3), centre, 0.0)
    kept = inliers.ravel().astype(bool)
    share = float(kept.mean())
    start, end = _complex(points), _complex(moved)
    turn, shift = _least_squares(start[kept], end[kept])
    for _ in range(2):
        # Flow is smooth, so points beside a moving thing are dragged along a little; twice the median error parts them from the rest.
        error = np.abs(turn * start + shift - end)
        near = error <= max(2 * float(np.median(error[kept])), 0.05)
        if near.sum() < MIN_POINTS // 2:
            break
        kept = near
        turn, shift = _least_squares(start[kept], end[kept])
    return CameraMotion(np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]), centre, share)


def textured(gray: Gray) -> npt.NDArray[np.bool_]:
    """Where the picture has enough texture for its flow to mean something: (H, W)."""
    height, width = gray.shape
    # At half size: a quarter of the time, and the codec's noise is averaged away.
    half = np.asarray(cv2.resize(gray, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA), np.uint8)
    gx = cv2.Sobel(half, cv2.CV_32F, 1, 0, ksize=3)
    gy = cv2.Sobel(half, cv2.CV_32F, 0, 1, ksize=3)
    energy = np.asarray(cv2.boxFilter(cv2.magnitude(gx, gy), -1, (5, 5)), np.float32)
    # 20 is a grey level difference of 2.5 from one to the next: above the noise of a compressed video, below the faintest vessel.
    enough = ((energy > 20.0) & _inside(half)).astype(np.uint8)
    return np.asarray(cv2.resize(enough, (width, height), interpolation=cv2.INTER_NEAREST), bool)


def _inside(gray: Gray) -> npt.NDArray[np.bool_]:
    """Without the black border and its edge: that edge is the lens', it stands still however the camera moves."""
    dark = (gray < 12).astype(np.uint8)
    solid = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.dilate(solid, np.ones((9, 9), np.uint8)) == 0)


def _complex(points: npt.NDArray[np.float32]) -> npt.NDArray[np.complex128]:
    """x + iy of points (n, 2)."""
    return points.astype(np.float64).view(np.complex128)[:, 0]


def _least_squares(start: npt.NDArray[np.complex128], end: npt.NDArray[np.complex128]) -> tuple[complex, complex]:
    """The similarity nearest to point pairs, end = turn * start + shift: rotation and scale are one complex number."""
    start_mean, end_mean = complex(start.mean()), complex(end.mean())
    centred = start - start_mean
    turn = complex(np.vdot(centred, end - end_mean)) / max(float(np.vdot(centred, centred).real), 1e-9)
    return turn, end_mean - turn * start_mean
