"""An infant in an incubator, seen from above, with arms of adults who reach in, a blanket, tape, tubes and leads."""

from dataclasses import replace

import numpy as np

from posecore.synth.actors import BODY_TO_VIEW, Actor, place_on_bed
from posecore.synth.figure import Material, Vector, rotation_x, rotation_y, rotation_z
from posecore.synth.human import (
    HumanLook,
    HumanPose,
    LimbPose,
    adult_look,
    adult_shape,
    infant_look,
    infant_pose,
    infant_shape,
)
from posecore.synth.human_figure import build_human
from posecore.synth.randomness import generator
from posecore.synth.raster import Raster

REACHING = "Reaching"
"""Posture of an adult of whom only arms are in the picture."""

_FIRST_ADULT = 500_000
"""Numbers of adults begin here, so that none is an infant's."""

_GLOVES = ((0.35, 0.52, 0.78), (0.90, 0.89, 0.86), (0.48, 0.40, 0.70), (0.30, 0.62, 0.66))
_GOWNS = ((0.30, 0.50, 0.66), (0.35, 0.62, 0.58), (0.88, 0.90, 0.90), (0.86, 0.80, 0.45), (0.40, 0.42, 0.60))
_ARMS = ("elbow", "wrist", "hand", "thumb", "finger")
_BEHIND_M = 0.06
"""How far head and shoulders stay from the picture's edge."""


def incubator_actors(rng: np.random.Generator, seed: int, subjects: range, size: tuple[int, int]) -> list[Actor]:
    """The infant, in its place, and after it one or two adults who stand beside and reach in with one arm or both.

    All are labelled as people are who are partly in a picture: what of them lies outside has no label.

    Args:
        rng: of the picture.
        seed: names the set.
        subjects: numbers of infants and, after :data:`_FIRST_ADULT`, of adults.
        size: (height, width) of the picture, px.
    """
    infant = _infant(rng, seed, subjects[int(rng.integers(len(subjects)))])
    place_on_bed(rng, [infant], size)
    x, y, depth = infant.origin
    infant.px_per_m *= 0.8
    infant.origin = (0.8 * x + 0.1 * size[1], 0.8 * y + 0.1 * size[0], 0.8 * depth)
    edges = rng.permutation(4)[: 1 if rng.random() < 0.7 else 2]
    return [infant, *(_adult(rng, seed, subjects, infant, int(edge), size) for edge in edges)]


def _infant(rng: np.random.Generator, seed: int, subject: int) -> Actor:
    who = generator("infant", seed, subject)
    shape, look = infant_shape(who), infant_look(who)
    posture = "Supine" if rng.random() < 0.7 else "Prone"
    turn = rotation_x(rng.normal(0, 8)) @ rotation_y(rng.normal(0 if posture == "Supine" else 180, 18))
    roll = rng.choice([-90, 90]) + rng.normal(0, 20) if rng.random() < 0.7 else rng.uniform(-180, 180)
    figure = build_human(shape, look, infant_pose(rng, sitting=False), detail=True)
    return Actor(figure, BODY_TO_VIEW @ rotation_z(roll) @ turn, subject, "person", 1, posture)


def _adult(
    rng: np.random.Generator, seed: int, subjects: range, infant: Actor, edge: int, size: tuple[int, int]
) -> Actor:
    """Somebody upright beside an edge of the picture: 0 left, 1 top, 2 right, 3 below."""
    subject = _FIRST_ADULT + subjects[int(rng.integers(len(subjects)))]
    who = generator("adult", seed, subject)
    shape, look = adult_shape(who), _at_work(who, adult_look(who))
    inwards = np.array([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][edge])
    along = np.deg2rad(rng.normal(0, 12))
    forward = np.array([[np.cos(along), -np.sin(along)], [np.sin(along), np.cos(along)]]) @ inwards
    # Seen from above: up is towards the viewer, ahead is into the picture.
    turn = np.array([[forward[1], 0.0, forward[0]], [-forward[0], 0.0, forward[1]], [0.0, -1.0, 0.0]])
    figure = build_human(shape, look, _leaning(rng), detail=True)
    actor = Actor(figure, turn, subject, "person", 1, REACHING, px_per_m=infant.px_per_m)
    place = {
        name: turn @ position * actor.px_per_m
        for names, positions, *_ in figure.landmarks
        for name, position in zip(names, positions, strict=True)
    }
    body = np.array([at for name, at in place.items() if not any(part in name for part in _ARMS)])
    behind = float((body[:, :2] @ inwards).max()) + _BEHIND_M * actor.px_per_m
    hand = max((place["left_wrist"], place["right_wrist"]), key=lambda at: float(at[:2] @ inwards))
    height, width = size
    border = np.array([0.0, 0.0]) if edge < 2 else np.array([width - 1.0, height - 1.0])
    to_side = np.array([-inwards[1], inwards[0]])
    beside = np.array(infant.origin[:2]) + rng.normal(0, 0.12, 2) * (width, height) - hand[:2]
    at = inwards * (border @ inwards - behind) + to_side * (beside @ to_side)
    over = -rng.uniform(0.12, 0.2) * actor.px_per_m
    actor.origin = (float(at[0]), float(at[1]), infant.origin[2] + over - float(hand[2]))
    return actor


