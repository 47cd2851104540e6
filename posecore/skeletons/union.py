"""The union vocabulary: every point of every skeleton, once.

Points that mean the same share an entry (MPII's ``upper_neck`` and AI Challenger's ``neck``); points that only share a
name are two (the ``neck`` of AP-10K is ``animal_neck``). The order never changes: keypoint states are stored by it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posecore.config import digest_json, read_yaml
from posecore.errors import DatasetError
from posecore.skeletons.skeleton import Skeleton


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of union names.

    Attributes:
        names: U names; the position of a name is its index everywhere.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            doubled = sorted({name for name in self.names if self.names.count(name) > 1})
            raise DatasetError(f"union vocabulary: names appear twice: {', '.join(doubled)}.")

    @property
    def size(self) -> int:
        """U."""
        return len(self.names)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """Position of a union name.

        Raises:
            DatasetError: the name is not in the vocabulary.
        """
        try:
            return self._positions[name]
        except KeyError:
            hint = "extend the vocabulary by the skeleton first"
            raise DatasetError(f"union keypoint {name!r} is not among the {self.size} known names; {hint}.") from None

    def indices(self, skeleton: Skeleton) -> NDArray[np.int64]:
        """(K,) position of each of the skeleton's points.

        Raises:
            DatasetError: a point's union name is not in the vocabulary.
        """
        return np.array([self.index(name) for name in skeleton.union_names], np.int64)

    def digest(self) -> str:
        """SHA-256 of the names in order, as 64 hexadecimal digits."""
        return digest_json(list(self.names))

    def extended(self, skeletons: Iterable[Skeleton]) -> "Vocabulary":
        """This vocabulary with the union names it lacks appended, in the order the skeletons bring them."""
        names = dict.fromkeys(self.names)
        for skeleton in skeletons:
            names.update(dict.fromkeys(skeleton.union_names))
        return Vocabulary(tuple(names))


@cache
def builtin_vocabulary() -> Vocabulary:
    """The vocabulary of all shipped skeletons, from ``union.yaml``."""
    return Vocabulary(tuple(read_yaml(Path(__file__).with_name("union.yaml"))["names"]))
