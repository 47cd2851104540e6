"""Our OKS evaluation against pycocotools: the same numbers to 1e-9, on data with ties, crowds and empty labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posecore.evaluation.oks import evaluate_oks
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
