"""Every other protocol against a plain loop or pycocotools, written from the official rules, to 1e-9."""

from dataclasses import replace

import numpy as np
import pytest

from posecore.datasets.definition import EvaluationDefinition
from posecore.evaluation.nms import rescore, suppress_duplicates
from posecore.evaluation.protocols import evaluate
from posecore.skeletons.library import load_skeleton
from tests.support import coco_reference
from tests.support.random_poses import paired_case, random_case

CLOSE = {"rel": 0, "abs": 1e-9}


def definition(protocol, **changes):
    return EvaluationDefinition(protocol=protocol, **changes)


# --- COCO-WholeBody -------------------------------------------------------------------------------------------------

SLICES = {
    "body": slice(0, 17),
    "foot": slice(17, 23),
    "face": slice(23, 91),
    "lefthand": slice(91, 112),
    "righthand": slice(112, 133),
    "wholebody": slice(0, 133),
}


@pytest.mark.parametrize("part", SLICES)
def test_wholebody_parts_equal_pycocotools_on_sliced_points(part):
    skeleton = load_skeleton("coco_wholebody133")
    truth, predictions = random_case(11, num_keypoints=133, num_images=25, noise=0.01)
    visibility = truth.visibility.copy()
    visibility[::3, 91:112] = 0  # a part without labels is ignored for that part only
    visibility[1::4, 17:23] = 0
    truth = replace(truth, visibility=visibility)
    part_scores = {name: np.random.default_rng(3).random(len(predictions)) for name in ("face", "righthand", "body")}
    predictions = replace(predictions, part_scores=part_scores)
    metrics = evaluate(definition("wholebody"), skeleton, truth, predictions)

    points = SLICES[part]
    of_part = replace(
        truth,
        keypoints=truth.keypoints[:, points],
        visibility=visibility[:, points],
        num_keypoints=(visibility[:, points] > 0).sum(axis=1),
    )
    scores = predictions.scores if part == "body" else part_scores.get(part, predictions.scores)
    results = coco_reference.to_results(
        replace(predictions, keypoints=predictions.keypoints[:, points],
                keypoint_scores=predictions.keypoint_scores[:, points], scores=scores)
    )  # fmt: skip
    body = predictions.keypoints[:, :17]
    extents = np.prod(body.max(axis=1) - body.min(axis=1), axis=1)
    reference = coco_reference.run(
        coco_reference.to_coco(of_part), results, skeleton.oks_sigmas[points], detection_areas=extents
    )
    got = [metrics[f"{part}/{name}"] for name in coco_reference.NAMES]
    assert got == pytest.approx(reference.stats.tolist(), **CLOSE)
    assert len(set(got)) > 4


def test_wholebody_headline_is_the_value_over_all_points():
    skeleton = load_skeleton("coco_wholebody133")
    truth, predictions = random_case(11, num_keypoints=133, num_images=8, noise=0.01)
    metrics = evaluate(definition("wholebody"), skeleton, truth, predictions)
    assert metrics["AP"] == metrics["wholebody/AP"]


# --- CrowdPose ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_crowdpose_equals_pycocotools_with_the_official_scale_and_image_groups(seed):
    skeleton = load_skeleton("crowdpose14")
    truth, predictions = random_case(seed, num_keypoints=14, num_images=40, noise=0.02)
    truth = replace(truth, num_keypoints=(truth.visibility[:, :12] > 0).sum(axis=1))  # head and neck do not count
    metrics = evaluate(definition("crowdpose"), skeleton, truth, predictions)

    area = truth.bbox_xywh[:, 2] * truth.bbox_xywh[:, 3] * 0.53
    files = coco_reference.to_coco(truth, area), coco_reference.to_results(predictions)
    reference = coco_reference.run(*files, skeleton.oks_sigmas)
    for name, value in zip(coco_reference.NAMES, reference.stats, strict=True):
        if name[-1] not in "ML":
            assert metrics[name] == pytest.approx(value, **CLOSE)
    index = dict(zip(map(int, truth.image_ids), truth.crowd_index, strict=True))
    groups = {
        "easy": [i for i, value in index.items() if value < 0.2],
        "medium": [i for i, value in index.items() if 0.2 <= value < 0.8],
        "hard": [i for i, value in index.items() if value >= 0.8],
    }
    for name, images in groups.items():
        part = coco_reference.run(*files, skeleton.oks_sigmas, images=images)
        assert metrics[f"AP_{name}"] == round(np.mean(part.eval["precision"][:, :, :, 0, :]), 4)


