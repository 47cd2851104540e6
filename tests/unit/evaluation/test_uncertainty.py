"""What is fitted to a split against closed forms, and whether promises are kept where they must be."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from posecore.errors import ConfigError, EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.traits import Traits
from posecore.evaluation.uncertainty import fit_uncertainty, judge_uncertainty
from posecore.models.uncertainty import HeadUncertainty

POINTS = ("nose", "tail")


def scene(
    bodies: int,
    seed: int = 0,
    *,
    subjects: int | None = None,
    factor: float = 3.0,
    views: Sequence[str] = ("side",),
    noise: dict[str, float] | None = None,
) -> tuple[GroundTruth, Predictions, Traits]:
    """Errors of ``factor`` times the stated covariances, times that of the view; scores that tell visibility."""
    random = np.random.default_rng(seed)
    shape = (bodies, len(POINTS))
    root = random.normal(size=(*shape, 2, 2))
    covariances = root @ root.swapaxes(2, 3) + np.eye(2)
    view = tuple(views[row % len(views)] for row in range(bodies))
    strength = np.array([factor * (noise or {}).get(name, 1.0) for name in view])
    error = np.linalg.cholesky(covariances * strength[:, None, None, None]) @ random.normal(size=(*shape, 2, 1))
    keypoints = random.uniform(0, 100, (*shape, 2))
    scores = random.random(shape)
    visibility = np.where(random.random(shape) < scores, 2, 1).astype(np.uint8)
    images = tuple(str(row) for row in range(bodies))
    truth = GroundTruth(
        image_ids=images,
        image_size=np.full((bodies, 2), 200),
        crowd_index=np.full(bodies, np.nan),
        instance_ids=images,
        image_row=np.arange(bodies),
        keypoints=keypoints,
        visibility=visibility,
        bbox_xywh=np.tile([0.0, 0.0, 100.0, 100.0], (bodies, 1)),
        area=np.full(bodies, 1e4),
        category_id=np.ones(bodies, np.int64),
        is_crowd=np.zeros(bodies, np.bool_),
        num_keypoints=np.full(bodies, len(POINTS)),
        head_bbox_xyxy=np.full((bodies, 4), np.nan),
    )
    predictions = Predictions(
        image_ids=images,
        image_row=np.arange(bodies),
        instance_row=np.arange(bodies),
        keypoints=keypoints + error[..., 0],
        keypoint_scores=scores,
        scores=scores.mean(axis=1),
        category_id=np.ones(bodies, np.int64),
        crop_area=np.full(bodies, 1e4),
        covariances=covariances,
    )
    subject = tuple(None if subjects is None else f"s{row % subjects}" for row in range(bodies))
    none = (None,) * bodies
    return truth, predictions, Traits(subject=subject, video=none, view=view, posture=none, image=images)


def fitted(
    made: tuple[GroundTruth, Predictions, Traits], level: float = 0.9, pictures: bool = False
) -> HeadUncertainty:
    return fit_uncertainty(
        *made, points=POINTS, level=level, pictures=pictures,
        head="dogs", weights="w", flip_test=False, path="regression", data="dogs val", digest="d",
    )  # fmt: skip


def test_the_scale_is_the_likeliest_and_the_radius_is_an_order_statistic() -> None:
    truth, predictions, _ = made = scene(200)
    found = fitted(made)
    error = predictions.keypoints - truth.keypoints
    solved = np.linalg.solve(predictions.covariances, error[..., None])[..., 0]
    squares = (error * solved).sum(axis=2)
    assert found.whole.scale == pytest.approx(squares.mean() / 2)
    assert found.whole.scale == pytest.approx(3.0, rel=0.2), "errors were drawn with three times the covariance"
    assert found.by["keypoint"]["tail"].scale == pytest.approx(squares[:, 1].mean() / 2)

    def likelihood(scale: float) -> float:
        return float(-0.5 * (squares / scale + 2 * np.log(scale)).sum())

    best = likelihood(found.whole.scale)
    assert best > max(likelihood(found.whole.scale * other) for other in (0.98, 1.02))
    sigma = np.sqrt(np.trace(predictions.covariances, axis1=2, axis2=3) / 2)
    relative = np.sort((np.hypot(*error.T).T / sigma)[:, 1])
    assert found.by["keypoint"]["tail"].radius == pytest.approx(relative[181 - 1]), "⌈201 · 0.9⌉ = 181"
    assert (found.unit, found.whole.points, found.whole.units) == ("image", 400, 200)


def test_promises_are_applied_per_point_and_the_widest_group_decides() -> None:
    made = scene(600, views=("side", "top"), noise={"top": 4.0})
    found = fitted(made)
    assert found.by["view"]["top"].radius > 1.5 * found.by["view"]["side"].radius
    _, predictions, _ = made
    plain = found.apply(predictions.covariances, predictions.keypoint_scores)
    stated = found.apply(predictions.covariances, predictions.keypoint_scores, {"view": "top"})
    assert (stated.radius > plain.radius).all()
    side = found.apply(predictions.covariances, predictions.keypoint_scores, {"view": "side"})
    np.testing.assert_array_equal(side.radius, plain.radius)
    sigma = np.sqrt(np.trace(predictions.covariances, axis1=2, axis2=3) / 2)
    np.testing.assert_allclose(stated.radius, found.by["view"]["top"].radius * sigma)
    np.testing.assert_allclose(stated.sigma**2, np.diagonal(stated.covariances, axis1=2, axis2=3))
    assert (np.abs(stated.rho) < 1).all()
    with pytest.raises(ConfigError, match=r"view=front: .* which has view=side, view=top; name one of these"):
        found.apply(predictions.covariances, predictions.keypoint_scores, {"view": "front"})


def test_a_group_of_too_few_has_the_radius_of_all() -> None:
    truth, predictions, traits = scene(60)
    rare = truth.visibility.copy()
    rare[8:, 1] = 0
    found = fitted((replace(truth, visibility=rare), predictions, traits))
    assert found.by["keypoint"]["tail"].radius is None
    assert found.by["keypoint"]["tail"].units == 8
    answer = found.apply(predictions.covariances, predictions.keypoint_scores)
    sigma = np.sqrt(np.trace(predictions.covariances, axis1=2, axis2=3) / 2)
    assert (answer.radius[:, 1] >= found.whole.radius * sigma[:, 1] - 1e-9).all()


def test_a_point_that_was_not_found_has_no_radius_and_counts_as_missed() -> None:
    truth, predictions, traits = scene(100)
    lost = predictions.covariances.copy()
    lost[:5, 0] = np.nan
    predictions = replace(predictions, covariances=lost)
    found = fitted((truth, predictions, traits))
    assert found.by["keypoint"]["nose"].radius > 0
    answer = found.apply(predictions.covariances, predictions.keypoint_scores)
    assert np.isinf(answer.radius[:5, 0]).all()
    assert np.isfinite(answer.radius[5:]).all()
    lost[:20, 0] = np.nan
    assert fitted((truth, replace(predictions, covariances=lost), traits)).by["keypoint"]["nose"].radius is None


def test_the_probability_of_being_visible_follows_the_score() -> None:
    made = scene(2000)
    found = fitted(made)
    scores = np.array([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]])
    chance = found.apply(np.tile(np.eye(2), (3, 2, 1, 1)), scores).visible
    np.testing.assert_allclose(chance, scores, atol=0.08)
    assert set(found.by["looks"]) == {"covered", "open"}
    truth, predictions, traits = made
    all_visible = replace(truth, visibility=np.full_like(truth.visibility, 2))
    blind = fitted((all_visible, predictions, traits))
    assert blind.whole.visible is None
    assert "looks" not in blind.by
    assert np.isnan(blind.apply(predictions.covariances, predictions.keypoint_scores).visible).all()


def test_one_subject_says_nothing_of_others() -> None:
    with pytest.raises(EvaluationError, match="dogs val: all labelled points are of one subject, s0, which says "):
        fitted(scene(50, subjects=1))
    with pytest.raises(EvaluationError, match=r"8 subjects are too few to promise 90 % for a new one, which takes 9;"):
        fitted(scene(80, subjects=8))
    assert fitted(scene(80, subjects=8), level=0.8).unit == "subject"
    of_these = fitted(scene(50, subjects=1), pictures=True)
    assert (of_these.unit, of_these.whole.units) == ("image", 50)
    with pytest.raises(EvaluationError, match=r"8 images are too few .* with a lower --level\.$"):
        fitted(scene(8))
    truth, predictions, traits = scene(10)
    nothing = replace(truth, visibility=np.zeros_like(truth.visibility))
    with pytest.raises(EvaluationError, match="no labelled point was answered"):
        fitted((nothing, predictions, traits))


def test_what_was_fitted_is_kept_whole_as_json() -> None:
    found = fitted(scene(60, views=("side", "top")))
    assert HeadUncertainty.model_validate_json(found.model_dump_json()) == found


def test_judging_compares_promises_with_what_is_so() -> None:
    promised = fitted(scene(1500, seed=1, views=("side", "top"), noise={"top": 4.0}))
    honest = judge_uncertainty(*scene(1500, seed=2, views=("side", "top"), noise={"top": 4.0}), promised, POINTS)
    figures = honest.headline()
    assert figures["coverage90"] == pytest.approx(0.9, abs=0.03)
    assert figures["coverage90_low"] < figures["coverage90"] < figures["coverage90_high"]
    assert figures["coverage90/view/top"] < 0.88 < 0.95 < figures["coverage90/view/side"], "nobody stated the view"
    assert figures["visible_ECE"] < 0.05
    assert {name for name in figures if "visibility" in name} == {
        "coverage90/visibility/visible",
        "coverage90/visibility/occluded",
    }
    assert figures["visible_ECE/view/top"] < 0.08
    shifted = judge_uncertainty(*scene(1500, seed=2, factor=40.0), promised, POINTS)
    assert shifted.headline()["coverage90"] < 0.75
    assert b'"coverage"' in shifted.to_json()
    (tail,) = (group for group in honest.by["keypoint"] if group.name == "tail")
    assert tail.points == 1500


def test_a_circle_and_an_ellipse_of_round_covariances_hold_the_same_points() -> None:
    truth, predictions, traits = scene(300)
    rounded = replace(predictions, covariances=np.tile(2 * np.eye(2), (300, 2, 1, 1)))
    result = judge_uncertainty(truth, rounded, traits, fitted((truth, rounded, traits)), POINTS)
    assert result.whole.ellipse.value == pytest.approx(result.whole.coverage.value, abs=1 / 300)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_points_of_new_subjects_are_within_their_radius_as_often_as_promised(seed: int) -> None:
    """Exchangeable subjects, whatever the errors: heavy tails, and sigmas that have nothing to do with them."""
    random = np.random.default_rng(seed)

    def drawn(subjects: int) -> tuple[GroundTruth, Predictions, Traits]:
        truth, predictions, traits = scene(3 * subjects, int(random.integers(2**31)), subjects=subjects)
        hard = np.tile(np.exp(random.normal(size=subjects)), 3)[:, None, None]
        error: NDArray[np.float64] = hard * random.standard_t(3, size=predictions.keypoints.shape)
        return truth, replace(predictions, keypoints=truth.keypoints + error), traits

    kept = []
    for _ in range(20):
        truth, predictions, _ = drawn(20)
        promised = fitted(drawn(15), level=0.8).apply(predictions.covariances, predictions.keypoint_scores)
        distance = np.linalg.norm(predictions.keypoints - truth.keypoints, axis=2)
        kept.append((distance <= promised.radius).mean())
    assert np.mean(kept) >= 0.8 - 4 * np.std(kept) / np.sqrt(len(kept))
