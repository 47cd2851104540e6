"""What a page says first: whether it is better, by how much, and for whom not."""

from collections.abc import Mapping
from dataclasses import dataclass

from posecore.counting import counted
from posecore.evaluation.bootstrap import Estimate
from posecore.evaluation.paired import Pair, PairedErrors
from posecore.viz.estimate_text import interval, number, percent, signed, signed_points

_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """A sentence of the answer.

    Attributes:
        text: plain text.
        tone: ``good``, ``bad``, or "" for neither.
    """

    text: str
    tone: str = ""


def change_finding(name: str, paired: PairedErrors) -> Finding:
    """How the mean error on a set changed from the first model to the second."""
    error, change = paired.error, paired.error.difference
    told = (
        f"{name}: mean error {percent(error.first.value)} → {percent(error.second.value)} of the box, "
        f"{signed_points(change.value)} points {interval(change, signed_points)}".rstrip()
    )
    if change.value == 0 and change.low != change.low:
        return Finding(f"{name}: mean error {percent(error.first.value)} of the box, the same for both.")
    return _judged(told, change, better=-1)


def precision_finding(name: str, metric: str, pair: Pair) -> Finding:
    """How a metric of which more is better changed, where no body has one answer."""
    change = pair.difference
    if change.value == 0 and change.low != change.low:
        return Finding(f"{name}: {metric} {number(pair.first.value)}, the same for both.")
    told = f"{name}: {metric} {number(pair.first.value)} → {number(pair.second.value)}, {signed(change.value)}"
    return _judged(f"{told} {interval(change, signed)}".rstrip(), change, better=1)


def _judged(told: str, change: Estimate, better: int) -> Finding:
    if change.low != change.low:
        return Finding(f"{told}; there is no interval.")
    if change.low > 0 or change.high < 0:
        good = better * change.value > 0
        return Finding(f"{told}: {'better' if good else 'worse'}.", "good" if good else "bad")
    return Finding(f"{told}: the pictures do not tell them apart.")


def worse_finding(name: str, paired: PairedErrors, points: Mapping[str, Pair]) -> Finding:
    """For whom, and on which points, the second model is clearly not better."""
    parts = []
    for kind, pairs in (("subjects", paired.subjects), ("keypoints", points)):
        worse = {who: pair.difference for who, pair in pairs.items() if pair.difference.low > 0}
        if worse:
            order = sorted(worse, key=lambda who: -worse[who].value)
            named = ", ".join(f"{who} ({signed_points(worse[who].value)})" for who in order[:_NAMED])
            parts.append(f"{len(worse)} of {len(pairs)} {kind}: {named}{' …' if len(worse) > _NAMED else ''}")
    if parts:
        return Finding(f"{name}: clearly worse for {'; '.join(parts)}.", "bad")
    return Finding(
        f"{name}: clearly worse for none of {counted(len(paired.subjects), 'subject')} and "
        f"{counted(len(points), 'keypoint')}."
    )
