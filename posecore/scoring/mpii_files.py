"""MPII's official evaluation files, and answers to their persons: MATLAB, HDF5 or JSON, a row for each person.

Everything stays in MPII's own 1-based pixels and in float64, so that distances and thresholds are those of the
official code.
"""

import io

import numpy as np
import orjson
from jaxtyping import Float
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import DatasetError, EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.traits import Traits
from posecore.formats.matfile import read_mat
from posecore.formats.mpii import NUM_JOINTS
from posecore.scoring.truth import Truth
from posecore.skeletons.library import load_skeleton
from posecore.storage import AnyPath

HEAD_SHARE = 0.6
"""Of the head box's diagonal; pose-hg's files state the product."""
WHOLE_PIXELS = "persons with joints cut to whole pixels"
_NOWHERE = -1e9
"""Where a point without an answer is put: too far from anything to be right, as the official NaN is never right."""


def read_mpii_truth(path: AnyPath) -> Truth:
    """``gt_valid.mat`` (also ``mpii_gt_val.mat``, ``detections_our_format.mat``), or ``valid.h5`` of pose-hg.

    Raises:
        EvaluationError: the file is neither.
    """
    values = _variables(path)
    if "pos_gt_src" in values:
        points = np.moveaxis(_array(values, "pos_gt_src", (NUM_JOINTS, 2, None), path), 2, 0)
        labelled = _array(values, "jnt_missing", (NUM_JOINTS, None), path).T == 0
        heads = _array(values, "headboxes_src", (2, 2, None), path)
        head_xyxy = heads.reshape(4, -1).T
        files = [""] * len(points)
        left_out: dict[str, int] = {}
    elif "part" in values and "normalize" in values:
        left_out = {WHOLE_PIXELS: len(values["part"])}
        points = _array(values, "part", (None, NUM_JOINTS, 2), path)
        labelled = (points != 0).any(axis=2)
        size = _array(values, "normalize", (None,), path) / HEAD_SHARE
        head_xyxy = np.stack([np.zeros_like(size), np.zeros_like(size), size, np.zeros_like(size)], axis=1)
        names = values.get("imgname", np.full(len(points), b""))
        files = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    else:
        raise EvaluationError(
            f"{path}: holds {', '.join(sorted(values)) or 'nothing'}; expected pos_gt_src, jnt_missing and "
            "headboxes_src (gt_valid.mat), or part and normalize (valid.h5). For the JSON or the large .mat, name the "
            "definition: --dataset mpii --root FOLDER --split SPLIT."
        )
    number = len(points)
    ids = tuple(str(row) for row in range(number))
    low, high = (np.where(labelled[..., None], points, fill) for fill in (np.inf, -np.inf))
    corner, far = low.min(axis=1), high.max(axis=1)
    known = labelled.any(axis=1)[:, None]
    arrays = GroundTruth(
        image_ids=ids,
        image_size=np.zeros((number, 2), np.int64),
        crowd_index=np.full(number, np.nan),
        instance_ids=ids,
        image_row=np.arange(number),
        keypoints=points,
        visibility=np.where(labelled, 2, 0).astype(np.uint8),
        bbox_xywh=np.where(known, np.concatenate([corner, far - corner], axis=1), 0.0),
        area=np.full(number, np.nan),
        category_id=np.ones(number, np.int64),
        is_crowd=np.zeros(number, np.bool_),
        num_keypoints=labelled.sum(axis=1),
        head_bbox_xyxy=head_xyxy,
    )
    nothing = (None,) * number
    image = tuple(file or f"person {row}" for row, file in enumerate(files))
    return Truth(
        origin=str(path),
        arrays=arrays,
        traits=Traits(subject=nothing, video=nothing, view=nothing, posture=nothing, image=image),
        files=tuple(files),
        skeleton=load_skeleton("mpii16"),
        left_out=left_out,
        first_pixel=1,
    )


