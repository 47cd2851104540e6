"""The worst pictures of a score, annotation and answers side by side."""

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.formats.files import relative_path
from posecore.formats.values import Refusal
from posecore.schema import Instance
from posecore.scoring.score import Scored
from posecore.storage import AnyPath
from posecore.viz.encoded import data_url
from posecore.viz.overlay import draw_instances

_MOST_PX = 720


def worst_pictures(scored: Scored, folder: AnyPath) -> dict[str, str]:
    """Id of each of the worst pictures → data URL; those whose file is not there are left out.

    Args:
        scored: with the names of files.
        folder: of the images.

    Raises:
        EvaluationError: none of the files is there.
    """
    shown = {picture.image_id: picture.file for picture in scored.score.worst if picture.file}
    found = {image_id: image for image_id, file in shown.items() if (image := _decoded(folder, file)) is not None}
    if shown and not found:
        raise EvaluationError(f"{folder}: none of the worst pictures is there, such as {next(iter(shown.values()))}.")
    row_of = {image_id: row for row, image_id in enumerate(scored.truth.arrays.image_ids) if image_id in found}
    return {image_id: data_url(_side_by_side(scored, row_of[image_id], image)) for image_id, image in found.items()}


def _decoded(folder: AnyPath, file: str) -> NDArray[np.uint8] | None:
    try:
        data = np.frombuffer((folder / relative_path(file)).read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, Refusal, cv2.error):
        return None
    return None if image is None else np.asarray(image, np.uint8)


def _side_by_side(scored: Scored, image_row: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    arrays, answers = scored.truth.arrays, scored.answers
    factor = min(1.0, _MOST_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    rows = np.flatnonzero((arrays.image_row == image_row) & ~arrays.is_crowd)
    answer_of = dict(zip(answers.instance_row.tolist(), range(len(answers)), strict=True))
    given = [_body(scored, row, arrays.keypoints[row], arrays.visibility[row], factor) for row in rows.tolist()]
    found = [
        _body(scored, row, answers.keypoints[answer_of[row]], np.full(arrays.visibility.shape[1], 2), factor)
        for row in rows.tolist()
        if row in answer_of
    ]
    panels = [draw_instances(small, bodies, scored.truth.skeleton) for bodies in (given, found)]
    return np.concatenate([panels[0], np.full_like(panels[0][:, :4], 255), panels[1]], axis=1)


def _body(scored: Scored, row: int, points: NDArray[np.float64], flags: NDArray[np.integer], factor: float) -> Instance:
    arrays = scored.truth.arrays
    first = scored.truth.first_pixel
    moved = (points - first + 0.5) * factor - 0.5
    x, y, width, height = arrays.bbox_xywh[row]
    return Instance(
        id=arrays.instance_ids[row],
        bbox_xywh=((x - first) * factor, (y - first) * factor, max(width * factor, 1.0), max(height * factor, 1.0)),
        keypoints=np.concatenate([moved, flags[:, None]], axis=1).astype(np.float32),
        area=1.0,
        area_rule="box",
    )
