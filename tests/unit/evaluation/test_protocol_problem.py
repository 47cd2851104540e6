"""What a protocol needs of a skeleton is asked before anything is predicted."""

import pytest

from posecore.datasets.definition import EvaluationDefinition
from posecore.datasets.discovery import dataset_folders, load_dataset
from posecore.evaluation.protocols import protocol_problem
from posecore.skeletons.library import load_skeleton


def test_every_shipped_set_can_be_judged() -> None:
    definitions = [load_dataset(name) for name in dataset_folders()]
    assert [d.name for d in definitions if protocol_problem(d.evaluation, d.skeleton)] == []


@pytest.mark.parametrize(
    ("skeleton", "fields", "said"),
    [
        ("fidip19", {"protocol": "oks"}, "skeleton fidip19 has none for"),
        ("coco17", {"protocol": "pck", "options": {"pcutoff": 1}}, "has no option pcutoff; it has thresholds"),
        ("minirgbd25", {"protocol": "torso"}, "here left_shoulder is called leftUpperArm"),
        ("coco17", {"protocol": "torso", "options": {"neck": ["neck"]}}, "neck: neck, which skeleton coco17"),
        ("coco17", {"protocol": "torso", "options": {"neck": "nose"}}, "must be a list of names"),
        (
            "coco17",
            {"protocol": "torso", "options": {"thresholds": [0.1, "x"]}},
            "option thresholds[1] of protocol torso",
        ),
        ("coco17", {"protocol": "torso", "options": {"thresholds": []}}, "at least 1 item"),
        ("coco17", {"protocol": "pck", "options": {"thresholds": [-0.1]}}, "greater than 0"),
        ("coco17", {"protocol": "pck", "options": {"normalise_by": "body"}}, "should be 'bbox' or 'image'"),
        ("coco17", {"protocol": "pixel", "options": {"pcutoff": "high"}}, "should be a valid number"),
    ],
)
def test_what_is_missing_is_named(skeleton: str, fields: dict[str, object], said: str) -> None:
    problem = protocol_problem(EvaluationDefinition.model_validate(fields), load_skeleton(skeleton))
    assert said in (problem or "")
