"""Robot poses as the 7 numbers that an action-conditioned world model takes, and the steps between them.

A state is position (3), Euler angles about the fixed x, y and z axes (3), gripper (1). An action is what leads from one state
to the next: the difference of positions, the rotation in between as Euler angles, the difference of the gripper.
Angles are taken from rotations and never subtracted: 179 and -179 degrees are 2 degrees apart.
"""

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

Floats = npt.NDArray[np.float64]
STATE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def states_of(positions: Floats, rotations: Floats, gripper: Floats) -> Floats:
    """positions (T, 3), rotation matrices (T, 3, 3), gripper (T,) -> states (T, 7)."""
    # Written to five digits the matrices are not quite orthogonal; from_matrix takes the nearest rotation.
    angles = Rotation.from_matrix(rotations).as_euler("xyz")
    return np.concatenate([positions, angles, gripper[:, None]], axis=1)


def actions_between(states: Floats) -> Floats:
    """states (T, 7) at the moments a model sees -> actions (T - 1, 7) that lead from each to the next."""
    rotations = Rotation.from_euler("xyz", states[:, 3:6])
    turned = (rotations[1:] * rotations[:-1].inv()).as_euler("xyz")
    return np.concatenate([np.diff(states[:, :3], axis=0), turned, np.diff(states[:, 6:], axis=0)], axis=1)
