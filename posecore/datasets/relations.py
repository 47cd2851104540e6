"""Whether the labels of a split fit each other: points and boxes, boxes and pictures, a point in many pictures.

One body can be odd; a share of many says that a field does not mean what it is read as. On the healthy samples of ten
public datasets at most 4.3 % of the labelled points lie outside their box widened by a tenth and no box leaves its
picture; with x and y swapped, or points in another unit, four in five points do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from posecore.datasets.finding import MAX_EXAMPLES, Finding, Severity
from posecore.schema import Instance, Record
from posecore.skeletons.skeleton import Skeleton

Array: TypeAlias = NDArray[np.float64]

WIDENED = 0.1
"""Of a box's width and height, on every side."""
TOO_MANY_OUTSIDE = 0.3
EXPLAINED = 0.1
"""So few points outside under another reading tell that it is the right one."""
TOO_MANY_LEAVING = 0.1
_ENOUGH_POINTS = 2
_FEWEST = 3
_SHARES_UP_TO = 1.5
_LOPSIDED = 0.05
"""The middle of healthy bodies' points is within a hundredth or two of their boxes' middle."""
_BORDER_PX = 2.0
_ALL_BUT_FEW = 0.9
_SAME_PLACE_SHARE = 0.2
_SAME_PLACE_FEWEST = 20


@dataclass(frozen=True, eq=False)
class Bodies:
    """The bodies of some records as columns; crowds, and what has no box of a finite size, left out.

    Attributes:
        names: (n,) picture and id, for people.
        records: (n,) position of each body's record among those given.
        boxes: (n, 4) x, y, width, height in pixels.
        sizes: (n, 2) width and height of the pictures in pixels; NaN where not known.
        points: (n, K, 2) x, y in pixels; NaN where not labelled, or at exactly (0, 0).
    """

    names: tuple[str, ...]
    records: tuple[int, ...]
    boxes: Array
    sizes: Array
    points: Array

    @cached_property
    def num_labelled(self) -> NDArray[np.int64]:
        """(n,) labelled points."""
        return np.isfinite(self.points[..., 0]).sum(axis=1)

    def outside(self) -> Array:
        """(n,) share of each body's labelled points outside its widened box; NaN without any."""
        low = self.boxes[:, None, :2] - WIDENED * self.boxes[:, None, 2:]
        high = self.boxes[:, None, :2] + (1 + WIDENED) * self.boxes[:, None, 2:]
        count = ((self.points < low) | (self.points > high)).any(axis=-1).sum(axis=1)
        return np.where(self.num_labelled > 0, count / np.maximum(self.num_labelled, 1), np.nan)

    def outside_of_all(self) -> float:
        """Share of all labelled points outside their widened box."""
        each = self.outside()
        return float(np.nansum(each * self.num_labelled) / max(self.num_labelled.sum(), 1))


def columns_of(records: Sequence[Record], num_keypoints: int) -> Bodies:
    """The bodies of records with K points each.

    Args:
        records: their width and height are those of the pictures, 0 where not known.
        num_keypoints: K.
    """
    found: list[tuple[int, Record, Instance]] = [
        (position, record, body)
        for position, record in enumerate(records)
        for body in record.instances
        if not body.is_crowd and body.keypoints.shape == (num_keypoints, 3)
        if np.isfinite(body.bbox_xywh).all() and min(body.bbox_xywh[2:]) > 0
    ]
    points = np.array([body.keypoints for _, _, body in found], np.float64).reshape(len(found), num_keypoints, 3)
    unknown = (points[..., 2] <= 0) | ~np.isfinite(points[..., :2]).all(axis=-1) | (points[..., :2] == 0).all(axis=-1)
    sizes = np.array([(record.width, record.height) for _, record, _ in found], np.float64).reshape(-1, 2)
    return Bodies(
        names=tuple(f"{record.image}, instance {body.id}" for _, record, body in found),
        records=tuple(position for position, _, _ in found),
        boxes=np.array([body.bbox_xywh for _, _, body in found], np.float64).reshape(-1, 4),
        sizes=np.where(sizes > 0, sizes, np.nan),
        points=np.where(unknown[..., None], np.nan, points[..., :2]),
    )


