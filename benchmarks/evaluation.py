"""How fast is COCO keypoint evaluation? Ours, pycocotools and hotcoco on one random set of COCO val's size.

Each tool starts from its own loaded objects (arrays; ``COCO`` with index) and does matching, accumulation and summary.
The tools take turns, and medians are printed. The limit is one pass of exp over all pairs' keypoints.

    python benchmarks/evaluation.py
"""

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO as HotCoco
from hotcoco import COCOeval as HotEval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.oks import evaluate_oks

SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
NUM_IMAGES, NUM_DETECTIONS = 2370, 4080


def coco_sized(seed: int = 0) -> tuple[GroundTruth, Predictions]:
    """2,370 images with 4,080 labelled persons and one detection near each."""
    rng = np.random.default_rng(seed)
    count = NUM_DETECTIONS
    image_row = np.sort(np.concatenate([np.arange(NUM_IMAGES), rng.integers(NUM_IMAGES, size=count - NUM_IMAGES)]))
    corner = rng.uniform(0, 400, (count, 2))
    size = np.exp(rng.uniform(np.log(32), np.log(300), (count, 2)))
    keypoints = corner[:, None] + rng.random((count, 17, 2)) * size[:, None]
    visibility = rng.choice([0, 1, 2], (count, 17), p=[0.3, 0.1, 0.6]).astype(np.uint8)
    image_ids = tuple(str(i + 1) for i in range(NUM_IMAGES))
    truth = GroundTruth(
        image_ids=image_ids,
        image_size=np.full((NUM_IMAGES, 2), 640),
        crowd_index=np.full(NUM_IMAGES, np.nan),
        instance_ids=tuple(str(i + 1) for i in range(count)),
        image_row=image_row,
        keypoints=np.where(visibility[..., None] > 0, keypoints, 0.0),
        visibility=visibility,
        bbox_xywh=np.concatenate([corner, size], axis=1),
        area=0.53 * size.prod(axis=1),
        category_id=np.ones(count, np.int64),
        is_crowd=rng.random(count) < 0.02,
        num_keypoints=(visibility > 0).sum(axis=1),
        head_bbox_xyxy=np.full((count, 4), np.nan),
    )
    spread = size[:, None] * 0.05 * np.exp(rng.normal(size=(count, 1, 1)))
    return truth, Predictions(
        image_ids=image_ids,
        image_row=image_row,
        instance_row=np.full(count, -1),
        keypoints=keypoints + rng.normal(size=keypoints.shape) * spread,
        keypoint_scores=rng.random((count, 17)),
        scores=rng.random(count),
        category_id=np.ones(count, np.int64),
        crop_area=1.25**2 * size.prod(axis=1),
    )


def as_files(truth: GroundTruth, predictions: Predictions, folder: Path) -> tuple[Path, Path]:
    points = np.concatenate([truth.keypoints, truth.visibility[..., None]], axis=2).reshape(len(truth), -1)
    annotations = {
        "images": [{"id": int(i), "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in truth.image_ids],
        "categories": [{"id": 1, "name": "person", "keypoints": [str(i) for i in range(17)], "skeleton": []}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": int(truth.image_row[i]) + 1,
                "category_id": 1,
                "keypoints": points[i].tolist(),
                "num_keypoints": int(truth.num_keypoints[i]),
                "bbox": truth.bbox_xywh[i].tolist(),
                "area": float(truth.area[i]),
                "iscrowd": int(truth.is_crowd[i]),
            }
            for i in range(len(truth))
        ],
    }
    points = np.concatenate([predictions.keypoints, predictions.keypoint_scores[..., None]], axis=2)
    results = [
        {
            "image_id": int(predictions.image_row[i]) + 1,
            "category_id": 1,
            "keypoints": points[i].reshape(-1).tolist(),
            "score": float(predictions.scores[i]),
        }
        for i in range(len(predictions))
    ]
    paths = folder / "truth.json", folder / "results.json"
    for path, value in zip(paths, (annotations, results), strict=True):
        path.write_text(json.dumps(value))
    return paths


def main(repeats: int = 7) -> None:
    truth, predictions = coco_sized()
    pairs = int((np.bincount(truth.image_row) ** 2).sum())
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        truth_file, results_file = as_files(truth, predictions, Path(folder))
        reference = COCO(str(truth_file))
        reference_results = reference.loadRes(str(results_file))
        hot = HotCoco(str(truth_file))
        hot_results = hot.load_res(str(results_file))

    def ours() -> float:
        result = evaluate_oks(truth, predictions, SIGMAS, area=truth.area, ignored=truth.num_keypoints == 0)
        return result.summary()["AP"]

    def run(evaluation: Any) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(evaluation.stats[0])

    exponents = np.random.default_rng(0).random((pairs, 17))

    def limit() -> float:
        return float(np.exp(-exponents).sum())

    contestants: dict[str, Callable[[], float]] = {
        "pycocotools": lambda: run(COCOeval(reference, reference_results, "keypoints")),
        "hotcoco": lambda: run(HotEval(hot, hot_results, "keypoints")),
        "posecore": ours,
        "limit (exp of every pair)": limit,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    ap: dict[str, float] = {}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            ap[name] = contestant()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{NUM_IMAGES} images, {NUM_DETECTIONS} detections, {pairs} pairs, median of {repeats} interleaved runs")
    print(f"{'tool':<28}{'ms':>10}{'× pycocotools':>16}{'AP - pycocotools':>20}")
    for name, median in medians.items():
        difference = "" if name.startswith("limit") else f"{ap[name] - ap['pycocotools']:+.1e}"
        print(f"{name:<28}{median * 1e3:>10.1f}{medians['pycocotools'] / median:>16.1f}{difference:>20}")


if __name__ == "__main__":
    main()