def _at_work(rng: np.random.Generator, look: HumanLook) -> HumanLook:
    """Scrubs with short sleeves or a gown with long ones, mostly with gloves."""
    gown = Material(_GOWNS[rng.integers(len(_GOWNS))], grain=0.06)
    gloves = Material(_GLOVES[rng.integers(len(_GLOVES))], grain=0.02)
    sleeve = float(rng.choice([0.5, 1.0]))
    return replace(look, top=gown, sleeve=sleeve, gloves=gloves if rng.random() < 0.8 else None)


def _leaning(rng: np.random.Generator) -> HumanPose:
    spread = rng.uniform
    reaching = LimbPose(abduction=spread(2, 16), flexion=spread(62, 92), bend=spread(0, 35), twist=spread(-20, 60))
    other = LimbPose(abduction=spread(2, 16), flexion=spread(55, 90), bend=spread(0, 50), twist=spread(-20, 60))
    arms = [reaching, other if rng.random() < 0.6 else LimbPose(abduction=6.0, flexion=-5.0, bend=8.0)]
    if rng.random() < 0.5:
        arms.reverse()
    leg = LimbPose(abduction=4.0, flexion=-18.0, bend=4.0)
    return HumanPose(
        spine=(spread(14, 28), spread(-6, 6), spread(-10, 10)),
        head=(spread(5, 20), 0.0, spread(-20, 20)),
        arms=(arms[0], arms[1]),
        legs=(leg, leg),
        finger_bend=spread(10, 60),
    )


def draw_covers(rng: np.random.Generator, raster: Raster, materials: list[Material], infant: Actor) -> None:
    """Lays a blanket over the legs, tape on the face, a tube and leads, each by chance, under the adults' hands."""
    scale, origin = infant.px_per_m, np.array(infant.origin)
    place = {
        name: origin + infant.turn @ position * scale
        for names, positions, *_ in infant.figure.landmarks
        for name, position in zip(names, positions, strict=True)
    }

    def cover(colour: tuple[float, float, float], second: tuple[float, float, float] | None = None) -> int:
        materials.append(Material(colour, second, stripe_px=rng.uniform(4, 12), grain=0.08))
        return len(materials)

    down = place["pelvis"][:2] - place["thorax"][:2]
    down /= max(float(np.hypot(*down)), 1e-6)
    if rng.random() < 0.5:
        pale = rng.uniform(0.6, 0.95, (2, 3))
        centre = place["pelvis"] + np.array([*(down * rng.uniform(0.08, 0.16) * scale), -0.03 * scale])
        axes = np.array([[down[0], -down[1], 0.0], [down[1], down[0], 0.0], [0.0, 0.0, 1.0]])
        axes = axes * np.array([rng.uniform(0.17, 0.24), rng.uniform(0.2, 0.28), 0.07]) * scale
        raster.ellipsoid(_xyz(centre), axes, cover(tuple(pale[0]), tuple(pale[1]) if rng.random() < 0.5 else None))
    nose = place["nose"]
    if rng.random() < 0.4:
        tape = np.eye(3) * np.array([0.03, 0.012, 0.012]) * scale
        raster.ellipsoid(_xyz(nose + np.array([0, 0.012 * scale, -0.01 * scale])), tape, cover((0.93, 0.90, 0.82)))
    if rng.random() < 0.6:
        _draw_line(rng, raster, nose, 0.006 * scale, cover((0.80, 0.86, 0.88)))
    for colour in ((0.85, 0.85, 0.85), (0.75, 0.20, 0.18), (0.20, 0.45, 0.25))[: int(rng.integers(0, 4))]:
        chest = place["thorax"] + np.array([*(rng.normal(0, 0.03, 2) * scale), -0.06 * scale])
        _draw_line(rng, raster, chest, 0.003 * scale, cover(colour))


def _draw_line(rng: np.random.Generator, raster: Raster, start: Vector, radius: float, part: int) -> None:
    """A tube from a point to an edge of the picture, with one bend."""
    radius = max(radius, 0.6)
    towards = rng.uniform(-np.pi, np.pi)
    step = 0.3 * raster.width * np.array([np.cos(towards), np.sin(towards), 0.0])
    bend = start + step + np.array([*rng.normal(0, 0.05 * raster.width, 2), 0.0])
    raster.capsule(_xyz(start), _xyz(bend), radius, radius, part)
    raster.capsule(_xyz(bend), _xyz(bend + 3 * step), radius, radius, part)


def _xyz(at: Vector) -> tuple[float, float, float]:
    return float(at[0]), float(at[1]), float(at[2])
