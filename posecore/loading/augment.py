"""Random changes of the region to crop: mirror, half body, scale, rotation, and the box centre's jitter.

The settings are here, those of blankets and cameras included, which change the pixels of the crop once it is cut
(:mod:`posecore.loading.blanket`, :mod:`posecore.loading.camera`).

Defaults are ViTPose's (ViTAE-Transformer/ViTPose @ c050ed2, ``top_down_transform.py`` and the COCO configs). What is
called ``truncated``, and the half bodies called ``mmpose``, are mmpose 1's (open-mmlab/mmpose @ 759b39c,
``RandomHalfBody`` and ``RandomBBoxTransform``), by which RTMPose, DWPose and Sapiens were trained.

The order of the draws is fixed, and every draw is made whether it is used or not, so that changing one probability
leaves the other changes of the same instance as they were.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.config import Config
from posecore.geometry import fix_aspect_ratio
from posecore.loading.appearance import AppearanceConfig, AugmentationConfig
from posecore.loading.augment_presets import AUGMENT_PRESETS
from posecore.nearest import choices
from posecore.skeletons.skeleton import Skeleton

_MOST_SIGMAS = 2.0
_NORMAL = NormalDist()
_BELOW = _NORMAL.cdf(-1.0)


_DRAWN_AT_A_TIME = 1 << 18
_LEAST_LOWER = 3
_LEAST_CHOSEN = 2


class _HalfBodyRule(NamedTuple):
    """Which half of a body is cropped.

    Attributes:
        least_upper: labelled points without which the upper half is taken only for want of a lower one.
        prefers_upper: where either may be, the upper half is taken if a standard normal draw is below this.
        rest_is_lower: whether points of no half count as lower.
    """

    least_upper: int
    prefers_upper: float
    rest_is_lower: bool


_HALF_BODY_RULES = {
    "vitpose": _HalfBodyRule(3, 0.5, rest_is_lower=True),
    "mmpose": _HalfBodyRule(2, _NORMAL.inv_cdf(0.7), rest_is_lower=False),
}


class AugmentConfig(Config):
    """Augmentation of one dataset.

    May also be given as a preset's name (:mod:`posecore.loading.augment_presets`), or as ``{preset: name, field: other
    value}``.

    Attributes:
        flip_probability: of the mirrored image.
        half_body_probability: of cropping only the upper or the lower points, where enough are labelled
            (``half_body_min_keypoints`` of the head's conventions).
        half_body_rule: ``vitpose`` counts every point as lower that is not upper, also those of face and hands, takes
            the upper half in 69 % of the cases, and neither half by choice with fewer than three points. ``mmpose``
            leaves out points of no half, takes the upper half in 70 %, and needs two points of it.
        half_body_padding: the region is larger than the points' extent by this factor.
        scale_factor: spread of the size; the region is scaled by 1 + scale_factor·N(0, 1), cut at 1 ± scale_factor.
        scale_distribution: ``clipped`` sets a size beyond the ends to the end; ``truncated`` draws none beyond them,
            as RTMPose and Sapiens do.
        rotation_probability: of turning at all.
        rotation_degrees: ``normal`` draws N(0, 1) times this, cut at twice this; ``truncated`` draws N(0, 1) within ± 1
            times this, as RTMPose and Sapiens do with 80; ``uniform`` draws from ± this.
        rotation_distribution: see ``rotation_degrees``.
        center_jitter: ``per_run`` moves a share of the box centres once, the same way in every epoch, as the published
            loader does while it reads the annotations; ``per_sample`` draws anew every time; ``off``.
        center_jitter_probability: share of the instances, or of the samples, that are moved.
        center_jitter_distribution: ``uniform`` moves the centre of the box, by up to half the extent of its width and
            height. ``truncated`` moves what is cropped, half a body too, by N(0, 1) within ± 1 times the extent of the
            width and height with padding, before they are fitted to the crop's shape; only ``per_sample``.
        center_jitter_extent: see there; ViTPose 0.4, mmpose 0.16.
        appearance: what happens to the pixels; None for nothing.
        further: what else happens to them after that, in order: changes of one's own by where they lie.
        blanket_probability: of a blanket over the lower part of the body.
        blanket_least_cover: smallest share of the body, measured along it from its lower end, that a blanket covers.
        blanket_most_cover: largest share.
        infrared_probability: of the picture of a near-infrared camera with its own lamp.
        grey_probability: of taking the colour away; an infrared picture has none already.
        depth_dropout: share of the crops that are shown without the depth they have, so that a model that takes depth
            also learns to do without.
    """

    flip_probability: float = Field(default=0.5, ge=0, le=1)
    half_body_probability: float = Field(default=0.3, ge=0, le=1)
    half_body_rule: Literal["vitpose", "mmpose"] = "vitpose"
    half_body_padding: float = Field(default=1.5, gt=0)
    scale_factor: float = Field(default=0.5, ge=0, lt=1)
    scale_distribution: Literal["clipped", "truncated"] = "clipped"
    rotation_probability: float = Field(default=0.6, ge=0, le=1)
    rotation_degrees: float = Field(default=40.0, ge=0, le=180)
    rotation_distribution: Literal["normal", "truncated", "uniform"] = "normal"
    center_jitter: Literal["per_run", "per_sample", "off"] = "per_run"
    center_jitter_probability: float = Field(default=0.3, ge=0, le=1)
    center_jitter_distribution: Literal["uniform", "truncated"] = "uniform"
    center_jitter_extent: float = Field(default=0.4, ge=0)
    appearance: AppearanceConfig | None = None
    further: tuple[AugmentationConfig, ...] = ()
    blanket_probability: float = Field(default=0.0, ge=0, le=1)
    blanket_least_cover: float = Field(default=0.2, ge=0, le=1)
    blanket_most_cover: float = Field(default=0.7, ge=0, le=1)
    infrared_probability: float = Field(default=0.0, ge=0, le=1)
    grey_probability: float = Field(default=0.0, ge=0, le=1)
    depth_dropout: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _resolve_preset(cls, values: Any) -> Any:
        changes = {"preset": values} if isinstance(values, str) else values
        if not isinstance(changes, Mapping) or "preset" not in changes:
            return changes
        name = changes["preset"]
        if not isinstance(name, str) or name not in AUGMENT_PRESETS:
            raise ValueError(f"no augmentation is called {name!r}.{choices(name, AUGMENT_PRESETS)}")
        return AUGMENT_PRESETS[name] | {key: value for key, value in changes.items() if key != "preset"}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.blanket_least_cover > self.blanket_most_cover:
            raise ValueError(
                f"blanket_least_cover {self.blanket_least_cover} is more than blanket_most_cover "
                f"{self.blanket_most_cover}."
            )
        if self.center_jitter == "per_run" and self.center_jitter_distribution == "truncated":
            raise ValueError(
                "center_jitter_distribution: truncated is drawn after the half body and so in every sample; set "
                "center_jitter to per_sample."
            )
        return self

    @property
    def paints(self) -> bool:
        """Whether pixels change once the crop is cut."""
        probabilities = (self.blanket_probability, self.infrared_probability, self.grey_probability)
        return self.appearance is not None or any(probabilities)

    @property
    def displacing(self) -> tuple[str, ...]:
        """The settings by which a crop shows anything but its box as it is, or that mirrored."""
        jitters = self.center_jitter_probability > 0 and self.center_jitter_extent > 0
        active = {
            "half_body_probability": self.half_body_probability > 0,
            "scale_factor": self.scale_factor > 0,
            "rotation_probability": self.rotation_probability > 0 and self.rotation_degrees > 0,
            "center_jitter": self.center_jitter != "off" and jitters,
            "appearance": self.appearance is not None,
            "further": bool(self.further),
            "blanket_probability": self.blanket_probability > 0,
            "infrared_probability": self.infrared_probability > 0,
            "grey_probability": self.grey_probability > 0,
        }
        return tuple(name for name, is_active in active.items() if is_active)


class LateAugmentConfig(Config):
    """Other augmentation towards the end of a run: RTMPose and DWPose go easier on the last 30 of 270 epochs.

    Attributes:
        from_pass: begins when a dataset has been gone through this many times; with natural sampling, an epoch.
        augment: of every dataset from then on.
    """

    from_pass: int = Field(gt=0)
    augment: AugmentConfig


def mirrored_only(flip_probability: float) -> AugmentConfig:
    """Augmentation that changes nothing else."""
    return AugmentConfig(
        flip_probability=flip_probability,
        half_body_probability=0,
        scale_factor=0,
        rotation_probability=0,
        center_jitter="off",
    )


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """What to crop: one region, or a batch of them, all of the same leading axes.

    Attributes:
        center: (…, 2) x, y in image pixels, before any mirroring.
        scale: (…, 2) w, h in image pixels, padding included.
        rotation: (…) degrees.
        flipped: (…) crop from the mirrored image.
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    rotation: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    flipped: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((), np.bool_))


