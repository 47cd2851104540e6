"""A whole picture: bodies posed, placed, lit and rendered, with everything an annotator could say about it.

A scene is a function of (kind, seed, index, image size, subjects) and nothing else; who appears in it is a function of
(kind, seed, subject number), so that a subject looks the same in every picture of a set.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.schema import BoxXywh, FloatArray
from posecore.synth import background
from posecore.synth.figure import Figure, Material, Vector, rotation_x, rotation_y, rotation_z
from posecore.synth.human import (
    adult_look,
    adult_pose,
    adult_shape,
    infant_look,
    infant_pose,
    infant_shape,
)
from posecore.synth.human_figure import build_human
from posecore.synth.quadruped import build_quadruped, quadruped_look, quadruped_pose
from posecore.synth.randomness import generator
from posecore.synth.raster import Raster

Kind: TypeAlias = Literal["adult", "infant", "quadruped"]

_BODY_TO_VIEW = np.diag(
    [1.0, -1.0, -1.0]
)  # a body facing the viewer: its left on the right, up is smaller y, nose near
_DETAIL_PX_PER_M = 60.0  # below this an adult's head is under 14 px tall: face and fingers cannot be seen


@dataclass(slots=True, kw_only=True, eq=False)
class Body:
    """One rendered body and its truth.

    Attributes:
        subject: number of the individual.
        category: ``person`` or AP-10K's species name.
        category_id: 1 for a person, else AP-10K's number.
        posture: ``Standing``, ``Supine``, ``Prone`` or ``Sitting``.
        mask: (H, W) bool, the pixels where it is seen.
        extent_xywh: box of the whole body in image pixels, hidden and cut-off parts included.
        names: names of the landmarks.
        points: (L, 3) float32, x, y in 0-based image pixels and the flag: 0 out of the picture or on the far side of
            the head, 1 hidden, 2 seen.
        depth: (L,) float32, distance of the landmarks along the optical axis, m.
        role: ``labelled``; ``unlabelled``: too small for points; ``crowd``: one of a crowd.
    """

    subject: int
    category: str
    category_id: int
    posture: str
    mask: NDArray[np.bool_]
    extent_xywh: BoxXywh
    names: tuple[str, ...]
    points: FloatArray
    depth: FloatArray
    role: Literal["labelled", "unlabelled", "crowd"]

    def keypoints(self, names: tuple[str, ...]) -> FloatArray:
        """(K, 3) float32 points in the order of ``names``; those that are not labelled are 0, 0, 0."""
        position = {name: index for index, name in enumerate(self.names)}
        chosen = self.points[[position[name] for name in names]]
        chosen[chosen[:, 2] == 0] = 0
        return chosen


@dataclass(slots=True, kw_only=True, eq=False)
class Scene:
    """A picture and its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32, distance along the optical axis, m.
        bodies: every body of which at least one pixel is seen.
        setting: ``indoor``, ``outdoor`` or ``bed``.
    """

    image: NDArray[np.uint8]
    depth: FloatArray
    bodies: list[Body]
    setting: Literal["indoor", "outdoor", "bed"]


@dataclass
class _Actor:
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


def render(
    kind: Kind,
    seed: int,
    index: int,
    size: tuple[int, int] = (256, 256),
    subjects: range = range(1000),
) -> Scene:
    """Renders picture ``index`` of the set named by ``seed``.

    Args:
        kind: adults (upright), infants (mostly lying, seen from above) or quadrupeds.
        seed: names the set.
        index: number of the picture; each is independent of all others.
        size: (height, width) in pixels.
        subjects: numbers of the individuals that may appear.
    """
    rng = generator(f"{kind} scene", seed, index)
    height, width = size
    noise = background.grain(rng, height, width)
    if kind == "adult":
        indoor = rng.random() < 0.5
        canvas, horizon = (background.room if indoor else background.meadow)(rng, height, width, noise)
        actors = _place_upright(rng, _adults(rng, seed, subjects), size, horizon)
    elif kind == "quadruped":
        indoor = rng.random() < 0.25
        canvas, horizon = (background.room if indoor else background.meadow)(rng, height, width, noise)
        actors = _place_upright(rng, _quadrupeds(rng, seed, subjects), size, horizon)
    else:
        indoor, horizon = True, None
        canvas = background.bed(rng, height, width, noise)
        actors = _place_on_bed(rng, _infants(rng, seed, subjects), size)
    scene = _draw(rng, actors, canvas, noise, horizon)
    scene.setting = "bed" if horizon is None else "indoor" if indoor else "outdoor"
    return scene


def _pick(rng: np.random.Generator, subjects: range, count: int) -> list[int]:
    first = int(rng.integers(len(subjects)))
    stride = 1 + int(rng.integers(max(1, len(subjects) // max(1, count) - 1)))
    return [subjects[(first + number * stride) % len(subjects)] for number in range(count)]


def _adults(rng: np.random.Generator, seed: int, subjects: range) -> list[_Actor]:
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
        turn = _BODY_TO_VIEW @ rotation_x(tilt) @ rotation_z(rng.normal(0, 4)) @ rotation_y(yaw)
        figure = build_human(shape, look, adult_pose(rng), detail=role == "labelled")
        actors.append(_Actor(figure, turn, subject, "person", 1, "Standing", role))
    return actors


def _infants(rng: np.random.Generator, seed: int, subjects: range) -> list[_Actor]:
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
        turn = _BODY_TO_VIEW @ rotation_z(roll) @ turn
        actors.append(_Actor(figure, turn, subject, "person", 1, posture))
    return actors


def _quadrupeds(rng: np.random.Generator, seed: int, subjects: range) -> list[_Actor]:
    actors = []
    tilt = rng.uniform(0, 18)
    for subject in _pick(rng, subjects, int(rng.choice([1, 2, 3], p=[0.76, 0.19, 0.05]))):
        look = quadruped_look(generator("quadruped", seed, subject))
        yaw = rng.normal(80, 28) * rng.choice([-1, 1]) if rng.random() < 0.88 else rng.uniform(-180, 180)
        turn = _BODY_TO_VIEW @ rotation_x(tilt) @ rotation_z(rng.normal(0, 3)) @ rotation_y(yaw)
        figure = build_quadruped(look, quadruped_pose(rng), detail=True)
        actors.append(_Actor(figure, turn, subject, look.species.name, look.species.category_id, "Standing"))
    return actors


def _place_upright(rng: np.random.Generator, actors: list[_Actor], size: tuple[int, int], horizon: int) -> list[_Actor]:
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


def _place_on_bed(rng: np.random.Generator, actors: list[_Actor], size: tuple[int, int]) -> list[_Actor]:
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


def _draw(
    rng: np.random.Generator,
    actors: list[_Actor],
    canvas: FloatArray,
    noise: FloatArray,
    horizon: int | None,
) -> Scene:
    height, width = canvas.shape[:2]
    raster = Raster(height, width)
    materials: list[Material] = []
    owners = [0]
    for number, actor in enumerate(actors, start=1):
        _draw_actor(raster, actor, materials)
        owners += [number] * (len(materials) + 1 - len(owners))
    _draw_occluders(rng, raster, materials, horizon is None)
    owners += [0] * (len(materials) + 1 - len(owners))
    owner = np.array(owners, np.uint8)[raster.part]
    image = _shade(rng, raster, materials, canvas, noise, horizon)
    metres = 1 / actors[0].px_per_m if actors else 0.01
    camera = 1.2 if horizon is None else 1.6 * height * metres
    bodies = [
        body
        for number, actor in enumerate(actors, start=1)
        if (body := _truth(actor, raster, owner, number, metres, camera)) is not None
    ]
    drawn = raster.part > 0
    depth = _background_depth(height, width, horizon, camera, raster, drawn, metres)
    depth[drawn] = camera + raster.depth[drawn] * np.float32(metres)
    return Scene(image=image, depth=depth, bodies=bodies, setting="indoor")


def _draw_actor(raster: Raster, actor: _Actor, materials: list[Material]) -> None:
    to_image = actor.px_per_m * actor.turn
    origin = np.array(actor.origin)
    figure = actor.figure
    ends = np.array([(a, b) for a, b, *_ in figure.capsules]) @ to_image.T + origin
    for (start, end), (_, _, start_radius, end_radius, material) in zip(ends.tolist(), figure.capsules, strict=True):
        materials.append(material)
        raster.capsule(
            tuple(start), tuple(end), start_radius * actor.px_per_m, end_radius * actor.px_per_m, len(materials)
        )
    centres = np.array([centre for centre, _, _ in figure.ellipsoids]) @ to_image.T + origin
    shapes = to_image @ np.array([axes for _, axes, _ in figure.ellipsoids])
    for centre, axes, (_, _, material) in zip(centres.tolist(), shapes, figure.ellipsoids, strict=True):
        materials.append(material)
        raster.ellipsoid(tuple(centre), axes, len(materials))


def _draw_occluders(rng: np.random.Generator, raster: Raster, materials: list[Material], on_bed: bool) -> None:
    """Poles, balls and table edges in front; on a bed, toys and a blanket over the feet."""
    height, width = raster.height, raster.width
    drawn = raster.depth[raster.part > 0]
    front = float(drawn.min()) if drawn.size else 0.0
    for _ in range(int(rng.choice([0, 1, 2], p=[0.66, 0.26, 0.08]))):
        colour = tuple(rng.uniform(0.15, 0.9, 3))
        second = tuple(rng.uniform(0.15, 0.9, 3)) if rng.random() < 0.4 else None
        materials.append(Material(colour, second, stripe_px=rng.uniform(4, 14), grain=0.08))
        x, y = rng.uniform(0, width), rng.uniform(0.3, 1.0) * height
        kind = rng.random()
        if on_bed and kind < 0.3:
            axes = np.diag([0.5 * width, 0.16 * height, 0.1 * height])
            raster.ellipsoid((0.5 * width, 1.02 * height, front - 0.1 * height), axes, len(materials))
        elif kind < 0.6:
            radius = rng.uniform(0.04, 0.10) * height
            raster.ellipsoid((x, y, front - radius), np.eye(3) * radius, len(materials))
        elif on_bed or kind < 0.8:
            radius = rng.uniform(0.02, 0.05) * height
            reach = rng.normal(0, 0.35 if on_bed else 0.05, 2) * (width, height)
            end = (x + reach[0], (y + reach[1]) if on_bed else 1.2 * height, front - radius)
            raster.capsule((x, y, front - radius), end, radius, radius, len(materials))
        else:
            level, thick = rng.uniform(0.7, 0.95) * height, rng.uniform(0.03, 0.06) * height
            side = rng.choice([-0.2, 1.2]) * width
            near = front - thick
            raster.capsule((side, level, near), (0.5 * width, level, near), thick, thick, len(materials))


def _shade(
    rng: np.random.Generator,
    raster: Raster,
    materials: list[Material],
    canvas: FloatArray,
    noise: FloatArray,
    horizon: int | None,
) -> NDArray[np.uint8]:
    height = len(noise)
    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-1.0, -0.2), -1.0])
    light /= np.sqrt(light @ light)
    ambient, exposure = rng.uniform(0.40, 0.62), rng.uniform(0.82, 1.12)
    tint = (1 + rng.normal(0, 0.03, 3)).astype(np.float32)
    stripes = rng.uniform(-0.6, 0.6)
    drawn = raster.part > 0
    _cast_shadow(canvas, drawn, horizon, light)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    if len(rows):
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        part, inside = raster.part[window], drawn[window]
        nx, ny = raster.normal[0][window], raster.normal[1][window]
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
        diffuse = nx * np.float32(light[0]) + ny * np.float32(light[1]) - nz * np.float32(light[2])
        brightness = np.float32(ambient) + np.float32(1.05 - ambient) * np.maximum(diffuse, 0)
        depth = np.where(inside, raster.depth[window], raster.depth[window][inside].max() + 30)
        hollow = depth - cv2.blur(depth, (9, 9))
        brightness *= 1 - np.clip(hollow * np.float32(8.0 / height), 0, np.float32(0.38))
        strength = np.array([0.0, *(2 * material.grain for material in materials)], np.float32).take(part)
        strength *= cv2.blur(noise[window], (1, 3))
        strength += 1
        brightness *= strength
        colours = np.array([(0, 0, 0), *(material.colour for material in materials)], np.float32).take(part, axis=0)
        if any(material.second is not None for material in materials):
            _add_stripes(colours, part, materials, stripes, height)
        background.modulate(colours, brightness)
        cv2.copyTo(colours, inside.astype(np.uint8), canvas[window])
    background.modulate(canvas, np.float32(exposure) + np.float32(0.025) * noise)
    canvas *= tint
    return np.asarray(cv2.GaussianBlur(cv2.convertScaleAbs(canvas, alpha=255), (3, 3), 0.6), np.uint8)


def _add_stripes(
    colours: FloatArray, part: NDArray[np.uint16], materials: list[Material], slant: float, height: int
) -> None:
    width_px = np.array([0.0, *(1 / m.stripe_px if m.second is not None else 0.0 for m in materials)], np.float32)
    seconds = np.array([(0, 0, 0), *(m.second or m.colour for m in materials)], np.float32)
    rows = np.arange(part.shape[0], dtype=np.float32)[:, None] + np.float32(slant) * np.arange(
        part.shape[1], dtype=np.float32
    )
    rows *= np.float32(256 / height)  # the same pattern at every picture size
    odd = (rows * width_px[part]).astype(np.int32) & 1 == 1
    colours[odd] = seconds[part[odd]]


def _cast_shadow(canvas: FloatArray, drawn: NDArray[np.bool_], horizon: int | None, light: Vector) -> None:
    """Darkens the ground near bodies: under the feet of upright ones, around lying ones."""
    height, width = drawn.shape
    small = cv2.resize(drawn.astype(np.float32), (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    reach = 0.03 * height / 4 if horizon is None else 0.012 * height / 4
    shift = np.array([[1, 0, -light[0] * 2 * reach], [0, 1, reach]], np.float32)
    small = cv2.GaussianBlur(cv2.warpAffine(small, shift, (width // 4, height // 4)), (0, 0), max(0.8, height / 100))
    if horizon is not None:
        fade = np.clip((np.arange(height // 4) * 4 - horizon) / (0.5 * height), 0, 1).astype(np.float32)
        small = small * fade[:, None]
    shadow = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    background.modulate(canvas, 1 - np.float32(0.45) * shadow)


def _truth(
    actor: _Actor, raster: Raster, owner: NDArray[np.uint8], number: int, metres: float, camera: float
) -> Body | None:
    mask = owner == number
    if not mask.any():
        return None
    blocks = actor.figure.landmarks
    names = tuple(name for block in blocks for name in block[0])
    positions = np.concatenate([block[1] for block in blocks])
    covers = np.repeat([block[2] * actor.px_per_m for block in blocks], [len(block[0]) for block in blocks])
    facing = np.concatenate([block[3] for block in blocks]) @ actor.turn[2]
    at = positions @ (actor.px_per_m * actor.turn).T + actor.origin
    column, row = np.rint(at[:, 0]).astype(np.int64), np.rint(at[:, 1]).astype(np.int64)
    within = (column >= 0) & (column < raster.width) & (row >= 0) & (row < raster.height)
    column, row = np.where(within, column, 0), np.where(within, row, 0)
    seen = within & mask[row, column] & (raster.depth[row, column] > at[:, 2] - covers - 1.0)
    flags = np.where(within & (facing < 0.15), 1 + seen, 0)
    left, top, right, bottom = (value * actor.px_per_m for value in actor.extent)
    return Body(
        subject=actor.subject,
        category=actor.category,
        category_id=actor.category_id,
        posture=actor.posture,
        mask=mask,
        extent_xywh=(actor.origin[0] + left, actor.origin[1] + top, right - left, bottom - top),
        names=names,
        points=np.concatenate([at[:, :2], flags[:, None]], axis=1).astype(np.float32),
        depth=(camera + at[:, 2] * metres).astype(np.float32),
        role=actor.role,
    )


def _background_depth(
    height: int,
    width: int,
    horizon: int | None,
    camera: float,
    raster: Raster,
    drawn: NDArray[np.bool_],
    metres: float,
) -> FloatArray:
    """A flat bed behind the lowest point of the bodies, or a wall with a floor that comes towards the viewer."""
    back = camera + (float(raster.depth[drawn].max()) * metres if drawn.any() else 0.0)
    if horizon is None:
        return np.full((height, width), back, np.float32)
    wall = back + 1.0
    rows = np.clip((np.arange(height) - horizon) / max(1, height - horizon), 0, 1)
    column = wall + (0.8 * camera - wall) * rows
    return np.repeat(column.astype(np.float32)[:, None], width, axis=1)
