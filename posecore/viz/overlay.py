"""Skeletons, boxes and masks drawn on an image, for people who check labels and predictions by eye."""

import re
from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.schema import Instance, Segmentation
from posecore.shards.regions import pixels, segmentation_rle
from posecore.skeletons.skeleton import Keypoint, Skeleton

Rgb: TypeAlias = tuple[int, int, int]

LEFT_COLOUR: Rgb = (30, 144, 255)
RIGHT_COLOUR: Rgb = (255, 120, 20)
MIDDLE_COLOUR: Rgb = (60, 210, 90)
"""The subject's own left is blue, its right orange, the midline green."""

_CROWD_COLOUR: Rgb = (150, 150, 150)
_INSTANCE_COLOURS: tuple[Rgb, ...] = (
    (255, 220, 60),
    (220, 90, 220),
    (80, 220, 220),
    (240, 90, 90),
    (150, 220, 80),
    (150, 130, 255),
)
HEAD_COLOURS = _INSTANCE_COLOURS
"""Of links, where the answers of several heads are drawn on one image: the first head's, the second's, and so on."""
_FAINT = 0.35
_OUTLINE: Rgb = (20, 20, 20)
_MASK_OPACITY = 0.35
_ELLIPSE_CORNERS = 48
_SUBPIXEL_BITS = 4  # cv2 draws at 1/16 px, so that points sit where they are and not on the next pixel
_SIDE = re.compile(r"(?:^|[_\W])((?i:left|right|l|r))(?=[_\WA-Z]|$)")


def draw_instances(
    image_rgb: NDArray[np.uint8],
    instances: Sequence[Instance],
    skeleton: Skeleton,
    *,
    masks: Sequence[NDArray[np.bool_] | None] | None = None,
    boxes: bool = True,
    faint: Sequence[NDArray[np.bool_]] | None = None,
    link_colour: Rgb | None = None,
) -> NDArray[np.uint8]:
    """Draws masks, boxes, links and points of all instances; the input is left as it is.

    Points and links carry the colour of the subject's own side; an occluded point is a ring, a visible one a disc,
    an unlabelled one is not drawn. Line widths follow the size of each body, so that small and large ones stay legible.

    Args:
        image_rgb: (H, W, 3) uint8.
        instances: bodies in image pixels, with keypoints (K, 3) in the order of ``skeleton``.
        skeleton: names, sides and links of the K points.
        masks: (H, W) bool per instance, or None where there is none; left out, the instances' own segmentations.
        boxes: whether to draw ``bbox_xywh``.
        faint: (K,) per instance: points to draw pale, with the links that end there; left out, none.
        link_colour: of all links, instead of the colours of sides.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: an instance's keypoints do not fit the skeleton, or the masks do not fit the instances.
    """
    if masks is not None and len(masks) != len(instances):
        raise ValueError(
            f"{counted(len(masks), 'mask')} for {counted(len(instances), 'instance')}; give one (or None) for each."
        )
    canvas = np.ascontiguousarray(image_rgb).copy()
    height, width = canvas.shape[:2]
    colours = [
        _CROWD_COLOUR if instance.is_crowd else _INSTANCE_COLOURS[index % len(_INSTANCE_COLOURS)]
        for index, instance in enumerate(instances)
    ]
    for index, instance in enumerate(instances):
        mask = segmentation_mask(instance.segmentation, height, width) if masks is None else masks[index]
        if mask is not None:
            _tint(canvas, mask, colours[index])
    for index, (instance, colour) in enumerate(zip(instances, colours, strict=True)):
        if len(instance.keypoints) not in (0, skeleton.num_keypoints):
            raise ValueError(
                f"instance {instance.id} has {counted(len(instance.keypoints), 'keypoint')}, but skeleton "
                f"{skeleton.name} has {skeleton.num_keypoints}; draw it with its own dataset's skeleton."
            )
        line = _line_width(instance, height, width)
        if boxes:
            _draw_box(canvas, instance, colour, line)
        if len(instance.keypoints) and not instance.is_crowd:
            pale = (
                faint[index] & (instance.keypoints[:, 2] > 0) if faint else np.zeros(skeleton.num_keypoints, np.bool_)
            )
            if pale.any():
                under = canvas.copy()
                _draw_skeleton(under, instance.keypoints, skeleton, line, link_colour)
                cv2.addWeighted(under, _FAINT, canvas, 1 - _FAINT, 0, dst=canvas)
            sure = np.where(pale[:, None], np.float32(0), instance.keypoints)
            _draw_skeleton(canvas, sure, skeleton, line, link_colour)
    return canvas


