"""Random ground truth and predictions with everything that makes keypoint evaluation hard."""

import numpy as np

from posecore.evaluation.arrays import GroundTruth, Predictions

COCO_SIGMAS = (
    np.array([0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89])
    / 10
)


def random_case(
    seed: int,
    *,
    num_images: int = 12,
    num_keypoints: int = 17,
    max_instances: int = 6,
    max_detections: int = 8,
    num_categories: int = 1,
    noise: float = 0.08,
    coarse_scores: bool = True,
) -> tuple[GroundTruth, Predictions]:
    """Instances of all sizes, crowds, unlabelled ones, exact duplicates; detections near, far, doubled, tied in score.

    Args:
        seed: of everything.
        num_images: images, with ids that are not in order.
        num_keypoints: K.
        max_instances: annotations per image, at most.
        max_detections: detections per image beyond one per annotation, at most.
        num_categories: class numbers 1, 3, 5 …
        noise: spread of a detection around its annotation, in box sizes.
        coarse_scores: scores of one digit, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    image_ids = tuple(str(i) for i in rng.permutation(np.arange(3, 3 + 7 * num_images, 7)))
    image_row, boxes, points, flags, crowd, category, scores, detected = [], [], [], [], [], [], [], []
    for row in range(num_images):
        for _ in range(rng.integers(0, max_instances + 1)):
            side = np.exp(rng.uniform(np.log(12), np.log(400), 2))
            box = np.concatenate([rng.uniform(-20, 400, 2), side])
            pose = box[:2] + rng.uniform(-0.1, 1.1, (num_keypoints, 2)) * side
            flag = rng.choice([0, 1, 2], (num_keypoints,), p=[0.3, 0.2, 0.5]) * (rng.random() > 0.15)
            repeats = 2 if rng.random() < 0.1 else 1
            for _ in range(repeats):
                image_row.append(row)
                boxes.append(box)
                points.append(np.where(flag[:, None] > 0, pose, 0.0))
                flags.append(flag)
                crowd.append(rng.random() < 0.12)
                category.append(1 + 2 * int(rng.integers(num_categories)))
            if rng.random() < 0.9:
                spread = noise * np.exp(rng.normal()) * (rng.random() > 0.1)
                detected.append((row, category[-1], pose + rng.normal(size=pose.shape) * side * spread))
        for _ in range(rng.integers(0, max_detections + 1)):
            pose = rng.uniform(0, 500, 2) + rng.uniform(0, 150, (num_keypoints, 2))
            detected.append((row, 1 + 2 * int(rng.integers(num_categories)), pose))
    detected = [detected[i] for i in rng.permutation(len(detected))]
    num_truth, num_detected = len(image_row), len(detected)
    visibility = np.array(flags, np.uint8).reshape(num_truth, num_keypoints)
    bbox = np.array(boxes, float).reshape(num_truth, 4)
    scores = rng.random(num_detected)
    truth = GroundTruth(
        image_ids=image_ids,
        image_size=np.full((num_images, 2), 500),
        crowd_index=rng.uniform(0, 1.5, num_images),
        instance_ids=tuple(str(i + 1) for i in range(num_truth)),
        image_row=np.array(image_row, np.int64),
        keypoints=np.array(points, float).reshape(num_truth, num_keypoints, 2),
        visibility=visibility,
        bbox_xywh=bbox,
        area=bbox[:, 2] * bbox[:, 3] * rng.uniform(0.4, 0.7, num_truth),
        category_id=np.array(category, np.int64),
        is_crowd=np.array(crowd, np.bool_),
        num_keypoints=(visibility > 0).sum(axis=1),
        head_bbox_xyxy=np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:] / 5], axis=1),
    )
    predictions = Predictions(
        image_ids=image_ids,
        image_row=np.array([d[0] for d in detected], np.int64),
        instance_row=np.full(num_detected, -1),
        keypoints=np.array([d[2] for d in detected], float).reshape(num_detected, num_keypoints, 2),
        keypoint_scores=rng.random((num_detected, num_keypoints)),
        scores=scores.round(1) if coarse_scores else scores,
        category_id=np.array([d[1] for d in detected], np.int64),
        crop_area=np.full(num_detected, 1e4),
    )
    return truth, predictions


def paired_case(seed: int, num_instances: int = 40, num_keypoints: int = 16) -> tuple[GroundTruth, Predictions]:
    """One prediction for every annotation, in shuffled order, at errors from pixels to half a box."""
    truth, _ = random_case(seed, num_images=num_instances, num_keypoints=num_keypoints, max_instances=3)
    rng = np.random.default_rng(seed + 1)
    rows = rng.permutation(len(truth))
    spread = truth.bbox_xywh[rows, None, 2:] * np.exp(rng.uniform(-5, -0.7, (len(rows), 1, 1)))
    return truth, Predictions(
        image_ids=truth.image_ids,
        image_row=truth.image_row[rows],
        instance_row=rows,
        keypoints=truth.keypoints[rows] + rng.normal(size=(len(rows), num_keypoints, 2)) * spread,
        keypoint_scores=rng.random((len(rows), num_keypoints)),
        scores=rng.random(len(rows)),
        category_id=truth.category_id[rows],
        crop_area=(truth.bbox_xywh[rows, 2] * truth.bbox_xywh[rows, 3]) * 1.25**2,
    )
