"""Random answers for random bodies of named subjects, judged for clinics."""

from dataclasses import replace
from typing import Any

from posecore.datasets.definition import EvaluationDefinition
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.evaluation.clinical import ClinicalResult, ClinicalSettings, evaluate_clinic
from posecore.evaluation.traits import Traits
from posecore.skeletons.library import load_skeleton
from tests.support.random_poses import paired_case


def clinical_result(seed: int = 6, subject: str = "s{}", nearer: float = 0.0, **answers: Any) -> ClinicalResult:
    """Random poses of nine subjects in known and unknown postures.

    Args:
        seed: of poses and answers.
        subject: how subjects are called, by their number.
        nearer: by how much of their error the answers are moved towards the truth.
        answers: columns of the predictions that are others.
    """
    truth, predictions = paired_case(seed, num_instances=80, num_keypoints=17)
    right = truth.keypoints[predictions.instance_row]
    moved = predictions.keypoints + nearer * (right - predictions.keypoints)
    nothing, count = (None,) * len(truth), len(truth)
    traits = Traits(
        subject=tuple(subject.format(number % 9) for number in range(count)),
        video=nothing,
        view=nothing,
        posture=tuple((None, "Prone", "Supine")[number % 3] for number in range(count)),
        image=tuple(truth.image_ids[row] for row in truth.image_row),
    )
    settings = ClinicalSettings(bootstrap=BootstrapSettings(resamples=200))
    answered = replace(predictions, keypoints=moved, **answers)
    return evaluate_clinic(truth, answered, traits, load_skeleton("coco17"), EvaluationDefinition(), settings)