def draw_ellipses(
    canvas: NDArray[np.uint8],
    points: NDArray[np.float64],
    ellipses: NDArray[np.float64],
    shown: NDArray[np.bool_],
    colours: Sequence[Rgb],
) -> None:
    """Draws onto an image how far off the points of one body may be.

    Args:
        canvas: (H, W, 3) uint8, changed.
        points: (K, 2) centres in image pixels.
        ellipses: (K, 2, 2) matrices M of eᵀM⁻¹e ≤ 1; what is not finite is not drawn.
        shown: (K,) which to draw.
        colours: K of them.
    """
    for place in np.flatnonzero(shown & np.isfinite(ellipses).all(axis=(1, 2))).tolist():
        squares, axes = np.linalg.eigh(ellipses[place])
        turn = np.arange(_ELLIPSE_CORNERS) * (2 * np.pi / _ELLIPSE_CORNERS)
        circle = np.stack([np.cos(turn), np.sin(turn)]) * np.sqrt(squares.clip(min=0))[:, None]
        corners = np.clip(points[place, :, None] + axes @ circle, -1e4, 1e4).T
        line = np.round(corners * (1 << _SUBPIXEL_BITS)).astype(np.int32)[:, None]
        for colour, width in ((_OUTLINE, 2), (colours[place], 1)):
            cv2.polylines(
                canvas, [line], isClosed=True, color=colour, thickness=width, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS
            )


def side_colour(keypoint: Keypoint) -> Rgb:
    """Colour of the subject's side a point lies on, read from its union name, else from its native name."""
    for name in (keypoint.union, keypoint.name):
        found = _SIDE.search(name)
        if found:
            return LEFT_COLOUR if found[1].lower().startswith("l") else RIGHT_COLOUR
    return MIDDLE_COLOUR


def segmentation_mask(segmentation: Segmentation | None, height: int, width: int) -> NDArray[np.bool_] | None:
    """The (height, width) bool mask of polygons or a COCO RLE, or None where there is nothing to draw.

    Raises:
        ValueError: an RLE was made for another image size.
    """
    rle = segmentation_rle(segmentation, height, width)
    return None if rle is None else pixels(rle)


def _tint(canvas: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Rgb) -> None:
    if mask.shape != canvas.shape[:2]:
        raise ValueError(f"a mask has shape {mask.shape}, but the image has {canvas.shape[:2]}.")
    mixed = canvas[mask] * (1 - _MASK_OPACITY) + np.array(colour) * _MASK_OPACITY
    canvas[mask] = mixed.round().astype(np.uint8)


def _line_width(instance: Instance, height: int, width: int) -> int:
    body = max(instance.bbox_xywh[2], instance.bbox_xywh[3])
    if not np.isfinite(body) or body <= 0:
        body = max(height, width)
    return int(np.clip(round(body / 90), 1, max(1, max(height, width) // 120)))


def _fixed(point: NDArray[np.float32]) -> tuple[int, int]:
    x, y = np.clip(point[:2], -1e4, 1e4) * (1 << _SUBPIXEL_BITS)
    return round(float(x)), round(float(y))


def _draw_box(canvas: NDArray[np.uint8], instance: Instance, colour: Rgb, line: int) -> None:
    box = np.array(instance.bbox_xywh, np.float32)
    if not np.isfinite(box).all() or box[2] <= 0 or box[3] <= 0:
        return
    corners = _fixed(box[:2]), _fixed(box[:2] + box[2:])
    cv2.rectangle(canvas, *corners, _OUTLINE, line + 1, cv2.LINE_AA, _SUBPIXEL_BITS)
    cv2.rectangle(canvas, *corners, colour, line, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_skeleton(
    canvas: NDArray[np.uint8], keypoints: NDArray[np.float32], skeleton: Skeleton, line: int, link_colour: Rgb | None
) -> None:
    labelled = (keypoints[:, 2] > 0) & np.isfinite(keypoints).all(axis=1)
    colours = [side_colour(keypoint) for keypoint in skeleton.keypoints]
    for first, second in skeleton.link_indices:
        if labelled[first] and labelled[second]:
            sides = [colours[end] for end in (first, second) if colours[end] != MIDDLE_COLOUR]
            of_side = sides[0] if sides and sides.count(sides[0]) == len(sides) else MIDDLE_COLOUR
            colour = link_colour or of_side
            ends = _fixed(keypoints[first]), _fixed(keypoints[second])
            cv2.line(canvas, *ends, _OUTLINE, line + 2, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.line(canvas, *ends, colour, line, cv2.LINE_AA, _SUBPIXEL_BITS)
    body_radius = (line + 1) << _SUBPIXEL_BITS
    for index in np.flatnonzero(labelled):
        fine = skeleton.keypoints[index].group not in ("body", "foot")  # face and hand points lie dense
        radius = max(body_radius // 2, 1 << _SUBPIXEL_BITS) if fine else body_radius
        centre = _fixed(keypoints[index])
        rim = 1 << (_SUBPIXEL_BITS - 1 if fine else _SUBPIXEL_BITS)
        if keypoints[index, 2] >= 2:
            cv2.circle(canvas, centre, radius + rim, _OUTLINE, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.circle(canvas, centre, radius, colours[index], -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        else:
            cv2.circle(canvas, centre, radius + rim, (255, 255, 255), -1, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.circle(canvas, centre, radius, colours[index], max(1, line), cv2.LINE_AA, _SUBPIXEL_BITS)
