"""Boxes, crops and mirrors: the published top-down crop geometry, in numpy, for one instance or a whole batch.

A crop is named by ``center`` (x, y), ``scale`` (w, h), both in source-image pixels, and ``rotation`` in degrees. Two
conventions exist, and mixing them costs accuracy without any error:

``udp``
    Unbiased data processing: the unit is the distance between pixel centres, so the first and last pixel centres of
    the crop are its ends (W - 1, H - 1), and a box of another shape than the crop is stretched to fit. Warp, target
    and back-projection all follow.
``msra``
    The older convention: one isotropic factor W / w about the centre, so a box of another shape is cut by its width.

Source: ViTPose (ViTAE-Transformer/ViTPose @ c050ed2), ``top_down_transform.py`` and ``post_transforms.py``. The two
published conventions also rotate in opposite directions; this is kept, since the angle is drawn symmetrically.
"""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

CropConvention: TypeAlias = Literal["udp", "msra"]

MAX_REACH = 10.0
"""A box or a point further than this many longer sides of its picture from the picture's corner is no body's."""
MAX_COORDINATE_PX = 1e6
"""The same where the picture is not known: ten times beyond the largest pictures."""

_MIRROR = np.array([-1.0, 1.0])


def beyond_reach(
    points: Float[np.ndarray, "*batch 2"], image_size: tuple[int, int] | Int[np.ndarray, "*#batch 2"] | None
) -> Bool[np.ndarray, "*batch"]:
    """Which points are not finite, or so far from their picture that they mean something else than pixels of it.

    Args:
        points: x, y in image pixels.
        image_size: (height, width) in pixels of the picture or of each point's; 0 where not known, None if none is.
    """
    longer = np.zeros(1) if image_size is None else np.asarray(image_size, np.float64).max(axis=-1)
    limit = np.where(longer > 0, MAX_REACH * longer, MAX_COORDINATE_PX)
    return np.asarray(~(np.abs(points) <= limit[..., None]).all(axis=-1))  # comparisons with NaN are false


def boxes_beyond_reach(
    bbox_xywh: Float[np.ndarray, "*batch 4"], image_size: tuple[int, int] | Int[np.ndarray, "*#batch 2"] | None
) -> Bool[np.ndarray, "*batch"]:
    """:func:`beyond_reach` for either end of boxes."""
    first = bbox_xywh[..., :2]
    return beyond_reach(first, image_size) | beyond_reach(first + bbox_xywh[..., 2:], image_size)


def boxes_around(
    points: Float[np.ndarray, "*batch k 2"], known: Bool[np.ndarray, "*batch k"]
) -> Float[np.ndarray, "*batch 4"]:
    """x, y, width, height around the known points of bodies, at least one pixel each way: a box has an extent.

    Where no point is known, x and y are infinite.
    """
    low = np.where(known[..., None], points, np.inf).min(axis=-2)
    high = np.where(known[..., None], points, -np.inf).max(axis=-2)
    return np.concatenate([low, np.maximum(high - low, 1.0)], axis=-1)


def clip_bbox_xywh(
    bbox_xywh: Float[np.ndarray, "*batch 4"], image_size: tuple[int, int] | tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, "*batch 4"]:
    """Clips ground-truth boxes to the image as the published COCO loader does, which also shrinks w and h by 1.

    Args:
        bbox_xywh: boxes in image pixels.
        image_size: (height, width) of the image in pixels; or two arrays of the batch's shape, one entry per box.

    Returns:
        Boxes whose right and bottom ends are pixel centres (inclusive). A box without any extent inside the image has
        w <= 0 or h <= 0: such an instance cannot be cropped.
    """
    height, width = image_size
    x, y, w, h = np.moveaxis(bbox_xywh, -1, 0)
    x1, y1 = np.maximum(x, 0.0), np.maximum(y, 0.0)
    x2 = np.minimum(width - 1.0, x1 + np.maximum(w - 1.0, 0.0))
    y2 = np.minimum(height - 1.0, y1 + np.maximum(h - 1.0, 0.0))
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=-1)


def fix_aspect_ratio(scale: Float[np.ndarray, "*batch 2"], aspect_ratio: float) -> Float[np.ndarray, "*batch 2"]:
    """Enlarges the shorter side until w / h equals ``aspect_ratio``.

    Args:
        scale: (w, h) in pixels.
        aspect_ratio: width over height of the crop.
    """
    w, h = scale[..., 0], scale[..., 1]
    return np.stack([np.maximum(w, h * aspect_ratio), np.maximum(h, w / aspect_ratio)], axis=-1)


def bbox_to_center_scale(
    bbox_xywh: Float[np.ndarray, "*batch 4"], aspect_ratio: float, padding: float
) -> tuple[Float[np.ndarray, "*batch 2"], Float[np.ndarray, "*batch 2"]]:
    """The region to crop for a box: same centre, enlarged to the crop's shape, then padded.

    Args:
        bbox_xywh: boxes in image pixels.
        aspect_ratio: width over height of the crop.
        padding: the region is larger than the box by this factor.

    Returns:
        ``center`` (x, y) and ``scale`` (w, h), both in image pixels. The published code stores scale / 200.
    """
    size = bbox_xywh[..., 2:]
    return bbox_xywh[..., :2] + size / 2.0, fix_aspect_ratio(size, aspect_ratio) * padding


