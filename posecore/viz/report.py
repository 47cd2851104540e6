"""The report of an evaluation: one HTML file, complete in itself, with metrics, keypoint errors and worst cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from posecore.errors import IntegrityError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.clinical import ClinicalResult
from posecore.evaluation.keypoint_errors import KeypointError, answered_distances, relative_distances
from posecore.evaluation.pairing import Distances
from posecore.evaluation.protocols import PROTOCOLS
from posecore.schema import Instance
from posecore.shards.store import ShardStore
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath, write_atomically
from posecore.viz.clinical_section import ClinicalSection
from posecore.viz.gallery import data_url
from posecore.viz.overlay import draw_instances

_PANEL_PX = 288
_MARGIN = 0.2  # of the longer side of box and points, so that what surrounds the body is seen
_MOST_BARS = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Failure:
    """One instance the model got wrong.

    Attributes:
        picture_rgb: (H, W, 3) uint8, annotation on the left, prediction on the right.
        caption: what it is and how wrong, plain text.
    """

    picture_rgb: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSection:
    """One evaluation set of the report.

    Attributes:
        name: of the set, such as ``coco/val``.
        protocol: name of its protocol.
        metrics: as :func:`posecore.evaluation.protocols.evaluate` returns them.
        errors: per keypoint.
        worst: the worst cases, worst first.
        license: licence id of the data.
        digest: dataset digest.
        num_images: images judged.
        num_instances: instances judged.
        clinical: the part for clinics, or None.
    """

    name: str
    protocol: str
    metrics: Mapping[str, float]
    errors: Sequence[KeypointError] = ()
    worst: Sequence[Failure] = ()
    license: str = ""
    digest: str = ""
    num_images: int = 0
    num_instances: int = 0
    clinical: ClinicalResult | None = None

    @property
    def primary(self) -> str:
        """Name of the metric that stands for the set."""
        return PROTOCOLS[self.protocol].primary

    def metric_tables(self) -> list[dict[str, dict[str, float]]]:
        """Metrics as tables of row → column → value; parts that share their metrics are rows of one table.

        The part of a metric's name before the slash is its row; metrics without one are the row "overall".
        """
        rows: dict[str, dict[str, float]] = {}
        for name, value in self.metrics.items():
            row, _, column = name.rpartition("/")
            rows.setdefault(row or "overall", {})[column] = value
        tables: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
        for row, values in rows.items():
            tables.setdefault(tuple(values), {})[row] = values
        return list(tables.values())


@dataclass(frozen=True, kw_only=True)
class _Bar:
    error: KeypointError
    width_percent: float = field(default=0.0)


def write_report(
    path: AnyPath, title: str, sections: Sequence[EvaluationSection], facts: Mapping[str, str] | None = None
) -> AnyPath:
    """Writes the report.

    Args:
        path: the HTML file.
        title: heading, plain text.
        sections: one per evaluation set, in this order.
        facts: further lines of the head, such as model digest, code version and settings; plain text.

    Returns:
        ``path``.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = figure
    environment.filters["data_url"] = data_url
    page = environment.get_template("report.html.j2").render(
        title=title,
        facts=facts or {},
        sections=sections,
        bars={section.name: _bars(section) for section in sections},
        clinical={s.name: ClinicalSection(s.clinical) for s in sections if s.clinical is not None},
    )
    write_atomically(path, page.encode())
    return path


def worst_cases(
    store: ShardStore, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions, count: int = 12
) -> list[Failure]:
    """The instances with the largest mean error relative to their box, annotation and prediction side by side.

    Args:
        store: the evaluated split.
        skeleton: names and links.
        truth: the annotations of the whole store, in its order.
        predictions: what the model said.
        count: at most so many.

    Raises:
        IntegrityError: an image of the store does not decode.
    """
    distances = answered_distances(truth, predictions)
    worst = np.argsort(-_errors(truth, distances), kind="stable")[:count]
    return _cases(store, skeleton, truth, predictions, distances, worst)


def sample_cases(
    store: ShardStore, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions, count: int
) -> list[Failure]:
    """Some instances from the whole of a split, the same ones of every model that answers them all.

    Takes and raises what :func:`worst_cases` does.
    """
    distances = answered_distances(truth, predictions)
    answered = len(distances.truth_row)
    some = np.unique(np.linspace(0, answered - 1, min(count, answered)).round().astype(np.int64))
    return _cases(store, skeleton, truth, predictions, distances, some)


def side_by_side(
    store: ShardStore,
    skeleton: Skeleton,
    truth: GroundTruth,
    answers: Sequence[Predictions],
    row: int,
    remark: str,
) -> Failure:
    """One body as it is annotated and as several models see it, from left to right.

    Args:
        store: the split.
        skeleton: names and links.
        truth: the annotations of the whole store, in its order.
        answers: of each model, on annotated boxes.
        row: of the body in ``truth``.
        remark: to be said of it.

    Raises:
        IntegrityError: an image of the store does not decode.
    """
    labelled = truth.visibility[row] > 0
    found = [each.keypoints[int(np.flatnonzero(each.instance_row == row)[0])] for each in answers]
    shown = np.concatenate([truth.keypoints[row][labelled], *(points[labelled] for points in found)])
    image_row = int(truth.image_row[row])
    close_up = _close_up(_decode(store, image_row), truth.bbox_xywh[row], shown)
    drawn = [(truth.keypoints[row], truth.visibility[row]), *((points, np.where(labelled, 2, 0)) for points in found)]
    return Failure(
        picture_rgb=_panels(close_up, truth, row, skeleton, drawn),
        caption=f"image {truth.image_ids[image_row]}, instance {truth.instance_ids[row]}: {remark}",
    )


