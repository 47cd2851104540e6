"""How far off a model's points are and which of them can be seen, as a held-out split has shown: beside its weights.

A codec says how blurred each output is; what that amounts to in pixels and probabilities is fitted to labels the model
has not learned from (:mod:`posecore.evaluation.uncertainty`), kept in the model's card, and applied here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field

from posecore.codecs.scene import SceneReading
from posecore.config import Config
from posecore.errors import ConfigError

KEYPOINT, LOOKS = "keypoint", "looks"
COVERED, OPEN = "covered", "open"
"""Groups of the trait :data:`LOOKS`: whether the model itself holds a point for covered."""


class Fit(Config):
    """What the labelled points of one group say.

    Attributes:
        points: how many.
        units: of how many subjects, or of what stands for them.
        scale: what covariances are multiplied by, so that errors are as likely as can be under them.
        radius: in sigmas before they are scaled: so far off at most is a point of a new unit, with the stated
            probability; None where the units are too few to say.
        visible: slope and intercept of the logit that a point is visible, over its score; None where either the visible
            or the occluded points are too few.
    """

    points: int = Field(ge=0)
    units: int = Field(ge=0)
    scale: float | None = Field(gt=0)
    radius: float | None = Field(gt=0)
    visible: tuple[float, float] | None


class HeadUncertainty(Config):
    """What a held-out split says of the answers of one head, made in one way.

    Attributes:
        head: which one.
        weights: SHA-256 of the weights that answered; it holds for no others.
        flip_test: whether answers for crop and mirrored crop were averaged.
        path: where heatmaps came from.
        level: the probability with which a point is within its radius.
        unit: what is exchangeable: a point of a new ``subject``, of a new ``video``, or of a new ``image``.
        data: dataset and split it was fitted on.
        digest: of that split.
        points: native names, in the head's order.
        whole: all points.
        by: trait → group → its points, for the groups of :data:`KEYPOINT`, of :data:`LOOKS` and of what the records
            state: view, posture and category.
        reading: how outputs of whole pictures were read, as far as the head goes by it.
    """

    head: str
    weights: str
    flip_test: bool
    path: str
    level: float = Field(gt=0, lt=1)
    unit: str
    data: str
    digest: str
    points: tuple[str, ...]
    whole: Fit
    by: dict[str, dict[str, Fit]] = {}
    reading: SceneReading = SceneReading()

    @property
    def made_by(self) -> tuple[str, bool, str, SceneReading]:
        """Who answered, and in which way: it holds for no other."""
        return self.head, self.flip_test, self.path, self.reading

    @property
    def how(self) -> str:
        """In which way the answers were made, in words."""
        flip = "with flip test" if self.flip_test else "without flip test"
        return ", ".join(filter(None, (flip, self.reading.stated)))

    def of_points(self, names: Sequence[str]) -> "HeadUncertainty":
        """The same for some of the head's points, in this order.

        Raises:
            ConfigError: the head has no such point.
        """
        strange = [name for name in names if name not in self.points]
        if strange:
            raise ConfigError(f"nothing was fitted to {', '.join(strange)}; calibrate the model again.")
        return self.model_copy(update={"points": tuple(names)})

    def apply(
        self,
        covariances: Float[np.ndarray, "n k 2 2"],
        scores: Float[np.ndarray, "n k"],
        stated: Mapping[str, str] | None = None,
    ) -> "PointUncertainty":
        """What the split says of other answers of the same head.

        A point has several groups: its name, how it looks, and those stated. Its scale and its radius are the largest
        of theirs, so that what is promised holds in each; a group of too few units has no say.

        Args:
            covariances: as :meth:`~posecore.codecs.codec.Codec.covariances` gives them, in image px².
            scores: of the same points.
            stated: trait → group that all of them belong to, such as ``view`` → ``side``.

        Raises:
            ConfigError: nothing was fitted to such a group.
        """
        shape = scores.shape
        fits = self._of_points()
        visible = self.chance(scores, np.arange(shape[1]))
        of_all = [self._group(trait, group) for trait, group in (stated or {}).items()]
        scale, radius = (
            np.maximum.reduce(
                [
                    np.broadcast_to([_of(fit, what, self.whole) for fit in fits], shape),
                    self._by_looks(what, visible),
                    *(np.full(shape, _of(fit, what, None)) for fit in of_all),
                ]
            )
            for what in ("scale", "radius")
        )
        sigma = np.sqrt(np.trace(covariances, axis1=2, axis2=3) / 2)
        return PointUncertainty(
            level=self.level,
            covariances=covariances * scale[..., None, None],
            visible=visible,
            radius=np.where(np.isfinite(sigma), radius * np.nan_to_num(sigma), np.inf),
        )

    def check_groups(self, stated: Mapping[str, str]) -> None:
        """Returns if something was fitted to each group.

        Args:
            stated: trait → group.

        Raises:
            ConfigError: nothing was.
        """
        for trait, group in stated.items():
            self._group(trait, group)

    def chance(self, scores: Float[np.ndarray, "..."], column: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The probability that points are visible, NaN where nobody knows.

        Args:
            scores: of them.
            column: which of the head's points each is; broadcast.
        """
        from scipy.special import expit  # only models that are calibrated need it

        nobody = (np.nan, np.nan)
        curves = [(fit.visible if fit else None) or self.whole.visible or nobody for fit in self._of_points()]
        slope, intercept = np.moveaxis(np.array(curves)[column], -1, 0)
        found: Float[np.ndarray, "..."] = expit(slope * scores + intercept)
        return found

    def _of_points(self) -> list[Fit | None]:
        return [self.by.get(KEYPOINT, {}).get(name) for name in self.points]

    def _group(self, trait: str, group: str) -> Fit:
        found = self.by.get(trait, {}).get(group)
        if found is None or trait in (KEYPOINT, LOOKS):
            known = ", ".join(
                f"{name}={each}" for name, of in self.by.items() if name not in (KEYPOINT, LOOKS) for each in of
            )
            raise ConfigError(
                f"{trait}={group}: how far off the model is was fitted to {self.data}, which has "
                f"{known or 'no groups'}; name one of these, or none."
            )
        return found

    def _by_looks(self, what: str, visible: NDArray[np.float64]) -> NDArray[np.float64]:
        looks = self.by.get(LOOKS, {})
        covered, open_ = (_of(looks.get(name), what, None) for name in (COVERED, OPEN))
        return np.where(np.isnan(visible), 0.0, np.where(visible < 0.5, covered, open_))


