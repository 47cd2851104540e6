"""A model's predictions on an ingested split: crop, forward, mirror and forward again, decode, back to the image.

Work is cut into batches of consecutive rows that do not depend on who does it, so that one process and a cluster of
workers compute the same numbers. :func:`predict_store` is the loop in one process.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from posecore.codecs.grouping import GroupingConfig
from posecore.codecs.scene import SceneReading, SelectionConfig
from posecore.config import Config
from posecore.conventions import Conventions
from posecore.counting import counted
from posecore.errors import ConfigError, EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.crops import Answers, predict_crops
from posecore.evaluation.nms import rescore, suppress_duplicates
from posecore.evaluation.protocols import evaluate
from posecore.evaluation.results import DetectedBoxes
from posecore.evaluation.scenes import FoundBodies, predict_images, scenes_per_pass, usual_category
from posecore.evaluation.shares import gathered, share_of
from posecore.loading.evaluation import Detections, EvalCrops
from posecore.models.export.backends import Precision
from posecore.models.pose_model import HeatmapPath, PoseModel
from posecore.shards.store import ShardStore


class InferenceSettings(Config):
    """How predictions are made.

    Attributes:
        batch_size: crops per forward pass; whole pictures, so many that they have as many pixels as these of 256×192.
        flip_test: average the heatmaps of crop and mirrored crop, before decoding.
        path: where heatmaps come from: ``regression`` is the head, ``prototypes`` and ``average`` (the mean of both)
            need a model with an embedding.
        precision: ``bfloat16`` runs the network under autocast; decoding is always in float32.
        keypoint_threshold: keypoints with a lower score do not enter the score of an instance.
        nms_threshold: OKS above which the weaker of two predictions is dropped; None keeps all. Applies to detected
            boxes and to bodies found in whole pictures: an annotated box is answered exactly once.
        num_threads: decoding threads.
        uncertainty: say of every point how far off it may be, too (:attr:`Predictions.covariances`).
        grouping: how a model of whole pictures puts points together to bodies.
        selection: which of its bodies a one-stage model answers.
    """

    batch_size: int = Field(default=64, gt=0)
    flip_test: bool = True
    path: HeatmapPath = "regression"
    precision: Precision = "float32"
    keypoint_threshold: float = Field(default=0.2, ge=0)
    nms_threshold: float | None = Field(default=0.9, gt=0)
    num_threads: int = Field(default=2, gt=0)
    uncertainty: bool = False
    grouping: GroupingConfig = GroupingConfig()
    selection: SelectionConfig = SelectionConfig()

    @property
    def reading(self) -> SceneReading:
        """How outputs of whole pictures are read."""
        return SceneReading(grouping=self.grouping, selection=self.selection)


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictionTask:
    """One split to be predicted by one head.

    Attributes:
        store: the split.
        head: name of the model's head.
        settings: how.
        boxes: detected boxes on images of the store, or None for the annotated ones.
        whole_scenes: whether the model finds bodies in whole pictures, and takes no boxes.
        rows: what to predict: rows of ``boxes``, or rows of ``index.parquet``, or, of whole pictures, of
            ``images.parquet``, ascending.
    """

    store: ShardStore
    head: str
    settings: InferenceSettings
    boxes: DetectedBoxes | None = None
    whole_scenes: bool = False
    rows: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        if self.whole_scenes:
            if self.boxes is not None:
                raise EvaluationError("the model finds bodies in whole pictures and takes no boxes; leave them out.")
            rows = np.arange(self.store.num_images)
        elif self.boxes is None:
            table = self.store.instances
            rows = np.flatnonzero((table["num_labelled"].to_numpy() > 0) & ~table["is_crowd"].to_numpy())
        else:
            rows = np.flatnonzero(np.isin(self.boxes.image_ids, self.image_ids))
            if not len(rows):
                raise EvaluationError(
                    f"{self.store.location}: none of the {counted(len(self.boxes.image_ids), 'detected box')} lies on "
                    "an image of this split; give the detections of the same split."
                )
            self._check_boxes(self.boxes)
        object.__setattr__(self, "rows", rows)

    def _check_boxes(self, boxes: DetectedBoxes) -> None:
        images = self.store.images
        known = zip(self.image_ids, images["height"].to_pylist(), images["width"].to_pylist(), strict=True)
        size_of = {image_id: (height, width) for image_id, height, width in known}
        boxes.check(np.array([size_of.get(image_id, (0, 0)) for image_id in boxes.image_ids]), str(self.store.location))

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Source ids of the store's images."""
        return tuple(self.store.images["source_id"].to_pylist())

    def batches(self, input_size: tuple[int, int]) -> list[NDArray[np.int64]]:
        """The rows in consecutive batches.

        Args:
            input_size: (height, width) of the model's input.
        """
        size = self.settings.batch_size
        if self.whole_scenes:
            size = scenes_per_pass(size, input_size)
        return [self.rows[start : start + size] for start in range(0, len(self.rows), size)]


