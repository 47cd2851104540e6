"""Results in COCO's submission format as columns, some entries at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import EvaluationError
from posecore.evaluation.results import PART_FIELDS
from posecore.evaluation.wholebody import PARTS
from posecore.schema import Json
from posecore.scoring.json_blocks import float64_of, read_blocks
from posecore.scoring.sequences import read_sequences
from posecore.storage import AnyPath

BODY_ID_FIELD = "annotation_id"
"""Field of an entry that names the annotation it answers, where the results are one answer for each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Some entries of a results file, those on known images.

    Attributes:
        entry: (D,) position of each in the file.
        image_row: (D,) position of its image.
        category_id: (D,) class numbers.
        scores: (D,) confidence of the body.
        keypoints: (D, K, 2) x, y in image pixels.
        keypoint_scores: (D, K) confidence of each point.
        part_scores: official part name → (D,) confidence of that part.
        bodies: (D,) id of the annotation that each answers, "" where the file states none; empty if not asked for.
    """

    entry: Int[np.ndarray, " D"]
    image_row: Int[np.ndarray, " D"]
    category_id: Int[np.ndarray, " D"]
    scores: Float[np.ndarray, " D"]
    keypoints: Float[np.ndarray, "D K 2"]
    keypoint_scores: Float[np.ndarray, "D K"]
    part_scores: Mapping[str, Float[np.ndarray, " D"]]
    bodies: tuple[str, ...]


class Results:
    """A results file, read once from its beginning to its end.

    Args:
        path: the JSON file, or a folder of one per sequence, as PoseTrack is submitted.
        image_ids: of the annotations.
        num_keypoints: K.
        of_bodies: whether entries may name the annotation they answer; asking each for a field it does not have takes
            as long as reading the rest of it.

    Attributes:
        num_entries: entries so far.
        num_unknown: those so far whose image the annotations do not have.
        unknown: the first such image.
    """

    def __init__(self, path: AnyPath, image_ids: Sequence[str], num_keypoints: int, *, of_bodies: bool = False) -> None:
        self.path = path
        self.num_entries = 0
        self.num_unknown = 0
        self.unknown = ""
        self._row_of: dict[Json, int] = {image_id: row for row, image_id in enumerate(image_ids)}
        numbers = {int(name): row for name, row in self._row_of.items() if str(name).isdecimal()}
        self._row_of |= {number: row for number, row in numbers.items() if str(number) in self._row_of}
        self._num_keypoints = num_keypoints
        self._of_bodies = of_bodies

    def __iter__(self) -> Iterator[Block]:
        for items in read_sequences(self.path) if self.path.is_dir() else read_blocks(self.path):
            yield self._block(items)

    def _block(self, items: Sequence[Mapping[str, Any]]) -> Block:
        first, given = self.num_entries, items
        self.num_entries += len(items)
        try:
            rows = np.array([self._row_of.get(item["image_id"], -1) for item in items], np.int64)
            if (rows < 0).any():
                self.unknown = self.unknown or str(items[int(rows.argmin())]["image_id"])
                self.num_unknown += int((rows < 0).sum())
                items = [item for item, row in zip(items, rows.tolist(), strict=True) if row >= 0]
            triplets = self._triplets(items)
            scores = np.array([item["score"] for item in items], np.float64)
            category_id = np.array([item.get("category_id", 1) for item in items], np.int64)
            parts = [name for name in PARTS if items and f"{name}_score" in items[0]]
            part_scores = {name: np.array([item[f"{name}_score"] for item in items], np.float64) for name in parts}
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._misfit(given, first) from None
        entry = first + np.flatnonzero(rows >= 0)
        numbers = [triplets.reshape(len(entry), 3 * self._num_keypoints), scores[:, None]]
        numbers += [values[:, None] for values in part_scores.values()]
        if not all(np.isfinite(values).all() for values in numbers):
            finite = np.isfinite(np.concatenate(numbers, axis=1)).all(axis=1)
            where = int(entry[int(finite.argmin())])
            raise EvaluationError(
                f"{self.path}: entry {where} has a coordinate or a score that is not a finite number."
            )
        return Block(
            entry=entry,
            image_row=rows[rows >= 0],
            category_id=category_id,
            scores=scores,
            keypoints=triplets[:, :, :2],
            keypoint_scores=triplets[:, :, 2],
            part_scores=part_scores,
            bodies=tuple(str(item.get(BODY_ID_FIELD, "")) for item in items) if self._of_bodies else (),
        )

    def _triplets(self, items: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        extra = any(key in items[0] for key in PART_FIELDS.values() if key != "keypoints") if items else False
        keys = tuple(PART_FIELDS.values()) if extra else ("keypoints",)
        given = [float64_of(item[key]) for item in items for key in keys]
        sizes = np.fromiter(map(len, given), np.int64, len(given))
        counts = sizes.reshape(len(items), len(keys)).sum(axis=1) // 8
        wanted = 3 * self._num_keypoints
        if (counts != wanted).any():
            raise ValueError(f"{counted(counts[counts != wanted][0], 'number')} where {wanted} belong")
        return np.frombuffer(b"".join(given)).reshape(len(items), self._num_keypoints, 3)

    def _misfit(self, items: Sequence[Mapping[str, Any]], first: int) -> EvaluationError:
        """What is wrong with the first entry that does not fit."""
        expected = f"an image_id, {counted(self._num_keypoints, 'keypoint')} as x, y, confidence, and a score"
        for number, item in enumerate(items):
            try:
                count = self._triplets([item]).size
                float(item["score"]), int(item.get("category_id", 1)), item["image_id"]
                assert count
            except (KeyError, TypeError, ValueError, OverflowError, AssertionError) as error:
                return EvaluationError(
                    f"{self.path}: entry {first + number} does not fit ({type(error).__name__}: {error}); expected "
                    f"{expected}."
                )
        return EvaluationError(f"{self.path}: entries after number {first} do not fit each other; expected {expected}.")