# --- AI Challenger --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_aic_equals_a_loop_over_the_published_formula(seed):
    skeleton = load_skeleton("aic14")
    truth, predictions = random_case(seed, num_keypoints=14, num_images=20, noise=0.005)
    metrics = evaluate(definition("aic"), skeleton, truth, predictions)

    best, total = [], 0
    for row in range(len(truth.image_ids)):
        persons, answers = np.flatnonzero(truth.image_row == row), np.flatnonzero(predictions.image_row == row)
        if not len(persons):
            continue
        for person in persons:
            visible = truth.visibility[person] == 2
            width, height = truth.bbox_xywh[person, 2:]
            values = [0.0]
            for answer in answers if visible.any() else ():
                squared = ((truth.keypoints[person] - predictions.keypoints[answer])[visible] ** 2).sum(axis=1)
                delta = 2 * skeleton.oks_sigmas[visible]
                values.append(np.mean(np.exp(-squared / 2 / delta**2 / (width * height + 1))))
            best.append(max(values))
        total += max(len(persons), len(answers))
    shares = [sum(value > threshold for value in best) / total for threshold in np.linspace(0.5, 0.95, 10)]
    assert metrics["mAP"] == pytest.approx(np.mean(shares), **CLOSE)
    assert metrics["mAP50"] == pytest.approx(shares[0], **CLOSE)
    assert 0 < metrics["mAP"] < 1


# --- MPII -----------------------------------------------------------------------------------------------------------


def pckh_loop(truth, predictions, threshold):
    """(16,) hits and labelled counts, with the official 1-based files in mind: +1 on both sides changes nothing."""
    hits, counts = np.zeros(16), np.zeros(16)
    for answer, person in enumerate(predictions.instance_row):
        if truth.is_crowd[person] or not (truth.visibility[person] > 0).any():
            continue
        x1, y1, x2, y2 = truth.head_bbox_xyxy[person] + 1
        head = 0.6 * np.linalg.norm([x2 - x1, y2 - y1])
        for joint in range(16):
            if truth.visibility[person, joint] > 0:
                distance = np.linalg.norm(
                    predictions.keypoints[answer, joint] + 1 - (truth.keypoints[person, joint] + 1)
                )
                counts[joint] += 1
                hits[joint] += distance / head <= threshold
    return hits, counts


def test_pckh_equals_both_published_means():
    truth, predictions = paired_case(4)
    metrics = evaluate(definition("pckh"), load_skeleton("mpii16"), truth, predictions)
    kept = [j for j in range(16) if j not in (6, 7)]
    for suffix, threshold in (("", 0.5), ("_0.1", 0.1)):
        hits, counts = pckh_loop(truth, predictions, threshold)
        share = 100 * hits / counts
        weights = counts[kept] / counts[kept].sum()
        assert metrics[f"PCKh{suffix}"] == pytest.approx((share[kept] * weights).sum(), **CLOSE)
        assert metrics[f"PCKh{suffix}_unweighted"] == pytest.approx(share[kept].mean(), **CLOSE)
    hits, counts = pckh_loop(truth, predictions, 0.5)
    share = 100 * hits / counts
    named = {"ankle": (0, 5), "knee": (1, 4), "hip": (2, 3), "wrist": (10, 15), "elbow": (11, 14), "shoulder": (12, 13),
             "head_top": (9,), "upper_neck": (8,), "pelvis": (6,), "thorax": (7,)}  # fmt: skip
    for name, joints in named.items():
        assert metrics[f"PCKh/{name}"] == pytest.approx(share[list(joints)].mean(), **CLOSE)
    assert 0 < metrics["PCKh_0.1"] < metrics["PCKh"] < 100
    assert metrics["PCKh"] != metrics["PCKh_unweighted"]


# --- torso, PCK, pixel ----------------------------------------------------------------------------------------------


def points_of(truth, predictions):
    """(person, answer, joint, distance) of every labelled point of every instance that is no crowd."""
    for answer, person in enumerate(predictions.instance_row):
        for joint in np.flatnonzero(truth.visibility[person] > 0):
            if not truth.is_crowd[person]:
                yield (
                    person,
                    answer,
                    joint,
                    np.linalg.norm(truth.keypoints[person, joint] - predictions.keypoints[answer, joint]),
                )


