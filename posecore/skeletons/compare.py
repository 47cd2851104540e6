"""Which points of a new skeleton a known one has too, and which only look as if it had.

Points that mean the same share a union name. A hip joint and the crest of the hip bone, a shoulder and a collar bone, a
neck and a throat have unlike union names however much their own names resemble each other: what a model knows of one is
a biased guess at the other, which a few labels correct and which no label-free method notices.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from posecore.skeletons.skeleton import Keypoint, Skeleton

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_NO_PART = {
    "the",
    "of",
    "a",
    "b",
    "f",
    "animal",
    "upper",
    "lower",
    "mid",
    "middle",
    "center",
    "centre",
    "front",
    "back",
}
_NO_PART |= {"top", "base", "root", "point", "joint"}


@dataclass(frozen=True, slots=True)
class Lookalike:
    """A new point and a known one that is named alike and lies elsewhere.

    Attributes:
        point: own name of the new point.
        means: its union name.
        known: own name of the known point.
        known_means: its union name.
    """

    point: str
    means: str
    known: str
    known_means: str

    def __str__(self) -> str:
        """In one sentence."""
        return f"{self.point} means {self.means}, not the {self.known_means} that is known as {self.known}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A new skeleton beside a known one; own names of the new one's points.

    Attributes:
        shared: points that both have.
        fresh: points that only the new one has.
        lookalikes: those of the fresh ones that a known point is named like.
    """

    shared: tuple[str, ...]
    fresh: tuple[str, ...]
    lookalikes: tuple[Lookalike, ...]


def compare_skeletons(new: Skeleton, known: Skeleton) -> Comparison:
    """Sorts the points of a new skeleton by what a known one says of them.

    Two names are alike if they name the same part of the body on the same side: sides, species and words such as
    "upper" say no part.
    """
    shared = tuple(point.name for point in new.keypoints if point.union in known.union_names)
    fresh = [point for point in new.keypoints if point.union not in known.union_names]
    lookalikes = [
        Lookalike(point.name, point.union, other.name, other.union)
        for point in fresh
        for other in known.keypoints
        if _alike(point, other)
    ]
    return Comparison(shared, tuple(point.name for point in fresh), tuple(lookalikes))


def _alike(first: Keypoint, second: Keypoint) -> bool:
    sides = [_side(point) for point in (first, second)]
    return sides[0] == sides[1] and bool(_parts(first) & _parts(second))


def _parts(point: Keypoint) -> set[str]:
    words = _words(point.name) | _words(point.union)
    return {word for word in words if word not in _SIDES and word not in _NO_PART}


def _side(point: Keypoint) -> str:
    return next((side for word, side in _SIDES.items() if word in _words(point.union)), "")


def _words(name: str) -> set[str]:
    found: Iterable[str] = _WORD.findall(name)
    return {word.lower() for word in found}
