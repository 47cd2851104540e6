"""Whether answers are the bodies that are there: who is missed, who is redundant, whose limbs are mixed up.

After Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation" (ICCV 2017, arXiv
1707.05388). *Background errors* are bodies that no answer is and answers that are no body, here at an OKS of a half. A
*swap* is a point of an answer that lies where another body has the same point, or its mirrored one: of the likenesses
of a point, which are the terms of OKS, that of another body is at least a half and larger than those of the own body,
of which the answer need have an OKS of a tenth only, as in their code. Here a body is swapped if a point of its answer
is.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions, check_fit
from posecore.evaluation.oks import PairFinder, pairs_within
from posecore.evaluation.pairing import Distances, distances_of
from posecore.skeletons.skeleton import Skeleton

IS_IT = 0.5
"""OKS from which an answer is a body."""
IS_LIKE_IT = 0.1
"""OKS from which an answer is meant for a body, so that its points can be asked for swaps."""
SAME_PLACE = 0.5
"""Likeness of a point from which it lies where a body has one."""
_AT_ONCE = 1 << 14
"""Answers whose points are compared at once: memory stays bounded."""


@dataclass(frozen=True, kw_only=True)
class BodyErrors:
    """How many of a set.

    Attributes:
        bodies: labelled, crowds excepted.
        answers: all.
        missed: bodies that no answer is.
        redundant: answers that are nobody, or a body that a surer answer is; not those on crowds and on bodies without
            labels.
        doubled: of the redundant, those of a body that a surer answer is.
        swapped: bodies with a point of another body in their answer.
        swapped_points: such points.
    """

    bodies: int
    answers: int
    missed: int
    redundant: int
    doubled: int
    swapped: int
    swapped_points: int

    def headline(self) -> dict[str, float]:
        """Name → value, as metrics are named."""
        return {f"{name}_bodies": float(getattr(self, name)) for name in ("missed", "redundant", "swapped")}


@dataclass(frozen=True, kw_only=True, eq=False)
class BodyVerdicts:
    """What each answer and each body is.

    Attributes:
        asked: (N,) which annotations are to be found.
        partner: (D,) row of the annotation that an answer is, -1 for none.
        doubled: (D,) whether it is one that a surer answer is.
        excused: (D,) whether it lies on a crowd or on a body without labels.
        meant: (D,) row of the annotation that an answer is meant for, -1 for none.
        swapped: (D, K) points that are another body's.
    """

    asked: Bool[np.ndarray, " N"]
    partner: Int[np.ndarray, " D"]
    doubled: Bool[np.ndarray, " D"]
    excused: Bool[np.ndarray, " D"]
    meant: Int[np.ndarray, " D"]
    swapped: Bool[np.ndarray, "D K"]

    @property
    def missed(self) -> Bool[np.ndarray, " N"]:
        """Which annotations nobody is."""
        missed = self.asked.copy()
        missed[self.partner[self.partner >= 0]] = False
        return missed

    @property
    def redundant(self) -> Bool[np.ndarray, " D"]:
        """Which answers are too many."""
        too_many: NDArray[np.bool_] = (self.partner < 0) & ~self.excused
        return too_many

    def counted(self) -> BodyErrors:
        """All of it in numbers."""
        return BodyErrors(
            bodies=int(self.asked.sum()),
            answers=len(self.partner),
            missed=int(self.missed.sum()),
            redundant=int(self.redundant.sum()),
            doubled=int(self.doubled.sum()),
            swapped=int(self.swapped.any(axis=1).sum()),
            swapped_points=int(self.swapped.sum()),
        )


def body_errors(
    truth: GroundTruth, predictions: Predictions, skeleton: Skeleton, area: Float[np.ndarray, " N"]
) -> BodyErrors:
    """How many bodies are missed, answered too often, or mixed up; the arguments are those of :func:`judge_bodies`."""
    return judge_bodies(truth, predictions, skeleton, area).counted()


def meant_distances(
    truth: GroundTruth, predictions: Predictions, skeleton: Skeleton, area: Float[np.ndarray, " N"]
) -> Distances:
    """Distances between bodies and the answers meant for them; who has none, by an OKS of a tenth, is left out.

    The arguments and errors are those of :func:`judge_bodies`.
    """
    meant = judge_bodies(truth, predictions, skeleton, area).meant
    answers = np.flatnonzero(meant >= 0)
    answers = answers[np.argsort(meant[answers])]
    return distances_of(truth, predictions, meant[answers], answers)


def judge_bodies(
    truth: GroundTruth, predictions: Predictions, skeleton: Skeleton, area: Float[np.ndarray, " N"]
) -> BodyVerdicts:
    """Gives answers their bodies, and says which points are others'.

    The surest answer of a picture comes first and takes the free body with which its OKS is highest; classes do not
    matter. All answers count, however unsure: leave out those that nobody would be shown.

    Args:
        truth: annotations.
        predictions: answers; a point with a score of 0 is none, and no swap.
        skeleton: of both.
        area: (N,) px² that OKS divides by.

    Raises:
        EvaluationError: the two do not fit together, or a point has no OKS constant.
    """
    check_fit(truth, predictions)
    sigmas = skeleton.oks_sigmas
    if sigmas is None:
        raise EvaluationError(
            f"skeleton {skeleton.name} has points without an OKS constant, by which answers are given to bodies; give "
            "each keypoint an oks_sigma."
        )
    asked = truth.labelled & (truth.num_keypoints > 0)
    found = PairFinder(truth, sigmas, area).find(
        predictions.image_row,
        predictions.category_id,
        predictions.scores,
        predictions.keypoints,
        least_oks=IS_LIKE_IT,
    )
    bounds = np.searchsorted(found.pair_detection, np.arange(len(predictions) + 1))
    partner = np.full(len(predictions), -1)
    excused, doubled = (np.zeros(len(predictions), np.bool_) for _ in range(2))
    taken = np.zeros(len(truth), np.bool_)
    surest_first = np.argsort(-predictions.scores, kind="stable").tolist()
    for answer in surest_first:
        pairs = slice(bounds[answer], bounds[answer + 1])
        near = found.pair_truth[pairs][found.pair_oks[pairs] >= IS_IT][::-1]  # the last is the likest
        free = near[asked[near] & ~taken[near]]
        if len(free):
            partner[answer] = free[0]
            taken[free[0]] = True
        elif (~asked[near]).any():
            excused[answer] = True
        elif len(near):
            doubled[answer] = True
    meant = partner.copy()  # what is a body is meant for it; the others are for whoever is left
    for answer in surest_first:
        bodies = found.pair_truth[bounds[answer] : bounds[answer + 1]][::-1]
        free = bodies[asked[bodies] & ~taken[bodies]]
        if meant[answer] < 0 and len(free):
            meant[answer] = free[0]
            taken[free[0]] = True
    swapped = swapped_points(truth, predictions, skeleton, area, meant)
    return BodyVerdicts(asked=asked, partner=partner, doubled=doubled, excused=excused, meant=meant, swapped=swapped)


def swapped_points(
    truth: GroundTruth,
    predictions: Predictions,
    skeleton: Skeleton,
    area: Float[np.ndarray, " N"],
    meant: Int[np.ndarray, " D"],
) -> Bool[np.ndarray, "D K"]:
    """Which points of answers are liker another body's than those of the one that the answer is meant for.

    Args:
        truth: annotations.
        predictions: answers.
        skeleton: of both, with an OKS constant for every point.
        area: (N,) px² that OKS divides by.
        meant: (D,) row of the annotation that each answer is meant for, -1 for none.
    """
    swapped = np.zeros(predictions.keypoint_scores.shape, np.bool_)
    others = np.flatnonzero(truth.labelled)
    others = others[np.argsort(truth.image_row[others], kind="stable")]
    of_bodies = np.flatnonzero((meant >= 0) & truth.labelled[meant]) if len(truth) else np.zeros(0, np.int64)
    for start in range(0, len(of_bodies), _AT_ONCE):
        answers = of_bodies[start : start + _AT_ONCE]
        left, position = pairs_within(predictions.image_row[answers], truth.image_row[others])
        body = others[position]
        like = _likeness(truth, predictions, skeleton, area, answers[left], body)
        own = body == meant[answers[left]]
        its, theirs = (np.zeros((len(answers), skeleton.num_keypoints)) for _ in range(2))
        np.maximum.at(its, left[own], like[own])
        np.maximum.at(theirs, left[~own], like[~own])
        known = (predictions.keypoint_scores[answers] > 0) & (truth.visibility[meant[answers]] > 0)
        swapped[answers] = known & (theirs >= SAME_PLACE) & (theirs > its)
    return swapped


def _likeness(
    truth: GroundTruth,
    predictions: Predictions,
    skeleton: Skeleton,
    area: NDArray[np.float64],
    answer: NDArray[np.int64],
    body: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(P, K) in [0, 1]: how like points of answers are those of bodies, or their mirrored ones; 0 without a label."""
    assert skeleton.oks_sigmas is not None
    each = np.zeros((len(answer), skeleton.num_keypoints))
    spread = 2 * (area[body] + np.spacing(1))[:, None] * (2 * skeleton.oks_sigmas) ** 2
    for order in (np.arange(skeleton.num_keypoints), skeleton.flip_indices):
        apart = ((predictions.keypoints[answer] - truth.keypoints[body][:, order]) ** 2).sum(axis=2)
        np.maximum(each, np.where(truth.visibility[body][:, order] > 0, np.exp(-apart / spread), 0.0), out=each)
    return each
