"""A stage that cuts pictures to the bodies they show."""

from dataclasses import replace

import numpy as np
from pydantic import Field

from posecore.image_header import image_size
from posecore.schema import Instance, Record, Reject
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.moved import Move, moved
from posecore.stages.pixels import PixelStage, decoded, undecodable
from posecore.stages.protocol import Picture
from posecore.stages.rejects import reject_instance


class CropBodies(PixelStage):
    """Cuts each picture to the box around all its bodies: their boxes, labelled points and a margin.

    A picture stays one picture, however many bodies it shows. Pictures without bodies stay as they are; a crowd region
    that the cut leaves nothing of is taken out (``outside-crop``).

    Attributes:
        margin: on every side, as a share of the longer side of what the bodies cover.
    """

    margin: float = Field(default=0.25, ge=0)
    skeleton: Skeleton = Field(exclude=True)

    def __call__(self, picture: Picture) -> Picture | Reject | tuple[Picture, list[Reject]]:
        """Returns the picture cut."""
        size = image_size(picture.data)
        bodies = [body for body in picture.record.instances if not body.is_crowd]
        if not bodies:
            return picture
        left, top, right, bottom = self._edges(bodies, size.width, size.height)
        if (left, top, right, bottom) == (0, 0, size.width, size.height) or left >= right or top >= bottom:
            return picture
        pixels = decoded(picture.data)
        depth = None if picture.depth is None else decoded(picture.depth)
        if pixels is None or (depth is None) != (picture.depth is None):
            return undecodable(picture.record)
        rows, columns = slice(top, bottom), slice(left, right)
        move = Move(np.array([[1.0, 0, -left], [0, 1, -top]]), lambda given: given[rows, columns])
        record = moved(picture.record, move, self.skeleton)
        record, rejects = _without_lost_crowds(record, right - left, bottom - top)
        cut = self.changed(picture, pixels[rows, columns], record, None if depth is None else depth[rows, columns])
        return (cut, rejects) if rejects else cut

    def _edges(self, bodies: list[Instance], width: int, height: int) -> tuple[int, int, int, int]:
        ends = []
        for body in bodies:
            x, y, w, h = body.bbox_xywh
            ends += [(x, y), (x + w, y + h)]
            ends += [(x, y) for x, y, flag in body.keypoints.tolist() if flag > 0]
        low, high = np.min(ends, axis=0), np.max(ends, axis=0)
        margin = self.margin * (high - low).max()
        left, top = np.floor(low - margin).clip(0).astype(int).tolist()
        right, bottom = np.ceil(high + margin).clip(None, [width, height]).astype(int).tolist()
        return left, top, right, bottom


def _without_lost_crowds(record: Record, width: int, height: int) -> tuple[Record, list[Reject]]:
    rejects, kept = [], []
    for body in record.instances:
        x, y, w, h = body.bbox_xywh
        if body.is_crowd and (x >= width or y >= height or x + w <= 0 or y + h <= 0):
            rejects.append(reject_instance(record, body, "outside-crop", "the cut to the bodies leaves nothing of it."))
        else:
            kept.append(body)
    return replace(record, instances=kept), rejects