def center_jitter(draws: NDArray[np.float64], config: AugmentConfig) -> NDArray[np.float64]:
    """How far centres move, in units of the width and height that ``center_jitter_distribution`` speaks of.

    Args:
        draws: (n, 3) uniform.
        config: share, distribution and extent.

    Returns:
        (n, 2) along x and y, 0 for centres that stay.
    """
    moves = draws[:, 0] < config.center_jitter_probability
    if config.center_jitter_distribution == "truncated":
        spread = np.zeros((len(draws), 2))
        quantiles = [_truncated_quantile(share) for share in draws[moves, 1:].ravel().tolist()]
        spread[moves] = np.array(quantiles).reshape(-1, 2)
    else:
        spread = draws[:, 1:] - 0.5
    return np.where(moves[:, None], config.center_jitter_extent * spread, 0.0)


class RunJitter:
    """How far the centres of n instances are moved, once for a whole run; only those that are moved take memory.

    Args:
        count: n.
        config: share, distribution and extent.
        random: of the run.
    """

    def __init__(self, count: int, config: AugmentConfig, random: np.random.Generator) -> None:
        moved, moves = [], []
        for start in range(0, count, _DRAWN_AT_A_TIME):
            drawn = center_jitter(random.random((min(_DRAWN_AT_A_TIME, count - start), 3)), config)
            here = np.flatnonzero(drawn.any(axis=1))
            moved.append((here + start).astype(np.uint32))
            moves.append(drawn[here])
        self._moved = np.concatenate([np.empty(0, np.uint32), *moved])
        self._moves = np.concatenate([*moves, np.zeros((1, 2))])  # the last of those that are not moved

    def moves(self, instances: NDArray[np.int64]) -> NDArray[np.float64]:
        """(m, 2) in units of width and height.

        Args:
            instances: (m,) which of the n.
        """
        place = np.searchsorted(self._moved, instances.astype(np.uint32))
        is_moved = self._moved[np.minimum(place, len(self._moved) - 1)] == instances if len(self._moved) else False
        return self._moves[np.where(is_moved, place, len(self._moved))]