def read_mpii_answers(path: AnyPath, truth: Truth) -> tuple[Predictions, int]:
    """An answer for each person, in the order of the official file, 1-based as that.

    A .mat or .h5 file with ``preds`` (N × 16 × 2) or ``pos_pred_src`` (16 × 2 × N), or a JSON list of N × 16 × 2 or 3
    numbers, the third being a confidence.

    Returns:
        The answers, and how many persons have none that is a number; these count as wrong, as in the official code.

    Raises:
        EvaluationError: the file has no such array, or not a row for each person.
    """
    points = _answers(path)
    number, wanted = len(points), len(truth.arrays)
    if points.ndim != 3 or points.shape[1] != NUM_JOINTS or points.shape[2] not in (2, 3):
        raise EvaluationError(f"{path}: answers of shape {points.shape}; expected N × {NUM_JOINTS} × 2 numbers.")
    if number != wanted:
        raise EvaluationError(
            f"{path}: {counted(number, 'answer')} for the {counted(wanted, 'person')} of {truth.origin}; the official "
            "code goes by row, so a file with other rows cannot be scored."
        )
    shift = 1 - truth.first_pixel  # definitions count from 0
    positions = points[:, :, :2] - shift
    finite = np.isfinite(positions).all(axis=2)
    scores = points[:, :, 2] if points.shape[2] == 3 else np.full(points.shape[:2], np.nan)
    rows = np.array([int(name) for name in truth.arrays.instance_ids], np.int64)  # a definition orders by image
    arrays = truth.arrays
    predictions = Predictions(
        image_ids=arrays.image_ids,
        image_row=arrays.image_row,
        instance_row=np.arange(wanted),
        keypoints=np.where(finite[..., None], positions, _NOWHERE)[rows],
        keypoint_scores=scores[rows],
        scores=np.zeros(wanted),
        category_id=arrays.category_id,
        crop_area=np.full(wanted, np.nan),
    )
    return predictions, int((~finite.any(axis=1)).sum())


def _answers(path: AnyPath) -> Float[np.ndarray, "..."]:
    if path.suffix == ".json":
        try:
            return np.array(orjson.loads(path.read_bytes()), np.float64)
        except (ValueError, TypeError) as error:
            raise EvaluationError(
                f"{path}: not a list of N × {NUM_JOINTS} × 2 numbers ({error}); for a COCO results list use --protocol "
                "torso or pixel."
            ) from None
    values = _variables(path)
    if "preds" in values:
        return np.asarray(values["preds"], np.float64)
    if "pos_pred_src" in values:
        return np.moveaxis(np.asarray(values["pos_pred_src"], np.float64), 2, 0)
    raise EvaluationError(f"{path}: holds {', '.join(sorted(values)) or 'nothing'}; expected preds (N × 16 × 2).")


def _variables(path: AnyPath) -> dict[str, NDArray[np.generic]]:
    """Arrays of a MATLAB or HDF5 file by name."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file.") from None
    import h5py  # for this kind of file alone

    try:
        if data[:8] == b"\x89HDF\r\n\x1a\n":
            with h5py.File(io.BytesIO(data)) as file:
                return {name: value[()] for name, value in file.items() if isinstance(value, h5py.Dataset)}
        return {name: v for name, v in read_mat(data, str(path)).items() if isinstance(v, np.ndarray)}
    except (OSError, DatasetError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); expected a .mat, .h5 or .json file.") from None


def _array(
    values: dict[str, NDArray[np.generic]], name: str, shape: tuple[int | None, ...], path: AnyPath
) -> NDArray[np.float64]:
    found = values.get(name)
    if found is None or found.ndim != len(shape):
        raise EvaluationError(f"{path}: has no {name} of {len(shape)} dimensions, which the official code reads.")
    if any(wanted not in (None, size) for wanted, size in zip(shape, found.shape, strict=True)):
        listed = " × ".join("N" if size is None else str(size) for size in shape)
        raise EvaluationError(f"{path}: {name} has shape {found.shape}, not {listed}.")
    return np.asarray(found, np.float64)