def predict_store(
    model: PoseModel,
    store: ShardStore,
    settings: InferenceSettings | None = None,
    *,
    device: torch.device | None = None,
    head: str | None = None,
    boxes: DetectedBoxes | None = None,
) -> Predictions:
    """Predicts every labelled instance of a split, or every detected box.

    Args:
        model: is put into evaluation mode for the time of the call.
        store: the split.
        settings: how.
        device: where; the model must be there already. None takes the model's.
        head: name of the model's head; None takes the one of the store's dataset. Another dataset's head serves if it
            predicts all points of this one, matched by union name.
        boxes: detections to crop instead of the annotated boxes; those on other images are left out.

    Raises:
        EvaluationError: the model has no such head, the head lacks points of this dataset, no box fits, or one is
            impossible on its image.
    """
    task = PredictionTask(
        store=store,
        head=head or store.manifest.dataset,
        settings=settings or InferenceSettings(),
        boxes=boxes,
        whole_scenes=model.config.whole_scenes,
    )
    return finish(task, [predict_rows(model, task, task.rows, device)])


def evaluate_store(
    model: PoseModel,
    store: ShardStore,
    settings: InferenceSettings | None = None,
    *,
    device: torch.device | None = None,
    head: str | None = None,
    boxes: DetectedBoxes | None = None,
) -> dict[str, float]:
    """Predicts a split and judges it by its own protocol; arguments and errors as :func:`predict_store`."""
    predictions = predict_store(model, store, settings, device=device, head=head, boxes=boxes)
    definition = store.manifest.definition
    return evaluate(definition.evaluation, definition.skeleton, GroundTruth.from_store(store), predictions)


def evaluate_shared(
    model: PoseModel,
    store: ShardStore,
    settings: InferenceSettings,
    head: str,
    show: Callable[[GroundTruth, Predictions], None] | None = None,
) -> dict[str, float] | None:
    """As :func:`evaluate_store`, by all ranks of a training, each of which predicts a share. Collective.

    Args:
        model: as for :func:`predict_store`.
        store: likewise.
        settings: likewise.
        head: likewise.
        show: called on rank 0 with what was judged.

    Returns:
        The metrics on rank 0, None on the others.
    """
    task = PredictionTask(store=store, head=head, settings=settings, whole_scenes=model.config.whole_scenes)
    batches = task.batches(model.input_size)
    share = share_of(len(batches))
    own = np.concatenate([np.zeros(0, np.int64), *batches[share.start : share.stop]])
    part = predict_rows(model, task, own)
    for _ in range(share.idle):
        predict_rows(model, task, batches[0])
    parts = gathered(part)
    if parts is None:
        return None
    definition, truth, predictions = store.manifest.definition, GroundTruth.from_store(store), finish(task, parts)
    if show is not None:
        show(truth, predictions)
    return evaluate(definition.evaluation, definition.skeleton, truth, predictions)


def predict_rows(
    model: PoseModel, task: PredictionTask, rows: NDArray[np.int64], device: torch.device | None = None
) -> Predictions:
    """Predicts some of a task's rows, batch by batch; no suppression of duplicates yet.

    Args:
        model: is put into evaluation mode for the time of the call.
        task: the split and how.
        rows: some of ``task.rows``.
        device: where; None takes the model's.

    Raises:
        EvaluationError: the model has no such head, or the head lacks points of this dataset.
    """
    store, settings = task.store, task.settings
    columns = answering_columns(model, task)
    if task.whole_scenes:
        return _scenes(model, task, rows, columns, device)
    crops = EvalCrops(
        store,
        task.head,
        model.input_size,
        batch_size=settings.batch_size,
        rows=rows,
        detections=_on_store(task),
        conventions=head_conventions(model, task),
        num_threads=settings.num_threads,
        depth=model.takes_depth,
    )
    answers, areas = [], []
    with _evaluation_mode(model):
        for batch in crops:
            group = batch.groups[0]
            answer = predict_crops(
                model,
                task.head,
                batch.images,
                group.center,
                group.scale,
                flip_test=settings.flip_test,
                precision=settings.precision,
                points=columns,
                path=settings.path,
                device=device,
                depth=batch.depth,
                uncertainty=settings.uncertainty,
            )
            answers.append(answer)
            areas.append(group.scale.astype(np.float64).prod(axis=1))
    return as_predictions(task, rows, answers, areas)


def _scenes(
    model: PoseModel,
    task: PredictionTask,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    device: torch.device | None,
) -> Predictions:
    """The bodies in some whole pictures of a task."""
    settings, category_id = task.settings, usual_category(task.store)
    with _evaluation_mode(model):
        found = list(
            predict_images(
                model,
                task.store,
                task.head,
                rows,
                batch_size=settings.batch_size,
                flip_test=settings.flip_test,
                precision=settings.precision,
                reading=settings.reading,
                device=device,
            )
        )
    counts = [len(bodies.scores) for bodies in found]
    total, num_keypoints = sum(counts), len(columns)
    return Predictions(
        image_ids=task.image_ids,
        image_row=np.repeat(rows, counts),
        instance_row=np.full(total, -1, np.int64),
        keypoints=np.concatenate([np.zeros((0, num_keypoints, 2)), *(each.keypoints[:, columns] for each in found)]),
        keypoint_scores=np.concatenate(
            [np.zeros((0, num_keypoints)), *(each.keypoint_scores[:, columns] for each in found)]
        ),
        scores=np.concatenate([np.zeros(0), *(each.scores for each in found)]),
        category_id=np.full(total, category_id, np.int64),
        crop_area=np.concatenate([np.zeros(0), *(each.areas for each in found)]),
        covariances=_covariances(found, columns) if settings.uncertainty else None,
    )


