"""Whole pictures to bodies in image pixels, judged and served alike, by a model that sees where they are."""

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import orjson
import pytest

from posecore.codecs.scene import SelectionConfig
from posecore.errors import ConfigError, EvaluationError, PredictionError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.inference import InferenceSettings, PredictionTask, evaluate_store, finish, predict_store
from posecore.evaluation.results import DetectedBoxes, coco_results, read_results
from posecore.evaluation.scenes import FoundBodies, fit_scene, predict_scenes, scenes_per_pass
from posecore.prediction.instances import Boxes
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.shards.store import ShardStore
from tests.support.dot_worlds import hands_definition
from tests.support.scene_worlds import BODIES, SceneBlobModel, SceneSetModel, scene_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return scene_store(tmp_path_factory.mktemp("scenes"), hands_definition())


MODELS = pytest.mark.parametrize("make", [SceneBlobModel, SceneSetModel])
Make: TypeAlias = type[SceneBlobModel]


def _by_image(keypoints: np.ndarray, image_row: np.ndarray) -> list[list[list[float]]]:
    """Per picture its bodies, sorted by their left hand."""
    return [sorted(keypoints[image_row == row].tolist()) for row in range(len(BODIES))]


def _check(truth: GroundTruth, predictions: Predictions) -> None:
    found, expected = (_by_image(each.keypoints, each.image_row) for each in (predictions, truth))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        # A pixel of the finer maps is about two of the picture's, answered in quarters.
        np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1.3)


@MODELS
def test_every_body_is_found_where_it_is(make: Make, store: ShardStore) -> None:
    model = make()
    model.train()
    predictions = predict_store(model, store, InferenceSettings(flip_test=False))
    assert model.training, "the model's mode must be restored"
    _check(GroundTruth.from_store(store), predictions)
    assert (predictions.instance_row == -1).all()
    assert (predictions.scores > 0.8).all()
    assert evaluate_store(model, store, InferenceSettings(flip_test=False))["AP"] > 0.9


@MODELS
def test_the_mirrored_picture_is_put_back(make: Make, store: ShardStore) -> None:
    model = make()
    model.mirrors = True
    predictions = predict_store(model, store, InferenceSettings(flip_test=True, batch_size=4))
    _check(GroundTruth.from_store(store), predictions)


@MODELS
def test_the_number_of_pictures_in_a_pass_changes_nothing(make: Make, store: ShardStore) -> None:
    assert scenes_per_pass(64, (512, 512)) == 12
    assert scenes_per_pass(1, (512, 512)) == 1
    model = make()
    one, many = (predict_store(model, store, InferenceSettings(flip_test=False, batch_size=size)) for size in (1, 64))
    assert model.calls == 4 + 1
    np.testing.assert_allclose(one.keypoints, many.keypoints, atol=1e-4)
    np.testing.assert_array_equal(one.image_row, many.image_row)


def test_a_body_of_one_point_has_a_box_that_can_be_cropped() -> None:
    found = FoundBodies(np.array([[[5.0, 6.0], [0.0, 0.0]]]), np.array([[0.9, 0.0]]), np.array([0.9]))
    assert found.bbox_xywh.tolist() == [[5, 6, 1, 1]]
    Boxes(found.bbox_xywh).check((20, 20), "a picture")


@MODELS
def test_a_model_serves_as_it_was_judged(make: Make, store: ShardStore) -> None:
    judged = predict_store(make(), store, InferenceSettings(flip_test=False))
    images = [store.read_image_bytes(row) for row in range(store.num_images)]
    served = Predictor(make(), PredictorSettings(batch_size=3)).predict(images)
    assert [len(each) for each in served] == list(BODIES)
    np.testing.assert_allclose(np.concatenate([each.keypoints for each in served]), judged.keypoints, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([each.scores for each in served]), judged.scores, atol=1e-6)
    for each in served:
        assert (each.uncertainty is not None) == (make is SceneSetModel)
        low, high = each.keypoints.min(1), each.keypoints.max(1)
        around = np.concatenate([low, np.maximum(high - low, 1)], axis=1)  # points on one line have a box, too
        np.testing.assert_allclose(each.bbox_xywh, around, atol=3 if make is SceneSetModel else 0)
        assert each.box_rows.tolist() == list(range(len(each)))


@MODELS
def test_results_are_written_and_read_as_ever(make: Make, store: ShardStore, tmp_path: Path) -> None:
    predictions = predict_store(make(), store, InferenceSettings(flip_test=False))
    path = tmp_path / "results.json"
    path.write_bytes(orjson.dumps(coco_results(predictions)))
    again = read_results(path, predictions.image_ids, 2)
    np.testing.assert_array_equal(again.keypoints, predictions.keypoints)
    np.testing.assert_array_equal(again.scores, predictions.scores)


@MODELS
def test_boxes_are_refused(make: Make, store: ShardStore) -> None:
    truth = GroundTruth.from_store(store)
    boxes = DetectedBoxes(
        image_ids=tuple(truth.image_ids[row] for row in truth.image_row),
        bbox_xywh=truth.bbox_xywh,
        scores=np.ones(len(truth)),
        category_id=truth.category_id,
    )
    with pytest.raises(EvaluationError, match="takes no boxes"):
        predict_store(make(), store, boxes=boxes)
    with pytest.raises(PredictionError, match="leave boxes and detector out"):
        Predictor(make()).predict([np.zeros((20, 20, 3), np.uint8)], [Boxes.whole((20, 20))])


