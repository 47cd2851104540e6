"""How far two people's labels of the same pictures lie apart: OKS constants of one's own points, by COCO's rule.

COCO (cocodataset.org/#keypoints-eval) takes for each kind of point σ² = E[d² / s²], with d the distance of an
annotation from where the point is, and s² the area of the body. Where it is nobody knows, so it is taken from two
annotations: of two that are drawn alike about one place, E[d12²] is twice E[d²]. What the two disagree on steadily,
their bias, is in it, as it is in COCO's. The areas are those that the labels are read with, so a set is to be judged
with the areas that its constants were made with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.schema import Instance, Json, Record
from posecore.skeletons.skeleton import Skeleton

FEWEST = 20
"""Pairs of a point below which its constant is called uncertain."""
_NUM_RESAMPLES = 2000
_FARTHEST = 1.0
"""Two bodies whose points lie apart by more than this many of their scales, by their median, are not one body."""


@dataclass(frozen=True, slots=True)
class PointAgreement:
    """What two annotators make of one kind of point; lengths are shares of the body's scale, the root of its area.

    Attributes:
        name: of the point.
        num_pairs: bodies on which both labelled it.
        num_alone: bodies on which one did, by annotator.
        sigma: OKS constant; NaN without a pair.
        interval: 95 % interval of it, from pictures or subjects drawn again.
        bias: mean of second minus first, in x and y.
        bias_interval: 95 % interval of each, as (low x, high x, low y, high y).
    """

    name: str
    num_pairs: int
    num_alone: tuple[int, int]
    sigma: float
    interval: tuple[float, float]
    bias: tuple[float, float]
    bias_interval: tuple[float, float, float, float]

    @property
    def is_biased(self) -> bool:
        """Whether one annotator steadily sets it elsewhere than the other."""
        low_x, high_x, low_y, high_y = self.bias_interval
        return low_x > 0 or high_x < 0 or low_y > 0 or high_y < 0


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two annotators make of the same pictures.

    Attributes:
        points: each kind of point, in the skeleton's order.
        num_pictures: that both have.
        num_bodies: pairs of bodies in them.
        num_unpaired: bodies without a partner, by annotator.
        num_swapped: pairs that agree better with the sides of one exchanged; they are left out.
        drawn_by: what was drawn again for the intervals.
    """

    points: tuple[PointAgreement, ...]
    num_pictures: int
    num_bodies: int
    num_unpaired: tuple[int, int]
    num_swapped: int
    drawn_by: str

    def to_json(self) -> dict[str, Json]:
        """All of it, and the constants by name."""
        points = [
            {
                "name": point.name,
                "pairs": point.num_pairs,
                "alone": list(point.num_alone),
                "sigma": _plain(point.sigma),
                "interval": [_plain(end) for end in point.interval],
                "bias": [_plain(value) for value in point.bias],
                "bias_interval": [_plain(end) for end in point.bias_interval],
            }
            for point in self.points
        ]
        return {
            "pictures": self.num_pictures,
            "bodies": self.num_bodies,
            "unpaired": list(self.num_unpaired),
            "swapped": self.num_swapped,
            "drawn_by": self.drawn_by,
            "points": points,
            "oks_sigmas": {point.name: _plain(point.sigma) for point in self.points},
        }


def agreement(first: Iterable[Record], second: Iterable[Record], skeleton: Skeleton, seed: int = 0) -> Agreement:
    """Compares two people's labels of the same pictures.

    Pictures are the same by the name of their file, and frame; bodies by their subject, else their track, else by what
    lies nearest.

    Args:
        first: one annotator's records.
        second: the other's; points in the same order.
        skeleton: of both.
        seed: of the resampling.

    Raises:
        DatasetError: no picture is in both, or a name stands for several.
    """
    ones, others = _by_picture(first, "first"), _by_picture(second, "second")
    shared = [name for name in ones if name in others]
    if not shared:
        raise DatasetError(
            f"no picture is in both: the first has {_some(ones)}, the second {_some(others)}; pictures are the same by "
            "the name of their file."
        )
    flips = skeleton.flip_indices
    offsets, labelled, groups = [], [], []
    unpaired = [0, 0]
    swapped = 0
    for name in shared:
        bodies = [record.instances for record in (ones[name], others[name])]
        pairs = _pairs(*bodies)
        for place, side in enumerate(bodies):
            unpaired[place] += len(side) - len(pairs)
        for one, other in pairs:
            scale = float(np.sqrt((one.area + other.area) / 2))
            difference = (other.keypoints[:, :2] - one.keypoints[:, :2]) / scale
            both = (one.keypoints[:, 2] > 0) & (other.keypoints[:, 2] > 0)
            if _is_swapped(one, other, flips, both):
                swapped += 1
                continue
            offsets.append(difference)
            labelled.append(np.stack([one.keypoints[:, 2] > 0, other.keypoints[:, 2] > 0]))
            groups.append(one.subject_id or other.subject_id or name)
    if not offsets:
        raise DatasetError(f"no body is in both, in {counted(len(shared), 'picture')} that both have.")
    subjects = {body.subject_id for record in ones.values() for body in record.instances}
    return Agreement(
        points=_points(np.stack(offsets), np.stack(labelled), groups, skeleton.names, seed),
        num_pictures=len(shared),
        num_bodies=len(offsets) + swapped,
        num_unpaired=(unpaired[0], unpaired[1]),
        num_swapped=swapped,
        drawn_by="subjects" if len(subjects - {None}) > 1 and None not in subjects else "pictures",
    )


