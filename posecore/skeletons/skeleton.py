"""A skeleton: named points with their mirror partners, links, OKS constants and union names."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from posecore.config import Config

MAX_KEYPOINTS = 4096
"""Of a skeleton; the largest published has 308."""


class Keypoint(Config):
    """One point of a skeleton.

    Attributes:
        name: the dataset's own name.
        union: name in the union vocabulary; points that mean the same share it across skeletons.
        oks_sigma: OKS per-keypoint constant, or None where none is published.
        oks_guessed: the constant is that of another body's point; scores made with it say so.
        flip: name of the mirror partner, or None for a point on the midline.
        part: ``upper`` or ``lower`` half of the body, or ``none`` of the two, such as a point of a hand, which may be
            anywhere; for half-body augmentation and blankets.
        group: body part for part-wise metrics: ``body``, ``foot``, ``face``, ``left_hand``, ``right_hand``.
    """

    name: str
    union: str
    oks_sigma: float | None = None
    flip: str | None = None
    part: Literal["upper", "lower", "none"] = "lower"
    group: str = "body"
    oks_guessed: bool = False

    @model_serializer(mode="wrap")
    def _serialize(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if not self.oks_guessed:  # skeletons written before there was such a field keep their digest
            values.pop("oks_guessed", None)
        return values


class Skeleton(Config):
    """Named points in a fixed order.

    Attributes:
        name: identifier.
        keypoints: the points, in the dataset's order.
        links: pairs of point names to draw.
        source: where names, links and constants come from.
    """

    name: str
    keypoints: tuple[Keypoint, ...] = Field(max_length=MAX_KEYPOINTS)
    links: tuple[tuple[str, str], ...] = Field(default=(), max_length=4 * MAX_KEYPOINTS)
    source: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [point.name for point in self.keypoints]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"skeleton {self.name}: keypoint names appear twice: {', '.join(doubled)}.")
        unions = [point.union for point in self.keypoints]
        doubled = sorted({name for name in unions if unions.count(name) > 1})
        if doubled:
            raise ValueError(f"skeleton {self.name}: two keypoints claim the union names {', '.join(doubled)}.")
        known = set(names)
        flips = {point.name: point.flip for point in self.keypoints}
        for name, partner in flips.items():
            if partner is not None and (partner not in known or flips[partner] != name):
                raise ValueError(f"skeleton {self.name}: {name} flips to {partner}, which does not flip back.")
        for link in self.links:
            for end in link:
                if end not in known:
                    raise ValueError(f"skeleton {self.name}: link {link} names {end!r}, which is not a keypoint.")
        return self

    @property
    def num_keypoints(self) -> int:
        """K."""
        return len(self.keypoints)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Native names in order."""
        return tuple(point.name for point in self.keypoints)

    @cached_property
    def union_names(self) -> tuple[str, ...]:
        """Union names in native order."""
        return tuple(point.union for point in self.keypoints)

    @cached_property
    def flip_indices(self) -> NDArray[np.int64]:
        """(K,) index of each point's mirror partner; a midline point is its own."""
        position = {name: index for index, name in enumerate(self.names)}
        return np.array([position[p.flip if p.flip is not None else p.name] for p in self.keypoints], np.int64)

    @cached_property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Mirror pairs of indices, the smaller first."""
        return tuple((i, int(j)) for i, j in enumerate(self.flip_indices) if i < j)

    @cached_property
    def link_indices(self) -> tuple[tuple[int, int], ...]:
        """Links as index pairs."""
        position = {name: index for index, name in enumerate(self.names)}
        return tuple((position[a], position[b]) for a, b in self.links)

    @cached_property
    def oks_sigmas(self) -> NDArray[np.float64] | None:
        """(K,) OKS constants, or None if any point has none."""
        sigmas = [point.oks_sigma for point in self.keypoints]
        return None if any(s is None for s in sigmas) else np.array(sigmas, np.float64)

    @cached_property
    def upper_body_mask(self) -> NDArray[np.bool_]:
        """(K,) which points are of the upper body."""
        return np.array([point.part == "upper" for point in self.keypoints], np.bool_)

    @cached_property
    def lower_body_mask(self) -> NDArray[np.bool_]:
        """(K,) which points are of the lower body; points of no half are in neither mask."""
        return np.array([point.part == "lower" for point in self.keypoints], np.bool_)

    @cached_property
    def body_mask(self) -> NDArray[np.bool_]:
        """(K,) which points are of the group ``body``: not of face, hands or feet."""
        return np.array([point.group == "body" for point in self.keypoints], np.bool_)

    def indices_of_group(self, groups: str | Sequence[str]) -> tuple[int, ...]:
        """Indices of the points of one or several groups."""
        wanted = {groups} if isinstance(groups, str) else set(groups)
        return tuple(i for i, point in enumerate(self.keypoints) if point.group in wanted)
