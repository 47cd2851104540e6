"""The 68 face points on a unit head: x to the subject's left and y up, in head half-sizes from its centre."""

import numpy as np
from numpy.typing import NDArray

EYE_X, EYE_Y = 0.40, 0.08
MOUTH_Y = -0.52
NOSE_TIP_Y = -0.20


def _template() -> NDArray[np.float64]:
    """(68, 2) in the iBUG order; the contour runs from the subject's right jaw to the left."""
    points = np.zeros((68, 2))
    jaw = np.deg2rad(np.linspace(180, 360, 17))
    points[:17] = np.stack([0.90 * np.cos(jaw), 0.05 + 0.90 * np.sin(jaw)], axis=1)
    brow_x = np.linspace(-0.64, -0.16, 5)
    brow_y = EYE_Y + np.array([0.17, 0.24, 0.26, 0.24, 0.20])
    points[17:22] = np.stack([brow_x, brow_y], axis=1)
    points[22:27] = np.stack([-brow_x[::-1], brow_y[::-1]], axis=1)
    points[27:31] = np.stack([np.zeros(4), np.linspace(EYE_Y, NOSE_TIP_Y, 4)], axis=1)
    points[31:36] = np.stack([np.linspace(-0.16, 0.16, 5), NOSE_TIP_Y - np.array([0.06, 0.09, 0.10, 0.09, 0.06])], 1)
    lid = np.array([[-0.14, 0], [-0.05, 0.055], [0.05, 0.055], [0.14, 0], [0.05, -0.055], [-0.05, -0.055]])
    points[36:42] = lid + np.array([-EYE_X, EYE_Y])  # from the outer corner of the subject's right eye
    points[42:48] = lid + np.array([EYE_X, EYE_Y])  # from the inner corner of the left one
    outer_x = 0.30 * np.array([-1, -0.65, -0.25, 0, 0.25, 0.65, 1, 0.65, 0.25, 0, -0.25, -0.65])
    outer_y = MOUTH_Y + np.array([0, 0.06, 0.08, 0.07, 0.08, 0.06, 0, -0.06, -0.09, -0.10, -0.09, -0.06])
    points[48:60] = np.stack([outer_x, outer_y], axis=1)
    inner_x = 0.24 * np.array([-1, -0.4, 0, 0.4, 1, 0.4, 0, -0.4])
    inner_y = MOUTH_Y + np.array([0, 0.02, 0.02, 0.02, 0, -0.02, -0.02, -0.02])
    points[60:68] = np.stack([inner_x, inner_y], axis=1)
    return points


def on_head(x: float, y: float, raise_by: float = 0.0) -> NDArray[np.float64]:
    """The point above face-plane position (x, y) on the unit head's front, lifted by ``raise_by`` half-sizes."""
    return np.array([x, y, np.sqrt(max(0.0, 1 - x * x - y * y)) + raise_by])


_LIFT = {27: 0.04, 28: 0.08, 29: 0.12, 30: 0.16, **dict.fromkeys(range(31, 36), 0.06)}
"""How far the nose stands out."""

FACE_POINTS: NDArray[np.float64] = np.array(
    [on_head(x, y, _LIFT.get(index, 0.0)) for index, (x, y) in enumerate(_template().tolist())]
)
"""(68, 3) on the unit head."""
