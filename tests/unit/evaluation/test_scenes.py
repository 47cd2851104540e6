"""Whole pictures to bodies in image pixels, judged and served alike, by a model that sees where they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from posecore.errors import EvaluationError, PredictionError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.inference import InferenceSettings, PredictionTask, evaluate_store, finish, predict_store
from posecore.evaluation.results import DetectedBoxes, coco_results, read_results
from posecore.evaluation.scenes import fit_scene, predict_scenes, scenes_per_pass
from posecore.prediction.instances import Boxes
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.shards.store import ShardStore
from tests.support.dot_worlds import hands_definition
from tests.support.scene_worlds import BODIES, SceneBlobModel, scene_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return scene_store(tmp_path_factory.mktemp("scenes"), hands_definition())


def _by_image(keypoints: np.ndarray, image_row: np.ndarray) -> list[list[list[float]]]:
    """Per picture its bodies, sorted by their left hand."""
    return [sorted(keypoints[image_row == row].tolist()) for row in range(len(BODIES))]


def _check(truth: GroundTruth, predictions: Predictions) -> None:
    found, expected = (_by_image(each.keypoints, each.image_row) for each in (predictions, truth))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        # A pixel of the finer maps is about two of the picture's, answered in quarters.
        np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1.3)


def test_every_body_is_found_where_it_is(store: ShardStore) -> None:
    model = SceneBlobModel()
    model.train()
    predictions = predict_store(model, store, InferenceSettings(flip_test=False))
    assert model.training, "the model's mode must be restored"
    _check(GroundTruth.from_store(store), predictions)
    assert (predictions.instance_row == -1).all()
    assert (predictions.scores > 0.8).all()
    assert evaluate_store(model, store, InferenceSettings(flip_test=False))["AP"] > 0.9


def test_the_mirrored_picture_is_put_back(store: ShardStore) -> None:
    model = SceneBlobModel()
    model.mirrors = True
    predictions = predict_store(model, store, InferenceSettings(flip_test=True, batch_size=4))
    _check(GroundTruth.from_store(store), predictions)


def test_the_number_of_pictures_in_a_pass_changes_nothing(store: ShardStore) -> None:
    assert scenes_per_pass(64, (512, 512)) == 12
    assert scenes_per_pass(1, (512, 512)) == 1
    model = SceneBlobModel()
    one, many = (predict_store(model, store, InferenceSettings(flip_test=False, batch_size=size)) for size in (1, 64))
    assert model.calls == 4 + 1
    np.testing.assert_allclose(one.keypoints, many.keypoints, atol=1e-4)
    np.testing.assert_array_equal(one.image_row, many.image_row)


def test_a_model_serves_as_it_was_judged(store: ShardStore) -> None:
    judged = predict_store(SceneBlobModel(), store, InferenceSettings(flip_test=False))
    images = [store.read_image_bytes(row) for row in range(store.num_images)]
    served = Predictor(SceneBlobModel(), PredictorSettings(batch_size=3)).predict(images)
    assert [len(each) for each in served] == list(BODIES)
    np.testing.assert_allclose(np.concatenate([each.keypoints for each in served]), judged.keypoints, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([each.scores for each in served]), judged.scores, atol=1e-6)
    for each in served:
        low, high = each.keypoints.min(1), each.keypoints.max(1)
        np.testing.assert_allclose(each.bbox_xywh, np.concatenate([low, high - low], axis=1))
        assert each.box_rows.tolist() == list(range(len(each)))


def test_results_are_written_and_read_as_ever(store: ShardStore, tmp_path: Path) -> None:
    predictions = predict_store(SceneBlobModel(), store, InferenceSettings(flip_test=False))
    path = tmp_path / "results.json"
    path.write_bytes(orjson.dumps(coco_results(predictions)))
    again = read_results(path, predictions.image_ids, 2)
    np.testing.assert_array_equal(again.keypoints, predictions.keypoints)
    np.testing.assert_array_equal(again.scores, predictions.scores)


def test_boxes_are_refused(store: ShardStore) -> None:
    truth = GroundTruth.from_store(store)
    boxes = DetectedBoxes(
        image_ids=tuple(truth.image_ids[row] for row in truth.image_row),
        bbox_xywh=truth.bbox_xywh,
        scores=np.ones(len(truth)),
        category_id=truth.category_id,
    )
    with pytest.raises(EvaluationError, match="takes no boxes"):
        predict_store(SceneBlobModel(), store, boxes=boxes)
    with pytest.raises(PredictionError, match="leave boxes and detector out"):
        Predictor(SceneBlobModel()).predict([np.zeros((20, 20, 3), np.uint8)], [Boxes.whole((20, 20))])


def test_a_head_that_the_model_has_not_is_named(store: ShardStore) -> None:
    with pytest.raises(EvaluationError, match="the model has no head 'dogs'; it has hands"):
        predict_store(SceneBlobModel(), store, head="dogs")


def test_a_picture_of_one_pixel_has_nobody() -> None:
    model = SceneBlobModel().eval()
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
