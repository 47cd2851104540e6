"""The report of an evaluation: one HTML file, complete in itself, with metrics, keypoint errors and worst cases."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from posecore.errors import IntegrityError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.keypoint_errors import KeypointError, answered_distances, relative_distances
from posecore.evaluation.protocols import PROTOCOLS
from posecore.schema import Instance
from posecore.shards.store import ShardStore
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath, write_atomically
from posecore.viz.overlay import draw_instances

_PANEL_PX = 288
_MARGIN = 0.2  # of the longer side of box and points, so that what surrounds the body is seen
_MOST_BARS = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstCase:
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
    """

    name: str
    protocol: str
    metrics: Mapping[str, float]
    errors: Sequence[KeypointError] = ()
    worst: Sequence[WorstCase] = ()
    license: str = ""
    digest: str = ""
    num_images: int = 0
    num_instances: int = 0

    @property
    def primary(self) -> str:
        """Name of the metric that stands for the set."""
        return PROTOCOLS[self.protocol].primary

    def metric_groups(self) -> dict[str, dict[str, float]]:
        """Metrics by the part of their name before the slash; those without one come first, under ""."""
        groups: dict[str, dict[str, float]] = {"": {}}
        for name, value in self.metrics.items():
            group, _, short = name.rpartition("/")
            groups.setdefault(group, {})[short] = value
        return groups


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
    environment.filters["number"] = _number
    environment.filters["data_url"] = _data_url
    page = environment.get_template("report.html.j2").render(
        title=title, facts=facts or {}, sections=sections, bars={section.name: _bars(section) for section in sections}
    )
    write_atomically(path, page.encode())
    return path


def worst_cases(
    store: ShardStore, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions, count: int = 12
) -> list[WorstCase]:
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
    error = np.nanmean(relative_distances(truth, distances), axis=1) if len(distances.truth_row) else np.zeros(0)
    cases: list[WorstCase] = []
    for index in np.argsort(-error, kind="stable")[:count]:
        row, answer = int(distances.truth_row[index]), int(distances.prediction_row[index])
        image_row = int(truth.image_row[row])
        image = _decode(store, image_row)
        labelled = truth.visibility[row] > 0
        panels = []
        for points, flags in (
            (truth.keypoints[row], truth.visibility[row]),
            (predictions.keypoints[answer], np.where(labelled, 2, 0)),
        ):
            body = _body(truth, row, points, flags)
            panels.append(draw_instances(image, [body], skeleton))
        window = _window(truth, row, predictions.keypoints[answer][labelled], image.shape)
        worst_point = skeleton.names[int(np.nanargmax(distances.pixels[index]))]
        cases.append(
            WorstCase(
                picture_rgb=_side_by_side([panel[window] for panel in panels]),
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


def _body(truth: GroundTruth, row: int, points: NDArray[np.float64], flags: NDArray[np.generic]) -> Instance:
    x, y, w, h = truth.bbox_xywh[row].tolist()
    return Instance(
        id=truth.instance_ids[row],
        bbox_xywh=(x, y, w, h),
        keypoints=np.concatenate([points, flags[:, None]], axis=1).astype(np.float32),
        area=float(truth.area[row]),
        area_rule="box",
    )


def _window(
    truth: GroundTruth, row: int, predicted: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Part of the image to show: box, annotated and predicted points, with a margin."""
    x, y, w, h = truth.bbox_xywh[row]
    points = np.concatenate([[[x, y], [x + w, y + h]], truth.keypoints[row][truth.visibility[row] > 0], predicted])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = _MARGIN * max(16.0, *(high - low))
    limit = np.array(shape[1::-1])
    left, top = np.floor(low - margin).clip(0, limit - 1).astype(int)
    right, bottom = np.ceil(high + margin).clip([left + 1, top + 1], limit).astype(int)
    return slice(top, bottom), slice(left, right)


def _side_by_side(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Panels of equal size, scaled to fit a square each, with a light line between them."""
    height, width = panels[0].shape[:2]
    factor = _PANEL_PX / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = [np.asarray(cv2.resize(panel, size, interpolation=way), np.uint8) for panel in panels]
    line = np.full((size[1], 3, 3), 255, np.uint8)
    return np.concatenate([resized[0], line, resized[1]], axis=1)


def _bars(section: EvaluationSection) -> list[_Bar]:
    """The keypoints with the largest relative error, largest first; the longest bar is full width."""
    known = [error for error in section.errors if error.labelled]
    known.sort(key=lambda error: -error.relative)
    longest = max((error.relative for error in known), default=0.0) or 1.0
    return [_Bar(error=error, width_percent=100 * error.relative / longest) for error in known[:_MOST_BARS]]


def _number(value: float) -> str:
    """Four significant places for shares, one for percents and pixels; -1 is how protocols say "cannot be judged"."""
    if value == -1 or not np.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) > 1:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 1.5 else f"{value:.2f}"


def _data_url(picture_rgb: NDArray[np.uint8]) -> str:
    settings = [cv2.IMWRITE_JPEG_QUALITY, 88]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture_rgb, cv2.COLOR_RGB2BGR), settings)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
