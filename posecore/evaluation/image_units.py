"""What is resampled as one: pictures that show the same subjects, frames of one video, or single pictures."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.bootstrap import BootstrapSettings, Estimate, estimate_of_draws
from posecore.evaluation.traits import Traits

Name = TypeVar("Name", bound=Hashable)
Measure = Callable[[NDArray[np.float64]], dict[str, float]]
"""(I,) how often each image counts to metric name → value; NaN where it does not exist."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """The units of some annotations.

    Attributes:
        of_image: (I,) number of each image's unit.
        kinds: ``subject``, ``video`` or ``image`` → how many units are of that kind.
    """

    of_image: Int[np.ndarray, " I"]
    kinds: dict[str, int]

    @property
    def number(self) -> int:
        """Of units."""
        return sum(self.kinds.values())

    def draws(self, settings: BootstrapSettings) -> Iterator[Float[np.ndarray, " I"]]:
        """(I,) how often each image counts in each resample; two files drawn with one seed get the same."""
        rng = np.random.default_rng(settings.seed)
        for _ in range(settings.resamples):
            counts = np.bincount(rng.integers(0, self.number, self.number), minlength=self.number)
            yield counts.astype(np.float64)[self.of_image]


def units_of(truth: GroundTruth, traits: Traits) -> Units:
    """Units of the images: all subjects of an image, else its video, else the image itself.

    An image of several subjects is of a unit of its own with all images of just these subjects.

    Args:
        truth: annotations.
        traits: of the same instances.
    """
    subjects: dict[int, set[str]] = {}
    videos: dict[int, str] = {}
    rows = truth.image_row.tolist()
    for row, subject, video in zip(rows, traits.subject, traits.video, strict=True):
        if subject is not None:
            subjects.setdefault(row, set()).add(subject)
        if video is not None:
            videos[row] = video
    numbers: dict[tuple[str, str], int] = {}
    of_image: NDArray[np.int64] = np.empty(len(truth.image_ids), np.int64)
    for row, image_id in enumerate(truth.image_ids):
        if row in subjects:
            unit = ("subject", "\0".join(sorted(subjects[row])))
        elif row in videos:
            unit = ("video", videos[row])
        else:
            unit = ("image", image_id)
        of_image[row] = numbers.setdefault(unit, len(numbers))
    kinds = [kind for kind, _ in numbers]
    return Units(of_image=of_image, kinds={kind: kinds.count(kind) for kind in sorted(set(kinds))})


def intervals(
    measure: Callable[[NDArray[np.float64]], dict[Name, float]], units: Units, settings: BootstrapSettings | None
) -> dict[Name, Estimate]:
    """Name → value with its interval, of what a measure gives; none without settings, or where none exists.

    Args:
        measure: (I,) how often each image counts to values.
        units: what is drawn.
        settings: how.
    """
    if settings is None:
        return {}
    whole = measure(np.ones(len(units.of_image)))
    drawn = [measure(images) for images in units.draws(settings)]
    found = {
        name: estimate_of_draws(value, np.array([values[name] for values in drawn]), units.number, settings)
        for name, value in whole.items()
    }
    return {name: estimate for name, estimate in found.items() if np.isfinite(estimate.low)}
