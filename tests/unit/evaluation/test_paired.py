"""Two models on the same bodies: known errors give known differences."""

from dataclasses import replace

import numpy as np
import pytest

from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.image_units import units_of
from posecore.evaluation.paired import compare_metrics, compare_predictions
from posecore.evaluation.protocols import evaluate, of_resamples
from posecore.evaluation.traits import Traits
from posecore.schema import Record
from posecore.skeletons.library import load_skeleton
from posecore.viz.findings import change_finding, worse_finding
from tests.support.tiny_store import instance, record

BODIES = 12


def _world() -> tuple[list[Record], GroundTruth]:
    """Boxes of √(w·h) = 100; three bodies to a subject, one picture each."""
    records = [
        record("coco", row, [instance(str(row), 17, (0, 0, 100, 100), subject_id=f"s{row // 3}")])
        for row in range(BODIES)
    ]
    return records, GroundTruth.from_records(records, 17)


def _answers(truth: GroundTruth, shift_px: np.ndarray) -> Predictions:
    """Every point is off by so much, for each body."""
    return Predictions(
        image_ids=truth.image_ids,
        image_row=truth.image_row,
        instance_row=np.arange(BODIES),
        keypoints=truth.keypoints + np.stack([shift_px, np.zeros(BODIES)], axis=1)[:, None],
        keypoint_scores=np.ones((BODIES, 17)),
        scores=np.ones(BODIES),
        category_id=truth.category_id,
        crop_area=truth.area,
    )


def test_a_difference_that_all_subjects_share_is_certain_whatever_their_own_errors() -> None:
    records, truth = _world()
    hard = np.repeat([2.0, 4.0, 40.0, 60.0], 3)
    found = compare_predictions(truth, _answers(truth, hard), _answers(truth, hard - 1), Traits.from_records(records))
    assert found.error.first.value == pytest.approx(0.265)
    assert found.error.first.high - found.error.first.low > 0.2
    assert found.error.difference.value == pytest.approx(-0.01)
    assert np.isnan(found.error.difference.low), "every resample gives the same"
    assert found.near.first.value == found.near.second.value == 0.5
    assert found.units == {"subject": 4}
    assert found.change == pytest.approx(np.full(BODIES, -0.01))


def test_subjects_that_disagree_leave_the_difference_open() -> None:
    records, truth = _world()
    first = np.full(BODIES, 20.0)
    second = first + np.repeat([8.0, -8.0, 5.0, -6.0], 3)
    change = compare_predictions(
        truth, _answers(truth, first), _answers(truth, second), Traits.from_records(records)
    ).error.difference
    assert change.low < 0 < change.high
    assert change.value == pytest.approx(-0.0025)


def test_the_difference_is_known_by_point_and_by_subject() -> None:
    records, truth = _world()
    truth.visibility[:, 3] = 0
    first = np.full(BODIES, 20.0)
    second = first + np.tile([4.0, 5.0, 6.0], 4) * np.repeat([1.0, -1.0, -1.0, -1.0], 3)
    found = compare_predictions(truth, _answers(truth, first), _answers(truth, second), Traits.from_records(records))
    assert list(found.subjects) == ["s0", "s1", "s2", "s3"]
    worse, better = found.subjects["s0"].difference, found.subjects["s1"].difference
    assert worse.value == pytest.approx(0.05)
    assert 0.03 < worse.low < 0.05 < worse.high < 0.07
    assert better.high < 0
    assert len(found.points) == 17
    assert np.isnan(found.points[3].first.value)
    assert found.points[0].difference.value == pytest.approx(-0.025)
    assert found.points[0].difference.low < 0 < found.points[0].difference.high

    told = change_finding("set", found), worse_finding("set", found, {"nose": found.points[0]})
    assert told[0].text == "set: mean error 20.0 % → 17.5 % of the box, -2.5 points [-5.0, +5.0]: " + (
        "the pictures do not tell them apart."
    )
    assert told[1].text == "set: clearly worse for 1 of 4 subjects: s0 (+5.0)."
    assert [each.tone for each in told] == ["", "bad"]


def test_average_precision_has_intervals_from_the_same_subjects_for_both() -> None:
    records, truth = _world()
    skeleton, definition = load_skeleton("coco17"), EvaluationDefinition()
    first, second = (
        _answers(truth, np.repeat(shift, 3)) for shift in ([9.0, 11.0, 13.0, 15.0], [7.0, 9.0, 11.0, 13.0])
    )
    measures = [of_resamples(definition, skeleton, truth, each) for each in (first, second)]
    assert measures[0] is not None
    assert measures[1] is not None
    units = units_of(truth, Traits.from_records(records))
    found = compare_metrics(measures[0], measures[1], units)["AP"]
    values = [evaluate(definition, skeleton, truth, each)["AP"] for each in (first, second)]
    assert [found.first.value, found.second.value] == values
    assert found.difference.value == pytest.approx(values[1] - values[0])
    assert found.first.low < found.first.value < found.first.high
    assert found.difference.low > 0, "the second is better on every subject"
    assert found.difference.high - found.difference.low < found.first.high - found.first.low
    assert compare_metrics(measures[0], measures[1], units)["AP"] == found, "equal seeds, equal intervals"
    alone = replace(units, of_image=np.zeros(BODIES, np.int64), kinds={"subject": 1})
    assert np.isnan(compare_metrics(measures[0], measures[1], alone)["AP"].difference.low), "one subject tells nothing"


def test_bodies_without_labels_cannot_be_compared() -> None:
    _, truth = _world()
    nothing = record("coco", 0, [instance("0", 17, (0, 0, 9, 9), keypoints=np.zeros((17, 3), np.float32))])
    empty = GroundTruth.from_records([nothing], 17)
    answers = _answers(truth, np.zeros(BODIES))
    one = replace(answers.take(np.arange(1)), image_ids=empty.image_ids)
    with pytest.raises(EvaluationError, match="no body has a labelled point"):
        compare_predictions(empty, one, one, Traits.from_records([nothing]))
