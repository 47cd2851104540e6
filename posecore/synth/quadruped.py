"""Dog-like animals: proportions and coats by species, gaits, and the solids and landmarks they come to.

As in AP-10K, ``hip`` and ``knee`` of these toe-walkers are the anatomical knee and hock, and ``shoulder`` and ``elbow``
of the front leg the anatomical elbow and carpus.
"""

from dataclasses import dataclass

import numpy as np

from posecore.synth.figure import (
    Colour,
    Figure,
    Material,
    Vector,
    rotation_x,
    rotation_y,
    rotation_z,
    unit,
    vector,
)

_SIDES = (("left", 1.0), ("right", -1.0))
_DARK = Material((0.07, 0.06, 0.06), grain=0.0)


@dataclass(frozen=True, slots=True)
class Species:
    """AP-10K's category and what its kind looks like.

    Attributes:
        category_id: AP-10K's number.
        name: AP-10K's name.
        family: AP-10K's supercategory.
        coats: possible colours.
        height: shoulder height, m.
        snout: length of the snout in head half-sizes.
        ear: length of the ear in head half-sizes.
        leg: length of the legs relative to the trunk.
        tail: length and radius of the tail relative to the trunk.
    """

    category_id: int
    name: str
    family: str
    coats: tuple[Colour, ...]
    height: float
    snout: float
    ear: float
    leg: float
    tail: tuple[float, float]


