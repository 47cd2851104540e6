"""What heads of queries are trained with: each labelled body is one query's to become, and the others are nobody.

Source: Liu et al., GroupPose (arXiv 2308.07313), with a likelihood that teaches covariances.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.codecs.queries import QueryCodec, QueryOutputs
from posecore.methods.batch import DeviceGroup
from posecore.methods.bodies import Bodies, excused, labelled_bodies
from posecore.methods.denoising import DenoisingConfig, noised_bodies
from posecore.methods.likelihood import gaussian_nats, laplace_nats
from posecore.methods.loss import Loss
from posecore.methods.matching import focal_loss, generalised_iou, match_bodies
from posecore.skeletons.skeleton import Skeleton

_USUAL_SIGMA = 0.07
"""OKS constant of points of a skeleton that states none: about the mean of COCO's."""
_NOBODY = -20.0
"""Logit of a teacher's query that a student's has to go without, of whom there are more."""


class SetPrediction(Loss):
    """Score, box, points and covariances of every layer, of matched queries and of those that were hinted at.

    Attributes:
        kind: names this loss.
        score_weight: of the focal loss of scores; this and the next four weigh the costs of a match, too.
        box_weight: of absolute differences of centre and sides, as shares of the input.
        overlap_weight: of 1 less the generalised intersection over union.
        place_weight: of absolute differences of points, as shares of the input.
        similarity_weight: of 1 less OKS.
        likelihood_weight: of the negative logarithm of the labels' likelihood, px. It moves covariances alone: points
            are not drawn by how sure the head is of them.
        distribution: of the errors of points.
        denoising: queries that begin with labels made wrong.
    """

    kind: Literal["set_prediction"] = "set_prediction"
    score_weight: float = Field(default=2.0, ge=0)
    box_weight: float = Field(default=5.0, ge=0)
    overlap_weight: float = Field(default=2.0, ge=0)
    place_weight: float = Field(default=10.0, ge=0)
    similarity_weight: float = Field(default=4.0, ge=0)
    likelihood_weight: float = Field(default=0.5, ge=0)
    distribution: Literal["gaussian", "laplace"] = "gaussian"
    denoising: DenoisingConfig = DenoisingConfig()
    of_scenes: ClassVar[bool] = True

    def problem(self, codec: Codec, skeleton: Skeleton) -> str | None:
        """It needs queries."""
        if isinstance(codec, QueryCodec):
            return None
        return f"set_prediction is of heads of queries, and its head has {codec.kind} outputs; leave the loss out."

    def hints(self, codec: Codec, group: DeviceGroup) -> Tensor | None:
        """Labelled bodies made wrong, for :class:`~posecore.models.heads.queries.QueryHead`."""
        assert isinstance(codec, QueryCodec), codec.kind
        return noised_bodies(labelled_bodies(codec, group), group.seeds, self.denoising)

    def scene(
        self,
        codec: Codec,
        outputs: Tensor,
        group: DeviceGroup,
        num_samples: int,
        skeleton: Skeleton,
        factors: Tensor | None = None,
        hints: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`~posecore.methods.loss.Loss.scene`: the sum over layers of the mean over a picture's bodies."""
        assert isinstance(codec, QueryCodec), codec.kind
        bodies, outputs = labelled_bodies(codec, group), outputs.float()
        judged = _Judge(self, codec, skeleton.oks_sigmas, factors, bodies)
        num_queries = outputs.shape[2] - (0 if hints is None else hints.shape[1] * hints.shape[2])
        total = outputs.sum() * 0.0
        for layer in range(outputs.shape[1]):
            said = codec.split(outputs[:, layer, :num_queries])
            matched = match_bodies(judged.costs(said), bodies.there)
            counts = (matched >= 0) | ~excused(codec, group, bodies, said.boxes)
            total = total + judged.error(said, matched, counts).sum()
        if hints is not None:
            num_groups, rows = hints.shape[1:3]
            own = torch.where(bodies.there[:, :rows], torch.arange(rows, device=outputs.device), -1)
            own = own.repeat(1, num_groups)
            for layer in range(1, outputs.shape[1]):
                said = codec.split(outputs[:, layer, num_queries:])
                total = total + judged.error(said, own, own >= 0).sum() / num_groups
        return total / num_samples

    def belief(self, codec: Codec, outputs: Tensor, belief: Tensor, num_samples: int) -> Tensor:
        """How far scores, boxes and points are from those of the teacher's queries, each by how sure the teacher is.

        Queries are paired first, so that boxes and scores differ least: which comes first does not matter.
        """
        assert isinstance(codec, QueryCodec), codec.kind
        ours, theirs = (codec.split(each[:, -1].float()) for each in (outputs, belief))
        chance = theirs.logits.sigmoid()
        cost = torch.cdist(ours.boxes, theirs.boxes, p=1) + torch.cdist(
            ours.logits.sigmoid()[..., None], chance[..., None], p=1
        )
        # Where the teacher has more queries, its surest are to have one of the student's.
        pairs = match_bodies(cost - 10 * chance[:, None], torch.ones_like(chance, dtype=torch.bool))
        body, nothing = pairs.clamp(min=0), pairs < 0
        chance, logits = chance.gather(1, body).masked_fill(nothing, 0.0), theirs.logits.gather(1, body)
        logits = torch.where(nothing, _NOBODY, logits)
        surprise = F.softplus(ours.logits) - F.softplus(logits) - chance * (ours.logits - logits)
        boxes = (ours.boxes - _picked(theirs.boxes, body)).abs().sum(dim=-1)
        points = (ours.points - _picked(theirs.points, body)).abs().sum(dim=-1).mean(dim=-1)
        error = self.score_weight * surprise + chance * (self.box_weight * boxes + self.place_weight * points)
        return error.sum() / num_samples


class _Judge:
    """How wrong queries are about the bodies of some pictures."""

    def __init__(
        self, loss: SetPrediction, codec: QueryCodec, sigmas: object, factors: Tensor | None, bodies: Bodies
    ) -> None:
        self.loss, self.codec, self.bodies = loss, codec, bodies
        num_points = bodies.weights.shape[2]
        like = bodies.points
        constants = torch.full((num_points,), _USUAL_SIGMA) if sigmas is None else torch.as_tensor(sigmas)
        self.tolerances = 2 * constants.to(like)
        self.factors = like.new_ones(num_points) if factors is None else factors.to(like)
        self.areas = bodies.areas(codec)
        self.num_bodies = bodies.there.sum(dim=1).clamp(min=1)

    @torch.no_grad()
    def costs(self, said: QueryOutputs) -> Tensor:
        """(n, Q, M) of every query for every body."""
        loss, bodies = self.loss, self.bodies
        ones = torch.ones_like(said.logits)
        of_score = focal_loss(said.logits, ones) - focal_loss(said.logits, 1 - ones)
        boxes, others = said.boxes[:, :, None], bodies.boxes[:, None]
        of_box = loss.box_weight * (boxes - others).abs().sum(dim=-1)
        of_box = of_box - loss.overlap_weight * generalised_iou(boxes, others)
        weights = bodies.weights[:, None]
        of_points = self._points(said.points[:, :, None], bodies.points[:, None], self.areas[:, None]) * weights
        return loss.score_weight * of_score[..., None] + of_box + _mean(of_points, weights)

    def error(self, said: QueryOutputs, matched: Tensor, counts: Tensor) -> Tensor:
        """(n,) what is to become small, the mean over bodies.

        Args:
            said: by N queries.
            matched: (n, N) which body each is to become, -1 for none.
            counts: (n, N) bool, whose scores count.
        """
        loss, taken = self.loss, matched >= 0
        of_score = loss.score_weight * focal_loss(said.logits, taken.float()) * counts
        body = matched.clamp(min=0)
        boxes, points, weights = (
            _picked(each, body) for each in (self.bodies.boxes, self.bodies.points, self.bodies.weights)
        )
        of_box = loss.box_weight * (said.boxes - boxes).abs().sum(dim=-1)
        of_box = of_box + loss.overlap_weight * (1 - generalised_iou(said.boxes, boxes))
        of_points = self._points(said.points, points, self.areas.gather(1, body))
        of_points = of_points + loss.likelihood_weight * self._nats(said, points)
        of_body = of_box + _mean(of_points * weights * self.factors, weights)
        return (of_score + torch.where(taken, of_body, 0.0)).sum(dim=1) / self.num_bodies

    def _points(self, points: Tensor, labels: Tensor, areas: Tensor) -> Tensor:
        """(…, K) how wrong places are."""
        off = points - labels
        squared = (off * self.codec.sides(off)).square().sum(dim=-1)
        like = torch.exp(-squared / (2 * areas[..., None] * self.tolerances.square()))
        return self.loss.place_weight * off.abs().sum(dim=-1) + self.loss.similarity_weight * (1 - like)

    def _nats(self, said: QueryOutputs, labels: Tensor) -> Tensor:
        """(n, N, K) of labels where the points are, by the covariances."""
        error = (labels - said.points.detach()) * self.codec.sides(labels)
        covariance = self.codec.covariance(said.boxes.detach(), said.factors)
        return (gaussian_nats if self.loss.distribution == "gaussian" else laplace_nats)(error, covariance)


def _picked(rows: Tensor, index: Tensor) -> Tensor:
    """(n, M, …) rows of every picture by (n, N) index: (n, N, …)."""
    return rows[torch.arange(len(rows), device=rows.device)[:, None], index]


def _mean(of_points: Tensor, weights: Tensor) -> Tensor:
    """(…, K) sums of what is weighed already, over the labelled points of a body."""
    return of_points.sum(dim=-1) / weights.sum(dim=-1).clamp(min=1)
