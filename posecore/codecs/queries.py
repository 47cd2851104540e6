"""Whole pictures as a set of bodies: each query says a score, a box, all points, and how far off these may be.

Places are shares of the input: 0 is the outer edge of its first pixel, 1 that of its last, so that mirroring is exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.codecs.grouping import SceneBodies
from posecore.codecs.scene import SceneCodec, SceneReading
from posecore.skeletons.skeleton import Skeleton

OF_BODY = 5
"""Outputs of a body besides those of its points: the logit of its score, and centre and size of its box."""
OF_POINT = 5
"""Outputs of a point: its place, and the three numbers of its covariance."""
_LOG_RANGE = (math.log(1e-3), math.log(10.0))
_SURE = 0.1
"""Share of a body's side: a point as far off as this, by its covariance, has half the score of one that is not."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryOutputs:
    """What Q queries say, by dimensions (…, Q), most often (n, L, Q) of L layers.

    Attributes:
        logits: (…, Q) of the score.
        boxes: (…, Q, 4) x, y of the centre, width, height, shares of the input.
        points: (…, Q, K, 2) x, y, likewise.
        factors: (…, Q, K, 3) logarithms of the diagonal, and the other entry, of the Cholesky factors of covariances,
            of which the unit is the box's side.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor
    factors: Tensor


class QueryCodec(SceneCodec):
    """Sets of bodies; the outputs of a query are one line, body before points.

    Attributes:
        kind: names this codec.
        input_size: (height, width) of the picture in pixels.
    """

    kind: Literal["queries"] = "queries"
    input_size: tuple[int, int] = (512, 512)
    loss: ClassVar[str] = "set_prediction"
    mirrored: ClassVar[bool] = False
    reads: ClassVar[frozenset[str]] = frozenset({"selection"})
    learns_covariances: ClassVar[bool] = True

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the input, in whose pixels found points are."""
        return self.input_size

    @property
    def outputs_per_point(self) -> float:
        """One: no loss is a mean over pixels."""
        return 1.0

    def split(self, outputs: Float[Tensor, "... q p"]) -> QueryOutputs:
        """The parts that outputs are made of."""
        points = outputs[..., OF_BODY:].unflatten(-1, (-1, OF_POINT))
        return QueryOutputs(outputs[..., 0], outputs[..., 1:OF_BODY], points[..., :2], points[..., 2:])

    def of_points(self, outputs: Tensor, points: Sequence[int]) -> Tensor:
        """Bodies as they are, with some of their points."""
        of_bodies, of_points = outputs[..., :OF_BODY], outputs[..., OF_BODY:].unflatten(-1, (-1, OF_POINT))
        return torch.cat([of_bodies, of_points[..., list(points), :].flatten(-2)], dim=-1)

    def carried(self, outputs: Tensor, other: "QueryCodec") -> Tensor:
        """Outputs about a picture of another size, whose outermost pixels' centres lie on those of this one."""
        factor = (self.sides(outputs) - 1) / (other.sides(outputs) - 1)
        scale = factor * other.sides(outputs) / self.sides(outputs)
        said = other.split(outputs)
        places, sizes = said.boxes[..., :2], said.boxes[..., 2:] * scale
        points, places = (self.shares(other.pixels(each) * factor) for each in (said.points, places))
        of_points = torch.cat([points, said.factors], dim=-1).flatten(-2)
        return torch.cat([said.logits[..., None], places, sizes, of_points], dim=-1)

    def pixels(self, places: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Shares of the input to x, y in its pixels."""
        return places * self.sides(places) - 0.5

    def shares(self, points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """The inverse of :meth:`pixels`."""
        return (points + 0.5) / self.sides(points)

    def sides(self, like: Tensor) -> Tensor:
        """(2,) width and height of the input in pixels, beside a tensor."""
        return like.new_tensor([self.input_size[1], self.input_size[0]])

    def covariance(
        self, boxes: Float[Tensor, "*batch 4"], factors: Float[Tensor, "*batch k 3"]
    ) -> Float[Tensor, "*batch k 2 2"]:
        """``s² L Lᵀ`` in px² of the input, s being the root of the box's area and L the Cholesky factor.

        Args:
            boxes: as :attr:`QueryOutputs.boxes`.
            factors: as :attr:`QueryOutputs.factors`.
        """
        area = (boxes[..., 2:] * self.sides(boxes)).prod(dim=-1)
        first, second = (factors[..., axis].clamp(*_LOG_RANGE).exp() for axis in (0, 1))
        off = factors[..., 2]
        parts = [first * first, first * off, first * off, off * off + second * second]
        return torch.stack(parts, dim=-1).unflatten(-1, (2, 2)) * area[..., None, None, None]

    def answers(self, outputs: Float[Tensor, "n l q p"], most: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The surest bodies of the last layer, in falling order.

        Args:
            outputs: of the head.
            most: bodies of a picture; fewer where there are fewer queries.

        Returns:
            Scores (n, m), boxes (n, m, 4) left, top, right, bottom, points (n, m, K, 2), their scores (n, m, K) and
            covariances (n, m, K, 2, 2), all in pixels of the input. A point's score is that of its body times
            ``σ² / √det(Σ + σ²I)``, σ being a tenth of the body's side.
        """
        last = outputs[:, -1]
        order = last[..., 0].topk(min(most, last.shape[1]), dim=1).indices
        found = self.split(last.gather(1, order[..., None].expand(-1, -1, last.shape[2])))
        scores = found.logits.sigmoid()
        covariances = self.covariance(found.boxes, found.factors)
        variance = (_SURE**2 * (found.boxes[..., 2:] * self.sides(last)).prod(dim=-1)).clamp(min=1.0)[..., None]
        xx, yy = covariances[..., 0, 0] + variance, covariances[..., 1, 1] + variance
        likely = variance / (xx * yy - covariances[..., 0, 1] ** 2).sqrt()
        centres, halves = found.boxes[..., :2], found.boxes[..., 2:] / 2
        corners = torch.cat([self.pixels(centres - halves), self.pixels(centres + halves)], dim=-1)
        return scores, corners, self.pixels(found.points), scores[..., None] * likely, covariances

    def bodies(
        self, outputs: Tensor, of_mirrored: Tensor | None, skeleton: Skeleton, reading: SceneReading
    ) -> list[SceneBodies]:
        """The surest, each as its query says it."""
        scores, boxes, points, point_scores, covariances = (
            each.cpu().numpy() for each in self.answers(outputs, reading.selection.max_bodies)
        )
        found = []
        for image, of_image in enumerate(scores):
            kept = of_image >= reading.selection.least_score
            found.append(
                SceneBodies(
                    points[image, kept],
                    point_scores[image, kept],
                    of_image[kept],
                    boxes[image, kept],
                    covariances[image, kept],
                )
            )
        return found