def _covariances(found: Sequence[FoundBodies], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """(D, K, 2, 2) of some of the head's points.

    Raises:
        ConfigError: the head does not say how far off points may be.
    """
    said = [bodies.covariances for bodies in found if bodies.covariances is not None]
    if len(said) < len(found):
        raise ConfigError("the head does not say how sure it is of a place; leave uncertainty out.")
    num_points = len(columns)
    return np.concatenate([np.zeros((0, num_points, 2, 2)), *(each[:, columns] for each in said)])


def finish(task: PredictionTask, parts: Iterable[Predictions]) -> Predictions:
    """All parts of a task together, in the order given, duplicates suppressed where no box was annotated."""
    predictions = Predictions.concatenate(list(parts))
    sigmas = task.store.manifest.definition.skeleton.oks_sigmas
    threshold = task.settings.nms_threshold
    answered_once = task.boxes is None and not task.whole_scenes
    if answered_once or threshold is None or sigmas is None:
        return predictions
    return suppress_duplicates(predictions, sigmas, threshold)


def as_predictions(
    task: PredictionTask,
    rows: NDArray[np.int64],
    answers: list[Answers],
    areas: list[NDArray[np.float64]],
) -> Predictions:
    """Answers to some of a task's rows, in order, as protocols read them.

    Args:
        task: the split and how.
        rows: some of ``task.rows``.
        answers: by batches of rows, of the split's points.
        areas: likewise, of the crops in px².
    """
    num_keypoints = task.store.manifest.definition.skeleton.num_keypoints
    keypoint_scores = np.concatenate([np.zeros((0, num_keypoints)), *(answer.scores for answer in answers)])
    spread = [answer.covariances for answer in answers if answer.covariances is not None]
    if task.boxes is None:
        table = task.store.instances
        image_row, category_id = (table[name].to_numpy()[rows] for name in ("image_row", "category_id"))
        instance_row, box_scores = rows, np.ones(len(rows))
    else:
        detections = _on_store(task)
        assert detections is not None
        image_row, category_id = detections.image_rows[rows], task.boxes.category_id[rows]
        instance_row, box_scores = np.full(len(rows), -1, np.int64), task.boxes.scores[rows]
    return Predictions(
        image_ids=task.image_ids,
        image_row=image_row,
        instance_row=instance_row,
        keypoints=np.concatenate([np.zeros((0, num_keypoints, 2)), *(answer.keypoints for answer in answers)]),
        keypoint_scores=keypoint_scores,
        scores=rescore(box_scores, keypoint_scores, task.settings.keypoint_threshold),
        category_id=category_id,
        crop_area=np.concatenate([np.zeros(0), *areas]),
        covariances=np.concatenate([np.zeros((0, num_keypoints, 2, 2)), *spread])
        if task.settings.uncertainty
        else None,
    )


def _on_store(task: PredictionTask) -> Detections | None:
    """The detected boxes with row numbers for image ids; -1, never cropped, for images that are not in the store."""
    if task.boxes is None:
        return None
    row_of = {image_id: row for row, image_id in enumerate(task.image_ids)}
    image_rows = np.array([row_of.get(image_id, -1) for image_id in task.boxes.image_ids], np.int64)
    return Detections(image_rows=image_rows, bbox_xywh=task.boxes.bbox_xywh)


def answering_columns(model: PoseModel, task: PredictionTask) -> NDArray[np.int64]:
    """(K,) which of the head's points are the dataset's, in the dataset's order.

    Raises:
        EvaluationError: there is no such head, or it lacks points of the dataset.
    """
    if task.head not in model.skeletons:
        raise EvaluationError(
            f"the model has no head {task.head!r}; it has {', '.join(model.skeletons)}. Name one of them as the head."
        )
    have = model.skeletons[task.head].union_names
    skeleton = task.store.manifest.definition.skeleton
    missing = [name for name in skeleton.union_names if name not in have]
    if missing:
        raise EvaluationError(
            f"head {task.head!r} does not predict {', '.join(missing)} of skeleton {skeleton.name}; judge this split "
            "with a head that was trained for it."
        )
    return np.array([have.index(name) for name in skeleton.union_names], np.int64)


def head_conventions(model: PoseModel, task: PredictionTask) -> Conventions:
    """Crop and decode as the head was trained; where the box comes from is the dataset's matter."""
    return model.conventions[task.head].on(task.store.manifest.definition.conventions)


@contextmanager
def _evaluation_mode(model: PoseModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
