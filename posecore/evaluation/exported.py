"""An exported file on a split, beside the float graph that it was made from: what fewer bits cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.crops import Answers
from posecore.evaluation.inference import PredictionTask, answering_columns, as_predictions, head_conventions
from posecore.evaluation.metric import Metric
from posecore.evaluation.protocols import evaluate, metric_of
from posecore.image_header import MAX_PIXELS
from posecore.loading.crop import decode_image, instance_regions
from posecore.models.export.graphs import Graph
from posecore.models.onnx_graph import open_session
from posecore.models.pose_model import PoseModel


@dataclass(frozen=True, kw_only=True)
class ExportLoss:
    """How a file answers on a split, and how the float model does, both without flip test.

    Attributes:
        split: dataset and split.
        digest: of the split.
        metric: name of the figure by which the split is judged, such as AP.
        of_model: the float model's.
        of_file: the file's.
        shift_px: mean distance of the two's answers on labelled points, in pixels of the pictures.
        num_points: so many points.
        higher_is_better: direction of the figure.
    """

    split: str
    digest: str
    metric: str
    of_model: float
    of_file: float
    shift_px: float
    num_points: int
    higher_is_better: bool

    @property
    def share(self) -> float:
        """What the file lost, of the float model's figure; negative if it is better."""
        lost = self.of_model - self.of_file if self.higher_is_better else self.of_file - self.of_model
        return lost / abs(self.of_model) if self.of_model else float(np.sign(lost)) * float("inf") if lost else 0.0

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.of_file:.4g} on {self.split}, {self.of_model:.4g} in float32; points shifted by "
            f"{self.shift_px:.2g} px on average of {self.num_points}"
        )


def export_loss(model: PoseModel, graph: Graph, path: Path, task: PredictionTask) -> ExportLoss:
    """Judges a file and the graph it was made from by the split's protocol.

    Args:
        model: that was exported.
        graph: of float32, on the CPU.
        path: of the file; onnxruntime runs it.
        task: the split, by the head that was exported, in annotated boxes.

    Raises:
        EvaluationError: the split has no protocol or no body, or the head lacks points of it.
    """
    metric = _metric(task)
    found = answered(model, graph, path, task)
    truth, definition = GroundTruth.from_store(task.store), task.store.manifest.definition
    figures = {name: evaluate(definition.evaluation, definition.skeleton, truth, each) for name, each in found.items()}
    labelled = truth.visibility[task.rows] > 0
    shift = np.linalg.norm(found["file"].keypoints - found["model"].keypoints, axis=-1)[labelled]
    return ExportLoss(
        split=f"{task.store.manifest.dataset} {task.store.manifest.split}",
        digest=task.store.manifest.digest,
        metric=metric.primary,
        of_model=figures["model"][metric.primary],
        of_file=figures["file"][metric.primary],
        shift_px=float(shift.mean()),
        num_points=len(shift),
        higher_is_better=metric.higher_is_better,
    )


def answered(
    model: PoseModel, graph: Graph, path: Path, task: PredictionTask
) -> dict[Literal["model", "file"], Predictions]:
    """What a file and the graph it was made from say of a split; arguments as :func:`export_loss`.

    Raises:
        EvaluationError: the head lacks points of the split.
    """
    session, columns = open_session(str(path)), answering_columns(model, task)
    answers: dict[Literal["model", "file"], list[Answers]] = {"model": [], "file": []}
    areas = []
    for image, boxes in boxed_pictures(model, task, len(task.rows)):
        given = graph.given(image, boxes)
        with torch.no_grad():
            answer = graph(*given)
            outputs = answer if isinstance(answer, tuple) else (answer,)
            for each, said in zip(answers.values(), (outputs, _run(session, graph, given)), strict=True):
                keypoints, scores = (found.numpy().astype(np.float64)[:, columns] for found in graph.read(said, boxes))
                each.append(Answers(keypoints, scores))
        areas.append((boxes[:, 2:].double() * graph.padding).prod(dim=1).numpy())
    return {name: as_predictions(task, task.rows, each, areas) for name, each in answers.items()}


def boxed_pictures(model: PoseModel, task: PredictionTask, num_bodies: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures of a split with the boxes of their bodies, as the head's conventions crop them.

    Args:
        model: whose head answers.
        task: the split.
        num_bodies: whole pictures are taken from all over the split until so many bodies are reached.

    Yields:
        (H, W, 3) uint8 RGB, and (n, 4) float32 x, y, width, height in its pixels.
    """
    store, rows = task.store, task.rows
    conventions, (height, width) = head_conventions(model, task), model.input_size
    region = instance_regions(store, rows, width / height, conventions)
    size = region.scale / conventions.padding
    boxes = torch.from_numpy(np.concatenate([region.center - size / 2, size], axis=1).astype(np.float32))
    image_rows = store.instances["image_row"].to_numpy()[rows]
    starts = np.flatnonzero(np.diff(image_rows, prepend=-1))
    stops = np.append(starts[1:], len(rows))
    per_picture = len(rows) / max(len(starts), 1)
    wanted = min(len(starts), int(np.ceil(num_bodies / max(per_picture, 1))))
    for place in np.unique(np.linspace(0, len(starts) - 1, wanted).round().astype(np.int64)).tolist():
        row = int(image_rows[starts[place]])
        pixels = decode_image(
            store.read_image_bytes(row),
            MAX_PIXELS,
            f"{store.location}: sample {store.key(row)}",
            store.image_size(row),
        )
        yield torch.from_numpy(pixels), boxes[starts[place] : stops[place]]


def as_inputs(graph: Graph, given: Sequence[Tensor]) -> dict[str, NDArray[np.generic]]:
    """What a graph is given, by the names of the file's inputs."""
    return dict(zip(graph.inputs, (tensor.numpy() for tensor in given), strict=True))


def _run(session: Any, graph: Graph, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(found) for found in session.run(list(graph.outputs), as_inputs(graph, given)))


def _metric(task: PredictionTask) -> Metric:
    if not len(task.rows):
        raise EvaluationError(f"{task.store.location}: no body of this split has labelled points to judge by.")
    return metric_of(task.store.manifest.definition.evaluation)
