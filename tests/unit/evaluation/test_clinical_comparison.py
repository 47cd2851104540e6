from dataclasses import replace

import numpy as np
import pytest

from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import EvaluationError
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.evaluation.clinical import ClinicalSettings, evaluate_clinic
from posecore.evaluation.clinical_comparison import compare_clinic
from posecore.evaluation.torso import torso_lengths
from posecore.evaluation.traits import Traits
from posecore.skeletons.library import load_skeleton
from tests.support.random_poses import paired_case

COCO = load_skeleton("coco17")
TORSO = (5, 6, 11, 12)
SETTINGS = ClinicalSettings(bootstrap=BootstrapSettings(resamples=200, method="percentile"))


@pytest.fixture(scope="module")
def world():
    """Bodies of twelve subjects that all have a torso, answers of a parent, and a rule that judges any answers."""
    truth, predictions = paired_case(6, num_instances=80, num_keypoints=17)
    visibility, keypoints = truth.visibility.copy(), truth.keypoints.copy()
    visibility[:, TORSO] = 2
    corners = np.array([[0.8, 0.2], [0.2, 0.2], [0.7, 0.6], [0.3, 0.6]])
    keypoints[:, TORSO] = truth.bbox_xywh[:, None, :2] + corners * truth.bbox_xywh[:, None, 2:]
    truth = replace(truth, visibility=visibility, keypoints=keypoints)
    nothing = (None,) * len(truth)
    traits = Traits(
        subject=tuple(f"s{number % 12}" for number in range(len(truth))),
        video=nothing,
        view=nothing,
        posture=tuple(("Prone", "Supine")[number % 5 == 0] for number in range(len(truth))),
        image=tuple(truth.image_ids[row] for row in truth.image_row),
    )

    def judge(answers, settings=SETTINGS):
        return evaluate_clinic(truth, answers, traits, COCO, EvaluationDefinition(), settings)

    return truth, predictions, traits, judge


def nearer(truth, predictions, share):
    """Answers moved towards the truth; a share of 1 is exact."""
    right = truth.keypoints[predictions.instance_row]
    return replace(predictions, keypoints=predictions.keypoints + share * (right - predictions.keypoints))


def test_a_difference_equals_a_loop_that_draws_the_same_subjects_for_both(world):
    truth, predictions, traits, judge = world
    rng = np.random.default_rng(2)
    better = replace(predictions, keypoints=predictions.keypoints + rng.normal(0, 4, predictions.keypoints.shape))
    better = nearer(truth, better, 0.3)
    comparison = compare_clinic(judge(predictions), judge(better))
    length = torso_lengths(truth, COCO, ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"))
    by_subject = {}
    for row, (old, new) in enumerate(zip(predictions.keypoints, better.keypoints, strict=True)):
        body = predictions.instance_row[row]
        if truth.is_crowd[body] or traits.posture[body] != "Prone":
            continue
        for k in np.flatnonzero(truth.visibility[body]):
            errors = [np.linalg.norm(answer[k] - truth.keypoints[body, k]) / length[body] for answer in (old, new)]
            by_subject.setdefault(f"subject {traits.subject[body]}", []).append(errors)
    (group,) = (change for change in comparison.by["posture"] if change.child.name == "Prone")
    pooled = np.concatenate([by_subject[name] for name in sorted(by_subject)])
    assert group.error.value == pytest.approx((pooled[:, 1] - pooled[:, 0]).mean())
    assert group.pck[0.2].value == pytest.approx((pooled[:, 1] <= 0.2).mean() - (pooled[:, 0] <= 0.2).mean())
    subjects = list(group.child.sums)
    draws = np.random.default_rng(0).integers(0, len(subjects), (200, len(subjects)))
    means = []
    for draw in draws:
        points = np.concatenate([by_subject[subjects[number]] for number in draw])
        means.append((points[:, 1] - points[:, 0]).mean())
    assert (group.error.low, group.error.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_the_same_gain_for_everybody_is_surer_than_either_model(world):
    truth, predictions, _, judge = world
    comparison = compare_clinic(judge(predictions), judge(nearer(truth, predictions, 0.2)))
    whole = comparison.whole
    assert whole.error.value == pytest.approx(-0.2 * whole.parent.error.value)
    assert whole.error.high < 0
    assert whole.error.high - whole.error.low < 0.3 * (whole.child.error.high - whole.child.error.low)
    assert whole.missed is None
    assert set(comparison.by) == {"keypoint", "posture", "subject"}


def test_a_model_does_not_differ_from_itself_and_that_has_no_interval(world):
    _, predictions, _, judge = world
    whole = compare_clinic(judge(predictions), judge(predictions)).whole
    assert whole.error.value == 0
    assert np.isnan(whole.error.low)


def test_other_bodies_or_settings_are_refused(world):
    truth, predictions, traits, judge = world
    other = evaluate_clinic(
        replace(truth, is_crowd=np.arange(len(truth)) < 3), predictions, traits, COCO, EvaluationDefinition(), SETTINGS
    )
    with pytest.raises(EvaluationError, match="the two results are of other bodies: all has"):
        compare_clinic(judge(predictions), other)
    strict = judge(predictions, SETTINGS.model_copy(update={"right_within": 0.1}))
    with pytest.raises(EvaluationError, match="with different settings"):
        compare_clinic(judge(predictions), strict)


def test_subjects_are_paired_by_name(world):
    """Not by their order, which nothing promises."""
    truth, predictions, _, judge = world
    before, after = judge(predictions), judge(nearer(truth, predictions, 0.2))
    backwards = replace(before, whole=replace(before.whole, sums=dict(reversed(before.whole.sums.items()))))
    assert compare_clinic(backwards, after).whole.error == compare_clinic(before, after).whole.error


def test_a_result_without_postures_is_refused_beside_one_with(world):
    truth, predictions, traits, judge = world
    unknown = replace(traits, posture=(None,) * len(truth))
    other = evaluate_clinic(truth, predictions, unknown, COCO, EvaluationDefinition(), SETTINGS)
    for pair in ((judge(predictions), other), (other, judge(predictions))):
        with pytest.raises(EvaluationError, match="divide their bodies otherwise"):
            compare_clinic(*pair)