class RegionDraws(NamedTuple):
    """What decides about n regions.

    Attributes:
        uniform: (n, 4) of mirroring, half body, turning at all, and direction.
        normal: (n, 3) of the half, the size and the angle.
    """

    uniform: NDArray[np.float64]
    normal: NDArray[np.float64]

    @classmethod
    def of(cls, generators: Iterable[np.random.Generator], count: int) -> "RegionDraws":
        """Draws, from a generator for each of the regions."""
        draws = cls(np.empty((count, 4)), np.empty((count, 3)))
        for random, uniform, normal in zip(generators, *draws, strict=True):
            random.random(out=uniform)
            random.standard_normal(out=normal)
        return draws


def augment_regions(
    region: Region,
    padded_size: NDArray[np.float64],
    keypoints: NDArray[np.float32],
    labelled: NDArray[np.bool_],
    skeleton: Skeleton,
    half_body_min_keypoints: int | None,
    aspect_ratio: float,
    config: AugmentConfig,
    draws: RegionDraws,
    shift: NDArray[np.float64] | None = None,
) -> Region:
    """Augmented regions.

    Half body is decided on the unmirrored points, which gives the mirror of the published result: mirror partners are
    on the same half of the body.

    Args:
        region: n, un-augmented.
        padded_size: (n, 2) w, h of their boxes in image pixels with padding, before they were fitted to the crop's
            shape.
        keypoints: (n, K, 2) x, y in image pixels.
        labelled: (n, K) which of them count.
        skeleton: K points with their halves.
        half_body_min_keypoints: half body needs more labelled points than this; None never.
        aspect_ratio: width over height of the crop.
        config: probabilities and extents.
        draws: of the n samples.
        shift: (n, 2) :func:`center_jitter` in units of this, or of a half body's size with padding; None for none.
    """
    flip, half, turn, direction = draws.uniform.T
    side, size, angle = draws.normal.T

    center, scale = region.center, region.scale
    if half_body_min_keypoints is not None:
        enough = np.count_nonzero(labelled, axis=1) > half_body_min_keypoints
        halved = np.flatnonzero(enough & (half < config.half_body_probability))
        chosen = _half_bodies(labelled[halved], skeleton, _HALF_BODY_RULES[config.half_body_rule], side[halved])
        middle, extent = _middle_and_extent(keypoints[halved].astype(np.float64), chosen)
        wide = extent.any(axis=1)
        halved, middle, extent = halved[wide], middle[wide], extent[wide]
        center, scale, padded_size = center.copy(), scale.copy(), padded_size.copy()
        center[halved] = middle
        scale[halved] = fix_aspect_ratio(extent, aspect_ratio) * config.half_body_padding
        padded_size[halved] = extent * config.half_body_padding
    if shift is not None:
        center = center + shift * padded_size
    spread = _truncated(size) if config.scale_distribution == "truncated" else np.clip(size, -1.0, 1.0)
    scale = scale * (1.0 + config.scale_factor * spread)[:, None]
    turned = turn < config.rotation_probability
    share = np.zeros(len(turned))
    match config.rotation_distribution:
        case "uniform":
            share[turned] = 2.0 * direction[turned] - 1.0
        case "truncated":
            share[turned] = _truncated(angle[turned])
        case "normal":
            share[turned] = np.clip(angle[turned], -_MOST_SIGMAS, _MOST_SIGMAS)
    return Region(center, scale, share * config.rotation_degrees, flip < config.flip_probability)