def crop_matrix(
    center: Float[np.ndarray, "*batch 2"],
    scale: Float[np.ndarray, "*batch 2"],
    rotation: Float[np.ndarray, "*batch"],
    input_size: tuple[int, int],
    codec: CropConvention,
) -> Float[np.ndarray, "*batch 2 3"]:
    """The affine map from image pixels to crop pixels.

    Args:
        center: (x, y) of the region in image pixels.
        scale: (w, h) of the region in image pixels, padding included.
        rotation: degrees.
        input_size: (height, width) of the crop in pixels.
        codec: see the module's description.

    Returns:
        The matrix for :func:`apply_affine`, or, with one matrix, for ``cv2.warpAffine``.
    """
    height, width = input_size
    x, y, w, h = center[..., 0], center[..., 1], scale[..., 0], scale[..., 1]
    if codec == "udp":
        factor_x, factor_y = (width - 1.0) / w, (height - 1.0) / h
        target_x, target_y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
        angle = np.deg2rad(rotation)
    else:
        factor_x = factor_y = width / w
        target_x, target_y = width / 2.0, height / 2.0
        angle = -np.deg2rad(rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.empty((*x.shape, 2, 3))
    matrix[..., 0, 0], matrix[..., 0, 1] = factor_x * cos, -factor_x * sin
    matrix[..., 1, 0], matrix[..., 1, 1] = factor_y * sin, factor_y * cos
    matrix[..., 0, 2] = target_x - factor_x * (cos * x - sin * y)
    matrix[..., 1, 2] = target_y - factor_y * (sin * x + cos * y)
    return matrix


def apply_affine(
    points: Float[np.ndarray, "*batch k 2"], matrix: Float[np.ndarray, "*batch 2 3"]
) -> Float[np.ndarray, "*batch k 2"]:
    """Maps points (x, y) by an affine matrix."""
    return points @ matrix[..., :2].mT + matrix[..., None, :, 2]


def invert_affine(matrix: Float[np.ndarray, "*batch 2 3"]) -> Float[np.ndarray, "*batch 2 3"]:
    """The inverse affine map."""
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def heatmap_to_image(
    points_heatmap: Float[np.ndarray, "*batch k 2"],
    center: Float[np.ndarray, "*#batch 2"],
    scale: Float[np.ndarray, "*#batch 2"],
    heatmap_size: tuple[int, int],
    codec: CropConvention,
) -> Float[np.ndarray, "*batch k 2"]:
    """Decoded points back in the image, for crops without rotation.

    Args:
        points_heatmap: x, y in heatmap pixels.
        center: (x, y) of the cropped region in image pixels.
        scale: (w, h) of the cropped region in image pixels.
        heatmap_size: (height, width) of the heatmap.
        codec: that of the crop.

    Returns:
        x, y in image pixels. The ``msra`` branch divides h by the heatmap's height, as published, although its warp
        is isotropic: the two agree for regions of the crop's shape only.
    """
    pixel = _heatmap_pixel(scale, heatmap_size, codec)
    return points_heatmap * pixel[..., None, :] + (center - scale / 2.0)[..., None, :]


def covariance_to_image(
    covariances_heatmap: Float[np.ndarray, "*batch k 2 2"],
    scale: Float[np.ndarray, "*batch 2"],
    heatmap_size: tuple[int, int],
    codec: CropConvention,
) -> Float[np.ndarray, "*batch k 2 2"]:
    """Covariances of decoded points in the image, ``A Σ Aᵀ`` by the matrix A of :func:`heatmap_to_image`.

    Args:
        covariances_heatmap: of x and y, px² of the heatmap.
        scale: (w, h) of the cropped region in image pixels.
        heatmap_size: (height, width) of the heatmap.
        codec: that of the crop.

    Returns:
        px² of the image.
    """
    pixel = _heatmap_pixel(scale, heatmap_size, codec)[..., None, :]
    return covariances_heatmap * pixel[..., :, None] * pixel[..., None, :]


def _heatmap_pixel(
    scale: Float[np.ndarray, "*batch 2"], heatmap_size: tuple[int, int], codec: CropConvention
) -> Float[np.ndarray, "*batch 2"]:
    """(w, h) of a pixel of the heatmap in image pixels."""
    height, width = heatmap_size
    steps = np.array([width - 1.0, height - 1.0]) if codec == "udp" else np.array([width, height], np.float64)
    return scale / steps


def flip_points(points: Float[np.ndarray, "*batch 2"], width: int) -> Float[np.ndarray, "*batch 2"]:
    """Points of the horizontally mirrored image: x becomes width - 1 - x, the order stays."""
    return np.array([width - 1.0, 0.0]) + points * _MIRROR
