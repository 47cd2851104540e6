"""Runs pycocotools on our arrays: the independent implementation that the OKS tests compare with."""

import contextlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from posecore.evaluation.arrays import GroundTruth, Predictions

NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def to_coco(truth: GroundTruth, area: np.ndarray | None = None) -> dict:
    """The ground truth as a COCO keypoints file; annotation ids start at 1."""
    flags = truth.visibility[..., None].astype(float)
    keypoints = np.concatenate([truth.keypoints, flags], axis=2).reshape(len(truth), -1)
    area = truth.area if area is None else area
    return {
        "images": [{"id": int(i)} for i in truth.image_ids],
        "categories": [{"id": int(c), "name": str(c)} for c in np.unique(truth.category_id)],
        "annotations": [
            {
                "id": row + 1,
                "image_id": int(truth.image_ids[truth.image_row[row]]),
                "category_id": int(truth.category_id[row]),
                "keypoints": keypoints[row].tolist(),
                "num_keypoints": int(truth.num_keypoints[row]),
                "bbox": truth.bbox_xywh[row].tolist(),
                "area": float(area[row]),
                "iscrowd": int(truth.is_crowd[row]),
            }
            for row in range(len(truth))
        ],
    }


def to_results(predictions: Predictions) -> list[dict]:
    """The predictions as a COCO results list."""
    keypoints = np.concatenate([predictions.keypoints, predictions.keypoint_scores[..., None]], axis=2)
    return [
        {
            "image_id": int(predictions.image_ids[predictions.image_row[row]]),
            "category_id": int(predictions.category_id[row]),
            "keypoints": keypoints[row].reshape(-1).tolist(),
            "score": float(predictions.scores[row]),
        }
        for row in range(len(predictions))
    ]


def run(
    truth: Mapping,
    results: Sequence[Mapping],
    oks_sigmas: np.ndarray,
    images: Sequence[int] | None = None,
    detection_areas: np.ndarray | None = None,
) -> COCOeval:
    """Evaluates, accumulates and summarises in silence; ``detection_areas`` replace those ``loadRes`` computes."""
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = dict(truth)
        dataset.createIndex()
        loaded = dataset.loadRes(list(results))
        if detection_areas is not None:
            for annotation, area in zip(loaded.dataset["annotations"], detection_areas, strict=True):
                annotation["area"] = float(area)
        evaluation = COCOeval(dataset, loaded, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(oks_sigmas)
        if images is not None:
            evaluation.params.imgIds = list(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
