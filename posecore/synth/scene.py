"""A whole picture: bodies posed, placed, lit and rendered, with everything an annotator could say about it.

A scene is a function of (kind, seed, index, image size, subjects) and nothing else; who appears in it is a function of
(kind, seed, subject number), so that a subject looks the same in every picture of a set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from posecore.schema import BoxXywh, FloatArray
from posecore.synth import background
from posecore.synth.actors import Actor, adults, infants, place_in_rows, place_on_bed, place_upright, quadrupeds
from posecore.synth.figure import Material
from posecore.synth.incubator import draw_covers, incubator_actors
from posecore.synth.randomness import generator
from posecore.synth.raster import Raster
from posecore.synth.shading import shade

Kind: TypeAlias = Literal["adult", "infant", "quadruped", "incubator"]
_Occluders: TypeAlias = Callable[[Raster, list[Material]], None]


@dataclass(slots=True, kw_only=True, eq=False)
class Body:
    """One rendered body and its truth.

    Attributes:
        subject: number of the individual.
        category: ``person`` or AP-10K's species name.
        category_id: 1 for a person, else AP-10K's number.
        posture: ``Standing``, ``Supine``, ``Prone``, ``Sitting`` or ``Reaching``.
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


def render(
    kind: Kind,
    seed: int,
    index: int,
    size: tuple[int, int] = (256, 256),
    subjects: range = range(1000),
) -> Scene:
    """Renders picture ``index`` of the set named by ``seed``.

    Args:
        kind: adults (upright), infants (mostly lying, seen from above), quadrupeds, or an infant in an incubator with
            the arms of adults who reach in (:mod:`posecore.synth.incubator`).
        seed: names the set.
        index: number of the picture; each is independent of all others.
        size: (height, width) in pixels.
        subjects: numbers of the individuals that may appear.
    """
    rng = generator(f"{kind} scene", seed, index)
    height, width = size
    noise = background.grain(rng, height, width)
    in_front: _Occluders | None = None
    if kind == "adult":
        indoor = rng.random() < 0.5
        canvas, horizon = (background.room if indoor else background.meadow)(rng, height, width, noise)
        actors = place_upright(rng, adults(rng, seed, subjects), size, horizon)
    elif kind == "quadruped":
        indoor = rng.random() < 0.25
        canvas, horizon = (background.room if indoor else background.meadow)(rng, height, width, noise)
        actors = place_upright(rng, quadrupeds(rng, seed, subjects), size, horizon)
    elif kind == "incubator":
        indoor, horizon = True, None
        canvas = background.incubator(rng, height, width, noise)
        actors = incubator_actors(rng, seed, subjects, size)
        in_front = partial(draw_covers, rng, infant=actors[0])
    else:
        indoor, horizon = True, None
        canvas = background.bed(rng, height, width, noise)
        actors = place_on_bed(rng, infants(rng, seed, subjects), size)
    scene = _draw(rng, actors, canvas, noise, horizon, in_front)
    scene.setting = "bed" if horizon is None else "indoor" if indoor else "outdoor"
    return scene


def render_group(
    seed: int, index: int, count: int, size: tuple[int, int] = (256, 256), subjects: range = range(1000)
) -> Scene:
    """Renders picture ``index`` of the set named by ``seed``, with so many adults, who hide parts of each other.

    Args:
        seed: names the set.
        index: number of the picture.
        count: bodies, up to 200; one that others hide wholly is not among the scene's.
        size: (height, width) in pixels.
        subjects: numbers of the individuals that may appear.
    """
    rng = generator("crowd scene", seed, index)
    height, width = size
    noise = background.grain(rng, height, width)
    indoor = rng.random() < 0.5
    canvas, horizon = (background.room if indoor else background.meadow)(rng, height, width, noise)
    actors = place_in_rows(rng, adults(rng, seed, subjects, labelled=count), size, horizon)
    scene = _draw(rng, actors, canvas, noise, horizon)
    scene.setting = "indoor" if indoor else "outdoor"
    return scene


def _draw(
    rng: np.random.Generator,
    actors: list[Actor],
    canvas: FloatArray,
    noise: FloatArray,
    horizon: int | None,
    in_front: _Occluders | None = None,
) -> Scene:
    height, width = canvas.shape[:2]
    raster = Raster(height, width)
    materials: list[Material] = []
    owners = [0]
    for number, actor in enumerate(actors, start=1):
        _draw_actor(raster, actor, materials)
        owners += [number] * (len(materials) + 1 - len(owners))
    if in_front is None:
        _draw_occluders(rng, raster, materials, horizon is None)
    else:
        in_front(raster, materials)
    owners += [0] * (len(materials) + 1 - len(owners))
    owner = np.array(owners, np.uint8)[raster.part]
    image = shade(rng, raster, materials, canvas, noise, horizon)
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


def _draw_actor(raster: Raster, actor: Actor, materials: list[Material]) -> None:
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


def _truth(
    actor: Actor, raster: Raster, owner: NDArray[np.uint8], number: int, metres: float, camera: float
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