def relations(bodies: Bodies, skeleton: Skeleton) -> list[Finding]:
    """What does not fit, each with its likeliest cause."""
    boxes = _boxes_and_pictures(bodies)
    found = boxes or _points_and_boxes(bodies)
    return [*found, *_places(bodies, skeleton)]


def worst(bodies: Bodies) -> list[int]:
    """Rows of the bodies with points outside their widened box, those with the largest share of them first."""
    outside = np.nan_to_num(bodies.outside())
    return [int(row) for row in np.argsort(-outside, kind="stable") if outside[row] > 0]


def worst_records(records: Sequence[Record], bodies: Bodies, number: int = 3) -> list[Record]:
    """The records of the bodies that fit their box and picture worst, each with that body alone.

    What does not fit is the share of points outside the widened box, that of the box outside the picture, and how far
    the middle of the points is from that of the box.

    Args:
        records: those that ``bodies`` are of.
        bodies: their columns.
        number: of records at most.
    """
    low = np.maximum(bodies.boxes[:, :2], 0)
    high = np.minimum(bodies.boxes[:, :2] + bodies.boxes[:, 2:], np.nan_to_num(bodies.sizes, nan=np.inf))
    inside = np.maximum(high - low, 0).prod(axis=1) / bodies.boxes[:, 2:].prod(axis=1)
    off = np.zeros(len(bodies.boxes))
    labelled = np.flatnonzero(bodies.num_labelled > 0)
    if len(labelled):  # a skeleton without points has no extent to be asked for
        off[labelled] = np.abs(_offsets(bodies, labelled)).max(axis=1)
    misfit = np.nan_to_num(bodies.outside()) + (1 - inside) + np.minimum(off, 1)
    order = [int(row) for row in np.argsort(-misfit, kind="stable")]
    chosen = {bodies.records[row]: row for row in reversed(order)}
    rows = sorted(chosen.values(), key=order.index)[:number]
    shown = [(records[bodies.records[row]], bodies.names[row]) for row in rows]
    return [replace(record, instances=[_named(record, name)]) for record, name in shown]


def _named(record: Record, name: str) -> Instance:
    return next(body for body in record.instances if f"{record.image}, instance {body.id}" == name)


def _boxes_and_pictures(bodies: Bodies) -> list[Finding]:
    """Corners read as x, y, width, height reach too far right and down: beyond the picture, or beyond the points."""
    as_corners = replace(bodies, boxes=_from_corners(bodies.boxes))
    several = bodies.num_labelled >= _ENOUGH_POINTS
    possible = (as_corners.boxes[:, 2:] > 0).all(axis=1) & ~_leave(as_corners.boxes, bodies.sizes)
    if several.sum() < _FEWEST or possible.mean() < _ALL_BUT_FEW or as_corners.outside_of_all() > EXPLAINED:
        return []
    leaving = _leave(bodies.boxes, bodies.sizes)
    is_lopsided = bool((_offset(bodies, several) < -_LOPSIDED).all())
    if leaving.mean() < TOO_MANY_LEAVING and not is_lopsided:
        return []
    message = (
        f"boxes are probably corners x1, y1, x2, y2 where x, y, width, height are read: so, {leaving.mean():.0%} reach "
        f"beyond their picture and their points keep to the upper left; as corners {possible.mean():.0%} are whole and "
        f"within it; write width and height into the file, or use a reader of corners"
    )
    return [_finding("error", "boxes-are-corners", message, bodies, np.flatnonzero(possible).tolist())]


def _offset(bodies: Bodies, rows: NDArray[np.bool_]) -> Array:
    """(2,) how far the middle of the points is off that of the box, in shares of its sides; the median of some."""
    return np.asarray(np.median(_offsets(bodies, np.flatnonzero(rows)), axis=0))


def _offsets(bodies: Bodies, rows: NDArray[np.int64]) -> Array:
    """(n, 2) the same of each of some bodies with labelled points."""
    points, boxes = bodies.points[rows], bodies.boxes[rows]
    middle = (np.nanmin(points, axis=1) + np.nanmax(points, axis=1)) / 2
    return np.asarray((middle - boxes[:, :2] - boxes[:, 2:] / 2) / boxes[:, 2:])


