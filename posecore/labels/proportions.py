"""How long the parts of a population's bodies are and how its joints bend, learned from its own labels.

Adults' proportions are wrong for infants (thighs 0.65 of the adult length in torsos, eyes twice as far apart), so
nothing here is built in: all figures come from labels, by robust estimates, because some labels are wrong.

Lengths
    A picture has no scale, and the torso is foreshortened like everything else. So the scale of a body is the median
    over its bones of what each says, and the length of a bone the median over bodies (Tukey's median polish of the
    logarithms): one misplaced point moves neither. What remains is skewed: projection makes a bone seem shorter, often
    much, and hardly ever longer. So each bone has two spreads: below from its 2.5 % quantile, which foreshortening
    fills with correct labels, above from its 90 % quantile, beyond which there are hardly any but wrong ones.
Angles
    Infants lie in every direction, so directions in the image say nothing; the signed angle between two bones that
    meet does not change when the picture is turned. Its density has several modes (two sides a limb can be seen from)
    and lives on a circle: it is kept as a Fourier series damped by Fejér's kernel, which is never negative and has a
    derivative everywhere.

Every body counts a second time as its mirror image, so left and right share what they know. A bone of no length (SyRIP
fills head points with the nose) is no observation.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from posecore.config import Config, parse_config, read_yaml
from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath, as_path, write_atomically

LEAST_BODIES = 20
"""Fewer usable bodies tell nothing about the tails of a distribution."""

LEAST_BONES = 4
"""Bones a body must show: the median of fewer is moved by one misplaced point."""

NO_LENGTH = 0.005
"""A bone shorter than this share of its body's extent joins two points in one place."""

NO_DIRECTION = 0.03
"""A bone shorter than this share of its body's extent points anywhere: labels are about so precise."""

DEGREES_OF_FREEDOM = 4.0
"""Of Student's t, which the penalties of lengths follow: far outliers are suspicious, not infinitely so."""

_ORDER = 12
_LEAST_SPREAD = 0.02
_NORMAL_97_5 = 1.959964
_NORMAL_90 = 1.281552
_POLISH_ROUNDS = 20
_UNIFORM_SHARE = 0.05
_UNIFORM_BODIES = 5.0
_GROUPS = frozenset({"body", "foot"})
LEVELS = (*np.linspace(0, 0.9, 91).round(2).tolist(), *np.linspace(0.905, 1.0, 20).round(3).tolist())
"""Shares of the labels whose energies are kept as quantiles, denser where it matters."""


class BoneStatistics(Config):
    """One link between two points.

    Attributes:
        points: union names of its ends.
        log_length: logarithm of its length by the body's own scale.
        shorter: spread of the logarithm below, as a standard deviation.
        longer: spread above.
        coincident: share of bodies on which its ends are one place.
        num_labels: bodies it was seen on, mirror images not counted.
    """

    points: tuple[str, str]
    log_length: float
    shorter: float
    longer: float
    coincident: float
    num_labels: int


class AngleStatistics(Config):
    """The signed angle at a point from one link to another, clockwise as seen.

    Attributes:
        points: union names: an end, the point, the other end.
        cosines: damped Fourier coefficients of the density on the circle, from order 1.
        sines: likewise.
        uniform: share of the density that is the same for all angles.
        log_mode: logarithm of the largest density.
        num_labels: bodies it was seen on, mirror images not counted.
    """

    points: tuple[str, str, str]
    cosines: tuple[float, ...]
    sines: tuple[float, ...]
    uniform: float
    log_mode: float
    num_labels: int


