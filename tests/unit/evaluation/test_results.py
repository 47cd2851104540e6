import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from posecore.evaluation.results import coco_results, read_results
from tests.support.random_poses import random_case


def test_an_image_id_becomes_a_number_only_where_that_loses_nothing() -> None:
    ids = ("42", "0", "000123", "a7", "-3", "³", "12.5")
    _, predictions = random_case(0, num_images=len(ids))
    one_each = predictions.take(np.zeros(len(ids), np.int64))
    named = replace(one_each, image_ids=ids, image_row=np.arange(len(ids)))
    results = coco_results(named)
    assert [item["image_id"] for item in results] == [42, 0, "000123", "a7", "-3", "³", "12.5"]


def test_predictions_of_a_file_answer_no_stored_body(tmp_path: Path) -> None:
    truth, predictions = random_case(0)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(coco_results(predictions)))
    read = read_results(path, predictions.image_ids, truth.keypoints.shape[1])
    assert len(read) == len(predictions)
    assert (read.instance_row == -1).all()
