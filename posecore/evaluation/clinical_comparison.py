"""Two models on the same bodies, in torso lengths: what changed, and whether the subjects allow to say so.

Both models answered the same frames of the same subjects, so the interval of a difference comes from drawing subjects
once and taking the difference in each draw. What makes a subject hard for both then cancels: such an interval is
narrower than the two models' own, and their overlap says little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from posecore.counting import counted
from posecore.errors import EvaluationError
from posecore.evaluation.bootstrap import BootstrapSettings, Estimate, bootstrap_by_subject
from posecore.evaluation.clinical import ClinicalResult, GroupResult, group_values


@dataclass(frozen=True, kw_only=True)
class GroupChange:
    """One group under two models; differences are child - parent.

    Attributes:
        parent: what the first model did.
        child: what the second did.
        error: difference of the mean errors, in torso lengths; below 0 the child is better.
        pck: share of the torso → difference of the shares of points within it; above 0 the child is better.
        missed: difference of the shares missed; None where boxes were given.
    """

    parent: GroupResult
    child: GroupResult
    error: Estimate
    pck: Mapping[float, Estimate]
    missed: Estimate | None


@dataclass(frozen=True, kw_only=True)
class ClinicalComparison:
    """Two models on one evaluation set.

    Attributes:
        parent: of the first model.
        child: of the second.
        whole: everything judged.
        by: as in :class:`~posecore.evaluation.clinical.ClinicalResult`.
    """

    parent: ClinicalResult
    child: ClinicalResult
    whole: GroupChange
    by: Mapping[str, Sequence[GroupChange]]


def compare_clinic(parent: ClinicalResult, child: ClinicalResult) -> ClinicalComparison:
    """Pairs the groups of two results.

    Args:
        parent: of the first model.
        child: of the second, on the same bodies with the same settings.

    Raises:
        EvaluationError: other bodies, or other settings.
    """
    settings = child.settings
    if parent.settings != settings:
        raise EvaluationError("the two results were made with different settings; evaluate both models alike.")

    def change(before: GroupResult, after: GroupResult) -> GroupChange:
        return _change(before, after, settings.bootstrap)

    if parent.by.keys() != child.by.keys():
        raise EvaluationError("the two results divide their bodies otherwise; evaluate both models on one set.")
    return ClinicalComparison(
        parent=parent,
        child=child,
        whole=change(parent.whole, child.whole),
        by={kind: [change(*pair) for pair in zip(parent.by[kind], child.by[kind], strict=True)] for kind in child.by},
    )


def _change(parent: GroupResult, child: GroupResult, settings: BootstrapSettings) -> GroupChange:
    judged = [(group.name, group.instances, group.points, group.sums.keys()) for group in (parent, child)]
    if judged[0] != judged[1]:
        raise EvaluationError(
            f"the two results are of other bodies: {parent.name} has {counted(parent.points, 'point')} of "
            f"{counted(parent.instances, 'body')}, and {child.name} {child.points} of {child.instances}; evaluate both "
            "models on one set."
        )
    width = 2 * (5 + len(child.pck))
    sums = np.array([[*parent.sums[unit], *child.sums[unit]] for unit in child.sums], np.float64).reshape(-1, width)
    missed, error, *pck = bootstrap_by_subject(sums, _differences, settings)
    return GroupChange(
        parent=parent,
        child=child,
        error=error,
        pck=dict(zip(child.pck, pck, strict=True)),
        missed=None if child.missed is None else missed,
    )


def _differences(sums: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B M"]:
    parent, child = np.split(sums, 2, axis=1)
    difference: Float[np.ndarray, "B M"] = group_values(child) - group_values(parent)
    return difference
