"""Who is in a picture, and where: bodies posed, turned to the viewer, scaled and put in their places."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from posecore.synth.figure import Figure, Vector, rotation_x, rotation_y, rotation_z
from posecore.synth.human import adult_look, adult_pose, adult_shape, infant_look, infant_pose, infant_shape
from posecore.synth.human_figure import build_human
from posecore.synth.quadruped import build_quadruped, quadruped_look, quadruped_pose
from posecore.synth.randomness import generator

BODY_TO_VIEW = np.diag([1.0, -1.0, -1.0])  # a body facing the viewer: its left on the right, up is smaller y, nose near


@dataclass
class Actor:
    """A figure turned to the viewer and its place: ``px_per_m`` and where its origin comes to lie, px."""

    figure: Figure
    turn: Vector
    subject: int
    category: str
    category_id: int
    posture: str
    role: Literal["labelled", "unlabelled", "crowd"] = "labelled"
    px_per_m: float = 1.0
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @cached_property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the turned figure relative to its origin, m."""
        ends = np.array([end for a, b, *_ in self.figure.capsules for end in (a, b)]) @ self.turn[:2].T
        radii = np.array([radius for _, _, *radii, _ in self.figure.capsules for radius in radii])[:, None]
        low, high = (ends - radii).min(0), (ends + radii).max(0)
        centres = np.array([centre for centre, _, _ in self.figure.ellipsoids]) @ self.turn[:2].T
        axes = self.turn[:2] @ np.array([axes for _, axes, _ in self.figure.ellipsoids])
        reach = np.sqrt((axes**2).sum(2))
        low = np.minimum(low, (centres - reach).min(0))
        high = np.maximum(high, (centres + reach).max(0))
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _pick(rng: np.random.Generator, subjects: range, count: int) -> list[int]:
    first = int(rng.integers(len(subjects)))
    stride = 1 + int(rng.integers(max(1, len(subjects) // max(1, count) - 1)))
    return [subjects[(first + number * stride) % len(subjects)] for number in range(count)]


def adults(rng: np.random.Generator, seed: int, subjects: range, labelled: int | None = None) -> list[Actor]:
    """None to four adults to be labelled, and at times a far one without points, or a crowd; or so many alone."""
    unlabelled = crowd = 0
    if labelled is None:
        labelled = int(rng.choice([0, 1, 2, 3, 4], p=[0.02, 0.53, 0.27, 0.12, 0.06]))
        unlabelled = int(rng.random() < 0.12)
        crowd = int(rng.integers(4, 8)) if rng.random() < 0.06 else 0
    tilt = rng.uniform(-4, 16)
    actors = []
    for number, subject in enumerate(_pick(rng, subjects, labelled + unlabelled + crowd)):
        role: Literal["labelled", "unlabelled", "crowd"] = (
            "labelled" if number < labelled else "unlabelled" if number < labelled + unlabelled else "crowd"
        )
        who = generator("adult", seed, subject)
        shape, look = adult_shape(who), adult_look(who)
        kind = rng.random()
        yaw = rng.normal(0, 32) if kind < 0.62 else rng.uniform(-180, 180) if kind < 0.82 else rng.normal(180, 30)
        turn = BODY_TO_VIEW @ rotation_x(tilt) @ rotation_z(rng.normal(0, 4)) @ rotation_y(yaw)
        figure = build_human(shape, look, adult_pose(rng), detail=role == "labelled")
        actors.append(Actor(figure, turn, subject, "person", 1, "Standing", role))
    return actors


def infants(rng: np.random.Generator, seed: int, subjects: range) -> list[Actor]:
    """One baby, seldom two: on its back, on its front, or sitting."""
    actors = []
    for subject in _pick(rng, subjects, 1 if rng.random() < 0.95 else 2):
        who = generator("infant", seed, subject)
        shape, look = infant_shape(who), infant_look(who)
        posture = str(rng.choice(["Supine", "Prone", "Sitting"], p=[0.74, 0.12, 0.14]))
        if posture == "Sitting":
            turn = rotation_x(rng.uniform(10, 40)) @ rotation_y(rng.normal(0, 30))
            roll = rng.normal(0, 8)
        else:
            turn = rotation_x(rng.normal(0, 10)) @ rotation_y(rng.normal(0 if posture == "Supine" else 180, 22))
            roll = rng.normal(0, 35) if rng.random() < 0.5 else rng.uniform(-180, 180)
        figure = build_human(shape, look, infant_pose(rng, sitting=posture == "Sitting"), detail=True)
        turn = BODY_TO_VIEW @ rotation_z(roll) @ turn
        actors.append(Actor(figure, turn, subject, "person", 1, posture))
    return actors


def quadrupeds(rng: np.random.Generator, seed: int, subjects: range) -> list[Actor]:
    """One to three animals, mostly seen from the side."""
    actors = []
    tilt = rng.uniform(0, 18)
    for subject in _pick(rng, subjects, int(rng.choice([1, 2, 3], p=[0.76, 0.19, 0.05]))):
        look = quadruped_look(generator("quadruped", seed, subject))
        yaw = rng.normal(80, 28) * rng.choice([-1, 1]) if rng.random() < 0.88 else rng.uniform(-180, 180)
        turn = BODY_TO_VIEW @ rotation_x(tilt) @ rotation_z(rng.normal(0, 3)) @ rotation_y(yaw)
        figure = build_quadruped(look, quadruped_pose(rng), detail=True)
        actors.append(Actor(figure, turn, subject, look.species.name, look.species.category_id, "Standing"))
    return actors


def place_upright(rng: np.random.Generator, actors: list[Actor], size: tuple[int, int], horizon: int) -> list[Actor]:
    """Puts bodies on the ground, each farther than the one before, smaller and nearer to the horizon."""
    height, width = size
    labelled = [actor for actor in actors if actor.role == "labelled"]
    reach = 0.96 if len(labelled) < 2 else 0.85
    share = rng.uniform(0.5, reach)
    feet = rng.uniform(0.86, 1.0) * height
    for number, actor in enumerate(actors):
        left, top, right, bottom = actor.extent
        if number == 0 or actor.role != "labelled":
            share = share if actor.role == "labelled" else rng.uniform(0.10, 0.16)
            wide = 0.92 * width / (right - left)
            nearest = min(share * height / (bottom - top), wide)
        distance = 1.0 if actor.role == "labelled" and number == 0 else 1.0 + number * rng.uniform(0.05, 0.22)
        scale = nearest / distance if actor.role == "labelled" else nearest
        base = horizon + (feet - horizon) / distance if actor.role == "labelled" else horizon + 0.06 * height
        slot = (number + 0.5) / max(1, len(labelled)) if actor.role == "labelled" else rng.uniform(0.05, 0.95)
        centre = (slot + rng.normal(0, 0.10)) * width
        span = (right - left) * scale
        centre = float(np.clip(centre, 0.3 * span, width - 0.3 * span))
        actor.px_per_m = scale
        behind = 3.0 * number * scale * max(1.0, bottom - top)
        actor.origin = (centre - 0.5 * (left + right) * scale, base - bottom * scale, behind)
    crowd_x = rng.uniform(0.2, 0.8) * width
    for actor in actors:
        if actor.role == "crowd":
            actor.origin = (crowd_x + rng.normal(0, 0.09) * width, *actor.origin[1:])
    return actors


def place_in_rows(rng: np.random.Generator, actors: list[Actor], size: tuple[int, int], horizon: int) -> list[Actor]:
    """Puts many bodies on the ground, the more the smaller, so that nearer ones hide parts of those behind them."""
    height, width = size
    share = min(0.8, 1.15 / max(1, len(actors)) ** 0.36)
    row = np.sort(rng.random(len(actors)))
    place = (rng.permutation(len(actors)) + rng.uniform(0.1, 0.9, len(actors))) / max(1, len(actors))
    for number, actor in enumerate(actors):
        left, top, right, bottom = actor.extent
        distance = 1.0 + 1.2 * row[number]
        scale = min(share * height / (bottom - top), 0.9 * width / (right - left)) * rng.uniform(0.92, 1.08) / distance
        base = horizon + (0.97 * height - horizon) / distance
        centre = place[number] * width
        actor.px_per_m = scale
        behind = 3.0 * number * scale * max(1.0, bottom - top)
        actor.origin = (centre - 0.5 * (left + right) * scale, base - bottom * scale, behind)
    return actors


def place_on_bed(rng: np.random.Generator, actors: list[Actor], size: tuple[int, int]) -> list[Actor]:
    """Puts bodies side by side so that they fill 60 to 100 percent of the picture."""
    height, width = size
    share = rng.uniform(0.6, 1.0) if len(actors) == 1 else rng.uniform(0.5, 0.6)
    for number, actor in enumerate(actors):
        left, top, right, bottom = actor.extent
        scale = share * min(height / (bottom - top), width / (right - left))
        slot = (number + 0.5) / len(actors)
        x = (slot + rng.normal(0, 0.05)) * width - 0.5 * (left + right) * scale
        y = (0.5 + rng.normal(0, 0.05)) * height - 0.5 * (top + bottom) * scale
        actor.px_per_m, actor.origin = scale, (x, y, 0.6 * number * scale)
    return actors
