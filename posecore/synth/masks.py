"""Boxes, polygons and run lengths of a rendered mask, as COCO files hold them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.schema import Json

_ZOOM = 4
"""Outlines are traced on the mask enlarged this often, so that they run along pixel edges to 1/8 px."""


def mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x, y, width, height of the pixels' extent, px; the mask must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def mask_polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Outer outlines as flat x, y lists in COCO's convention (a pixel spans its index to its index + 1)."""
    x, y, width, height = mask_box(mask)
    crop = mask[y : y + height, x : x + width].astype(np.uint8)
    zoomed = cv2.resize(crop, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(zoomed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for outline in outlines:
        simple = cv2.approxPolyDP(outline, 0.5 * _ZOOM, closed=True)
        points = (simple if len(simple) >= 3 else outline).reshape(-1, 2)
        polygons.append(((points + 0.5) / _ZOOM + [x, y]).round(2).ravel().tolist())
    return polygons


def mask_runs(mask: NDArray[np.bool_]) -> dict[str, Json]:
    """Uncompressed COCO RLE: lengths of runs in column order, the first of them of zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[-1], edges, [flat.size - 1]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}
