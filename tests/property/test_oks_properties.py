"""OKS lies in [0, 1], is 1 for a perfect answer, and does not change when image and body grow together."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from posecore.evaluation.oks import evaluate_oks, similarity, similarity_to_region
from tests.support.random_poses import COCO_SIGMAS, random_case

seeds = st.integers(0, 2**32 - 1)


def pairs(seed, count=20):
    rng = np.random.default_rng(seed)
    references = rng.uniform(-50, 500, (count, 17, 2))
    points = references + rng.normal(size=references.shape) * np.exp(rng.uniform(-3, 6, (count, 1, 1)))
    return points, references, rng.random((count, 17)) < 0.7, np.exp(rng.uniform(0, 12, count)), rng


@settings(deadline=None)
@given(seed=seeds)
def test_between_zero_and_one(seed):
    points, references, counted, area, rng = pairs(seed)
    boxes = np.concatenate([references[:, 0], rng.uniform(1, 100, (20, 2))], axis=1)
    for oks in (
        similarity(points, references, counted, area, COCO_SIGMAS),
        similarity_to_region(points, boxes, area, COCO_SIGMAS),
    ):
        assert (oks >= 0).all()
        assert (oks <= 1 + 1e-12).all()
    exact = similarity(references, references, counted, area, COCO_SIGMAS)
    np.testing.assert_allclose(exact, counted.any(axis=1).astype(float))


@settings(deadline=None)
@given(seed=seeds, factor=st.floats(0.01, 100))
def test_scale_invariant(seed, factor):
    points, references, counted, area, _ = pairs(seed)
    before = similarity(points, references, counted, area, COCO_SIGMAS)
    after = similarity(points * factor, references * factor, counted, area * factor**2, COCO_SIGMAS)
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(seed=seeds)
def test_symmetric_in_its_two_poses(seed):
    points, references, counted, area, _ = pairs(seed)
    np.testing.assert_array_equal(
        similarity(points, references, counted, area, COCO_SIGMAS),
        similarity(references, points, counted, area, COCO_SIGMAS),
    )


@settings(max_examples=20, deadline=None)
@given(seed=seeds, shift=st.floats(-1e3, 1e3))
def test_average_precision_depends_on_the_order_of_scores_only(seed, shift):
    truth, predictions = random_case(seed, num_images=6, coarse_scores=False, noise=0.03)
    arguments = {"area": truth.area, "ignored": truth.num_keypoints == 0}
    ranks = np.argsort(np.argsort(predictions.scores)).astype(float) + shift
    first = evaluate_oks(truth, predictions, COCO_SIGMAS, **arguments)
    second = evaluate_oks(truth, replace(predictions, scores=ranks), COCO_SIGMAS, **arguments)
    np.testing.assert_array_equal(first.precision, second.precision)
