"""A posed body as solids and named landmarks, in metres, before it is placed in a picture.

Body frame: x to the subject's own left, y up, z forward. Seen from the front, the subject's left is on the picture's
right.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
Colour: TypeAlias = tuple[float, float, float]
"""Red, green, blue reflectance in 0 to 1."""


NOWHERE: Vector = np.zeros(3)
"""Outward direction of a point that can be marked from any side."""


@dataclass(frozen=True, slots=True)
class Material:
    """How a surface looks.

    Attributes:
        colour: main colour.
        second: colour of every other stripe, or None for plain.
        stripe_px: width of a stripe, px.
        grain: strength of the surface texture; 0 is smooth skin, 0.5 is shaggy fur.
    """

    colour: Colour
    second: Colour | None = None
    stripe_px: float = 6.0
    grain: float = 0.06


@dataclass(slots=True)
class Figure:
    """Solids and landmarks of one body.

    Attributes:
        capsules: start (3,), end (3,), radii, material.
        ellipsoids: centre (3,), semi-axes (3, 3) as columns, material.
        landmarks: blocks of n names, positions (n, 3), how far the skin may lie in front of them (m), and the outward
            directions (n, 3) of points that an annotator only marks on the side that can be seen (eyes, face), else
            zeros.
    """

    capsules: list[tuple[Vector, Vector, float, float, Material]] = field(default_factory=list)
    ellipsoids: list[tuple[Vector, Vector, Material]] = field(default_factory=list)
    landmarks: list[tuple[tuple[str, ...], Vector, float, Vector]] = field(default_factory=list)

    def capsule(self, start: Vector, end: Vector, start_radius: float, end_radius: float, material: Material) -> None:
        """Adds a tapered limb."""
        self.capsules.append((start, end, start_radius, end_radius, material))

    def ellipsoid(
        self, centre: Vector, frame: Vector, half_sizes: tuple[float, float, float], material: Material
    ) -> None:
        """Adds an ellipsoid with semi-axes ``half_sizes`` along the columns of ``frame``."""
        self.ellipsoids.append((centre, frame * np.array(half_sizes), material))

    def mark(self, name: str, position: Vector, cover: float, outward: Vector = NOWHERE) -> None:
        """Names a point."""
        self.landmarks.append(((name,), position[None], cover, outward[None]))

    def mark_all(self, names: tuple[str, ...], positions: Vector, cover: float, outwards: Vector | None = None) -> None:
        """Names n points at (n, 3)."""
        outwards = np.zeros_like(positions) if outwards is None else outwards
        self.landmarks.append((names, positions, cover, outwards))


def rotation_x(degrees: float) -> Vector:
    """Rotation about x: positive turns y towards z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def rotation_y(degrees: float) -> Vector:
    """Rotation about y: positive turns z towards x, that is, the body to its own left."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, 0.0, s], [0, 1, 0], [-s, 0, c]])


def rotation_z(degrees: float) -> Vector:
    """Rotation about z: positive turns x towards y."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0.0], [s, c, 0], [0, 0, 1]])


def vector(x: float, y: float, z: float) -> Vector:
    """(3,) float64."""
    return np.array([x, y, z], np.float64)


def unit(vector: Vector) -> Vector:
    """The vector at length 1."""
    return vector / max(float(np.sqrt(vector @ vector)), 1e-9)


def cross(first: Vector, second: Vector) -> Vector:
    """Cross product of two (3,) vectors; :func:`numpy.cross` takes ten times as long for one pair."""
    (ax, ay, az), (bx, by, bz) = first, second
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def perpendicular(direction: Vector, towards: Vector) -> Vector:
    """The unit vector at right angles to the unit vector ``direction`` that lies nearest to ``towards``."""
    return unit(towards - (towards @ direction) * direction)