def agreement_text(found: Agreement) -> str:
    """A table for people, and the lines that a skeleton takes."""
    head = (
        f"{counted(found.num_pictures, 'picture')} and {counted(found.num_bodies, 'body')} in both; without a partner: "
        f"{found.num_unpaired[0]} of the first, {found.num_unpaired[1]} of the second; intervals from {found.drawn_by} "
        "drawn again"
    )
    lines = [head]
    if found.num_swapped:
        lines.append(
            f"left and right are exchanged by one of the two: {counted(found.num_swapped, 'body')} left out; look there"
        )
    lines.append(f"{'point':<20} {'pairs':>5} {'alone':>9} {'constant':>8} {'95 % interval':>15}  second minus first")
    for point in found.points:
        alone = f"{point.num_alone[0]}/{point.num_alone[1]}"
        if not point.num_pairs:
            lines.append(f"{point.name:<20} {0:>5} {alone:>9} {'-':>8}")
            continue
        interval = f"{point.interval[0]:.4f}-{point.interval[1]:.4f}"
        bias = f"{point.bias[0]:+.4f}, {point.bias[1]:+.4f}{' steadily' if point.is_biased else ''}"
        few = f" (fewer than {FEWEST} pairs)" if point.num_pairs < FEWEST else ""
        lines.append(
            f"{point.name:<20} {point.num_pairs:>5} {alone:>9} {point.sigma:>8.4f} {interval:>15}  {bias}{few}"
        )
    lines.append("for skeleton.yaml, in the place of constants that are guessed (take oks_guessed out there):")
    lines += [
        f"  {point.name}: oks_sigma: {point.sigma:.4f}" for point in found.points if point.num_pairs and point.sigma > 0
    ]
    return "\n".join(lines)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _by_picture(records: Iterable[Record], which: str) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in records:
        name = PurePosixPath(record.image).name
        if name in found:
            raise DatasetError(
                f"{which}: {found[name].image} and {record.image} have one name, so pictures cannot be told apart."
            )
        found[name] = record
    return found


def _some(names: Mapping[str, Record]) -> str:
    listed = list(names)[:3]
    return f"{', '.join(listed)}{', …' if len(names) > len(listed) else ''}" or "none"


def _pairs(first: Sequence[Instance], second: Sequence[Instance]) -> list[tuple[Instance, Instance]]:
    """Bodies of one picture that are the same."""
    for called in (lambda body: body.subject_id, lambda body: body.track_id):
        names = [[called(body) for body in side] for side in (first, second)]
        if all(None not in side and len(set(side)) == len(side) for side in names) and all(names):
            others = dict(zip(names[1], second, strict=True))
            return [(body, others[name]) for name, body in zip(names[0], first, strict=True) if name in others]
    if not first or not second:
        return []
    apart = np.array([[_distance(one, other) for other in second] for one in first])
    rows, columns = linear_sum_assignment(np.minimum(apart, 1e6))
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(first[i], second[j]) for i, j in places if apart[i, j] <= _FARTHEST]


def _distance(one: Instance, other: Instance, order: NDArray[np.int64] | None = None) -> float:
    """Median distance of points that both have, in scales; infinite without any."""
    theirs = other.keypoints if order is None else other.keypoints[order]
    both = (one.keypoints[:, 2] > 0) & (theirs[:, 2] > 0)
    if not both.any():
        return float("inf")
    apart = np.linalg.norm(one.keypoints[both, :2] - theirs[both, :2], axis=1)
    return float(np.median(apart) / np.sqrt((one.area + other.area) / 2))


def _is_swapped(one: Instance, other: Instance, flips: NDArray[np.int64], both: NDArray[np.bool_]) -> bool:
    sided = both & (flips != np.arange(len(flips)))
    if not sided.any():
        return False
    mine, theirs = one.keypoints[sided, :2], other.keypoints[sided, :2]
    exchanged = other.keypoints[flips][sided]
    if not (exchanged[:, 2] > 0).all():
        return False
    straight = np.linalg.norm(mine - theirs, axis=1).sum()
    crossed = np.linalg.norm(mine - exchanged[:, :2], axis=1).sum()
    return bool(crossed < straight / 2)


def _points(
    offsets: NDArray[np.floating],
    labelled: NDArray[np.bool_],
    groups: Sequence[str],
    names: Sequence[str],
    seed: int,
) -> tuple[PointAgreement, ...]:
    both = labelled[:, 0] & labelled[:, 1]
    known = np.where(both[:, :, None], offsets, 0).astype(np.float64)
    _, group = np.unique(np.array(groups), return_inverse=True)
    count = int(group.max()) + 1
    sums = np.zeros((count, len(names), 4))
    columns = np.stack([both, known[:, :, 0], known[:, :, 1], (known**2).sum(axis=2)], axis=2)
    np.add.at(sums, group, columns)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _NUM_RESAMPLES)
    again = np.einsum("rg,gkc->rkc", draws, sums)
    total = sums.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = np.sqrt(total[:, 3] / total[:, 0] / 2)
        bias = total[:, 1:3] / total[:, :1]
        sigmas = np.sqrt(again[:, :, 3] / again[:, :, 0] / 2)
        biases = again[:, :, 1:3] / again[:, :, :1]
    alone = [(labelled[:, place] & ~both).sum(axis=0) for place in (0, 1)]
    found = []
    for place, name in enumerate(names):
        ends, ends_x, ends_y = (
            _interval(values) for values in (sigmas[:, place], biases[:, place, 0], biases[:, place, 1])
        )
        found.append(
            PointAgreement(
                name=name,
                num_pairs=int(total[place, 0]),
                num_alone=(int(alone[0][place]), int(alone[1][place])),
                sigma=float(sigma[place]),
                interval=ends,
                bias=(float(bias[place, 0]), float(bias[place, 1])),
                bias_interval=(*ends_x, *ends_y),
            )
        )
    return tuple(found)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975]).tolist()
    return low, high