def _panels(
    close_up: "_CloseUp",
    truth: GroundTruth,
    row: int,
    skeleton: Skeleton,
    drawn: Sequence[tuple[NDArray[np.float64], NDArray[np.generic]]],
) -> NDArray[np.uint8]:
    """The same part of an image with points of one body, as often as there are points."""
    panels: list[NDArray[np.uint8]] = []
    for points, flags in drawn:
        panel = draw_instances(close_up.picture_rgb, [close_up.body(truth, row, points, flags)], skeleton)
        panels += [np.full_like(panel[:, :3], 255), panel] if panels else [panel]
    return np.concatenate(panels, axis=1)


def _errors(truth: GroundTruth, distances: Distances) -> NDArray[np.float64]:
    """(n,) mean error of every answered instance, relative to its box."""
    return np.nanmean(relative_distances(truth, distances), axis=1) if len(distances.truth_row) else np.zeros(0)


def _cases(
    store: ShardStore,
    skeleton: Skeleton,
    truth: GroundTruth,
    predictions: Predictions,
    distances: Distances,
    wanted: NDArray[np.int64],
) -> list[Failure]:
    error = _errors(truth, distances)
    cases: list[Failure] = []
    for index in wanted:
        row, answer = int(distances.truth_row[index]), int(distances.prediction_row[index])
        image_row = int(truth.image_row[row])
        labelled = truth.visibility[row] > 0
        shown = np.concatenate([truth.keypoints[row][labelled], predictions.keypoints[answer][labelled]])
        close_up = _close_up(_decode(store, image_row), truth.bbox_xywh[row], shown)
        drawn = [
            (truth.keypoints[row], truth.visibility[row]),
            (predictions.keypoints[answer], np.where(labelled, 2, 0)),
        ]
        worst_point = skeleton.names[int(np.nanargmax(distances.pixels[index]))]
        cases.append(
            Failure(
                picture_rgb=_panels(close_up, truth, row, skeleton, drawn),
                caption=f"image {truth.image_ids[image_row]}, instance {truth.instance_ids[row]}: mean error "
                f"{100 * error[index]:.0f} % of the box; furthest: {worst_point}, "
                f"{np.nanmax(distances.pixels[index]):.0f} px; confidence {predictions.scores[answer]:.2f}",
            )
        )
    return cases


def _decode(store: ShardStore, image_row: int) -> NDArray[np.uint8]:
    data = np.frombuffer(store.read_image_bytes(image_row), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise IntegrityError(f"{store.location}: image row {image_row} does not decode; ingest the split again.")
    return np.asarray(image, np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class _CloseUp:
    """A part of an image, enlarged before anything is drawn on it, so that lines stay sharp."""

    picture_rgb: NDArray[np.uint8]
    origin: NDArray[np.float64]
    factor: float

    def body(self, truth: GroundTruth, row: int, points: NDArray[np.float64], flags: NDArray[np.generic]) -> Instance:
        """An instance with the given points, in pixels of the close-up."""
        x, y = self._moved(truth.bbox_xywh[row, :2])
        w, h = truth.bbox_xywh[row, 2:] * self.factor
        return Instance(
            id=truth.instance_ids[row],
            bbox_xywh=(float(x), float(y), float(w), float(h)),
            keypoints=np.concatenate([self._moved(points), flags[:, None]], axis=1).astype(np.float32),
            area=float(w * h),
            area_rule="box",
        )

    def _moved(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points - self.origin + 0.5) * self.factor - 0.5


def _close_up(image: NDArray[np.uint8], bbox_xywh: NDArray[np.float64], points: NDArray[np.float64]) -> _CloseUp:
    """The box and all points with a margin, scaled so that the longer side is :data:`_PANEL_PX`."""
    points = np.concatenate([points, [bbox_xywh[:2], bbox_xywh[:2] + bbox_xywh[2:]]])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = _MARGIN * max(16.0, *(high - low))
    limit = np.array(image.shape[1::-1])
    left, top = np.floor(low - margin).clip(0, limit - 1).astype(int)
    right, bottom = np.ceil(high + margin).clip([left + 1, top + 1], limit).astype(int)
    window = image[top:bottom, left:right]
    factor = _PANEL_PX / max(window.shape[:2])
    size = (max(1, round(window.shape[1] * factor)), max(1, round(window.shape[0] * factor)))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    picture = np.asarray(cv2.resize(window, size, interpolation=way), np.uint8)
    return _CloseUp(picture_rgb=picture, origin=np.array([left, top], np.float64), factor=factor)


def _bars(section: EvaluationSection) -> list[_Bar]:
    """The keypoints with the largest relative error, largest first; the longest bar is full width."""
    known = [error for error in section.errors if error.labelled]
    known.sort(key=lambda error: -error.relative)
    longest = max((error.relative for error in known), default=0.0) or 1.0
    return [_Bar(error=error, width_percent=100 * error.relative / longest) for error in known[:_MOST_BARS]]


def figure(value: float) -> str:
    """Four significant places for shares, one for percents and pixels; -1 is how protocols say "cannot be judged"."""
    if value == -1 or not np.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) > 1:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 1.5 else f"{value:.2f}"
