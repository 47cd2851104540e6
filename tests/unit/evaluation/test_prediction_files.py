from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posecore.conventions import Conventions
from posecore.errors import EvaluationError, IntegrityError
from posecore.evaluation.inference import predict_store
from posecore.evaluation.prediction_files import PredictionOrigin, read_predictions, write_predictions
from tests.support.dot_worlds import BlobModel, hands_definition, hands_store


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    store = hands_store(tmp_path_factory.mktemp("predictions"), hands_definition(), num_images=3)
    return store, predict_store(BlobModel(Conventions()), store)


@pytest.fixture
def origin(world):
    return PredictionOrigin(store=str(world[0].location), digest=world[0].manifest.digest, model="m", head="hands")


def test_predictions_come_back_with_what_they_are_of(world, origin, tmp_path):
    store, predictions = world
    write_predictions(tmp_path / "p.parquet", predictions, origin)
    read, told, split = read_predictions(tmp_path / "p.parquet")
    assert (told, split.location) == (origin, store.location)
    assert read.image_ids == predictions.image_ids
    np.testing.assert_allclose(read.keypoints, predictions.keypoints, rtol=1e-6)
    np.testing.assert_allclose(read.keypoint_scores, predictions.keypoint_scores, rtol=1e-6)
    for name in ("image_row", "instance_row", "scores", "category_id", "crop_area"):
        np.testing.assert_array_equal(getattr(read, name), getattr(predictions, name))
    write_predictions(tmp_path / "none.parquet", predictions.take(np.zeros(0, np.int64)), origin)
    assert read_predictions(tmp_path / "none.parquet")[0].keypoints.shape == (0, 2, 2)


def test_in_a_copy_of_a_run_the_copied_split_is_found(world, origin, tmp_path):
    store, predictions = world
    run = store.location.parents[2]
    write_predictions(run / "x/evaluation/hands/p.parquet", predictions, replace(origin, store="gone/shards/hands/val"))
    with pytest.raises(IntegrityError, match="gone/shards/hands/val"):
        read_predictions(run / "x/evaluation/hands/p.parquet")
    place = "/".join(("/gone", *store.location.parts[-3:]))
    write_predictions(run / "x/evaluation/hands/p.parquet", predictions, replace(origin, store=place))
    with pytest.raises(IntegrityError):
        read_predictions(run / "x/evaluation/hands/p.parquet")
    below = "/".join(("/gone", *store.location.parts[-4:]))
    write_predictions(run / "x/evaluation/hands/p.parquet", predictions, replace(origin, store=below))
    assert read_predictions(run / "x/evaluation/hands/p.parquet")[2].location == store.location


def test_what_is_not_of_the_split_is_refused(world, origin, tmp_path):
    path, (_, predictions) = tmp_path / "p.parquet", world
    write_predictions(path, predictions, replace(origin, digest="0" * 64))
    with pytest.raises(EvaluationError, match="holds another edition by now"):
        read_predictions(path)
    write_predictions(path, replace(predictions, instance_row=predictions.instance_row + 5), origin)
    with pytest.raises(EvaluationError, match=r"names bodies that .* does not have"):
        read_predictions(path)
    for bad in (b"PAR1", b""):
        path.write_bytes(bad)
        with pytest.raises(EvaluationError, match="not the predictions of an evaluation"):
            read_predictions(path)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(asdict(origin)), path)
    with pytest.raises(EvaluationError, match="not the predictions of an evaluation"):
        read_predictions(path)
