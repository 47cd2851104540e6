"""Our OKS evaluation against pycocotools: the same numbers to 1e-9, on data with ties, crowds and empty labels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posecore.datasets.definition import EvaluationDefinition
from posecore.evaluation.oks import evaluate_oks
from posecore.evaluation.protocols import evaluate
from posecore.skeletons.library import load_skeleton
from tests.support import coco_reference
from tests.support.random_poses import COCO_SIGMAS, random_case


def assert_same(truth, predictions, sigmas, *, per_category=False, area=None):
    area = truth.area if area is None else area
    ours = evaluate_oks(
        truth,
        predictions,
        sigmas,
        area=area,
        ignored=truth.num_keypoints == 0,
        per_category=per_category,
    )
    reference = coco_reference.run(coco_reference.to_coco(truth, area), coco_reference.to_results(predictions), sigmas)
    np.testing.assert_allclose(ours.precision, reference.eval["precision"][..., 0], atol=1e-9, rtol=0)
    np.testing.assert_allclose(ours.recall, reference.eval["recall"][..., 0], atol=1e-9, rtol=0)
    summary = ours.summary()
    np.testing.assert_allclose([summary[n] for n in coco_reference.NAMES], reference.stats, atol=1e-9, rtol=0)
    return summary


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from([0.0, 0.02, 0.08, 0.3]),
    num_images=st.integers(1, 14),
    coarse=st.booleans(),
)
def test_equals_pycocotools_on_random_sets(seed, noise, num_images, coarse):
    truth, predictions = random_case(seed, noise=noise, num_images=num_images, coarse_scores=coarse)
    if len(truth) and len(predictions):  # pycocotools cannot load an empty results file
        assert_same(truth, predictions, COCO_SIGMAS)


@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools_per_category(seed):
    truth, predictions = random_case(seed, num_categories=4, num_images=40, noise=0.03)
    summary = assert_same(truth, predictions, COCO_SIGMAS, per_category=True)
    assert 0.1 < summary["AP"] < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_beyond_twenty_detections_per_image(seed):
    truth, predictions = random_case(seed, num_images=4, max_instances=25, max_detections=30, noise=0.03)
    per_image = np.bincount(predictions.image_row)
    assert per_image.max() > 20
    assert_same(truth, predictions, COCO_SIGMAS)


def test_equals_pycocotools_with_own_sigmas_and_other_scale_rule():
    truth, predictions = random_case(7, num_keypoints=14, num_images=30, noise=0.03)
    sigmas = np.linspace(0.01, 0.12, 14)
    assert_same(truth, predictions, sigmas, area=truth.scale_area("box_053"))


def test_a_category_never_annotated_is_not_judged():
    truth, predictions = random_case(3, num_images=20, num_categories=2)
    only_first = truth.take(truth.category_id == 1)
    assert (predictions.category_id == 3).any()
    assert_same(only_first, predictions, COCO_SIGMAS, per_category=True)


@pytest.mark.parametrize("seed", range(4))
def test_an_annotation_of_id_0_is_a_match_and_pycocotools_figure_stands_beside_it(seed):
    truth, predictions = random_case(seed, num_images=12, noise=0.03)
    answered = np.isin(truth.image_row, predictions.image_row)
    first = int(np.flatnonzero((truth.num_keypoints > 0) & ~truth.is_crowd & answered)[0])
    answer = int(np.flatnonzero(predictions.image_row == truth.image_row[first])[0])
    keypoints, scores = predictions.keypoints.copy(), predictions.scores.copy()
    keypoints[answer], scores[answer] = truth.keypoints[first], 2.0  # nobody else's, and the first to choose
    predictions = replace(predictions, keypoints=keypoints, scores=scores)
    numbered = tuple("0" if row == first else str(row + 1) for row in range(len(truth)))
    truth = replace(truth, instance_ids=numbered)
    document = coco_reference.to_coco(truth)
    document["annotations"][first]["id"] = 0
    reference = coco_reference.run(document, coco_reference.to_results(predictions), COCO_SIGMAS)
    metrics = evaluate(EvaluationDefinition(), load_skeleton("coco17"), truth, predictions)
    theirs = [metrics.get(f"pycocotools/{name}", metrics[name]) for name in coco_reference.NAMES]
    np.testing.assert_allclose(theirs, reference.stats, atol=1e-9, rtol=0)
    assert metrics["AR"] > metrics["pycocotools/AR"]
    assert not any("pycocotools" in name for name in _with_ids(truth, predictions, start=1))


def _with_ids(truth, predictions, start):
    ids = tuple(str(row + start) for row in range(len(truth)))
    return evaluate(EvaluationDefinition(), load_skeleton("coco17"), replace(truth, instance_ids=ids), predictions)
