from dataclasses import replace

import numpy as np
import pytest

from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.bootstrap import BootstrapSettings, bootstrap_by_subject
from posecore.evaluation.clinical import ClinicalResult, ClinicalSettings, can_judge, evaluate_clinic, torso_points
from posecore.evaluation.torso import evaluate_torso
from posecore.evaluation.traits import NOT_STATED, Traits
from posecore.lineage.store.tracking import metric_name
from posecore.skeletons.library import load_skeleton
from tests.support.random_poses import paired_case

COCO = load_skeleton("coco17")
TORSO = (5, 6, 11, 12)
DEFINITION = EvaluationDefinition()
QUICK = ClinicalSettings(bootstrap=BootstrapSettings(resamples=200))


def traits_of(truth, **changes):
    count = len(truth)
    numbers = np.random.default_rng(8).integers(0, 9, count)
    values = {
        "subject": tuple(f"s{number}" for number in numbers),
        "video": (None,) * count,
        "view": tuple("top" if number % 2 else "oblique" for number in numbers),
        "posture": tuple((None, "Prone", "Supine")[number % 3] for number in range(count)),
        "image": tuple(truth.image_ids[row] for row in truth.image_row),
    }
    return Traits(**(values | changes))


@pytest.fixture(scope="module")
def case():
    truth, predictions = paired_case(6, num_instances=80, num_keypoints=17)
    visibility, keypoints = truth.visibility.copy(), truth.keypoints.copy()
    visibility[::2, TORSO] = 2  # at random, few bodies would have all four ends of a torso
    corners = np.array([[0.8, 0.2], [0.2, 0.2], [0.7, 0.6], [0.3, 0.6]])
    keypoints[::2, TORSO] = truth.bbox_xywh[::2, None, :2] + corners * truth.bbox_xywh[::2, None, 2:]
    return replace(truth, visibility=visibility, keypoints=keypoints), predictions, traits_of(truth)


@pytest.fixture(scope="module")
def result(case):
    return evaluate_clinic(*case, COCO, DEFINITION, QUICK)


def errors_by_loop(truth, predictions):
    """(row, keypoint, error, confidence) of every judged point."""
    points = []
    for answer, row in enumerate(predictions.instance_row):
        if truth.is_crowd[row] or not truth.visibility[row, list(TORSO)].all():
            continue
        neck, hip = (truth.keypoints[row, list(ends)].mean(axis=0) for ends in (TORSO[:2], TORSO[2:]))
        for k in np.flatnonzero(truth.visibility[row]):
            distance = np.linalg.norm(truth.keypoints[row, k] - predictions.keypoints[answer, k])
            points.append((row, k, distance / np.linalg.norm(neck - hip), predictions.keypoint_scores[answer, k]))
    return points


def test_the_whole_is_the_torso_protocols_result(case, result):
    truth, predictions, _ = case
    expected = evaluate_torso(truth, predictions, COCO, thresholds=(0.05, 0.1, 0.2, 0.5))
    unless_stated = evaluate_torso(truth, predictions, COCO)
    assert unless_stated == {name: value for name, value in expected.items() if name[10:] not in ("0.05", "0.5")}
    assert result.whole.error.value == pytest.approx(expected["torso_error"])
    assert result.median_error == pytest.approx(expected["torso_error_median"])
    assert result.whole.instances == expected["instances"]
    for threshold, estimate in result.whole.pck.items():
        assert estimate.value == pytest.approx(expected[f"PCK_torso_{threshold:g}"])
    assert result.whole.missed is None
    assert result.redundant is None
    assert result.without_torso > 0


def test_a_torso_of_less_than_a_pixel_is_a_torso(case, result):
    """Errors are shares of it, so what is a thousandth as large has the same."""
    truth, predictions, traits = case
    smaller = [replace(given, keypoints=given.keypoints / 1024) for given in (truth, predictions)]
    found = evaluate_clinic(*smaller, traits, COCO, DEFINITION, QUICK)
    assert found.whole.instances == result.whole.instances
    assert found.whole.error.value == pytest.approx(result.whole.error.value)