@dataclass(frozen=True, kw_only=True, eq=False)
class PointUncertainty:
    """How sure points are.

    Attributes:
        level: the probability of :attr:`radius`.
        covariances: (n, K, 2, 2) of x and y in image px², NaN where there is no point.
        visible: (n, K) probability that the point is visible and not occluded, NaN where nobody knows.
        radius: (n, K) image pixels within which the point is with probability ``level``; inf where there is no point.
    """

    level: float
    covariances: Float[np.ndarray, "n k 2 2"]
    visible: Float[np.ndarray, "n k"]
    radius: Float[np.ndarray, "n k"]

    @classmethod
    def unproven(cls, covariances: Float[np.ndarray, "n k 2 2"], level: float = 0.9) -> "PointUncertainty":
        """What a model says of itself, under a Gaussian with its covariances; no data have shown that it is right.

        Args:
            covariances: of x and y, image px².
            level: of the radii.
        """
        sigma = np.sqrt(np.trace(covariances, axis1=2, axis2=3) / 2)
        radius = sigma * np.sqrt(-2 * np.log(1 - level))
        return cls(level=level, covariances=covariances, visible=np.full(sigma.shape, np.nan), radius=radius)

    @property
    def sigma(self) -> Float[np.ndarray, "n k 2"]:
        """Standard deviations of x and y, image pixels."""
        found: Float[np.ndarray, "n k 2"] = np.sqrt(np.diagonal(self.covariances, axis1=2, axis2=3))
        return found

    @property
    def rho(self) -> Float[np.ndarray, "n k"]:
        """Correlation of x and y."""
        found: Float[np.ndarray, "n k"] = self.covariances[..., 0, 1] / self.sigma.prod(axis=-1)
        return found

    @property
    def ellipses(self) -> Float[np.ndarray, "n k 2 2"]:
        """Matrices M of the ellipses eᵀM⁻¹e ≤ 1 with the covariances' shape and the area of the radii's circles."""
        with np.errstate(invalid="ignore"):
            area = np.sqrt(np.linalg.det(self.covariances))
            found: Float[np.ndarray, "n k 2 2"] = self.covariances * (self.radius**2 / area)[..., None, None]
        return found

    def take(self, chosen: NDArray[np.generic]) -> "PointUncertainty":
        """Some of the bodies."""
        return PointUncertainty(
            level=self.level,
            covariances=self.covariances[chosen],
            visible=self.visible[chosen],
            radius=self.radius[chosen],
        )


def _of(fit: Fit | None, what: str, instead: Fit | None) -> float:
    """A group's scale or radius; that of the whole where the group has none, and nothing where that has none either."""
    value = None if fit is None else getattr(fit, what)
    if value is None and instead is not None:
        value = getattr(instead, what)
        return float("inf" if value is None and what == "radius" else value or 1.0)
    return 0.0 if value is None else float(value)