def test_torso_error_equals_a_loop():
    truth, predictions = paired_case(5, num_keypoints=17)
    metrics = evaluate(definition("torso"), load_skeleton("coco17"), truth, predictions)
    errors = []
    for person, _, _, distance in points_of(truth, predictions):
        if (truth.visibility[person, [5, 6, 11, 12]] > 0).all():
            neck = (truth.keypoints[person, 5] + truth.keypoints[person, 6]) / 2
            hip = (truth.keypoints[person, 11] + truth.keypoints[person, 12]) / 2
            errors.append(distance / np.linalg.norm(neck - hip))
    assert metrics["torso_error"] == pytest.approx(np.mean(errors), **CLOSE)
    assert metrics["torso_error_median"] == pytest.approx(np.median(errors), **CLOSE)
    assert metrics["PCK_torso_0.2"] == pytest.approx(np.mean(np.array(errors) <= 0.2), **CLOSE)


@pytest.mark.parametrize("normalise_by", ["bbox", "image"])
def test_pck_equals_a_loop(normalise_by):
    truth, predictions = paired_case(6, num_keypoints=20)
    options = {"normalise_by": normalise_by, "thresholds": [0.05, 0.2]}
    metrics = evaluate(definition("pck", options=options), load_skeleton("animalpose20"), truth, predictions)
    for threshold in (0.05, 0.2):
        hits, counts = np.zeros(20), np.zeros(20)
        for person, _, joint, distance in points_of(truth, predictions):
            size = max(truth.bbox_xywh[person, 2:]) if normalise_by == "bbox" else 500
            hits[joint] += distance / size < threshold
            counts[joint] += 1
        assert metrics[f"PCK_{threshold}"] == pytest.approx((hits / counts).mean(), **CLOSE)
        assert metrics[f"PCK_{threshold}_pooled"] == pytest.approx(hits.sum() / counts.sum(), **CLOSE)


def test_pixel_error_equals_a_loop():
    truth, predictions = paired_case(7, num_keypoints=17)
    metrics = evaluate(definition("pixel"), load_skeleton("coco17"), truth, predictions)
    every = np.array([d for *_, d in points_of(truth, predictions)])
    confident = np.array(
        [
            d
            for _, answer, joint, d in points_of(truth, predictions)
            if predictions.keypoint_scores[answer, joint] >= 0.6
        ]
    )
    assert metrics["mean_error_px"] == pytest.approx(every.mean(), **CLOSE)
    assert metrics["rmse_px"] == pytest.approx(np.sqrt((every**2).mean()), **CLOSE)
    assert metrics["median_error_px_confident"] == pytest.approx(np.median(confident), **CLOSE)
    assert metrics["confident_share"] == pytest.approx(len(confident) / len(every), **CLOSE)


# --- before judging: rescoring and OKS-NMS --------------------------------------------------------------------------


def test_rescoring_equals_a_loop():
    rng = np.random.default_rng(0)
    boxes, points = rng.random(50), rng.random((50, 17)) ** 2
    points[3] = 0.1
    for score, box, row in zip(rescore(boxes, points), boxes, points, strict=True):
        kept = [value for value in row if value > 0.2]
        assert score == pytest.approx(box * np.mean(kept) if kept else 0.0, **CLOSE)


def test_oks_nms_equals_the_published_greedy_loop():
    sigmas = load_skeleton("coco17").oks_sigmas
    _, predictions = random_case(8, num_images=6, noise=0.01, coarse_scores=False)
    rng = np.random.default_rng(1)
    twice = np.repeat(np.arange(len(predictions)), 3)
    predictions = predictions.take(twice)
    predictions = replace(
        predictions,
        keypoints=predictions.keypoints + rng.normal(size=predictions.keypoints.shape) * 2.5,
        scores=rng.random(len(twice)),
        crop_area=rng.uniform(2e3, 4e4, len(twice)),
    )
    kept = set()
    for row in range(6):
        remaining = sorted(np.flatnonzero(predictions.image_row == row), key=lambda r: -predictions.scores[r])
        while remaining:
            best = remaining.pop(0)
            kept.add(best)
            survivors = []
            for other in remaining:
                squared = ((predictions.keypoints[best] - predictions.keypoints[other]) ** 2).sum(axis=1)
                scale = (predictions.crop_area[best] + predictions.crop_area[other]) / 2
                if np.mean(np.exp(-squared / (2 * sigmas) ** 2 / scale / 2)) <= 0.9:
                    survivors.append(other)
            remaining = survivors
    got = suppress_duplicates(predictions, sigmas)
    np.testing.assert_array_equal(got.scores, predictions.scores[sorted(kept)])
    assert 0.3 * len(predictions) < len(got) < 0.95 * len(predictions)