def test_every_breakdown_sums_to_the_whole(result):
    assert set(result.by) == {"keypoint", "view", "posture", "subject"}
    whole = result.whole
    for kind, groups in result.by.items():
        assert sum(group.points for group in groups) == whole.points
        if kind != "keypoint":
            assert sum(group.instances for group in groups) == whole.instances
        assert sum(group.points * group.error.value for group in groups) == pytest.approx(
            whole.points * whole.error.value
        )
        for threshold in whole.pck:
            hits = sum(group.points * group.pck[threshold].value for group in groups)
            assert hits == pytest.approx(whole.points * whole.pck[threshold].value)
    assert [group.name for group in result.by["posture"]] == ["Prone", "Supine", NOT_STATED]
    assert sum(group.units for group in result.by["subject"]) == whole.units == result.units["subject"]


def test_groups_equal_a_loop_and_their_intervals_come_from_their_subjects(case, result):
    truth, predictions, traits = case
    points = errors_by_loop(truth, predictions)
    top = [(traits.subject[row], error) for row, _, error, _ in points if traits.view[row] == "top"]
    (group,) = (group for group in result.by["view"] if group.name == "top")
    assert group.error.value == pytest.approx(np.mean([error for _, error in top]))
    names = sorted({name for name, _ in top})
    sums = np.array([[len(own), sum(own)] for own in ([e for s, e in top if s == name] for name in names)])
    (expected,) = bootstrap_by_subject(sums, lambda s: s[:, 1:] / s[:, :1], QUICK.bootstrap)
    assert (group.error.low, group.error.high) == pytest.approx((expected.low, expected.high))
    assert group.units == len(names)
    wrist = result.by["keypoint"][9]
    assert wrist.name == "left_wrist"
    assert wrist.error.value == pytest.approx(np.mean([error for _, k, error, _ in points if k == 9]))
    own = [np.mean([e for row, _, e, _ in points if traits.subject[row] == name]) for name in set(traits.subject)]
    assert result.mean_over_subjects.value == pytest.approx(np.mean(own))
    assert np.isnan(result.by["subject"][0].error.low), "one subject has no spread between subjects"


def test_a_confidence_is_right_if_its_point_lies_within_the_stated_share_of_the_torso(case):
    truth, predictions, traits = case
    points = errors_by_loop(truth, predictions)
    for within in (0.1, 0.3):
        settings = QUICK.model_copy(update={"right_within": within})
        calibration = evaluate_clinic(truth, predictions, traits, COCO, DEFINITION, settings).calibration
        confidence = np.array([c for *_, c in points])
        right = np.array([error <= within for _, _, error, _ in points])
        place = np.floor(confidence * 10)
        loop = sum(
            np.mean(place == b) * abs(right[place == b].mean() - confidence[place == b].mean()) for b in set(place)
        )
        assert calibration.expected_error.value == pytest.approx(loop)
        assert calibration.surplus.value == pytest.approx(confidence.mean() - right.mean())
        assert calibration.expected_error.low < loop < calibration.expected_error.high
        assert sum(one.points for one in calibration.bins) == len(points)
        assert calibration.beyond == 0


def test_confidences_that_are_no_probabilities_are_counted(case):
    truth, predictions, traits = case
    moved = replace(predictions, keypoint_scores=predictions.keypoint_scores * 3 - 1)
    confidence = np.array([c for *_, c in errors_by_loop(truth, moved)])
    low, high = (confidence < 0).sum(), (confidence > 1).sum()
    assert min(low, high) > 0
    assert evaluate_clinic(truth, moved, traits, COCO, DEFINITION, QUICK).calibration.beyond == low + high


def test_what_is_never_recorded_is_said_and_not_guessed(case):
    truth, predictions, traits = case
    nothing = (None,) * len(truth)
    bare = evaluate_clinic(
        truth, predictions, replace(traits, subject=nothing, view=nothing, posture=nothing), COCO, DEFINITION, QUICK
    )
    assert bare.not_recorded == ["view", "posture", "subject"]
    assert set(bare.by) == {"keypoint"}
    assert set(bare.units) == {"image"}