SPECIES: tuple[Species, ...] = (
    Species(
        8,
        "dog",
        "Canidae",
        ((0.55, 0.38, 0.22), (0.16, 0.13, 0.12), (0.85, 0.74, 0.56), (0.40, 0.26, 0.16), (0.90, 0.88, 0.84)),
        0.55,
        1.0,
        0.8,
        0.95,
        (0.55, 0.030),
    ),
    Species(9, "fox", "Canidae", ((0.78, 0.38, 0.13), (0.70, 0.33, 0.14)), 0.38, 1.05, 1.0, 0.80, (0.75, 0.070)),
    Species(10, "wolf", "Canidae", ((0.47, 0.45, 0.42), (0.62, 0.59, 0.54)), 0.75, 1.15, 0.75, 1.05, (0.55, 0.050)),
    Species(
        24,
        "cat",
        "Felidae",
        ((0.50, 0.47, 0.44), (0.80, 0.52, 0.25), (0.12, 0.11, 0.11), (0.93, 0.91, 0.88)),
        0.26,
        0.45,
        0.70,
        0.75,
        (0.80, 0.035),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadrupedLook:
    """One animal's build and coat; lengths relative to its trunk."""

    species: Species
    coat: Material
    light: Material
    legs: Material
    floppy_ears: bool
    girth: float
    leg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadrupedPose:
    """Degrees. ``swings`` and ``bends`` are of the front left, front right, back left and back right leg."""

    swings: tuple[float, float, float, float]
    bends: tuple[float, float, float, float]
    neck: float
    head: tuple[float, float]
    tail: tuple[float, float]


def quadruped_look(rng: np.random.Generator) -> QuadrupedLook:
    """A species and one animal of it."""
    species = SPECIES[rng.integers(len(SPECIES))]
    colour = np.array(species.coats[rng.integers(len(species.coats))]) * rng.uniform(0.85, 1.1)
    striped = species.name == "cat" and rng.random() < 0.4
    coat = Material(
        tuple(np.minimum(colour, 1)), tuple(0.6 * colour) if striped else None, stripe_px=rng.uniform(3, 6), grain=0.42
    )
    light = Material(tuple(np.minimum(1, 0.45 * colour + 0.5)), grain=0.35)
    marked = rng.random()
    legs = light if marked < 0.25 else Material(tuple(0.45 * colour), grain=0.3) if marked < 0.4 else coat
    return QuadrupedLook(
        species=species,
        coat=coat,
        light=light if rng.random() < 0.6 else coat,
        legs=legs,
        floppy_ears=bool(species.name == "dog" and rng.random() < 0.6),
        girth=rng.uniform(0.85, 1.2),
        leg=species.leg * rng.uniform(0.9, 1.1),
    )


def quadruped_pose(rng: np.random.Generator) -> QuadrupedPose:
    """Standing, walking or running."""
    spread = rng.uniform
    stride = rng.choice([4.0, 18.0, 36.0], p=[0.4, 0.4, 0.2])
    phase = spread(0, 2 * np.pi)
    phases = phase + np.array([0.0, np.pi, np.pi, 0.0]) + rng.normal(0, 0.35, 4)
    swings = stride * np.sin(phases) + rng.normal(0, 3, 4)
    bends = np.maximum(0, stride * 1.3 * np.cos(phases)) + spread(0, 10, 4)
    return QuadrupedPose(
        swings=tuple(swings),
        bends=tuple(bends),
        neck=spread(15, 65),
        head=(spread(-45, 45), spread(-12, 12)),
        tail=(spread(-50, 60), spread(-35, 35)),
    )


def build_quadruped(look: QuadrupedLook, pose: QuadrupedPose, detail: bool) -> Figure:
    """The posed animal, middle of the trunk at the origin; without ``detail`` eyes and claws are left out."""
    figure = Figure()
    species = look.species
    trunk = species.height / 0.95
    half = 0.5 * trunk
    girth = look.girth * trunk
    upright = np.eye(3)
    front, back = vector(0.0, 0.0, 0.78 * half), vector(0.0, 0.01 * trunk, -0.80 * half)
    chest_r, loin_r = 0.165 * girth, 0.125 * girth
    figure.ellipsoid(
        front + vector(0, -0.03 * trunk, -0.08 * trunk), upright, (chest_r, 1.25 * chest_r, 0.27 * trunk), look.coat
    )
    figure.ellipsoid(
        back + vector(0, -0.01 * trunk, 0.04 * trunk), upright, (loin_r, 1.15 * loin_r, 0.22 * trunk), look.coat
    )
    figure.capsule(front, back, 0.95 * chest_r, loin_r, look.coat)
    figure.capsule(
        front + vector(0, -0.45 * chest_r, 0),
        back + vector(0, -0.1 * loin_r, 0),
        0.78 * chest_r,
        0.7 * loin_r,
        look.light,
    )
    _add_neck_and_head(figure, look, pose, front, trunk, detail)
    _add_tail(figure, look, pose, back, trunk)
    for index, (side, sign) in enumerate(_SIDES):
        _add_front_leg(figure, look, (pose.swings[index], pose.bends[index]), front, trunk, (side, sign))
        _add_back_leg(figure, look, (pose.swings[2 + index], pose.bends[2 + index]), back, trunk, (side, sign))
    return figure


def _add_neck_and_head(
    figure: Figure, look: QuadrupedLook, pose: QuadrupedPose, front: Vector, trunk: float, detail: bool
) -> None:
    species = look.species
    withers = front + vector(0, 0.06 * trunk, 0.02 * trunk)
    up = np.deg2rad(pose.neck)
    along = vector(0.0, np.sin(up), np.cos(up))
    length = 0.34 * trunk
    size = 0.125 * trunk * (1.15 if species.name == "cat" else 1.0)
    centre = withers + length * along + vector(0, 0.2 * size, 0.45 * size)
    figure.capsule(withers, centre, 0.125 * trunk * look.girth, 0.72 * size, look.coat)
    turn, tilt = pose.head
    frame = rotation_y(turn) @ rotation_z(tilt) @ rotation_x(12.0)

    def at(point: list[float]) -> Vector:
        return centre + frame @ (size * np.array(point))

    figure.ellipsoid(at([0, 0.1, 0]), frame, (0.88 * size, 0.88 * size, size), look.coat)
    tip = 0.75 + species.snout
    figure.capsule(at([0, -0.22, 0.45]), at([0, -0.34, tip]), 0.52 * size, 0.30 * size, look.light)
    figure.capsule(at([0, -0.05, 0.55]), at([0, -0.17, tip - 0.05]), 0.38 * size, 0.24 * size, look.coat)
    figure.ellipsoid(at([0, -0.16, tip + 0.22]), frame, (0.19 * size, 0.15 * size, 0.13 * size), _DARK)
    for side, sign in _SIDES:
        base = at([sign * 0.58, 0.68, -0.15])
        if look.floppy_ears:
            outer, lower = at([sign * 0.95, 0.35, -0.05]), at([sign * 1.05, -0.1 - 0.5 * species.ear, 0.1])
            figure.capsule(base, outer, 0.28 * size, 0.30 * size, look.legs)
            figure.capsule(outer, lower, 0.30 * size, 0.20 * size, look.legs)
        else:
            top = at([sign * 0.78, 0.75 + species.ear, -0.2])
            figure.capsule(base, top, 0.34 * size, 0.05 * size, look.coat)
        eye = at([sign * 0.42, 0.32, 0.84])
        figure.mark(f"{side}_eye", eye, 0.35 * size, unit(frame @ vector(sign * 0.55, 0.25, 0.8)))
        if detail:
            figure.ellipsoid(at([sign * 0.42, 0.32, 0.80]), frame, (0.16 * size, 0.15 * size, 0.14 * size), _DARK)
    figure.mark("nose", at([0, -0.16, tip + 0.22]), 0.4 * size, frame[:, 2])
    figure.mark("neck", withers + 0.25 * length * along, 0.20 * trunk)


def _add_tail(figure: Figure, look: QuadrupedLook, pose: QuadrupedPose, back: Vector, trunk: float) -> None:
    length, radius = look.species.tail
    root = back + vector(0, 0.07 * trunk, -0.16 * trunk)
    lift, sweep = np.deg2rad(pose.tail[0]), np.deg2rad(pose.tail[1])
    along = vector(np.sin(sweep), np.cos(sweep) * np.sin(lift), -np.cos(sweep) * np.cos(lift))
    middle = root + 0.5 * length * trunk * along
    end = middle + 0.5 * length * trunk * unit(along + vector(0, 0.5, 0))
    thick = radius * trunk
    figure.capsule(root, middle, 0.9 * thick, thick, look.coat)
    figure.capsule(middle, end, thick, 0.6 * thick, look.light if look.species.name == "fox" else look.coat)
    figure.mark("root_of_tail", root, 2.5 * thick + 0.05 * trunk)


def _swung(degrees: float) -> Vector:
    """The downward direction swung forwards by an angle."""
    angle = np.deg2rad(degrees)
    return vector(0.0, -np.cos(angle), np.sin(angle))


def _add_front_leg(
    figure: Figure,
    look: QuadrupedLook,
    angles: tuple[float, float],
    front: Vector,
    trunk: float,
    side_sign: tuple[str, float],
) -> None:
    side, sign = side_sign
    swing, bend = angles
    length = look.leg * trunk
    blade = front + vector(sign * 0.105 * trunk, 0.03 * trunk, 0.04 * trunk)
    elbow = blade + 0.26 * length * _swung(swing * 0.5 - 18)
    carpus = elbow + 0.30 * length * _swung(swing + 4)
    paw = carpus + 0.22 * length * _swung(swing - bend)
    figure.capsule(blade, elbow, 0.10 * trunk, 0.062 * trunk, look.coat)
    figure.capsule(elbow, carpus, 0.056 * trunk, 0.036 * trunk, look.legs)
    figure.capsule(carpus, paw, 0.036 * trunk, 0.036 * trunk, look.legs)
    figure.capsule(paw, paw + vector(0, -0.005 * trunk, 0.05 * trunk), 0.042 * trunk, 0.036 * trunk, look.legs)
    figure.mark(f"{side}_shoulder", elbow, 0.12 * trunk)
    figure.mark(f"{side}_elbow", carpus, 0.08 * trunk)
    figure.mark(f"{side}_front_paw", paw + vector(0, 0, 0.02 * trunk), 0.09 * trunk)


def _add_back_leg(
    figure: Figure,
    look: QuadrupedLook,
    angles: tuple[float, float],
    back: Vector,
    trunk: float,
    side_sign: tuple[str, float],
) -> None:
    side, sign = side_sign
    swing, bend = angles
    length = look.leg * trunk
    hip = back + vector(sign * 0.085 * trunk, 0.02 * trunk, -0.04 * trunk)
    knee = hip + 0.28 * length * _swung(swing + 22)
    hock = knee + 0.28 * length * _swung(swing - 32 - 0.5 * bend)
    paw = hock + 0.24 * length * _swung(swing + 6 - 0.5 * bend)
    figure.capsule(hip, knee, 0.125 * trunk, 0.075 * trunk, look.coat)
    figure.capsule(knee, hock, 0.068 * trunk, 0.038 * trunk, look.coat)
    figure.capsule(hock, paw, 0.036 * trunk, 0.036 * trunk, look.legs)
    figure.capsule(paw, paw + vector(0, -0.005 * trunk, 0.05 * trunk), 0.042 * trunk, 0.036 * trunk, look.legs)
    figure.mark(f"{side}_hip", knee, 0.15 * trunk)
    figure.mark(f"{side}_knee", hock, 0.08 * trunk)
    figure.mark(f"{side}_back_paw", paw + vector(0, 0, 0.02 * trunk), 0.09 * trunk)
