"""Ground truth and predictions of one evaluation set as flat arrays, one row per instance.

Every protocol of this room reads these two types and nothing else, so no protocol knows where the numbers came from:
shards, official JSON files or a test. All coordinates are 0-based pixels of the source image, float64, because
official evaluators compute in float64.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import EvaluationError
from posecore.schema import AreaRule, Instance, KeypointState, Record
from posecore.shards.index import says_what_protocols_ask
from posecore.shards.labels import lists_or_nan
from posecore.shards.store import ShardStore
from posecore.tables.columns import keypoints_of
from posecore.tables.extras import crowd_index


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """Annotated instances of one split, in the order of its records.

    Attributes:
        image_ids: I source ids of the images.
        image_size: (I, 2) int64 (height, width) in pixels; 0 where unknown.
        crowd_index: (I,) CrowdPose's ``crowdIndex``, NaN where the dataset has none.
        instance_ids: N source ids of the instances.
        image_row: (N,) position in ``image_ids``.
        keypoints: (N, K, 2) x, y in image pixels; anything where not labelled.
        visibility: (N, K) COCO flags 0, 1, 2; a point declared absent is 0.
        bbox_xywh: (N, 4) in image pixels.
        area: (N,) px², as recorded.
        category_id: (N,) the dataset's class numbers.
        is_crowd: (N,) regions of many, ignored by every protocol.
        num_keypoints: (N,) the source's own count where an official protocol reads it, else the labelled points.
        head_bbox_xyxy: (N, 4) in image pixels, NaN where there is none.
    """

    image_ids: tuple[str, ...]
    image_size: Int[np.ndarray, "I 2"]
    crowd_index: Float[np.ndarray, " I"]
    instance_ids: tuple[str, ...]
    image_row: Int[np.ndarray, " N"]
    keypoints: Float[np.ndarray, "N K 2"]
    visibility: UInt8[np.ndarray, "N K"]
    bbox_xywh: Float[np.ndarray, "N 4"]
    area: Float[np.ndarray, " N"]
    category_id: Int[np.ndarray, " N"]
    is_crowd: Bool[np.ndarray, " N"]
    num_keypoints: Int[np.ndarray, " N"]
    head_bbox_xyxy: Float[np.ndarray, "N 4"]

    @property
    def labelled(self) -> Bool[np.ndarray, " N"]:
        """Which instances have a labelled point, and are no crowd."""
        found: NDArray[np.bool_] = (self.visibility > 0).any(axis=1) & ~self.is_crowd
        return found

    @classmethod
    def from_records(cls, records: Iterable[Record], num_keypoints: int) -> "GroundTruth":
        """Flattens records, crowds and unlabelled instances included.

        Args:
            records: one per image; ids must be unique.
            num_keypoints: K, needed because a split may hold no instance.

        Raises:
            EvaluationError: an instance has another number of points, or an image comes twice.
        """
        images: list[Record] = []
        instances: list[Instance] = []
        image_row: list[int] = []
        for record in records:
            image_row += [len(images)] * len(record.instances)
            images.append(record)
            instances += record.instances
        for instance in instances:
            if len(instance.keypoints) != num_keypoints:
                raise EvaluationError(
                    f"instance {instance.id!r} has {counted(len(instance.keypoints), 'keypoint')} where the skeleton "
                    f"has {num_keypoints}; evaluate with the skeleton the data was ingested with."
                )
        points = _stacked([instance.keypoints for instance in instances], (num_keypoints, 3))
        visibility = points[:, :, 2].astype(np.uint8)
        for row, instance in enumerate(instances):
            visibility[row, list(instance.absent)] = 0
        labelled = (visibility > 0).sum(axis=1)
        nowhere = (np.nan,) * 4
        return cls(
            image_ids=_each_once(record.source_id for record in images),
            image_size=np.array([(r.height, r.width) for r in images], np.int64).reshape(-1, 2),
            crowd_index=np.array([crowd_index(record.extras) for record in images], np.float64),
            instance_ids=tuple(instance.id for instance in instances),
            image_row=np.array(image_row, np.int64),
            keypoints=points[:, :, :2],
            visibility=visibility,
            bbox_xywh=_stacked([instance.bbox_xywh for instance in instances], (4,)),
            area=np.array([instance.area for instance in instances], np.float64),
            category_id=np.array([instance.category_id for instance in instances], np.int64),
            is_crowd=np.array([instance.is_crowd for instance in instances], np.bool_),
            num_keypoints=np.array(
                [
                    count if instance.num_keypoints is None else instance.num_keypoints
                    for instance, count in zip(instances, labelled.tolist(), strict=True)
                ],
                np.int64,
            ),
            head_bbox_xyxy=_stacked([instance.head_bbox_xyxy or nowhere for instance in instances], (4,)),
        )

    @classmethod
    def from_store(cls, store: ShardStore) -> "GroundTruth":
        """All instances of an ingested split; row i is row i of its ``index.parquet``.

        Raises:
            IntegrityError: stored bytes are not what was written; of splits whose index says less than is asked.
        """
        if not says_what_protocols_ask(store.instances):
            records = (store.read_record(row) for row in range(store.num_images))
            return cls.from_records(records, store.manifest.definition.skeleton.num_keypoints)
        images, bodies = store.images, store.instances
        state = store.labels.state(np.arange(len(bodies)))
        labelled = np.isin(state, (KeypointState.OCCLUDED, KeypointState.VISIBLE))
        points, own = keypoints_of(bodies), bodies["num_keypoints"]
        return cls(
            image_ids=_each_once(images["source_id"].to_pylist()),
            image_size=np.column_stack([images[side].to_numpy() for side in ("height", "width")]).astype(np.int64),
            crowd_index=images["crowd_index"].to_numpy(),
            instance_ids=tuple(bodies["instance_id"].to_pylist()),
            image_row=bodies["image_row"].to_numpy(),
            keypoints=points[..., :2].astype(np.float64),
            visibility=np.where(labelled, points[..., 2], 0).astype(np.uint8),
            bbox_xywh=np.column_stack([bodies[f"bbox_{side}"].to_numpy() for side in "xywh"]),
            area=bodies["area"].to_numpy(),
            category_id=bodies["category_id"].to_numpy(),
            is_crowd=bodies["is_crowd"].to_numpy(),
            num_keypoints=np.where(own.is_valid(), own.fill_null(0), labelled.sum(axis=1)).astype(np.int64),
            head_bbox_xyxy=lists_or_nan(bodies["head_bbox_xyxy"], 4),
        )

    def __len__(self) -> int:
        return len(self.image_row)

    @cached_property
    def image_rank(self) -> NDArray[np.int64]:
        """(I,) rank of each image by id, numbers by value: official evaluators break ties in score by it."""
        order = sorted(range(len(self.image_ids)), key=lambda row: _natural(self.image_ids[row]))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank

    def scale_area(self, rule: AreaRule | None) -> Float[np.ndarray, " N"]:
        """(N,) px²: the area OKS divides by under a scale rule; None, "segment" and "annotated" mean as recorded."""
        return _AREA_RULES[rule](self)

    def take(self, chosen: Bool[np.ndarray, " N"]) -> "GroundTruth":
        """The chosen instances, on the same list of images."""
        return replace(
            self,
            instance_ids=tuple(compress(self.instance_ids, chosen)),
            **{name: getattr(self, name)[chosen] for name in _TRUTH_COLUMNS},
        )


_TRUTH_COLUMNS = (
    "image_row",
    "keypoints",
    "visibility",
    "bbox_xywh",
    "area",
    "category_id",
    "is_crowd",
    "num_keypoints",
    "head_bbox_xyxy",
)


def _box_area(truth: GroundTruth) -> NDArray[np.float64]:
    area: NDArray[np.float64] = truth.bbox_xywh[:, 2] * truth.bbox_xywh[:, 3]
    return area


_AREA_RULES: Mapping[AreaRule | None, Callable[[GroundTruth], NDArray[np.float64]]] = {
    None: lambda truth: truth.area,
    "segment": lambda truth: truth.area,
    "annotated": lambda truth: truth.area,
    "box": _box_area,
    "box_053": lambda truth: _box_area(truth) * 0.53,
    "box_plus_one": lambda truth: _box_area(truth) + 1.0,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predicted instances of one split.

    Attributes:
        image_ids: I source ids of the images, the same list as the ground truth's.
        image_row: (D,) position in ``image_ids``.
        instance_row: (D,) row of the annotated instance whose box was cropped, -1 for a detected box.
        keypoints: (D, K, 2) x, y in image pixels.
        keypoint_scores: (D, K) confidence of each point, usually the heatmap's maximum.
        scores: (D,) confidence of the instance, by which AP ranks.
        category_id: (D,) the dataset's class numbers.
        crop_area: (D,) px² of the cropped region, padding included; OKS-NMS divides by it.
        part_scores: official part name → (D,) confidence of that part; a part without an entry ranks by ``scores``.
        covariances: (D, K, 2, 2) of x and y in image px², as the outputs' shape says, NaN where there is no point; None
            where nobody asked.
    """

    image_ids: tuple[str, ...]
    image_row: Int[np.ndarray, " D"]
    instance_row: Int[np.ndarray, " D"]
    keypoints: Float[np.ndarray, "D K 2"]
    keypoint_scores: Float[np.ndarray, "D K"]
    scores: Float[np.ndarray, " D"]
    category_id: Int[np.ndarray, " D"]
    crop_area: Float[np.ndarray, " D"]
    part_scores: Mapping[str, Float[np.ndarray, " D"]] = field(default_factory=dict)
    covariances: Float[np.ndarray, "D K 2 2"] | None = None

    def __len__(self) -> int:
        return len(self.image_row)

    def take(self, chosen: Bool[np.ndarray, " D"] | Int[np.ndarray, " S"]) -> "Predictions":
        """The chosen rows (mask or positions), in that order."""
        return Predictions(
            image_ids=self.image_ids,
            **{name: getattr(self, name)[chosen] for name in _PREDICTION_COLUMNS},
            part_scores={name: values[chosen] for name, values in self.part_scores.items()},
            covariances=None if self.covariances is None else self.covariances[chosen],
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """The rows of all parts in order; the parts must be of the same images and carry the same fields."""
        first = parts[0]

        def joined(name: str) -> NDArray[np.generic]:
            return np.concatenate([getattr(part, name) for part in parts])

        return cls(
            image_ids=first.image_ids,
            **{name: joined(name) for name in _PREDICTION_COLUMNS},
            part_scores={
                name: np.concatenate([part.part_scores[name] for part in parts]) for name in first.part_scores
            },
            covariances=None if first.covariances is None else joined("covariances"),
        )


_PREDICTION_COLUMNS = (
    "image_row",
    "instance_row",
    "keypoints",
    "keypoint_scores",
    "scores",
    "category_id",
    "crop_area",
)


def check_fit(truth: GroundTruth, predictions: Predictions) -> None:
    """Refuses predictions that do not belong to this ground truth.

    Raises:
        EvaluationError: other images, another number of points, or coordinates that are not finite.
    """
    if truth.image_ids != predictions.image_ids:
        raise EvaluationError(
            f"predictions were made for another list of images ({len(predictions.image_ids)} there, "
            f"{len(truth.image_ids)} in the ground truth); predict and evaluate the same split."
        )
    if truth.keypoints.shape[1] != predictions.keypoints.shape[1]:
        raise EvaluationError(
            f"predictions have {counted(predictions.keypoints.shape[1], 'keypoint')}, the ground truth has "
            f"{truth.keypoints.shape[1]}; use the head that was trained for this skeleton."
        )
    finite = np.isfinite(predictions.keypoints).all(axis=(1, 2)) & np.isfinite(predictions.scores)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise EvaluationError(
            f"prediction {row} on image {truth.image_ids[predictions.image_row[row]]!r} is NaN or infinite "
            f"({int((~finite).sum())} of {len(finite)} are); the model or its checkpoint is broken."
        )


def _each_once(image_ids: Iterable[str]) -> tuple[str, ...]:
    once = tuple(image_ids)
    if len(set(once)) != len(once):
        doubled = next(name for name in once if once.count(name) > 1)
        raise EvaluationError(f"image {doubled!r} comes twice; an evaluation set holds each image once.")
    return once


def _natural(image_id: str) -> tuple[bool, int, str]:
    number = image_id.isdecimal()
    return (not number, int(image_id) if number else 0, image_id)


def _stacked(rows: Sequence[object], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.array(rows, np.float64).reshape(len(rows), *shape)