def _points_and_boxes(bodies: Bodies) -> list[Finding]:
    share = bodies.outside_of_all()
    if share < TOO_MANY_OUTSIDE or (bodies.num_labelled > 0).sum() < _FEWEST:
        return []
    readings = {cause: other.outside_of_all() for cause, other in _other_readings(bodies).items()}
    cause, least = min(readings.items(), key=lambda item: item[1])
    advice = (
        f"with {cause}, {least:.0%} would: that is probably what they are"
        if least < EXPLAINED
        else "no other reading of the fields explains it; look at the pictures with `posecore datasets show`"
    )
    message = (
        f"bodies have points outside their box widened by a tenth, {share:.0%} of all labelled points (healthy data: "
        f"below 5%); {advice}"
    )
    return [_finding("error", "points-outside-box", message, bodies, worst(bodies))]


def _other_readings(bodies: Bodies) -> dict[str, Bodies]:
    """What the fields might mean instead, as the words of a sentence → the bodies read so."""
    points, boxes, sizes = bodies.points, bodies.boxes, bodies.sizes[:, None]
    # What is multiplied by a size that nobody knows lies nowhere, so not outside of anything either.
    has_sizes = bool(np.isfinite(sizes).all())
    if has_sizes and np.nanmax(points) <= _SHARES_UP_TO:
        return {"points as shares of the picture (0 to 1)": replace(bodies, points=points * sizes)}
    readings = {
        "x and y of the points swapped": replace(bodies, points=points[..., ::-1]),
        "points counted from the corner of their box": replace(bodies, points=points + boxes[:, None, :2]),
        "boxes as x1, y1, x2, y2": replace(bodies, boxes=_from_corners(boxes)),
        "boxes as centre, width, height": replace(
            bodies, boxes=np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
        ),
    }
    if has_sizes:
        from_below = np.stack([points[..., 0], sizes[..., 1] - points[..., 1]], axis=-1)
        of_picture = np.concatenate([bodies.sizes, bodies.sizes], axis=1)
        readings |= {
            "y of the points counted from below": replace(bodies, points=from_below),
            "boxes as shares of the picture (0 to 1)": replace(bodies, boxes=boxes * of_picture),
        }
    factor = _factor(bodies)
    if factor is not None:
        readings[f"points in another unit ({factor:.2g} × as large)"] = replace(bodies, points=points * factor)
    return readings


def _factor(bodies: Bodies) -> float | None:
    """By what the points would have to be multiplied to lie where the boxes do; None if they need not be."""
    labelled = bodies.num_labelled > 0
    if not labelled.any():
        return None
    centres = np.nanmean(bodies.points[labelled], axis=1)
    middles = bodies.boxes[labelled, :2] + bodies.boxes[labelled, 2:] / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = float(np.median(np.linalg.norm(middles, axis=1) / np.linalg.norm(centres, axis=1)))
    return factor if np.isfinite(factor) and factor > 0 and not 0.8 < factor < 1.25 else None


def _places(bodies: Bodies, skeleton: Skeleton) -> list[Finding]:
    """Points that lie at one and the same place in many pictures."""
    found = []
    for number, name in enumerate(skeleton.names):
        labelled = np.flatnonzero(np.isfinite(bodies.points[:, number, 0]))
        if len(labelled) < _SAME_PLACE_FEWEST:
            continue
        places, inverse, counts = np.unique(
            bodies.points[labelled, number], axis=0, return_inverse=True, return_counts=True
        )
        often = int(counts.argmax())
        if counts[often] < max(_SAME_PLACE_FEWEST, _SAME_PLACE_SHARE * len(labelled)):
            continue
        x, y = places[often]
        message = f"labels of {name} lie at ({x:g}, {y:g}), of {len(labelled)} looked at: a place-holder, not a label?"
        found.append(_finding("warning", "one-place", message, bodies, labelled[inverse.ravel() == often].tolist()))
    return found


def _leave(boxes: Array, sizes: Array) -> NDArray[np.bool_]:
    """(n,) whether boxes reach beyond their picture's right or lower edge."""
    leaves: NDArray[np.bool_] = np.any(boxes[:, :2] + boxes[:, 2:] > sizes + _BORDER_PX, axis=1)
    return leaves


def _from_corners(boxes: Array) -> Array:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _finding(severity: Severity, code: str, message: str, bodies: Bodies, rows: Sequence[int]) -> Finding:
    examples = tuple(bodies.names[row] for row in rows[:MAX_EXAMPLES])
    return Finding(severity=severity, code=code, message=message, count=len(rows), examples=examples)
