"""A stage that makes faces unrecognisable, from the points and head boxes that are annotated."""

from functools import cached_property
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.errors import IngestError
from posecore.schema import Instance, Record, Reject
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.extras import DETECTED, PSEUDO_LABEL
from posecore.stages.pixels import Pixels, PixelStage, decoded, undecodable
from posecore.stages.protocol import Picture
from posecore.stages.rejects import reject_image

_OF_A_FACE = frozenset({"nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_earbase", "right_earbase"})
_LEAST_CELL_PX = 2.0
_OF_A_HEAD = frozenset({"head_top", "neck"})


class BlurFaces(PixelStage):
    """Blurs a disc around every annotated face; pixels outside stay, but for what a JPEG loses.

    What is left of a disc is the mean of a few cells across, so no sharpening brings it back. The disc lies around the
    labelled points of the face and around the head box, if there is one. People who are not annotated are found by a
    detector alone (``detected``; ``detect`` is listed before). Where a body has neither points nor head box,
    ``least_score`` lets the points in that a model found (``pseudo_label``, listed before).

    Attributes:
        strength: side of a cell, in percent of the disc's diameter.
        size: diameter of the disc, in extents (diagonals) of the points.
        least_share: least diameter, in longer sides of the body's box: a nose alone has no extent.
        points: the dataset's names of the points of a face. Default: those of the group ``face``, nose, eyes and ears;
            where there are none, the top of the head and the neck.
        least_score: of a point that a model found, to count as one of a face; None takes labelled points alone.
        detected: class of the boxes of ``detect`` that are faces; discs cover them, whoever is annotated there, and no
            image is taken out as ``unplaced``, because the detector saw all of it.
        unplaced: what becomes of an image with a body or crowd region that has neither points nor a head box:
            ``reject`` takes it out (``face-not-placed``), ``keep`` leaves such bodies as they are.
    """

    strength: float = Field(default=12.0, ge=5, le=100)
    size: float = Field(default=2.5, ge=1)
    least_share: float = Field(default=0.15, ge=0, le=2)
    points: tuple[str, ...] = ()
    least_score: float | None = Field(default=None, ge=0)
    detected: str | None = None
    unplaced: Literal["reject", "keep"] = "reject"
    skeleton: Skeleton = Field(exclude=True)

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = [name for name in self.points if name not in self.skeleton.names]
        if unknown:
            known = ", ".join(self.skeleton.names)
            raise ValueError(f"points: {', '.join(unknown)} is none of the skeleton's points: {known}.")
        return self

    @cached_property
    def _indices(self) -> NDArray[np.int64]:
        points = self.skeleton.keypoints
        if self.points:
            return np.array([self.skeleton.names.index(name) for name in self.points])
        face = [index for index, point in enumerate(points) if point.group == "face" or point.union in _OF_A_FACE]
        head = [index for index, point in enumerate(points) if point.union in _OF_A_HEAD]
        return np.array(face or head, np.int64)

    def __call__(self, picture: Picture) -> Picture | Reject:
        """Returns the picture with the faces blurred."""
        discs = self._detected(picture.record)
        for body in picture.record.instances:
            disc = self.disc(body)
            if disc is not None:
                discs.append(disc)
            elif self.unplaced == "reject" and self.detected is None:
                detail = f"nothing says where the face of instance {body.id} is; `unplaced: keep` lets it through."
                return reject_image(picture.record, "face-not-placed", detail)
        if not discs:
            return picture
        pixels = decoded(picture.data)
        if pixels is None:
            return undecodable(picture.record)
        blurred = pixels.copy()
        for x, y, diameter in discs:
            _blur(pixels, blurred, x, y, diameter, max(_LEAST_CELL_PX, diameter * self.strength / 100))
        return self.changed(picture, blurred, picture.record)

    def _detected(self, record: Record) -> list[tuple[float, float, float]]:
        if self.detected is None:
            return []
        found = record.extras.get(DETECTED)
        if not isinstance(found, dict) or self.detected not in found:
            raise IngestError(f"{record.image}: nobody looked for {self.detected!r}; list the stage detect before.")
        return [(x + w / 2, y + h / 2, float(np.hypot(w, h))) for x, y, w, h, _ in found[self.detected]]

    def disc(self, body: Instance) -> tuple[float, float, float] | None:
        """Centre (x, y) and diameter in pixels of what is blurred of a body; None where its face is not known."""
        known = np.zeros((0, 2))
        if not body.is_crowd:
            face = body.keypoints[self._indices]
            known = face[face[:, 2] > 0, :2].astype(np.float64)
            if body.head_bbox_xyxy is not None:
                known = np.concatenate([known, np.reshape(body.head_bbox_xyxy, (2, 2))])
            if not len(known):
                known = self._found(body)
        if not len(known):
            return None
        low, high = known.min(axis=0), known.max(axis=0)
        x, y = ((low + high) / 2).tolist()
        least = max(2.0, self.least_share * max(body.bbox_xywh[2:]))
        return x, y, max(self.size * float(np.linalg.norm(high - low)), least)

    def _found(self, body: Instance) -> NDArray[np.float64]:
        """(n, 2) points of a face that a model has found."""
        points = body.extras.get(PSEUDO_LABEL, {}).get("points", {}) if self.least_score is not None else {}
        xy = [(x, y) for name, (x, y, score) in points.items() if self._names_face(name) and score >= self.least_score]
        return np.reshape(xy, (-1, 2)).astype(np.float64)

    def _names_face(self, name: str) -> bool:
        return name in self.points if self.points else name in _OF_A_FACE or name.startswith("face")


def _blur(pixels: Pixels, blurred: Pixels, x: float, y: float, diameter: float, cell: float) -> None:
    height, width = pixels.shape[:2]
    radius = diameter / 2
    left, top = max(0, int(np.floor(x - radius))), max(0, int(np.floor(y - radius)))
    right, bottom = min(width, int(np.ceil(x + radius)) + 1), min(height, int(np.ceil(y + radius)) + 1)
    if left >= right or top >= bottom:
        return  # outside the picture
    cells = (max(1, round((right - left) / cell)), max(1, round((bottom - top) / cell)))
    patch = np.ascontiguousarray(pixels[top:bottom, left:right])
    few = cv2.resize(patch, cells, interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(few, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    inside = np.hypot(np.arange(left, right) - x, np.arange(top, bottom)[:, None] - y) <= radius
    blurred[top:bottom, left:right][inside] = smooth[inside]
