"""Where the bodies of an image are, pixel by pixel, and what losses and occlusion should leave alone.

A record has each body's region as its source stated it, polygons or runs, and nothing of it is stored a second time.
Here it is drawn, when somebody asks, with pycocotools, so the pixels are COCO's own.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from posecore.schema import NUMBERS_OF_A_POLYGON, Instance, Json, Record, Segmentation

Rle: TypeAlias = dict[str, Json]
"""``{"size": [height, width], "counts": bytes}``, compressed as pycocotools does."""


def segmentation_rle(segmentation: Segmentation | None, height: int, width: int) -> Rle | None:
    """A region of a picture, or None where there is nothing to draw.

    Args:
        segmentation: polygons or RLE that :func:`~posecore.formats.segmentations.check_regions` has passed.
        height: of the picture.
        width: of the picture.

    Raises:
        ValueError: an RLE was made for another size.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"the mask was made for size {segmentation['size']}, but the image has {[height, width]}.")
        counts = segmentation["counts"]
        if isinstance(counts, list):
            return coco_mask.frPyObjects(segmentation, height, width)
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    polygons = [polygon for polygon in segmentation if len(polygon) >= NUMBERS_OF_A_POLYGON]
    if not polygons:
        return None
    parts = coco_mask.frPyObjects(polygons, height, width)
    return parts[0] if len(parts) == 1 else coco_mask.merge(parts)


def instance_rles(record: Record) -> list[Rle | None]:
    """The region of every body of an image, None where the dataset has none for it."""
    return [segmentation_rle(body.segmentation, record.height, record.width) for body in record.instances]


def ignore_rle(record: Record) -> Rle | None:
    """Crowds and bodies without any labelled point, by their regions or else their boxes; None if there are none.

    What sees the whole image must not take them for background: losses leave these pixels out, and nothing is pasted
    there as if it were free.
    """
    ignored = [body for body in record.instances if body.is_crowd or not body.keypoints[:, 2].any()]
    rles = [
        segmentation_rle(body.segmentation, record.height, record.width) or _box_rle(body, record.height, record.width)
        for body in ignored
    ]
    return coco_mask.merge(rles) if len(rles) > 1 else next(iter(rles), None)


def pixels(rle: Rle) -> NDArray[np.bool_]:
    """(height, width) bool of a region."""
    return np.asarray(coco_mask.decode(rle)).astype(np.bool_)


def _box_rle(body: Instance, height: int, width: int) -> Rle:
    x, y, w, h = body.bbox_xywh
    left, top = min(max(x, 0.0), width), min(max(y, 0.0), height)
    right, bottom = min(max(x + w, left), width), min(max(y + h, top), height)
    return coco_mask.frPyObjects(np.array([[left, top, right - left, bottom - top]], np.float64), height, width)[0]