@MODELS
def test_a_head_that_the_model_has_not_is_named(make: Make, store: ShardStore) -> None:
    with pytest.raises(EvaluationError, match="the model has no head 'dogs'; it has hands"):
        predict_store(make(), store, head="dogs")


@MODELS
def test_a_picture_of_one_pixel_has_nobody(make: Make) -> None:
    model = make().eval()
    image, region = fit_scene(np.zeros((1, 1, 3), np.uint8), model.input_size)
    found = predict_scenes(model, ["hands"], image[None], region.center, region.scale, flip_test=False)
    assert len(found["hands"][0].scores) == 0


def test_a_task_of_whole_pictures_takes_those_without_bodies_too(store: ShardStore) -> None:
    task = PredictionTask(store=store, head="hands", settings=InferenceSettings(), whole_scenes=True)
    assert task.rows.tolist() == [0, 1, 2, 3]
    assert [batch.tolist() for batch in task.batches((512, 512))] == [[0, 1, 2, 3]]
    small = replace(task, settings=InferenceSettings(batch_size=1))
    assert len(small.batches((512, 512))) == 4


def test_of_a_body_that_was_found_twice_the_surer_stays(store: ShardStore) -> None:
    settings = InferenceSettings(flip_test=False)
    found = predict_store(SceneBlobModel(), store, settings)
    weaker = replace(found, scores=found.scores / 2, keypoints=found.keypoints + 0.2)
    task = PredictionTask(store=store, head="hands", settings=settings, whole_scenes=True)
    np.testing.assert_array_equal(finish(task, [found, weaker]).scores, found.scores)
    every = replace(task, settings=settings.model_copy(update={"nms_threshold": None}))
    assert len(finish(every, [found, weaker])) == 2 * len(found)


def test_a_set_is_answered_in_one_pass_whether_mirrored_or_not(store: ShardStore) -> None:
    model = SceneSetModel()
    plain, flipped = (predict_store(model, store, InferenceSettings(flip_test=flip)) for flip in (False, True))
    assert model.calls == 2
    np.testing.assert_array_equal(plain.keypoints, flipped.keypoints)


def test_covariances_come_with_bodies_in_pixels_of_the_picture(store: ShardStore) -> None:
    found = predict_store(SceneSetModel(), store, InferenceSettings(uncertainty=True))
    assert found.covariances is not None
    for row, covariance in zip(found.image_row, found.covariances, strict=True):
        height, width = ((200, 300), (240, 160))[row % 2]
        step = max((width - 1) / 191, (height - 1) / 159)  # px of the picture by those of the input
        np.testing.assert_allclose(covariance, np.tile(np.diag([4.0, 16.0]) * step**2, (2, 1, 1)), rtol=1e-3, atol=1e-3)
    assert predict_store(SceneSetModel(), store, InferenceSettings()).covariances is None
    blurred = predict_store(SceneBlobModel(), store, InferenceSettings(uncertainty=True))
    assert blurred.covariances is not None
    for row, covariance in zip(blurred.image_row, blurred.covariances, strict=True):
        height, width = ((200, 300), (240, 160))[row % 2]
        step = max(
            (width - 1) / 95, (height - 1) / 79
        )  # px of the picture by those of the finer map, which blurs nothing
        np.testing.assert_allclose(covariance, np.tile(np.eye(2) * step**2 / 12, (2, 1, 1)), rtol=2e-2, atol=1e-3)


def test_radii_are_those_of_a_gaussian_with_the_covariances(store: ShardStore) -> None:
    image = store.read_image_bytes(0)
    (found,) = Predictor(SceneSetModel(), PredictorSettings(uncertainty=True)).predict([image])
    sure = found.uncertainty
    assert sure is not None
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(2), sure.covariances[0, 0], 20000)
    inside = np.einsum("pi,ij,pj->p", draws, np.linalg.inv(sure.ellipses[0, 0]), draws) <= 1
    # Its area is that of a circle of 2.146 sigmas, the mean variance being 10 and the root of the determinant 8.
    assert inside.mean() == pytest.approx(1 - np.exp(-(2.146**2) * 10 / 8 / 2), abs=0.01)
    assert found.to_frame()["sigma_y"][0] == pytest.approx(2 * found.to_frame()["sigma_x"][0])
    assert Predictor(SceneSetModel(), PredictorSettings(uncertainty=False)).predict([image])[0].uncertainty is None
    with pytest.raises(ConfigError, match="was not calibrated"):
        Predictor(SceneBlobModel(), PredictorSettings(uncertainty=True))
    assert Predictor(SceneBlobModel()).predict([image])[0].uncertainty is None, (
        "what a map's shape is worth is not known"
    )


def test_bodies_of_which_a_model_is_not_sure_are_none(store: ShardStore) -> None:
    settings = InferenceSettings(selection=SelectionConfig(least_score=0.99999))
    assert len(predict_store(SceneSetModel(), store, settings)) == 0
    one = InferenceSettings(selection=SelectionConfig(max_bodies=1))
    assert np.bincount(predict_store(SceneSetModel(), store, one).image_row, minlength=4).tolist() == [1, 0, 1, 1]