def upright(rows, subjects, visible=None):
    """COCO bodies of torso length 100 px with the neck at given places, alone or together on images."""
    body = np.zeros((17, 2))
    body[[5, 6]], body[[11, 12]] = [[-20, 0], [20, 0]], [[-20, 100], [20, 100]]
    keypoints = np.array([body + place for _, place in rows], float)
    visibility = np.zeros((len(rows), 17), np.uint8)
    visibility[:, TORSO] = 2
    images = tuple(str(i) for i in range(1 + max(image for image, _ in rows)))
    truth = GroundTruth(
        image_ids=images,
        image_size=np.full((len(images), 2), 1000),
        crowd_index=np.full(len(images), np.nan),
        instance_ids=tuple(f"i{row}" for row in range(len(rows))),
        image_row=np.array([image for image, _ in rows]),
        keypoints=keypoints,
        visibility=visibility,
        bbox_xywh=np.tile([0.0, 0, 100, 200], (len(rows), 1)),
        area=np.full(len(rows), 2e4),
        category_id=np.ones(len(rows), np.int64),
        is_crowd=np.zeros(len(rows), bool),
        num_keypoints=np.full(len(rows), 4),
        head_bbox_xyxy=np.full((len(rows), 4), np.nan),
    )
    nothing = (None,) * len(rows)
    traits = Traits(
        subject=tuple(subjects), video=nothing, view=nothing, posture=nothing,
        image=tuple(images[image] for image, _ in rows),
    )  # fmt: skip
    return truth, traits


def detections(truth, found):
    """Predictions (image, shift in px from which body, score) on detected boxes."""
    count = len(found)
    return Predictions(
        image_ids=truth.image_ids,
        image_row=np.array([image for image, *_ in found], np.int64),
        instance_row=np.full(count, -1),
        keypoints=np.array([truth.keypoints[body] + shift for _, body, shift, _ in found]).reshape(count, 17, 2),
        keypoint_scores=np.full((count, 17), 0.9),
        scores=np.array([score for *_, score in found], float),
        category_id=np.ones(count, np.int64),
        crop_area=np.full(count, 1e4),
    )


def test_missed_and_redundant_detections_are_counted_body_by_body():
    truth, traits = upright([(0, 0), (0, 300), (1, 0), (2, 0), (3, 0)], ["a", "a", "b", "c", "c"])
    found = [
        (0, 0, 10, 0.9),  # 10·√2 px off: 0.141 torso lengths
        (0, 0, 12, 0.95),  # a double, farther off: redundant, though its score is higher
        (1, 2, 80, 0.9),  # more than half a torso off: body 2 is missed, this is redundant
        (2, 3, 0, 0.1),  # unsure: no answer
        (3, 4, np.array([6.0, 8.0]), 0.5),  # 10 px: exactly a tenth of the torso
    ]
    result = evaluate_clinic(truth, detections(truth, found), traits, COCO, DEFINITION, QUICK)
    assert result.whole.missed.value == pytest.approx(3 / 5)  # bodies 1, 2 and 3
    assert result.redundant == 2
    assert result.whole.error.value == pytest.approx((np.sqrt(2) * 0.1 + 0.1) / 2)
    # Points of missed bodies count as not within: 4 of 20 labelled points lie within 0.1, exactly at it included.
    assert result.whole.pck[0.1].value == pytest.approx(4 / 20)
    assert result.whole.pck[0.5].value == pytest.approx(8 / 20)
    assert {group.name: group.missed.value for group in result.by["subject"]} == {"a": 0.5, "b": 1.0, "c": 0.5}
    occluded = replace(truth, visibility=np.minimum(truth.visibility, 1))
    again = evaluate_clinic(occluded, detections(truth, found), traits, COCO, DEFINITION, QUICK)
    assert repr(again.whole) == repr(result.whole), "labels of what is not seen are labels"  # of NaN, too


