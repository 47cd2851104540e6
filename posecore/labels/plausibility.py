"""How plausible a body, or one of its points, is for a population whose statistics are known.

A feature's penalty is minus the logarithm of its density, relative to its mode, in nats: Student's t for lengths, the
learned density for angles. A point's **energy** is the mean penalty of the features it takes part in, so a misplaced
wrist stands out against its elbow, whose other features are in order. A body's energy is the mean of its three worst
points: a misplaced point drags its neighbours along, and the mean over the whole body would hide it. Energies are read
against those of the labels the statistics were learned from: a **plausibility** of 0.02 says that 2 % of the labelled
bodies look as odd or odder.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.labels.proportions import (
    DEGREES_OF_FREEDOM,
    LEAST_BONES,
    LEVELS,
    BodyStatistics,
    bone_lengths,
    joint_angles,
    learn_statistics,
    log_density,
)
from posecore.skeletons.skeleton import Skeleton


@dataclass(frozen=True, eq=False)
class Features:
    """The statistics that speak about a skeleton, as arrays.

    Attributes:
        bones: (B, 2) indices of the skeleton's points.
        log_length: (B,) see :class:`~posecore.labels.proportions.BoneStatistics`, as the next three.
        shorter: (B,)
        longer: (B,)
        coincident: (B,)
        angles: (A, 3) indices of end, meeting point, other end.
        cosines: (A, M) see :class:`~posecore.labels.proportions.AngleStatistics`, as the next three.
        sines: (A, M)
        uniform: (A,)
        log_mode: (A,)
    """

    bones: NDArray[np.int64]
    log_length: NDArray[np.float64]
    shorter: NDArray[np.float64]
    longer: NDArray[np.float64]
    coincident: NDArray[np.float64]
    angles: NDArray[np.int64]
    cosines: NDArray[np.float64]
    sines: NDArray[np.float64]
    uniform: NDArray[np.float64]
    log_mode: NDArray[np.float64]

    @classmethod
    def of(cls, statistics: BodyStatistics, skeleton: Skeleton) -> "Features":
        """Those whose points the skeleton has, matched by union name.

        Raises:
            ConfigError: fewer than :data:`~posecore.labels.proportions.LEAST_BONES` bones are among them.
        """
        place = {name: index for index, name in enumerate(skeleton.union_names)}
        bones = [bone for bone in statistics.bones if all(name in place for name in bone.points)]
        angles = [angle for angle in statistics.angles if all(name in place for name in angle.points)]
        if len(bones) < LEAST_BONES:
            raise ConfigError(
                f"the statistics of {statistics.dataset or statistics.skeleton} ({statistics.skeleton}) know "
                f"{counted(len(bones), 'bone')} of skeleton {skeleton.name}, and {LEAST_BONES} are needed; learn them "
                "from labels with that skeleton."
            )
        order = len(angles[0].cosines) if angles else 0
        return cls(
            bones=np.array([[place[name] for name in bone.points] for bone in bones]),
            log_length=np.array([bone.log_length for bone in bones]),
            shorter=np.array([bone.shorter for bone in bones]),
            longer=np.array([bone.longer for bone in bones]),
            coincident=np.array([bone.coincident for bone in bones]),
            angles=np.array([[place[name] for name in angle.points] for angle in angles], np.int64).reshape(-1, 3),
            cosines=np.array([angle.cosines for angle in angles]).reshape(len(angles), order),
            sines=np.array([angle.sines for angle in angles]).reshape(len(angles), order),
            uniform=np.array([angle.uniform for angle in angles]),
            log_mode=np.array([angle.log_mode for angle in angles]),
        )


@dataclass(frozen=True, eq=False)
class Penalties:
    """What each feature of N bodies costs, in nats; NaN where it cannot be told.

    Attributes:
        bones: (N, B).
        angles: (N, A).
        residuals: (N, B) logarithm of how many times too long each bone is.
        one_place: (N, B) whether a bone's ends, elsewhere apart, are in one place.
    """

    bones: NDArray[np.float64]
    angles: NDArray[np.float64]
    residuals: NDArray[np.float64]
    one_place: NDArray[np.bool_]


class BodyScorer:
    """Judges bodies with one skeleton.

    Args:
        statistics: of the population.
        skeleton: names the K points.

    Raises:
        ConfigError: the statistics say too little about this skeleton.
    """

    def __init__(self, statistics: BodyStatistics, skeleton: Skeleton) -> None:
        self.statistics = statistics
        self.skeleton = skeleton
        self.features = Features.of(statistics, skeleton)

    def penalties(self, keypoints: Float[np.ndarray, "N K 2"], known: Bool[np.ndarray, "N K"]) -> Penalties:
        """Penalties of every feature.

        Args:
            keypoints: x, y in any pixels.
            known: which points count.
        """
        features = self.features
        lengths, one_place = bone_lengths(keypoints, known, features.bones)
        relative = lengths - features.log_length
        enough = (~np.isnan(relative)).sum(axis=1) >= LEAST_BONES
        residuals = np.full_like(relative, np.nan)
        residuals[enough] = relative[enough] - np.nanmedian(relative[enough], axis=1, keepdims=True)
        z = residuals / np.where(residuals > 0, features.longer, features.shorter)
        bones = 0.5 * (DEGREES_OF_FREEDOM + 1) * np.log1p(z * z / DEGREES_OF_FREEDOM)
        angles = joint_angles(keypoints, known, features.angles)
        density = log_density(angles, features.cosines, features.sines, features.uniform)
        # Fewer than 1 % of the labels have this bone in one place: a slip of the hand, or a copied point.
        slips = one_place & (features.coincident < 0.01)
        return Penalties(bones, np.maximum(features.log_mode - density, 0.0), residuals, slips)

    def point_energies(
        self, keypoints: Float[np.ndarray, "N K 2"], known: Bool[np.ndarray, "N K"]
    ) -> NDArray[np.float64]:
        """(N, K) energies; NaN for a point that no feature speaks about."""
        penalties = self.penalties(keypoints, known)
        total = np.zeros(known.shape)
        count = np.zeros(known.shape)
        for values, points in ((penalties.bones, self.features.bones), (penalties.angles, self.features.angles)):
            told = ~np.isnan(values)
            for column in range(points.shape[1]):
                for feature, point in enumerate(points[:, column].tolist()):
                    total[:, point] += np.where(told[:, feature], values[:, feature], 0.0)
                    count[:, point] += told[:, feature]
        with np.errstate(invalid="ignore"):
            return np.where(count > 0, total / count, np.nan)

    def body_energies(
        self, keypoints: Float[np.ndarray, "N K 2"], known: Bool[np.ndarray, "N K"]
    ) -> NDArray[np.float64]:
        """(N,) energies; NaN for a body that shows too little."""
        return worst_points(self.point_energies(keypoints, known))

    def plausibility(
        self, keypoints: Float[np.ndarray, "N K 2"], known: Bool[np.ndarray, "N K"]
    ) -> NDArray[np.float64]:
        """(N,) share of the labelled bodies that look as odd or odder, 0 to 1; NaN for a body that shows too little."""
        energies = self.body_energies(keypoints, known)
        return 1.0 - np.interp(energies, self.statistics.body_energies, LEVELS)


def worst_points(point_energies: Float[np.ndarray, "N K"], number: int = 3) -> NDArray[np.float64]:
    """(N,) mean of each row's largest energies; NaN where no energy is known."""
    ordered = -np.sort(-point_energies, axis=1)[:, :number]  # NaN comes last
    told = ~np.isnan(ordered)
    with np.errstate(invalid="ignore"):
        return np.where(told, ordered, 0.0).sum(axis=1) / np.where(told.any(axis=1), told.sum(axis=1), np.nan)


def learn_from_labels(
    keypoints: Float[np.ndarray, "N K 2"],
    labelled: Bool[np.ndarray, "N K"],
    skeleton: Skeleton,
    *,
    dataset: str = "",
    digest: str = "",
) -> BodyStatistics:
    """Statistics together with the energies of the labels they were learned from.

    Args:
        keypoints: x, y in image pixels.
        labelled: which points have a place.
        skeleton: names and links of the K points.
        dataset: name and split of the labels.
        digest: dataset digest of the labels.

    Raises:
        DatasetError: the skeleton has no links, or too few bodies show enough of them.
        ConfigError: too few of its bones were ever seen.
    """
    statistics = learn_statistics(keypoints, labelled, skeleton, dataset=dataset, digest=digest)
    points = BodyScorer(statistics, skeleton).point_energies(keypoints, labelled)
    bodies = worst_points(points)
    return statistics.model_copy(
        update={
            "point_energies": _quantiles(points[~np.isnan(points)]),
            "body_energies": _quantiles(bodies[~np.isnan(bodies)]),
        }
    )


def _quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.quantile(values, LEVELS).round(5).tolist())