class BodyStatistics(Config):
    """What a population's labels say about its bodies; a small JSON file.

    Attributes:
        format: of the file.
        skeleton: whose points were labelled.
        dataset: name and split of the labels.
        digest: dataset digest of the labels.
        num_bodies: bodies that were used.
        bones: of all links that were seen often enough.
        angles: of all pairs of them that meet in a point.
        point_energies: quantiles of the labelled points' energies at :data:`LEVELS`.
        body_energies: quantiles of the labelled bodies' energies at :data:`LEVELS`.
    """

    format: Literal["posecore-body-statistics-1"] = "posecore-body-statistics-1"
    skeleton: str
    dataset: str
    digest: str
    num_bodies: int
    bones: tuple[BoneStatistics, ...]
    angles: tuple[AngleStatistics, ...]
    point_energies: tuple[float, ...] = ()
    body_energies: tuple[float, ...] = ()

    def save(self, path: str | AnyPath) -> AnyPath:
        """Writes the file, whole or not at all."""
        path = as_path(path)
        write_atomically(path, (self.model_dump_json(indent=1) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | AnyPath) -> "BodyStatistics":
        """Reads the file.

        Raises:
            ConfigError: there is no such file, or it is not one of :meth:`save`.
        """
        return parse_config(read_yaml(path), cls, origin=str(path))  # JSON is YAML


def bones_of(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Links between points of body and feet: faces and hands have shapes of their own.

    Raises:
        DatasetError: there is none.
    """
    inner = {index for index, point in enumerate(skeleton.keypoints) if point.group in _GROUPS}
    bones = [(a, b) for a, b in skeleton.link_indices if a in inner and b in inner]
    if not bones:
        raise DatasetError(
            f"skeleton {skeleton.name} links no points of the body, so it has no proportions; add `links` to it."
        )
    return bones


def angles_of(bones: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Every pair of bones that meet, as end, meeting point, other end."""
    angles = []
    for first, second in combinations(bones, 2):
        common = set(first) & set(second)
        if len(common) == 1:
            (vertex,) = common
            (one,), (other,) = set(first) - common, set(second) - common
            angles.append((one, vertex, other))
    return angles


def extents(keypoints: Float[np.ndarray, "N K 2"], known: Bool[np.ndarray, "N K"]) -> NDArray[np.float64]:
    """(N,) twice the largest distance of a body's known points from their mean: a size that no turn changes."""
    count = np.maximum(known.sum(axis=1), 1)[:, None, None]
    mean = np.where(known[..., None], keypoints, 0.0).sum(axis=1, keepdims=True) / count
    distance = np.hypot(*np.moveaxis(keypoints - mean, -1, 0))
    return 2 * np.where(known, distance, 0.0).max(axis=1, initial=0.0)


def bone_lengths(
    keypoints: Float[np.ndarray, "N K 2"], known: Bool[np.ndarray, "N K"], bones: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Logarithms of the lengths in pixels, NaN where an end is not known or the two are one place.

    Args:
        keypoints: x, y in any pixels.
        known: which count.
        bones: (B, 2) indices.

    Returns:
        (N, B) logarithms, and (N, B) whether both ends are known and in one place.
    """
    ends = keypoints[:, bones]
    length = np.hypot(*np.moveaxis(ends[:, :, 1] - ends[:, :, 0], -1, 0))
    both = known[:, bones].all(axis=2)
    one_place = both & (length <= NO_LENGTH * extents(keypoints, known)[:, None])
    with np.errstate(divide="ignore"):
        return np.where(both & ~one_place, np.log(length), np.nan), one_place


def joint_angles(
    keypoints: Float[np.ndarray, "N K 2"], known: Bool[np.ndarray, "N K"], angles: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N, A) signed angles in radians, -π to π, NaN where a point is not known or a bone too short to point anywhere.

    Args:
        keypoints: x, y in any pixels.
        known: which count.
        angles: (A, 3) indices of end, meeting point, other end.
    """
    points = keypoints[:, angles]
    first, second = points[:, :, 0] - points[:, :, 1], points[:, :, 2] - points[:, :, 1]
    least = NO_DIRECTION * extents(keypoints, known)[:, None]
    clear = (np.hypot(first[..., 0], first[..., 1]) > least) & (np.hypot(second[..., 0], second[..., 1]) > least)
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    dot = (first * second).sum(axis=-1)
    return np.where(clear & known[:, angles].all(axis=2), np.arctan2(cross, dot), np.nan)


def learn_statistics(
    keypoints: Float[np.ndarray, "N K 2"],
    labelled: Bool[np.ndarray, "N K"],
    skeleton: Skeleton,
    *,
    dataset: str = "",
    digest: str = "",
) -> BodyStatistics:
    """Learns lengths and angles; :func:`~posecore.labels.plausibility.learn_from_labels` adds the energies.

    Args:
        keypoints: x, y in image pixels.
        labelled: which points have a place.
        skeleton: names and links of the K points.
        dataset: name and split of the labels.
        digest: dataset digest of the labels.

    Raises:
        DatasetError: the skeleton has no links, or too few bodies show enough of them.
    """
    bones = bones_of(skeleton)
    pairs, triples = np.array(bones), np.array(angles_of(bones), np.int64).reshape(-1, 3)
    lengths, one_place = bone_lengths(keypoints, labelled, pairs)
    # A bone that is mostly one place was filled in and not looked at; so were its few other lengths.
    filled = one_place.sum(axis=0) > (~np.isnan(lengths)).sum(axis=0)
    usable = (~np.isnan(lengths[:, ~filled])).sum(axis=1) >= min(LEAST_BONES, int((~filled).sum()))
    if usable.sum() < LEAST_BODIES:
        raise DatasetError(
            f"{dataset or skeleton.name}: {int(usable.sum())} of {counted(len(keypoints), 'labelled body')} show at "
            f"least {LEAST_BONES} bones, and proportions need {LEAST_BODIES} such bodies; label more, or use "
            "statistics of the same population from elsewhere."
        )
    keypoints, labelled = keypoints[usable], labelled[usable]
    mirrored = keypoints[:, skeleton.flip_indices] * np.array([-1.0, 1.0])
    keypoints = np.concatenate([keypoints, mirrored])
    labelled = np.concatenate([labelled, labelled[:, skeleton.flip_indices]])
    names = skeleton.union_names
    lengths, one_place = bone_lengths(keypoints, labelled, pairs)
    counts = (~np.isnan(lengths)).sum(axis=0) // 2
    kept = (counts >= LEAST_BODIES // 2) & ~filled
    typical, residuals = _median_polish(lengths[:, kept])
    statistics = []
    for place, bone in enumerate(np.flatnonzero(kept).tolist()):
        seen = residuals[~np.isnan(residuals[:, place]), place]
        low, middle, high = np.quantile(seen, (0.025, 0.5, 0.9)).tolist()
        statistics.append(
            BoneStatistics(
                points=(names[pairs[bone, 0]], names[pairs[bone, 1]]),
                log_length=round(float(typical[place]) + middle, 5),
                shorter=round(max(_LEAST_SPREAD, (middle - low) / _NORMAL_97_5), 5),
                longer=round(max(_LEAST_SPREAD, (high - middle) / _NORMAL_90), 5),
                coincident=round(float(one_place[:, bone].sum() / (one_place[:, bone].sum() + 2 * counts[bone])), 5),
                num_labels=int(counts[bone]),
            )
        )
    known_bones = {frozenset(pairs[bone].tolist()) for bone in np.flatnonzero(kept)}
    return BodyStatistics(
        skeleton=skeleton.name,
        dataset=dataset,
        digest=digest,
        num_bodies=int(usable.sum()),
        bones=tuple(statistics),
        angles=tuple(
            _angle_statistics(tuple(names[point] for point in triple), seen)
            for triple, column in zip(triples.tolist(), joint_angles(keypoints, labelled, triples).T, strict=True)
            if len(seen := column[~np.isnan(column)]) >= LEAST_BODIES
            and {frozenset(triple[:2]), frozenset(triple[1:])} <= known_bones
        ),
    )


def _median_polish(logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B,) what is typical of each column, and (N, B) what is left when the rows' medians are taken out as well."""
    typical = np.zeros(logs.shape[1])
    for _ in range(_POLISH_ROUNDS):
        scale = np.nanmedian(logs - typical, axis=1, keepdims=True)
        typical = np.nanmedian(logs - scale, axis=0)
        typical -= typical.mean()  # only differences mean anything: the scale takes up what is common
    scale = np.nanmedian(logs - typical, axis=1, keepdims=True)
    return typical, logs - scale - typical


def _angle_statistics(points: tuple[str, ...], seen: NDArray[np.float64]) -> AngleStatistics:
    one, vertex, other = points
    orders = np.arange(1, _ORDER + 1)
    damping = 1 - orders / (_ORDER + 1)
    phases = orders * seen[:, None]
    cosines, sines = damping * np.cos(phases).mean(axis=0), damping * np.sin(phases).mean(axis=0)
    count = len(seen) // 2
    uniform = _UNIFORM_SHARE + (1 - _UNIFORM_SHARE) * _UNIFORM_BODIES / (count + _UNIFORM_BODIES)
    circle = np.linspace(-np.pi, np.pi, 720, endpoint=False)
    mode = log_density(circle[:, None], cosines[None], sines[None], np.array([uniform])).max()
    return AngleStatistics(
        points=(one, vertex, other),
        cosines=tuple(cosines.round(5).tolist()),
        sines=tuple(sines.round(5).tolist()),
        uniform=round(uniform, 5),
        log_mode=round(float(mode), 5),
        num_labels=count,
    )


def log_density(
    angles: Float[np.ndarray, "N A"],
    cosines: Float[np.ndarray, "A M"],
    sines: Float[np.ndarray, "A M"],
    uniform: Float[np.ndarray, " A"],
) -> NDArray[np.float64]:
    """(N, A) logarithm of the density per radian; see :class:`AngleStatistics`."""
    phases = angles[..., None] * np.arange(1, cosines.shape[-1] + 1)
    series = 1 + 2 * (cosines * np.cos(phases) + sines * np.sin(phases)).sum(axis=-1)
    return np.log(((1 - uniform) * np.maximum(series, 0.0) + uniform) / (2 * np.pi))
