"""Annotations that go with their picture when it is turned, mirrored, resized or cut.

Whole numbers are pixel centres for points, and pixel edges for boxes and outlines, as COCO has them: mirrored in a
picture of width W, a point's x becomes W - 1 - x and a box's left edge W - x - w.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from posecore.errors import IngestError
from posecore.schema import BoxXywh, Instance, Record, Segmentation
from posecore.shards.regions import segmentation_rle
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.pixels import Pixels


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """A map of a picture onto another one, along its axes.

    Attributes:
        matrix: (2, 3) float64 that maps x, y in pixel edges; each row has one entry that is not 0 in its first two
            columns.
        pixels: the same, on a mask of the picture.
    """

    matrix: NDArray[np.float64]
    pixels: Callable[[Pixels], Pixels]

    @property
    def swaps_axes(self) -> bool:
        """Whether x becomes y."""
        return bool(self.matrix[0, 0] == 0)

    @property
    def area(self) -> float:
        """By what an area is multiplied."""
        return float(abs(np.linalg.det(self.matrix[:, :2])))

    @property
    def mirrors(self) -> bool:
        """Whether a left hand becomes a right one."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    def edges(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) places between pixels, mapped."""
        return xy @ self.matrix[:, :2].T + self.matrix[:, 2]

    def points(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) points, mapped."""
        return self.edges(xy + 0.5) - 0.5

    def box(self, bbox_xywh: BoxXywh) -> BoxXywh:
        """A box, mapped."""
        x, y, w, h = bbox_xywh
        ends = self.edges(np.array([[x, y], [x + w, y + h]]))
        low, high = ends.min(axis=0), ends.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def moved(record: Record, move: Move, skeleton: Skeleton) -> Record:
    """A record whose annotations belong to the moved picture; a mirror also swaps left and right.

    Points in space and extras stay as they are: their frame is the dataset's affair.

    Args:
        record: with the picture's width and height before.
        move: of the picture.
        skeleton: of the dataset.

    Raises:
        IngestError: a mask was made for another size than the picture's.
    """
    return replace(record, instances=[_moved(body, record, move, skeleton) for body in record.instances])


def _moved(body: Instance, record: Record, move: Move, skeleton: Skeleton) -> Instance:
    keypoints = body.keypoints.copy()
    labelled = keypoints[:, 2] > 0
    keypoints[labelled, :2] = move.points(keypoints[labelled, :2].astype(np.float64))
    absent, points_3d = body.absent, body.keypoints_3d
    if move.mirrors:
        order = skeleton.flip_indices
        keypoints = keypoints[order]
        absent = tuple(sorted(int(order[index]) for index in absent))
        points_3d = None if points_3d is None else points_3d[order]
    head = body.head_bbox_xyxy
    if head is not None:
        x, y, w, h = move.box((head[0], head[1], head[2] - head[0], head[3] - head[1]))
        head = (x, y, x + w, y + h)
    center = body.center
    if center is not None:
        x, y = move.points(np.array([center]))[0].tolist()
        center = (x, y)
    scale = body.scale
    if scale is not None:
        w, h = (np.abs(move.matrix[:, :2]) @ np.array(scale)).tolist()
        scale = (w, h)
    return replace(
        body,
        bbox_xywh=move.box(body.bbox_xywh),
        keypoints=keypoints,
        keypoints_3d=points_3d,
        absent=absent,
        area=body.area * move.area,
        head_bbox_xyxy=head,
        center=center,
        scale=scale,
        segmentation=_moved_segmentation(body, record, move),
    )


def _moved_segmentation(body: Instance, record: Record, move: Move) -> Segmentation | None:
    segmentation = body.segmentation
    if not segmentation:
        return segmentation
    if isinstance(segmentation, list):
        return [move.edges(np.reshape(polygon, (-1, 2))).reshape(-1).tolist() for polygon in segmentation]
    height, width = segmentation["size"]
    if [height, width] != [record.height, record.width]:
        raise IngestError(
            f"{record.image}, instance {body.id}: the mask was made for {width}x{height} pixels, but the picture has "
            f"{record.width}x{record.height}."
        )
    mask = coco_mask.decode(segmentation_rle(segmentation, height, width))
    packed = coco_mask.encode(np.asfortranarray(move.pixels(mask)))
    return {"size": [int(side) for side in packed["size"]], "counts": packed["counts"].decode()}