def _truncated(normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard normal draws as ones that are truncated to [-1, 1]: each quantile stays what it was."""
    return np.array([_truncated_quantile(_NORMAL.cdf(value)) for value in normal.tolist()], np.float64)


def _truncated_quantile(share: float) -> float:
    """Below this lies that share of a standard normal distribution that is truncated to [-1, 1]."""
    return _NORMAL.inv_cdf(_BELOW + share * (1 - 2 * _BELOW))


def _half_bodies(
    labelled: NDArray[np.bool_], skeleton: Skeleton, rule: _HalfBodyRule, side: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(n, K) labelled points of one half of each body, or no point of one that has fewer than two there.

    A lower half of fewer than three points is never taken.

    Args:
        labelled: (n, K) which points count.
        skeleton: K points with their halves.
        rule: which half.
        side: (n,) standard normal draws.
    """
    is_lower = ~skeleton.upper_body_mask if rule.rest_is_lower else skeleton.lower_body_mask
    upper, lower = labelled & skeleton.upper_body_mask, labelled & is_lower
    by_choice = (side < rule.prefers_upper) & (np.count_nonzero(upper, axis=1) >= rule.least_upper)
    takes_upper = by_choice | (np.count_nonzero(lower, axis=1) < _LEAST_LOWER)
    chosen = np.where(takes_upper[:, None], upper, lower)
    enough = np.count_nonzero(chosen, axis=1, keepdims=True) >= _LEAST_CHOSEN
    return chosen & enough


def half_body_extents(
    keypoints: NDArray[np.float32], labelled: NDArray[np.bool_], skeleton: Skeleton, rule: str
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """What each choice of a half may crop of n bodies.

    Args:
        keypoints: (n, K, 2) x, y in image pixels.
        labelled: (n, K) which of them count.
        skeleton: K points with their halves.
        rule: as ``half_body_rule`` names it.

    Returns:
        For either choice, (n, 2) middle and (n, 2) extent of the points; an extent of 0 where no half is taken.
    """
    found = []
    for side in (-np.inf, np.inf):
        chosen = _half_bodies(labelled, skeleton, _HALF_BODY_RULES[rule], np.full(len(labelled), side))
        found.append(_middle_and_extent(keypoints.astype(np.float64), chosen))
    return found


def _middle_and_extent(
    points: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 2) mean and (n, 2) extent of the chosen ones of (n, K, 2) points; an extent of 0 where none is."""
    of_point = chosen[..., None]
    middle = np.where(of_point, points, 0.0).sum(axis=1) / np.maximum(np.count_nonzero(chosen, axis=1), 1)[:, None]
    low = np.where(of_point, points, np.inf).min(axis=1)
    high = np.where(of_point, points, -np.inf).max(axis=1)
    return middle, np.where(chosen.any(axis=1, keepdims=True), high - low, 0.0)
