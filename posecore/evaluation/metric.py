"""What every judge of predictions is, and what it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from posecore.config import Extension
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.image_units import Measure
from posecore.schema import AreaRule
from posecore.skeletons.skeleton import Skeleton


@dataclass(frozen=True)
class Case:
    """A split with somebody's predictions for it.

    Attributes:
        skeleton: of the split.
        truth: its labels.
        predictions: one or several per body.
        scale_rule: area that OKS divides by; None means the record's own area.
    """

    skeleton: Skeleton
    truth: GroundTruth
    predictions: Predictions
    scale_rule: AreaRule | None = None

    def sigmas(self) -> NDArray[np.float64]:
        """(K,) the points' OKS constants.

        Raises:
            EvaluationError: a point has none.
        """
        if self.skeleton.oks_sigmas is None:
            raise EvaluationError(
                f"skeleton {self.skeleton.name} has points without an OKS constant; give each keypoint an oks_sigma, "
                "or choose the pck, torso or pixel protocol."
            )
        return self.skeleton.oks_sigmas

    def area(self, default: AreaRule | None = None) -> NDArray[np.float64]:
        """(N,) areas in px² that OKS divides by, by the dataset's rule or, without one, a default."""
        return self.truth.scale_area(self.scale_rule or default)


class Metric(Extension):
    """The protocol of metrics: ``evaluation: {protocol: its kind, options: {its fields}}`` of a ``dataset.yaml``.

    Attributes:
        primary: the value that stands for the result where only one fits.
        higher_is_better: direction of that value.
        divides_by_oks: it needs an OKS constant of every point.
        usual_scale: area that OKS divides by where the dataset states no rule; None is the record's own.
        per_category: it judges each class, such as a species, by itself.
        pairs_bodies: it wants exactly one answer to every annotated body, as annotated boxes have.
    """

    primary: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    divides_by_oks: ClassVar[bool] = False
    usual_scale: ClassVar[AreaRule | None] = None
    per_category: ClassVar[bool] = False
    pairs_bodies: ClassVar[bool] = False

    def __call__(self, case: Case) -> Mapping[str, float]:
        """Name → value, the primary one among them; names keep to the characters that MLflow accepts.

        Raises:
            EvaluationError: the predictions do not fit the split, or it lacks what is measured by.
        """
        raise NotImplementedError(f"{type(self).__name__} has to judge")

    def resampled(self, case: Case) -> Measure | None:
        """Its figures as a function of how often each image counts, for intervals; None where it has none."""
        return None

    def problem(self, skeleton: Skeleton) -> str | None:
        """Why bodies of a skeleton cannot be judged, known before there are predictions; None if they can.

        A sentence without the place, such as ``point tail has no …``.
        """
        return None
