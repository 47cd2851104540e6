"""What a person looks for in a split and in what models said of it: bodies by error, subject and keypoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.keypoint_errors import answered_distances, relative_distances
from posecore.evaluation.traits import Traits
from posecore.shards.store import ShardStore
from posecore.viz.close_ups import draw_body

ORDERS = ("split", "worst", "best", "change")
"""Of bodies: as the split has them, by the first model's error, or by how much larger the second's is."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Which bodies to show, and in what order.

    Attributes:
        first: number of the model whose error counts, None for the labels alone.
        second: number of the one beside it, or None.
        subject: only bodies of that one; "" for all.
        keypoint: number of the point whose error counts, and which must be labelled; None is the mean of all.
        least: error in percent of the box from which on a body is shown; None shows those without an answer, too.
        most: error up to which it is.
        order: one of :data:`ORDERS`.
    """

    first: int | None = None
    second: int | None = None
    subject: str = ""
    keypoint: int | None = None
    least: float | None = None
    most: float | None = None
    order: str = "split"


@dataclass(frozen=True, eq=False)
class Answered:
    """What one model said of a split.

    Attributes:
        name: for people.
        predictions: what was said.
        row: (N,) row of the predictions for each annotated body, -1 where there is none.
        error: (N, K) distance as a share of √(w·h) of the box, NaN where not labelled or not answered.
    """

    name: str
    predictions: Predictions
    row: NDArray[np.int64]
    error: NDArray[np.float64]

    @classmethod
    def of(cls, name: str, truth: GroundTruth, predictions: Predictions) -> "Answered":
        """Pairs each annotated body with its answer."""
        distances = answered_distances(truth, predictions)
        row = np.full(len(truth), -1, np.int64)
        row[distances.truth_row] = distances.prediction_row
        error = np.full(truth.visibility.shape, np.nan)
        error[distances.truth_row] = relative_distances(truth, distances)
        return cls(name, predictions, row, error)


class BrowsedSet:
    """A split and what models said of it.

    Args:
        name: for people.
        store: the split.
        answers: name of each model → what it said.

    Raises:
        EvaluationError: predictions are of other bodies.
    """

    def __init__(self, name: str, store: ShardStore, answers: Mapping[str, Predictions]) -> None:
        self.name = name
        self.store = store
        self.skeleton = store.manifest.definition.skeleton
        self.truth = GroundTruth.from_store(store)
        self.answers = [Answered.of(who, self.truth, said) for who, said in answers.items()]
        self._subjects = np.array([each or "" for each in Traits.from_store(store).subject], dtype=object)
        self._shown = self.truth.labelled

    @cached_property
    def subjects(self) -> list[str]:
        """Names of subjects, sorted."""
        return sorted({each for each in self._subjects[self._shown] if each})

    def errors(self, answer: int, keypoint: int | None) -> NDArray[np.float64]:
        """(N,) error of each body, in percent of its box; NaN where there is none."""
        error = self.answers[answer].error
        if keypoint is not None:
            return 100 * error[:, keypoint]
        known = np.isfinite(error)
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = 100 * np.where(known, error, 0).sum(axis=1) / known.sum(axis=1)
        return mean

    def rows(self, wish: Wish) -> NDArray[np.int64]:
        """Bodies that are wished for, in order."""
        wanted = self._shown.copy()
        if wish.subject:
            wanted &= self._subjects == wish.subject
        if wish.keypoint is not None:
            wanted &= self.truth.visibility[:, wish.keypoint] > 0
        key = np.arange(len(wanted), dtype=np.float64)
        if wish.first is not None:
            error = self.errors(wish.first, wish.keypoint)
            if wish.least is not None:
                wanted &= error >= wish.least
            if wish.most is not None:
                wanted &= error <= wish.most
            if wish.order == "change" and wish.second is not None:
                key = error - self.errors(wish.second, wish.keypoint)
            elif wish.order in ("worst", "best"):
                key = error if wish.order == "best" else -error
        rows = np.flatnonzero(wanted)
        return rows[np.argsort(np.nan_to_num(key[rows], nan=np.inf), kind="stable")]

    def caption(self, row: int, wish: Wish) -> str:
        """Which body it is, whose, and how far off each model."""
        picture = self.truth.image_ids[self.truth.image_row[row]]
        lines = [f"image {picture}, instance {self.truth.instance_ids[row]}"]
        if self._subjects[row]:
            lines.append(f"subject {self._subjects[row]}")
        for answer in (wish.first, wish.second):
            if answer is not None:
                error = self.errors(answer, wish.keypoint)[row]
                told = f"{error:.1f} % of the box" if np.isfinite(error) else "no answer"
                lines.append(f"{self.answers[answer].name}: {told}")
        return "\n".join(lines)

    def picture(self, row: int, answers: Sequence[int], size_px: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB: the body as annotated, and to the right as each of some models sees it.

        Raises:
            IntegrityError: the image does not decode, or is not what was written.
        """
        said = []
        for number in answers:
            answer = self.answers[number]
            place = int(answer.row[row])
            found = answer.predictions
            said.append((found.keypoints[place], found.keypoint_scores[place]) if place >= 0 else None)
        return draw_body(self.store, self.skeleton, self.truth, row, said, size_px)