def test_one_prediction_answers_one_body_and_unjudged_bodies_make_nothing_redundant():
    truth, traits = upright([(0, 0), (0, 20), (1, 0)], ["a", "b", "c"])
    visibility = truth.visibility.copy()
    visibility[2, 5] = 0  # no torso: body 2 is not judged
    truth = replace(truth, visibility=visibility)
    result = evaluate_clinic(
        truth, detections(truth, [(0, 0, 9, 0.9), (1, 2, 0, 0.9), (1, 2, 400, 0.9)]), traits, COCO, DEFINITION, QUICK
    )
    assert [group.missed.value for group in result.by["subject"]] == [0.0, 1.0]
    assert (result.without_torso, result.redundant) == (1, 0)


def test_a_detector_that_finds_nothing_misses_everybody():
    truth, traits = upright([(0, 0), (1, 0)], ["a", "b"])
    result = evaluate_clinic(truth, detections(truth, []), traits, COCO, DEFINITION, QUICK)
    assert result.whole.missed.value == 1
    assert result.whole.pck[0.5].value == 0
    assert np.isnan([result.whole.error.value, result.median_error, result.calibration.expected_error.value]).all()


def test_the_torso_ends_where_the_definition_or_the_union_names_say():
    minirgbd = load_skeleton("minirgbd25")
    assert torso_points(DEFINITION, minirgbd) == (("leftUpperArm", "rightUpperArm"), ("leftThigh", "rightThigh"))
    stated = EvaluationDefinition(protocol="torso", options={"neck": ["neck"], "hip": ["global"]})
    assert torso_points(stated, minirgbd) == (("neck",), ("global",))
    assert torso_points(DEFINITION, load_skeleton("ap10k17")) is None


def test_a_set_can_be_judged_if_a_body_of_it_has_a_torso(case):
    truth, _, _ = case
    assert can_judge(truth, COCO, DEFINITION)
    assert not can_judge(truth.take(np.zeros(len(truth), bool)), COCO, DEFINITION)
    assert not can_judge(truth, load_skeleton("ap10k17"), DEFINITION)


def test_what_cannot_be_judged_is_refused_in_one_sentence(case):
    truth, predictions, traits = case
    with pytest.raises(EvaluationError, match="skeleton ap10k17 has no shoulders and hips"):
        evaluate_clinic(truth, predictions, traits, load_skeleton("ap10k17"), DEFINITION)
    hidden = replace(truth, visibility=np.where(np.arange(17) == 5, 0, truth.visibility))
    with pytest.raises(EvaluationError, match="no body has all of left_shoulder"):
        evaluate_clinic(hidden, predictions, traits, COCO, DEFINITION)
    with pytest.raises(EvaluationError, match=r"traits for \d+ instances"):
        evaluate_clinic(truth, predictions, replace(traits, image=traits.image[1:]), COCO, DEFINITION)


def test_a_result_comes_back_from_its_file(result):
    text = result.to_json()
    read = ClinicalResult.from_json(text, "clinical.json")
    assert read.to_json() == text
    assert read.whole == result.whole
    with pytest.raises(EvaluationError, match=r"^here: whole: Field required; evaluate the model again\.$"):
        ClinicalResult.from_json(b'{"settings": {}}', "here")


def test_the_headline_has_what_exists_under_names_a_gate_can_take(case, result):
    headline = result.headline()
    assert headline["torso/error"] == result.whole.error.value
    assert headline["torso/error_high"] == result.whole.error.high
    assert headline["torso/PCK_0.2"] == result.whole.pck[0.2].value
    assert headline["torso/ECE"] == result.calibration.expected_error.value
    assert "torso/missed" not in headline, "boxes were given"
    assert all(metric_name(name) == name for name in headline)
    truth, predictions, traits = case
    detected = replace(predictions, instance_row=np.full(len(predictions), -1), scores=np.zeros(len(predictions)))
    nobody = evaluate_clinic(truth, detected, traits, COCO, DEFINITION, QUICK).headline()
    assert nobody["torso/missed"] == 1
    assert nobody["torso/redundant"] == 0
    assert "torso/error" not in nobody, "a mean of nothing is no number"
