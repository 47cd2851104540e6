"""UDP-DARK decoding on whole maps with OpenCV, written from the published formula, one map after the other."""

import cv2
import numpy as np


def decode(maps: np.ndarray, kernel: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, k, 2) in heatmap pixels and scores (n, k) of maps (n, k, h, w) float32."""
    points = np.empty((*maps.shape[:2], 2))
    scores = maps.max(axis=(2, 3))
    for index in np.ndindex(maps.shape[:2]):
        points[index] = _decode_one(maps[index], kernel)
    return points, scores


def _decode_one(heatmap: np.ndarray, kernel: int) -> np.ndarray:
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    if heatmap[row, column] <= 0:
        return np.array([-1.0, -1.0])
    blurred = cv2.GaussianBlur(heatmap, (kernel, kernel), 0)
    logs = np.pad(np.log(np.clip(blurred, 0.001, 50)), 1, mode="edge").astype(np.float64)
    x, y = column + 1, row + 1
    gradient = np.array([logs[y, x + 1] - logs[y, x - 1], logs[y + 1, x] - logs[y - 1, x]]) / 2
    xx = logs[y, x + 1] - 2 * logs[y, x] + logs[y, x - 1]
    yy = logs[y + 1, x] - 2 * logs[y, x] + logs[y - 1, x]
    xy = (
        logs[y + 1, x + 1]
        - logs[y, x + 1]
        - logs[y + 1, x]
        + 2 * logs[y, x]
        - logs[y, x - 1]
        - logs[y - 1, x]
        + logs[y - 1, x - 1]
    ) / 2
    hessian = np.array([[xx, xy], [xy, yy]]) + np.finfo(np.float32).eps * np.eye(2)
    return np.array([column, row]) - np.linalg.inv(hessian) @ gradient
